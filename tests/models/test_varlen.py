"""Attention by varlen kernels (here: reference ones for the CPU) against the masked blocks."""

from __future__ import annotations

import gc
import warnings
import weakref
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen
from test_packed import FAMILIES, MIXED, gradients, make, random_groups
from torch import Tensor, nn
from zoo import logprobs
from zoo import model as zoo_model

import varlen_cpu
from gnomon.data.batch import pack
from gnomon.errors import ModelError
from gnomon.models import attention, varlen
from gnomon.models.continuations import Continuation, Scored, score
from gnomon.models.costs import Costs
from gnomon.models.packed import PackedForward, plan_of
from gnomon.models.varlen import Attention, PassPlan

SOFTCAPPED = "gemma2"
PLAIN = [f for f in FAMILIES if f != SOFTCAPPED]


@pytest.fixture(autouse=True)
def calls() -> list[tuple[int, ...]]:
    varlen_cpu.CALLS.clear()
    return varlen_cpu.CALLS


def results(model: nn.Module, kind: varlen.Kind) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probs of a batch and the gradients of a weighted sum of them."""
    packed, batch = PackedForward(model, attention=kind), pack(random_groups(MIXED))
    assert packed.shares_prefix, packed.fallback_reason
    found = logprobs(packed, batch).logprobs
    weights = torch.linspace(-1, 2, len(found)).to(found) / len(found)
    return found.detach(), gradients(model, (found * weights).sum())


def gap(model: nn.Module) -> float:
    """The largest distance between both ways, relative to the blocks' largest value."""
    (found, grads), (wanted, wanted_grads) = results(model, "varlen"), results(model, "blocks")
    assert grads.keys() == wanted_grads.keys()
    pairs = [(found, wanted), *((grads[n], g) for n, g in wanted_grads.items() if g.any())]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("family", PLAIN)
def test_is_the_masked_blocks(family: str, calls: list[tuple[int, ...]]) -> None:
    model = make(family)
    assert gap(model) < 1e-5
    batch = pack(random_groups(MIXED))
    copied = sum(len(ts) * p for p, ts in MIXED if len(ts) > 1)
    heads = (4, getattr(model.config, "num_key_value_heads", 4))
    keys = batch.num_tokens + copied  # each prompt's once for itself and once for each response
    assert calls[-2:] == [(batch.num_tokens, keys, *heads)] * 2  # one call a layer


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_causal_rule_from_the_wrong_corner_is_noticed(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(family)
    monkeypatch.setattr(varlen_cpu, "CORNER", "top left")
    with pytest.warns(UserWarning, match="packed and separate results differ"):
        assert not PackedForward(model, attention="varlen").shares_prefix
    monkeypatch.setattr(PackedForward, "_probe", lambda self: None)
    assert gap(model) > 1e-2


def test_a_window_that_is_one_too_wide_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, attend = make("mistral"), varlen.VarlenPlan.attend

    def wider(self: varlen.VarlenPlan, *args: Tensor, window: int, **kwargs: object) -> Tensor:
        return attend(self, *args, window=window + 1, **kwargs)

    monkeypatch.setattr(varlen.VarlenPlan, "attend", wider)
    monkeypatch.setattr(PackedForward, "_probe", lambda self: None)
    assert gap(model) > 1e-2


def test_a_lost_copy_of_a_prompts_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = varlen.Gather.spread

    def once(self: varlen.Gather, x: Tensor) -> Tensor:
        self.order = self.again = self.again_to = None
        return spread(self, x)

    monkeypatch.setattr(varlen.Gather, "spread", once)
    model = make("llama")
    found = results(model, "varlen")[1]
    monkeypatch.undo()
    wanted = results(model, "blocks")[1]
    name = "model.layers.0.self_attn.k_proj.weight"
    assert (found[name] - wanted[name]).norm() > 1e-2 * wanted[name].norm()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_that_are_recomputed(checkpointing: bool) -> None:
    model = make("qwen3").train()
    wanted = results(model, "blocks")[1]
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    found = results(model, "varlen")[1]
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)


