"""The packed forward against transformers' own padded forward, one row per response."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from zoo import logprobs

from gnomon.data.batch import Batch, pack
from gnomon.models import attention
from gnomon.models.costs import COSTS
from gnomon.models.packed import PackedForward, packed_attention, plan_of, register
from gnomon.records import TokenGroup, TokenResponse

V = 61
COMMON = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
SLIDING = {"sliding_window": 5}
FAMILIES = {
    "llama": lambda: tf.LlamaConfig(**COMMON),
    "llama-tied": lambda: tf.LlamaConfig(**COMMON, tie_word_embeddings=True),
    "qwen2": lambda: tf.Qwen2Config(**COMMON),
    "qwen3": lambda: tf.Qwen3Config(**COMMON),
    "mistral": lambda: tf.MistralConfig(**COMMON, **SLIDING),
    "gemma": lambda: tf.GemmaConfig(**COMMON),
    "gemma2": lambda: tf.Gemma2Config(
        **COMMON,
        **SLIDING,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=8,
    ),
    "gemma3": lambda: tf.Gemma3TextConfig(
        **COMMON,
        **SLIDING,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "gpt2": lambda: tf.GPT2Config(
        vocab_size=V,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=256,
        initializer_range=0.3,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    ),
}


def make(family: str, **changes: object) -> tf.PreTrainedModel:
    config = FAMILIES[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(1)
    return tf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def random_groups(shapes: list[tuple[int, list[int]]], seed: int = 0) -> list[TokenGroup]:
    draw = torch.Generator().manual_seed(seed)

    def tokens(n: int) -> list[int]:
        return torch.randint(V, (n,), generator=draw).tolist()

    return [
        TokenGroup(str(i), tokens(p), tuple(TokenResponse(tokens(t), [True] * t) for t in ts))
        for i, (p, ts) in enumerate(shapes)
    ]


MIXED = [
    (7, [5]),
    (1, [3, 9]),
    (12, [4, 1, 8]),
    (3, [2, 2, 2, 2]),
    (20, [6, 11, 1, 7, 3]),
    (5, [4, 4, 9, 2, 1, 3]),
    (2, [1, 2, 3, 4, 5, 6, 7]),
    (9, [3, 8, 2, 6, 1, 1, 4, 5]),
    (6, [2, 7, 1, 8, 2, 8, 1, 8, 3]),
]


def naive(model: nn.Module, groups: list[TokenGroup], temperature: float = 1.0) -> Tensor:
    """[R, V] log-probabilities by one padded row per response."""
    rows = [(list(g.prompt_ids), list(r.ids)) for g in groups for r in g.responses]
    width = max(len(p) + len(r) for p, r in rows)
    ids = torch.tensor([p + r + [0] * (width - len(p) - len(r)) for p, r in rows])
    mask = torch.tensor([[1] * len(p + r) + [0] * (width - len(p + r)) for p, r in rows])
    logits = model(input_ids=ids, attention_mask=mask).logits / temperature
    parts = [
        logits[i, len(p) - 1 : len(p) + len(r) - 1].log_softmax(-1) for i, (p, r) in enumerate(rows)
    ]
    return torch.cat(parts)


def naive_token(model: nn.Module, groups: list[TokenGroup], batch: Batch) -> Tensor:
    return naive(model, groups).gather(1, batch.targets[:, None])[:, 0]


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert found
    for name, want in expected.items():
        assert (found[name] - want).norm() <= 1e-3 * want.norm() + 1e-6, name


def compare(model: nn.Module, groups: list[TokenGroup]) -> None:
    batch = pack(groups)
    packed = PackedForward(model)
    assert packed.shares_prefix, packed.fallback_reason
    weights = torch.linspace(-1, 2, batch.targets.numel())
    found = logprobs(packed, batch).logprobs
    expected = naive_token(model, groups, batch)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert_same_gradients(
        gradients(model, (found * weights).sum()), gradients(model, (expected * weights).sum())
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_matches_transformers(family: str) -> None:
    compare(make(family), random_groups(MIXED))


@pytest.mark.parametrize("family", ["llama-tied", "gemma2", "gpt2"])
def test_matches_transformers_with_lora(family: str) -> None:
    targets = ["c_attn"] if family == "gpt2" else ["q_proj", "v_proj", "down_proj"]
    model = get_peft_model(
        make(family), LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    )
    model.add_adapter("other", LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    groups = random_groups(MIXED[:5])
    compare(model, groups)
    first = logprobs(PackedForward(model), pack(groups)).logprobs
    model.set_adapter("other")
    compare(model, groups)
    assert not torch.allclose(first, logprobs(PackedForward(model), pack(groups)).logprobs)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("K", range(1, 10))
def test_every_group_size(family: str, K: int) -> None:
    compare(make(family), random_groups([(6, list(range(1, K + 1))), (11, [4] * K)], seed=K))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "gpt2"])
def test_split_groups(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cheap calls and tokens make every group be cut into prompt and response chunks."""
    monkeypatch.setitem(COSTS, "cpu", replace(COSTS["cpu"], call=0, token=0.4))
    groups = random_groups(MIXED)
    assert len(plan_of(pack(groups)).masked.blocks) > 15
    compare(make(family), groups)


