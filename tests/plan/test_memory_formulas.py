"""A stage's memory by formula, against transformers' own counts and what autograd really keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

import varlen_cpu  # noqa: F401  (torch's kernels, for a CPU)
from gnomon.algorithms.registry import METHODS, find_method
from gnomon.data.batch import pack
from gnomon.errors import ConfigError
from gnomon.models.memory import adapter_count, parameter_count
from gnomon.models.packed import plan_of
from gnomon.models.precision import Precision
from gnomon.models.roles import LoraSettings, Role, Trunk
from gnomon.plan.job import SAMPLED, Job
from gnomon.plan.layout import layout
from gnomon.plan.memory import cache_bytes, kept, memory
from gnomon.plan.shapes import Shape, public_models, shape_of, shape_of_config
from gnomon.records import TokenGroup, TokenResponse
from gnomon.tasks.tunnel.tokenizer import build_tokenizer

SIZES = {
    "vocab_size": 128,
    "hidden_size": 96,
    "intermediate_size": 224,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": tf.LlamaConfig,
    "mistral": tf.MistralConfig,
    "qwen2": tf.Qwen2Config,
    "qwen3": tf.Qwen3Config,
    "gemma": tf.GemmaConfig,
    "gemma2": tf.Gemma2Config,
    "gemma3": tf.Gemma3TextConfig,
}
GROUPS = ((2, 1, 10, 20), (2, 4, 100, 50), (1, 8, 150, 30))
"""G groups of K responses, prompts of P tokens and responses of T."""


def config(family: str, **more: Any) -> Any:
    return FAMILIES[family](**(SIZES | more))


def job(shape: Shape | None = None, groups: tuple[int, ...] = (4, 1, 100, 200), **more: Any) -> Job:
    G, K, P, T = groups
    settings: dict[str, Any] = {"method": "sft", "microbatch": 10**6, **more}
    return Job(
        model=shape or shape_of("meta-llama/Llama-3.1-8B"),
        prompts=G,
        samples=K,
        prompt_tokens=P,
        response_tokens=T,
        mean_prompt=P,
        mean_response=T,
        **settings,
    )


def batch(groups: tuple[int, ...]) -> Any:
    G, K, P, T = groups
    draw = torch.Generator().manual_seed(0)

    def ids(n: int) -> list[int]:
        return torch.randint(3, 100, (n,), generator=draw).tolist()

    answers = [[TokenResponse(ids(T), [True] * T) for _ in range(K)] for _ in range(G)]
    return pack([TokenGroup(str(i), ids(P), tuple(row)) for i, row in enumerate(answers)])


# -- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_that_transformers_counts(family: str, tied: bool) -> None:
    made = config(family, tie_word_embeddings=tied)
    shape = shape_of_config(made, family)
    assert shape.parameters == parameter_count(made)
    assert shape.adapter(8) == adapter_count(made, LoraSettings(rank=8))


@pytest.mark.parametrize("kind", [tf.MixtralConfig, tf.Qwen3MoeConfig])
def test_experts_count_whole_and_have_no_adapters(kind: type[Any]) -> None:
    more = {"moe_intermediate_size": 64} if kind is tf.Qwen3MoeConfig else {}
    made = kind(**SIZES, num_local_experts=4, num_experts_per_tok=2, **more)
    shape = shape_of_config(made, "moe")
    assert shape.parameters == parameter_count(made)
    assert shape.adapter(8) == adapter_count(made, LoraSettings(rank=8))
    assert shape.active_parameters < shape.parameters


def test_a_public_model_and_its_config_file_have_one_shape(tmp_path: Path) -> None:
    raw = {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072}
    raw |= {"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}
    raw |= {"head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    found, listed = shape_of(str(tmp_path)), shape_of("Qwen/Qwen3-0.6B")
    assert replace(found, name=listed.name) == listed
    assert memory(job(found)).peak == memory(job(listed)).peak


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("{}", "names no model_type"),
        ('{"model_type": "llama", "vocab_size": 10}', "no num_hidden_layers, hidden_size"),
        ('{"model_type": "lama", "hidden_size": 8, "num_hidden_layers": 1}', "lama"),
        ('{"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 1}', "no num_attention"),
    ],
)
def test_a_config_that_has_no_shape_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        shape_of(str(tmp_path))


def test_another_architecture_is_counted_on_an_empty_model() -> None:
    """GPT-2's MLP has no gate, and its embedding of positions is large."""
    made = tf.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    shape = shape_of_config(made, "gpt2")
    assert shape.parameters == parameter_count(made)
    assert shape.kept is not None
    assert kept(job(shape), shape, layout(job(shape))) == 4 * shape.kept[0]


