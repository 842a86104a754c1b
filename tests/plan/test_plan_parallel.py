"""Layouts for models that no node holds: which rule decides, and that the split is the best one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gnomon.errors import ConfigError
from gnomon.plan.hardware import parse_hardware
from gnomon.plan.job import Job
from gnomon.plan.parallel import states_bytes, training_layout
from gnomon.plan.shapes import shape_of
from gnomon.plan.split import Split, sampling_seconds, sampling_size, split, training_seconds

H100 = parse_hardware("H100").gpu


def grpo(model: str, prompts: int = 256, samples: int = 8, **more: object) -> Job:
    job = Job(
        "grpo", shape_of(model), prompts, samples, 512, 4096, 300.0, 1500.0, 16384,
        precision="mixed", engine="vllm", recompute=True,
    )  # fmt: skip
    return replace(job, **more)  # type: ignore[arg-type]


def reasons(found: Split) -> str:
    return "\n".join(found.reasons)


def test_a_dense_model_with_many_tokens_is_sharded_and_nothing_else() -> None:
    layout = training_layout(grpo("meta-llama/Llama-3.1-70B"), H100, 128)
    assert (layout.tensor, layout.context, layout.expert, layout.pipeline) == (1, 1, 1, 1)
    assert layout.data == 128
    # by hand: 4 + 4 + 8 + 2 bytes a parameter
    assert layout.states == pytest.approx(18 * 70.55e9 / 128, rel=0.01)


def test_too_few_tokens_a_gpu_ask_for_tensor_parallelism() -> None:
    job = grpo("meta-llama/Llama-3.1-405B", 64, 8, mean_response=800.0)
    layout = training_layout(job, H100, 256)
    assert layout.tensor > 1
    assert any("do not hide the gathers" in reason for reason in layout.reasons)


def test_more_gpus_than_sequences_ask_for_it_too() -> None:
    layout = training_layout(grpo("Qwen/Qwen3-32B", 2, 8, mean_response=4000.0), H100, 64)
    assert layout.tensor >= 4
    assert any("more GPUs than sequences" in reason for reason in layout.reasons)


def test_a_long_context_is_divided() -> None:
    long = grpo("meta-llama/Llama-3.1-70B", 64, 8, response_tokens=131_072, mean_response=30_000.0)
    layout = training_layout(long, H100, 256)
    assert layout.tensor * layout.context > 1
    kept = training_layout(replace(long, recompute=False), H100, 256)
    assert kept.context > layout.context
    assert any("recomputing layers would need less" in reason for reason in kept.reasons)


def test_experts_stay_where_they_are_in_a_pipeline() -> None:
    job = grpo("deepseek-ai/DeepSeek-V3", 32, 16, mean_response=545.0, response_tokens=1024)
    layout = training_layout(job, H100, 256)
    # what NeMo RL's recipe for this model on 256 GPUs sets: 16 stages, experts over 16
    assert (layout.expert, layout.pipeline) == (16, 16)
    assert layout.expert * layout.pipeline <= 256
    assert layout.efficiency < 0.7


def test_copies_for_sampling_grow_until_the_weights_fit() -> None:
    for model, size in (("Qwen/Qwen3-8B", 1), ("meta-llama/Llama-3.1-70B", 4),
                        ("deepseek-ai/DeepSeek-V3", 32)):  # fmt: skip
        found, why = sampling_size(grpo(model), H100, 256)
        assert found == size
        assert size * 80e9 * 0.7 >= 2 * shape_of(model).parameters
        assert size == 1 or str(size) in why


def test_gpus_are_divided_so_that_the_slower_side_is_fastest() -> None:
    job, hardware = grpo("meta-llama/Llama-3.1-70B"), parse_hardware("128xH100")
    found = split(job, hardware, apart=True)
    tried = {}
    for sampling in range(8, 128, 8):
        try:
            layout = training_layout(job, H100, 128 - sampling)
        except ConfigError:
            continue
        if sampling % 4 == 0 and (128 - sampling) % layout.tensor == 0:
            train = training_seconds(job, H100, 128 - sampling, layout)
            tried[sampling] = max(train, sampling_seconds(job, H100, sampling))
    assert found.step_seconds == pytest.approx(min(tried.values()))
    assert found.sampling + found.training == 128
    assert found.gpu_days == pytest.approx(1000 * 128 * found.step_seconds / 86_400)
    assert f"{found.sampling} GPUs sample" in reasons(found)


def test_taking_turns_uses_all_gpus_for_both() -> None:
    found = split(grpo("Qwen/Qwen3-32B"), parse_hardware("32xH100"), apart=False)
    assert found.sampling == found.training == 32
    total = found.sampling_seconds + found.training_seconds
    assert found.step_seconds == pytest.approx(total)


def test_what_is_never_sampled_is_only_trained() -> None:
    found = split(replace(grpo("meta-llama/Llama-3.1-70B"), method="dpo"),
                  parse_hardware("64xH100"))  # fmt: skip
    assert found.sampling_seconds == 0


def test_a_model_that_does_not_fit_says_how_many_gpus_would_hold_it() -> None:
    job = grpo("deepseek-ai/DeepSeek-V3")
    with pytest.raises(ConfigError, match="at least hold it") as caught:
        split(job, parse_hardware("64xH100"))
    needed = int(str(caught.value).split(" x H100")[0].split()[-1])
    assert states_bytes(job) <= needed * 0.6 * 80e9
    assert states_bytes(job) > (needed - 1) * 0.6 * 80e9


def test_no_room_for_both_sides() -> None:
    job = grpo("deepseek-ai/DeepSeek-V3", 32, 16, response_tokens=1024, mean_response=545.0)
    with pytest.raises(ConfigError, match="take turns"):
        split(job, parse_hardware("256xH100"), apart=True)