def test_long_groups_are_cut() -> None:
    """The work grows as P^2 + K T (P + m T), far below (P + K T)^2."""
    batch = pack(random_groups([(60, [50] * 16)]))
    blocks = plan_of(batch).masked.blocks
    work = sum(b.rows * b.query_length * b.key_length for b in blocks)
    assert work < 0.25 * batch.num_tokens**2
    compare(make("llama"), random_groups([(60, [50] * 16)]))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_gradient_checkpointing(family: str, reentrant: bool) -> None:
    model = make(family).train()
    groups = random_groups(MIXED)
    batch = pack(groups)
    expected = gradients(model, naive_token(model, groups, batch).sum())
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    packed = PackedForward(model)
    found = gradients(model, logprobs(packed, batch).logprobs.sum())
    assert_same_gradients(found, expected)
    assert model.config._attn_implementation == "eager"


def test_dropout_is_honoured() -> None:
    """Attention dropout makes results vary in train mode and not in eval mode."""
    model = make("llama", attention_dropout=0.3).train()
    packed, batch = PackedForward(model), pack(random_groups(MIXED[:4]))
    with torch.no_grad():
        a, b = packed.hidden(batch), packed.hidden(batch)
        assert not torch.allclose(a, b)
        model.eval()
        torch.testing.assert_close(packed.hidden(batch), packed.hidden(batch))


def test_no_attention_mask_over_all_tokens_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = packed_attention

    def spy(*args: object, **kwargs: object) -> object:
        seen.append(args[4])
        return original(*args, **kwargs)

    register(function=spy)
    try:
        PackedForward(make("gemma3")).hidden(pack(random_groups(MIXED)))
    finally:
        register()
    assert seen
    assert all(mask is None for mask in seen)


def test_a_wrong_branch_mask_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If responses saw each other, the probe would refuse, and the comparison would fail."""

    def leaky(self: attention.Block, window: int | None = None) -> Tensor:
        query, key = self.query_position[:, :, None], self.key_position[:, None, :]
        return key <= query

    monkeypatch.setattr(attention.Block, "visible", leaky)
    model, groups = make("llama"), random_groups(MIXED)
    with pytest.warns(UserWarning, match="cannot share prompts"):
        packed = PackedForward(model)
    assert not packed.shares_prefix
    assert "differ" in (packed.fallback_reason or "")
    trusting = PackedForward(model, probe=False)
    batch = pack(groups)
    gap = logprobs(trusting, batch).logprobs - naive_token(model, groups, batch)
    assert gap.abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_fallback(kind: str) -> None:
    if kind == "bloom":
        config = tf.BloomConfig(vocab_size=V, hidden_size=32, n_layer=2, n_head=4)
    else:
        config = tf.MambaConfig(
            vocab_size=V, hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=None
        )
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    with pytest.warns(UserWarning, match="cannot share prompts"):
        packed = PackedForward(model)
    assert not packed.shares_prefix
    groups = random_groups(MIXED[:5])
    batch = pack(groups)
    found, expected = logprobs(packed, batch).logprobs, naive_token(model, groups, batch)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert_same_gradients(gradients(model, found.sum()), gradients(model, expected.sum()))


def test_probe_leaves_no_trace() -> None:
    model = make("llama", attention_dropout=0.5).train()
    model.model.layers[0].eval()
    state, modes = torch.get_rng_state(), [m.training for m in model.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PackedForward(model)
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    assert model.config._attn_implementation == "eager"
