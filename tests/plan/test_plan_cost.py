"""FLOP against torch's own counter, decoding against a bound worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from gnomon.plan import cost
from gnomon.plan.cost import Speed, longest, phases, speed_of, step_seconds, work
from gnomon.plan.hardware import parse_hardware
from gnomon.plan.job import Job
from gnomon.plan.shapes import Shape, shape_of

TINY = Shape("tiny", 3, 64, 160, 4, 2, 16, 512, tied=True)
TOKENS = 96


def sft(shape: Shape = TINY, **more: object) -> Job:
    job = Job("sft", shape, 1, 1, 1, TOKENS - 1, 1.0, TOKENS - 1.0, 4096)
    return replace(job, **more)  # type: ignore[arg-type]


def counted() -> tuple[float, float]:
    """FLOP of a forward pass, and of a forward and backward pass, as torch counts them, with
    attention written out (which computes the hidden half too)."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")
    ids = torch.zeros(1, TOKENS, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward:
        model(input_ids=ids)
    with FlopCounterMode(display=False) as both:
        model(input_ids=ids).logits.sum().backward()
    return float(forward.get_total_flops()), float(both.get_total_flops())


def test_a_forward_pass_has_the_flop_that_torch_counts() -> None:
    done = work(replace(sft(), method="dpo"))["reference"]
    # half of attention is hidden, and the counter has it
    assert done.matrices + 2 * done.attention == pytest.approx(counted()[0], rel=0.02)


def test_so_has_a_backward_pass() -> None:
    done = work(sft())["training"]
    attention = 2 * done.attention * 3 / 3.5  # written out, no score is computed again
    assert done.matrices + attention == pytest.approx(counted()[1], rel=0.02)


def test_the_comparison_sees_a_missing_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "full_pass", lambda size, trained, tokens: 2 * size * tokens)
    done = work(sft())["training"]
    assert done.matrices + 2 * done.attention < 0.6 * counted()[1]


def test_lora_saves_the_gradients_of_the_trunk() -> None:
    full, lora = work(sft())["training"], work(sft(lora=4))["training"]
    assert lora.matrices / full.matrices == pytest.approx(2 / 3)  # 4 of 6 FLOP a parameter
    adapter = sft(lora=4).adapter_parameters
    assert lora.adapters == pytest.approx(6 * adapter * TOKENS)
    here, gpu = Speed(1e9, 1e9, queued=False), Speed(1e9, 1e9)
    assert lora.seconds(here) > replace(lora, adapters=0.0).seconds(here)
    assert lora.seconds(gpu) > replace(lora, adapted=0.0).seconds(gpu)


def test_adapters_take_their_inputs_and_outputs_through_memory_whatever_their_rank() -> None:
    narrow, wide = (work(sft(lora=rank))["training"] for rank in (4, 16))
    width = TINY.adapter(1)  # inputs and outputs of all matrices
    assert narrow.adapted == wide.adapted == pytest.approx(cost.ADAPTED * TOKENS * width)


def test_recomputing_costs_another_forward_pass() -> None:
    plain, again = work(sft())["training"], work(sft(recompute=True))["training"]
    trunk = TINY.active_parameters - TINY.embedding
    assert again.matrices - plain.matrices == pytest.approx(2 * trunk * TOKENS)


def test_a_prompt_is_computed_once_for_its_responses() -> None:
    job = Job("dpo", TINY, 2, 4, 100, 10, 100.0, 10.0, 4096)
    assert work(job)["training"].tokens == 2 * (100 + 4 * 10)


def test_each_method_has_its_phases() -> None:
    found = {
        method: set(work(Job(method, TINY, 2, 4, 8, 8, 8.0, 8.0, 4096)))
        for method in ("sft", "reward_model", "dpo", "kto", "ppo", "grpo", "raft", "collect")
    }
    train = {"training", "optimizer"}
    sample = {"prefill", "decoding"}
    assert found["sft"] == found["reward_model"] == train
    assert found["dpo"] == train | {"reference"}
    assert found["kto"] == train | {"reference", "baseline"}
    assert found["grpo"] == train | sample | {"reference"}
    assert found["ppo"] == train | sample | {"reference", "old log-probs", "values"}
    assert found["collect"] == sample


def test_ppo_trains_two_models_and_raft_one_response() -> None:
    def trained(method: str) -> float:
        return work(Job(method, TINY, 4, 4, 8, 8, 8.0, 8.0, 4096))["training"].tokens

    assert trained("ppo") == 2 * trained("grpo")
    assert trained("raft") == 4 * (8 + 8)


# -- decoding -------------------------------------------------------------------------------------


def llama(rows: int, **more: object) -> Job:
    job = Job("collect", shape_of("meta-llama/Llama-3.1-8B"), rows, 1, 1, 100, 1.0, 100.0, 4096)
    return replace(job, precision="bfloat16", engine="vllm", **more)  # type: ignore[arg-type]


def test_one_row_is_bound_by_reading_the_weights() -> None:
    h100 = parse_hardware("H100")
    # by hand: 32 layers of 2 x 4096^2 + 2 x 4096 x 1024 + 3 x 4096 x 14336, and the head's matrix
    numbers = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336) + 128256 * 4096
    by_hand = 100 * (2 * numbers / (0.6 * 3.35e12) + 32 * cost.GRAPHED)
    found = step_seconds(llama(1), speed_of(h100, llama(1).model))["decoding"]
    assert found == pytest.approx(by_hand, rel=0.02)
    assert phases(llama(1), speed_of(h100, llama(1).model))[1].bound == "bandwidth"