def test_continuations_of_shared_contexts(calls: list[tuple[int, ...]]) -> None:
    draw = torch.Generator().manual_seed(2)

    def ids(n: int) -> list[int]:
        return torch.randint(3, 61, (n,), generator=draw).tolist()

    shots = ids(20)
    asked = [[*shots, *ids(n)] for n in (4, 9, 2)] + [ids(7)]
    items = [Continuation(q, ids(k)) for q in asked for k in (1, 5, 3)]
    both = []
    for kind in ("varlen", "blocks"):
        found: dict[int, Scored] = {}
        for part in score(PackedForward(zoo_model().double(), attention=kind), items):
            found |= part
        both.append([found[i].logprob for i in range(len(items))])
    assert both[0] == pytest.approx(both[1], abs=1e-9)
    assert len(calls) == 2 * 2  # layers, and the probe before


def test_what_kernels_do_not_know_is_refused_or_left_to_the_blocks() -> None:
    with pytest.raises(ModelError, match="softcap; use 'auto'"):
        PackedForward(make(SOFTCAPPED), attention="varlen")
    dropping = make("llama", attention_dropout=0.5)
    packed, batch = PackedForward(dropping, attention="varlen"), pack(random_groups(MIXED))
    dropping.train()
    with pytest.raises(ModelError, match="dropout; use 'auto'"):
        packed.hidden(batch)


@pytest.mark.parametrize(
    ("dtype", "heads", "width", "why"),
    [
        (torch.float32, 2, 64, "float32"),
        (torch.bfloat16, 2, 20, "20 and 20 wide"),
        (torch.bfloat16, 2, 264, "264"),
        (torch.bfloat16, 3, 64, "no multiple"),
        (torch.bfloat16, 2, 64, "FlashAttention"),  # whatever else suits: this torch has no CUDA
    ],
)
def test_tensors_that_kernels_do_not_take(
    dtype: torch.dtype, heads: int, width: int, why: str
) -> None:
    if torch.cuda.is_available() and why == "FlashAttention":
        pytest.skip("this torch has the kernels")
    query, key = (torch.empty(n, 6, width, dtype=dtype, device="meta") for n in (4, heads))
    assert why in str(varlen.refused(query, key, key))


def test_a_torch_whose_kernels_know_fewer_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11 lets the numbers of heads differ unasked and takes no table of pages."""
    newest = torch.nn.attention.varlen.varlen_attn

    def older(*tensors: Any, scale: float | None = None, window_size: tuple[int, int]) -> Tensor:
        found = newest(*tensors, scale=scale, window_size=window_size, enable_gqa=True)
        assert isinstance(found, Tensor)
        return found

    def scores(kind: varlen.Kind) -> Tensor:
        return PackedForward(zoo_model(), attention=kind).hidden(pack(random_groups(MIXED)))

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", older)
    monkeypatch.setattr(varlen, "kernel_arguments", lambda: frozenset({"scale", "window_size"}))
    torch.testing.assert_close(scores("varlen"), scores("blocks"), atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(varlen, "kernel_arguments", frozenset)
    query = torch.empty(2, 6, 64, dtype=torch.bfloat16, device="meta")
    varlen._missing.cache_clear()
    assert "does not have them" in str(varlen.refused(query, query, query))
    varlen._missing.cache_clear()


def test_kernels_are_tried_out_once_and_then_trusted(
    monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]
) -> None:
    """The trial by itself, with the reference kernels in the place of a GPU's."""
    trial = varlen._disagreement.__wrapped__
    cpu = torch.device("cpu")
    for windowed in (False, True):
        assert trial(cpu, torch.float32, 4, 2, 16, windowed) is None
    assert len(calls) == 2
    monkeypatch.setattr(varlen_cpu, "CORNER", "top left")
    assert "differ from the blocks" in str(trial(cpu, torch.float32, 4, 2, 16, False))


def test_a_trial_that_runs_out_of_memory_says_nothing_of_the_kernels(
    monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]
) -> None:
    def raising(error: Exception) -> None:
        def attend(*args: Any, **kwargs: Any) -> Tensor:
            raise error

        monkeypatch.setattr(varlen.VarlenPlan, "attend", attend)

    asked = (torch.device("cpu"), torch.float32, 4, 2, 24, False)
    varlen._disagreement.cache_clear()
    with monkeypatch.context() as monkeypatch:
        raising(torch.OutOfMemoryError("CUDA out of memory"))
        with pytest.raises(torch.OutOfMemoryError):
            varlen._disagreement(*asked)
    assert varlen._disagreement(*asked) is None  # asked again, and trusted
    varlen._disagreement.cache_clear()
    with monkeypatch.context() as monkeypatch:
        raising(RuntimeError("no kernel image"))
        assert "they fail (no kernel image)" in str(varlen._disagreement(*asked))
    assert "they fail" in str(varlen._disagreement(*asked))  # which is remembered
    varlen._disagreement.cache_clear()