# -- activations ----------------------------------------------------------------------------------


def really_kept(
    family: str, dtype: str, lora: int, groups: tuple[int, ...], varlen: bool = False
) -> int:
    """Bytes that autograd keeps of a packed forward pass, weights and narrow copies left out."""
    torch.manual_seed(0)
    precision = Precision(dtype)
    width = getattr(torch, precision.frozen if lora else precision.trained)
    made = config(family, head_dim=16) if varlen else config(family)
    model = tf.AutoModelForCausalLM.from_config(made).to(width)
    trunk = Trunk(model, build_tokenizer(), precision=precision)
    if lora:
        trunk.add_adapter("policy", LoraSettings(rank=lora))
    role = Role("policy", trunk, adapter="policy" if lora else None, trainable=True)
    trunk.packed.attention = "varlen" if varlen else "auto"
    packed = batch(groups)
    role.hidden(packed)  # masks and the like are made
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    matrices = [p for p in model.parameters() if p.ndim == 2 and (p.requires_grad or not lora)]
    copies = {tuple(shape) for p in matrices for shape in (p.shape, p.t().shape)[not lora :]}
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        narrow = trunk.compute != model.dtype or lora  # of what is trained
        copy = narrow and tuple(tensor.shape) in copies
        if storage.data_ptr() not in weights and not copy:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = role.hidden(packed)
    del out
    return sum(storage.nbytes() for storage in found.values())


def formula(
    family: str, dtype: str, lora: int, groups: tuple[int, ...], device: str = "cpu"
) -> float:
    made = config(family, head_dim=16) if device == "cuda" else config(family)
    shape = shape_of_config(made, family)
    asked = job(shape, groups, lora=lora, precision=dtype, device=device)
    plan, size = layout(asked), asked.compute_bytes
    last = asked.model.hidden * (4 + asked.stream_bytes * (0 if lora else 2))  # of the last norm
    layers = asked.model.layers * kept(asked, asked.model, plan)
    return plan.tokens * (layers + last) + size * plan.mask


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("lora", [0, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_what_autograd_keeps(
    family: str, dtype: str, lora: int, groups: tuple[int, ...]
) -> None:
    if dtype == "mixed" and lora:
        return  # which is bfloat16
    real = really_kept(family, dtype, lora, groups)
    assert formula(family, dtype, lora, groups) == pytest.approx(real, rel=0.06)


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed"])
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "gemma2"])
def test_a_gpus_kernels_keep_no_mask_and_a_prompts_keys_for_each_response(
    family: str, dtype: str, groups: tuple[int, ...]
) -> None:
    real = really_kept(family, dtype, 0, groups, varlen=True)
    assert formula(family, dtype, 0, groups, "cuda") == pytest.approx(real, rel=0.06)


def test_a_formula_without_the_norms_would_be_seen() -> None:
    shape = replace(shape_of_config(config("llama"), "llama"), norms=0)
    asked = job(shape, GROUPS[0])
    plan = layout(asked)
    broken = plan.tokens * shape.layers * kept(asked, shape, plan)
    assert broken != pytest.approx(really_kept("llama", "float32", 0, GROUPS[0]), rel=0.06)


@pytest.mark.parametrize("groups", [*GROUPS, (3, 2, 40, 30), (1, 4, 300, 100)])
def test_the_layout_is_the_attention_plans(groups: tuple[int, ...]) -> None:
    plan, real = layout(job(groups=groups, device="cpu")), plan_of(packed := batch(groups)).masked
    assert plan.tokens == packed.num_tokens
    assert plan.responses == len(packed.targets)
    assert plan.queries == sum(b.rows * b.query_length for b in real.blocks)
    assert plan.keys == sum(b.rows * b.key_length for b in real.blocks)
    masks = [b.bias(None, torch.float32) for b in real.blocks]
    assert plan.mask == sum(m.numel() for m in masks if m is not None)


# -- the whole ------------------------------------------------------------------------------------


def test_the_peak_is_the_largest_instant_and_no_sum() -> None:
    found = memory(job(method="grpo"))
    largest = max(found.instants.values())
    assert found.peak == found.persistent + largest
    assert found.instants[found.worst] == largest
    assert {"sampling", "reference passes", "forward and backward", "optimizer"} <= set(
        found.instants
    )


def test_weights_and_moments_of_a_published_model() -> None:
    """Full float32 AdamW of 8.03e9 parameters: 4 + 8 bytes each there always, 4 of gradients."""
    found = memory(job())
    assert found.always["policy"] == 4 * 8_030_261_248
    assert found.always["moments"] == 8 * 8_030_261_248
    assert found.instants["optimizer"] == 4 * 8_030_261_248
    lora = memory(job(lora=16, precision="bfloat16"))
    assert lora.always["shared trunk"] == 2 * 8_030_261_248
    assert lora.persistent < 0.2 * found.persistent
    sharded = memory(job(shards=8))
    assert sharded.persistent == pytest.approx(found.persistent / 8)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "distill"])