def test_many_rows_share_the_reading_until_arithmetic_binds() -> None:
    speed = speed_of(parse_hardware("H100"), llama(1).model)
    one, many = (step_seconds(llama(rows), speed)["decoding"] for rows in (1, 64))
    assert one < many < 8 * one  # 64 times the tokens
    crowd = replace(llama(4096), rows=4096)
    assert phases(crowd, speed)[1].bound == "arithmetic"


def test_of_experts_a_step_reads_those_that_were_chosen() -> None:
    moe = shape_of("Qwen/Qwen3-30B-A3B")
    others = moe.parameters - moe.embedding
    assert cost.touched(moe, 1) == pytest.approx(moe.active_parameters)
    assert cost.touched(moe, 10_000) == pytest.approx(others)
    draws = np.random.default_rng(0)
    chosen = {e for _ in range(16) for e in draws.choice(128, 8, replace=False)}
    layers = moe.active_parameters + (others - moe.active_parameters) * (len(chosen) - 8) / 120
    assert cost.touched(moe, 16) == pytest.approx(layers, rel=0.1)


def test_all_wait_for_the_longest_response() -> None:
    job = replace(llama(512), response_tokens=10**6)
    draws = np.random.default_rng(0).normal(0, cost.LENGTHS, (400, 512))
    drawn = 100 * np.exp(draws - cost.LENGTHS**2 / 2)
    assert longest(job) == pytest.approx(float(np.median(drawn.max(1))), rel=0.1)
    assert longest(replace(job, response_tokens=250)) == 250  # cut
    assert longest(replace(job, response_tokens=100)) == 100


def test_more_gpus_are_faster_and_never_more_than_their_number() -> None:
    job = Job("grpo", llama(1).model, 64, 8, 200, 400, 200.0, 300.0, 8192, precision="mixed")
    one, eight = (
        sum(step_seconds(job, speed_of(parse_hardware(h), job.model), n).values())
        for h, n in (("H100", 1), ("8xH100", 8))
    )
    assert one / 8 <= eight < one


def test_launching_hides_behind_computing_on_an_accelerator_only() -> None:
    done = cost.Work(matrices=1e9, calls=1000, kernels=40_000)
    queued = Speed(1e9, 1e9, layer=1e-4, launch=1e-5)
    assert done.seconds(queued) == pytest.approx(1.0)
    assert done.seconds(replace(queued, queued=False)) == pytest.approx(1.1)
    assert replace(done, matrices=1e6).seconds(queued) == pytest.approx(0.4)


def test_few_tokens_take_a_gpu_as_long_as_their_kernels_are_launched() -> None:
    gpu = speed_of(parse_hardware("H200"), shape_of("Qwen/Qwen3-0.6B"))
    job = sft(shape_of("Qwen/Qwen3-0.6B"), precision="mixed")
    kernels = 28 * (38 + 78 + 2 * (8 + 16) + 10 + 16)
    assert step_seconds(job, gpu)["training"] == pytest.approx(kernels * gpu.launch)
    lora, wide = replace(job, lora=16), replace(job, precision="bfloat16")
    assert step_seconds(lora, gpu)["training"] > 1.3 * kernels * gpu.launch
    assert step_seconds(wide, gpu)["training"] < kernels * gpu.launch


def test_each_micro_batch_is_launched_anew_and_gpus_divide_them() -> None:
    shape = shape_of("Qwen/Qwen3-0.6B")
    job = Job("ppo", shape, 8, 1, 8, 8, 8.0, 8.0, 10**6, precision="mixed", lora=8)
    one, two = (work(replace(job, minibatches=m))["training"] for m in (1, 2))
    assert two.kernels == 2 * one.kernels
    assert (one.passes, two.passes) == (1, 2)
    gpu = Speed(1e18, 1e18, launch=1e-5)
    assert two.seconds(replace(gpu, gpus=2)) == pytest.approx(two.seconds(gpu) / 2)
    assert one.seconds(replace(gpu, gpus=2)) == pytest.approx(one.seconds(gpu))


def test_float32_takes_the_rate_of_float32_matrices() -> None:
    shape = shape_of("Qwen/Qwen3-0.6B")
    gpu = speed_of(parse_hardware("H200"), shape)
    job = replace(sft(shape), prompts=512, precision="mixed")
    mixed, exact = (
        step_seconds(replace(job, precision=p), gpu)["training"] for p in ("mixed", "float32")
    )
    assert 2 < exact / mixed < 67 / 989 * 100
    done = work(replace(job, precision="float32"))["training"]
    assert exact > done.matrices / (0.6 * 67e12)


def test_the_first_steps_of_decoding_are_not_recorded() -> None:
    shape = shape_of("Qwen/Qwen3-0.6B")
    gpu = speed_of(parse_hardware("H200"), shape)

    def seconds(tokens: int) -> float:
        job = Job("collect", shape, 8, 1, 8, tokens, 8.0, float(tokens), 4096, precision="bfloat16")
        return step_seconds(job, gpu)["decoding"]

    first, later = seconds(2) / 2, (seconds(102) - seconds(2)) / 100
    assert first > 3 * later
    assert later > 28 * gpu.step


def test_a_reference_with_its_adapters_off_launches_less_than_the_policy() -> None:
    job = Job("ppo", shape_of("Qwen/Qwen3-0.6B"), 4, 1, 8, 8, 8.0, 8.0, 4096, lora=8)
    done = work(job)
    assert done["reference"].kernels < 0.6 * done["old log-probs"].kernels
