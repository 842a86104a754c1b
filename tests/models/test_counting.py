"""Tokens counted as roles compute, and the FLOP made from them against torch's own counter."""

from __future__ import annotations

import pytest
import torch
import transformers as tf
from torch.utils.flop_counter import FlopCounterMode

from gnomon.data.batch import pack
from gnomon.models.counting import TokenCounts, count, counting
from gnomon.models.roles import LoraSettings, Role, Trunk
from gnomon.records import TokenGroup
from gnomon.report.compute import parts
from gnomon.stages.computed import computed
from tiny_world import Draw, tokenizer

MARGIN = 0.3
"""What the Commission's guidelines allow an estimate to be off by (annex A.2)."""


def trunk(checkpointing: bool = False) -> Trunk:
    """Mostly matrices of layers, as in a large model; the vocabulary's share is a third."""
    config = tf.LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        head_dim=16,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = tf.LlamaForCausalLM(config)
    return Trunk(model, tokenizer(), gradient_checkpointing=checkpointing)


def groups() -> list[TokenGroup]:
    d = Draw(3)
    return [TokenGroup(f"g{i}", d.ids(4), (d.response(40), d.response(30))) for i in range(3)]


def measured(role: Role, backward: bool) -> tuple[float, float]:
    """FLOP of one pass: torch's count, and what the card makes of the tokens."""
    batch = pack(groups())
    role.train(backward)
    role.logprobs(batch)  # the packed forward is tried out once, before anything is counted
    with counting() as tokens, FlopCounterMode(display=False) as counter:
        logprobs = role.logprobs(batch).logprobs
        if backward:
            torch.autograd.backward(logprobs.sum())
    made = parts(computed(tokens, {role.name: role}))
    return float(counter.get_total_flops()), sum(part.flop for part in made)


@pytest.mark.parametrize(
    ("lora", "backward", "checkpointing"),
    [(False, False, False), (False, True, False), (True, True, False), (False, True, True)],
)
def test_flop_are_those_that_torch_counts(lora: bool, backward: bool, checkpointing: bool) -> None:
    own = trunk(checkpointing)
    if lora:
        own.add_adapter("policy", LoraSettings(rank=2, alpha=4))
    role = Role("policy", own, adapter="policy" if lora else None, trainable=backward)
    counted, made = measured(role, backward)
    assert made == pytest.approx(counted, rel=MARGIN)


def test_a_backward_pass_that_was_forgotten_would_show() -> None:
    role = Role("policy", trunk(), trainable=True)
    counted, made = measured(role, True)
    assert made / 3 != pytest.approx(counted, rel=MARGIN)


def test_tokens_are_counted_by_role_and_by_pass() -> None:
    shared = trunk()
    shared.add_adapter("policy", LoraSettings(rank=2, alpha=4))
    policy = Role("policy", shared, adapter="policy", trainable=True)
    reference = Role("reference", shared)
    batch = pack(groups())
    with counting() as tokens:
        policy.logprobs(batch)
        reference.logprobs(batch)
        with torch.no_grad():
            policy.logprobs(batch)
        hidden = policy.hidden(batch)
        policy.logprobs(batch, hidden=hidden)  # computed already
    n = batch.num_tokens
    assert tokens.to_dict() == {
        "forward": {"policy": 3 * n, "reference": n},
        "backward": {"policy": 2 * n},
    }


def test_nothing_is_counted_outside_and_an_outer_count_sees_nothing_of_an_inner_one() -> None:
    count("policy", 5, backward=True)
    with counting() as outer:
        with counting() as inner:
            count("policy", 7, backward=False)
        count("policy", 11, backward=True)
    assert inner.to_dict() == {"forward": {"policy": 7}, "backward": {}}
    assert outer.to_dict() == {"forward": {"policy": 11}, "backward": {"policy": 11}}


def test_counts_come_back_from_a_checkpoint_and_an_older_one_has_none() -> None:
    counts = TokenCounts()
    with counting() as inner:
        count("policy", 7, backward=True)
    counts.add(inner)
    again = TokenCounts.of(counts.to_dict())
    again.add(inner)
    assert again.to_dict() == {"forward": {"policy": 14}, "backward": {"policy": 14}}
    assert TokenCounts.of({}).to_dict() == {"forward": {}, "backward": {}}