def test_roles_are_those_that_the_method_declares(method: str) -> None:
    made = find_method(method)
    needs = made.algorithm.needs(made.settings())
    asked = job(method=method)
    assert asked.trained_roles == sum(need.trainable for need in needs)
    assert asked.frozen_copies == sum(not need.trainable for need in needs)
    assert asked.sampled == (made.algorithm.data == "prompts")
    assert (method in SAMPLED) == asked.sampled


def test_ppo_holds_two_sets_of_activations_and_dpo_one() -> None:
    ppo, grpo = (memory(job(method=m, groups=(8, 1, 64, 64))) for m in ("ppo", "grpo"))
    assert ppo.always["value model"] == ppo.always["policy"]
    assert ppo.instants["forward and backward"] > 1.3 * grpo.instants["forward and backward"]


@pytest.mark.parametrize(
    ("change", "instant"),
    [
        ({"recompute": True}, "forward and backward"),
        ({"microbatch": 512}, "forward and backward"),
        ({"rows": 4}, "sampling"),
        ({"lora": 16}, "optimizer"),
        ({"precision": "bfloat16"}, "sampling"),
    ],
)
def test_what_makes_an_instant_smaller(change: dict[str, Any], instant: str) -> None:
    before = job(method="grpo", groups=(8, 8, 256, 256))
    assert memory(replace(before, **change)).instants[instant] < memory(before).instants[instant]


def test_activations_grow_with_the_tokens_and_masks_with_their_square() -> None:
    small, large = (layout(job(groups=(1, 2, 16, n))) for n in (64, 128))
    assert large.mask > 3 * small.mask
    one, two = (memory(job(groups=(n, 1, 64, 448), lora=8)) for n in (1, 2))
    more = two.instants["forward and backward"] - one.instants["forward and backward"]
    asked = job(groups=(1, 1, 64, 448), lora=8)
    kept_of_one = kept(asked, asked.model, layout(asked))
    assert more >= 512 * 32 * kept_of_one


def test_rows_of_a_gpus_cache_are_whole_where_they_fit_into_a_quarter_of_it() -> None:
    """As the engine keeps them: one more for eight, one that is nobody's, of 64 tokens each."""
    shape = shape_of_config(config("llama", head_dim=16), "llama")
    token = 2 * shape.cache_numbers
    asked = replace(job(shape, (4, 16, 100, 200), precision="mixed"), method="grpo", device="cuda")
    whole = (64 + 8 + 1) * 320 * token
    assert cache_bytes(replace(asked, device_bytes=4.0 * whole)) == whole
    assert cache_bytes(replace(asked, device_bytes=4.0 * whole - 4)) == 64 * 304 * token
    assert cache_bytes(replace(asked, device_bytes=0.0)) == whole  # a large one
    for other in ({"engine": "vllm"}, {"device": "cpu"}):
        assert cache_bytes(replace(asked, **other)) == 64 * 304 * token
    assert cache_bytes(replace(asked, precision="float32")) == 64 * 304 * 2 * token
    odd = replace(asked, model=replace(shape, head_dim=12))
    assert cache_bytes(odd) == 64 * 304 * 2 * odd.model.cache_numbers  # no kernel takes these heads


def test_every_public_model_has_a_size() -> None:
    for name in public_models():
        found = memory(job(shape_of(name), method="grpo"))
        assert 0 < found.persistent < found.peak < 3e13, name


def test_mixed_precision_trains_float32_weights_beside_narrow_ones() -> None:
    """4 bytes each of a weight, its gradient and two moments, 2 of its narrow copy (where layers
    are kept) and of a frozen model's."""
    shape = shape_of("Qwen/Qwen3-0.6B")
    found = {p: memory(job(shape, precision=p, method="grpo")) for p in ("float32", "mixed")}
    size = shape.parameters
    assert found["mixed"].always["policy"] == found["float32"].always["policy"] == 4 * size
    assert found["mixed"].always["moments"] == found["float32"].always["moments"]
    assert found["mixed"].always["narrow copies"] == 2 * size
    assert found["mixed"].always["reference"] == 2 * size + 2 * shape.embedding
    again = memory(job(shape, precision="mixed", method="grpo", recompute=True))
    assert "narrow copies" not in again.always
    lora = [memory(job(shape, precision=p, lora=8)) for p in ("mixed", "bfloat16")]
    assert lora[0].peak == lora[1].peak
