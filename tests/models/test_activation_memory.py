"""Memory of a training pass counted on fake tensors: linear in tokens, whatever the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from zoo import logprobs

from gnomon.data.batch import Batch, pack
from gnomon.models.attention import AttentionPlan
from gnomon.models.packed import PackedForward, plan_of
from gnomon.models.varlen import Kind
from gnomon.records import TokenGroup, TokenResponse

V, PROMPT, RESPONSE, SAMPLES = 4096, 96, 160, 4
GROUP = PROMPT + SAMPLES * RESPONSE


class Bytes(TorchDispatchMode):
    """Bytes of all results of a pass, and of the largest one."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage()._cdata for x in tree_leaves(args) if _is_tensor(x)}
        for x in tree_leaves(out):
            if _is_tensor(x) and x.untyped_storage()._cdata not in given:
                size = x.untyped_storage().nbytes()
                self.total, self.largest = self.total + size, max(self.largest, size)
        return out


def _is_tensor(x: object) -> bool:
    return isinstance(x, torch.Tensor)


def batch(groups: int) -> Batch:
    answers = tuple(TokenResponse([3] * RESPONSE, [True] * RESPONSE) for _ in range(SAMPLES))
    return pack([TokenGroup(str(i), [4] * PROMPT, answers) for i in range(groups)])


def counted(kind: Kind, groups: int) -> Bytes:
    """A forward and backward pass of ``groups`` groups; nothing is computed."""
    config = tf.Qwen3Config(
        vocab_size=V, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    real = batch(groups)
    plan = plan_of(real)
    plan.masked, plan.varlen  # noqa: B018 - laid out before tensors lose their numbers
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = tf.AutoModelForCausalLM.from_config(config)
        packed = PackedForward(model, probe=False, attention=kind)
        with Bytes() as seen:
            logprobs(packed, real, chunk_tokens=512).logprobs.sum().backward()
    return seen


@pytest.fixture(autouse=True)
def known_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's own form is checked with numbers, which there are none of."""
    monkeypatch.setattr("gnomon.models.logprobs._check_head", lambda *_: None)


@pytest.mark.parametrize("kind", ["varlen", "blocks"])
def test_twice_the_tokens_take_twice_the_memory(kind: Kind) -> None:
    one, two, four = (counted(kind, n) for n in (4, 8, 16))  # whole chunks of the head
    assert four.total - two.total == pytest.approx(2 * (two.total - one.total), rel=0.02)
    if kind == "varlen":  # no [N, N], no [tokens, V], no mask: a chunk of logits is the largest
        assert four.largest == 512 * V * 4
        assert 8 * four.largest < 16 * GROUP * V * 4


def test_a_mask_over_all_pairs_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count notices what this test is about."""
    attend = AttentionPlan.attend

    def dense(self: AttentionPlan, query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        query.new_zeros(query.shape[1], query.shape[1])
        return attend(self, query, *args, **kwargs)

    monkeypatch.setattr(AttentionPlan, "attend", dense)
    one, two, four = (counted("blocks", n) for n in (2, 4, 8))
    assert four.total - two.total > 2.3 * (two.total - one.total)