def test_auto_says_once_why_it_takes_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU would be asked, asked of the CPU."""
    batch, draw = pack(random_groups(MIXED)), torch.Generator().manual_seed(1)
    plan = plan_of(batch)
    q, k = (torch.randn(n, batch.num_tokens, 8, generator=draw) for n in (4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = Attention(plan, "auto").attend(q, k, k)  # silent: a CPU is meant to
    monkeypatch.setattr(Attention, "_is_gpu", staticmethod(lambda device: True))
    varlen._say.cache_clear()
    with pytest.warns(UserWarning, match="runs in float32"):
        found = Attention(plan, "auto").attend(q, k, k)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = Attention(plan, "auto").attend(q, k, k)
    assert torch.equal(found, wanted)
    assert torch.equal(again, wanted)


def test_auto_leaves_large_rows_that_need_no_mask_to_the_plain_causal_kernels(
    monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]
) -> None:
    """One response each: what a GPU has its fastest kernels for. A window that hides a key, or a
    prompt that several responses share, would need a mask."""
    monkeypatch.setattr(Attention, "_is_gpu", staticmethod(lambda device: True))
    for name in ("refused", "_checked"):  # as if the kernels took what a CPU computes
        monkeypatch.setattr(varlen, name, lambda *given: None)
    draw = torch.Generator().manual_seed(1)
    for shape, window, large, wanted in (
        ([(5, [4]), (2, [3])], None, 106, 0),
        ([(5, [4]), (2, [3])], None, 107, 1),  # too little work for a plan of its shape
        ([(5, [4]), (2, [3])], 9, 106, 0),
        ([(5, [4]), (2, [3])], 8, 106, 1),
        ([(5, [4]), (2, [3, 2])], None, 0, 1),
    ):
        monkeypatch.setattr(varlen, "_PLANNED", large)
        batch = pack(random_groups(shape))
        q, k = (torch.randn(n, batch.num_tokens, 8, generator=draw) for n in (4, 2))
        calls.clear()
        found = Attention(plan_of(batch), "auto").attend(q, k, k, window=window)
        assert len(calls) == wanted, (shape, window, large)
        by_blocks = Attention(plan_of(batch), "blocks").attend(q, k, k, window=window)
        torch.testing.assert_close(found, by_blocks, atol=1e-5, rtol=1e-5)


def test_rows_of_many_lengths_are_not_planned_for_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is large as a whole is many small blocks, each of a shape of its own."""
    monkeypatch.setattr(attention, "costs_of", lambda device: Costs(0, 0, 0))  # nothing is padded
    monkeypatch.setattr(varlen, "_PLANNED", 100)
    for lengths, wanted in (((10,), True), ((10, 10), True), ((10, 9), False), ((14, 3), True)):
        batch = pack(random_groups([(2, [n - 2]) for n in lengths]))
        assert plan_of(batch).prefers_blocks(None) == wanted, lengths


def test_a_gpus_plan_asks_the_device_for_nothing() -> None:
    """Both plans are laid out from the ranges that the host knows."""
    batch = pack(random_groups(MIXED))
    meta = batch.to("meta")  # holds no numbers: reading one raises
    blocks = PassPlan.of(meta).masked.blocks
    assert [b.rows for b in blocks] == [b.rows for b in plan_of(batch).masked.blocks]
    assert PassPlan.of(meta).varlen.max_k == max(p + max(ts) for p, ts in MIXED)


@pytest.mark.parametrize("way", ["masked", "varlen"])
def test_a_plan_is_forgotten_with_its_batch(way: str) -> None:
    """What a plan holds (masks, indices on the device) must not outlive the step that it is of."""
    batch = pack(random_groups(MIXED))
    getattr(plan_of(batch), way)
    plan = weakref.ref(plan_of(batch))
    del batch
    gc.collect()
    assert plan() is None
