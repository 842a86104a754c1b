"""Order, splits and fingerprints."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon.data.batch import Sampler, epoch_order
from gnomon.data.readers import fingerprint, prompt_key, split
from gnomon.records import Comparison, Group, Message, Prompt, Response, Source


def group(prompt: str, answer: str = "x", id: str = "g") -> Group:
    response = Response((Message("assistant", answer),))
    return Group(Prompt(id, (Message("user", prompt),)), (response,))


@given(st.integers(1, 200), st.integers(-5, 2**63), st.integers(0, 9))
def test_an_epoch_is_a_permutation(n, seed, epoch) -> None:
    order = epoch_order(n, seed, epoch)
    assert sorted(order) == list(range(n))
    assert order == epoch_order(n, seed, epoch)


def test_order_is_pinned_and_depends_on_seed_and_epoch() -> None:
    assert epoch_order(8, 0, 0) == PINNED
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


PINNED = [1, 6, 3, 7, 0, 2, 4, 5]


def test_orders_are_evenly_spread() -> None:
    """Each item stands in each place about equally often (chi-square, 99.9%)."""
    n, rounds = 6, 3000
    counts = [[0] * n for _ in range(n)]
    for seed in range(rounds):
        for place, item in enumerate(epoch_order(n, seed, 0)):
            counts[place][item] += 1
    expected = rounds / n
    chi2 = sum((c - expected) ** 2 / expected for row in counts for c in row)
    assert chi2 < 52.6  # (n - 1)^2 = 25 degrees of freedom


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 5))
def test_batches_run_through_epochs_without_state(n, batch_size, seed) -> None:
    steps = 3 * n // batch_size + 2
    stream = [i for s in range(steps) for i in Sampler(n, batch_size, seed).batch(s)]
    for epoch in range(len(stream) // n):
        assert stream[epoch * n : (epoch + 1) * n] == epoch_order(n, seed, epoch)
    late = Sampler(n, batch_size, seed).batch(steps - 1)
    assert late == stream[-batch_size:]


def test_a_sampler_needs_items() -> None:
    with pytest.raises(ValueError, match="needs items"):
        Sampler(0, 4, 0)


def test_split_keeps_prompts_together() -> None:
    groups = [group(f"q{i % 40}", answer=str(i)) for i in range(200)]
    groups += [group(f"  Q{i} ", answer="again") for i in range(40)]  # same but case and spacing
    train, held = split(groups, 0.25, seed=3)
    assert len(train) + len(held) == 240
    assert not {prompt_key(g) for g in train} & {prompt_key(g) for g in held}
    assert 0.2 <= len(held) / 240 <= 0.25
    assert split(groups, 0.25, seed=3) == (train, held)
    assert split(groups, 0.25, seed=4) != (train, held)
    assert len(split(groups, 12, seed=0)[1]) == 12
    assert split(groups, 0, seed=0)[1] == []


def test_a_split_by_rows_would_leak() -> None:
    """What the grouping is for: the same holdout taken row by row has prompts on both sides."""
    groups = [group(f"q{i % 40}", answer=str(i)) for i in range(200)]
    order = epoch_order(200, 3, 0)
    train, held = order[50:], order[:50]
    assert {prompt_key(groups[i]) for i in train} & {prompt_key(groups[i]) for i in held}


def test_split_documents_by_their_text() -> None:
    docs = [
        Group(Prompt(f"d{i}", text=""), (Response((Message("assistant", f"doc {i}"),)),))
        for i in range(20)
    ]
    train, held = split(docs, 0.25, seed=0)
    assert len(train) == 15
    assert len(held) == 5


def test_split_refuses_nonsense() -> None:
    groups = [group("a"), group("b")]
    for holdout in (1.0, -1, 2, -0.1):
        with pytest.raises(ValueError, match="cannot hold out"):
            split(groups, holdout, seed=0)
    assert len(split(groups, 0.5, seed=0)[1]) == 1


def test_fingerprint_follows_what_is_said() -> None:
    base = group("q")
    two = replace(base, responses=(*base.responses, *base.responses))
    other = [
        group("q2"),
        group("q", answer="y"),
        group("q", id="h"),
        replace(base, weight=2.0),
        replace(base, responses=(replace(base.responses[0], rank=1.0),)),
        replace(base, responses=(replace(base.responses[0], meta={"label": True}),)),
        two,
        replace(two, comparisons=(Comparison(0, 1),)),
        replace(two, comparisons=(Comparison(1, 0),)),
    ]
    prints = {fingerprint([g]) for g in [base, *other]}
    assert len(prints) == 10
    assert fingerprint([base, two]) != fingerprint([two, base])
    moved = replace(base, prompt=replace(base.prompt, source=Source("f", 3), meta={"a": object()}))
    assert fingerprint([moved]) == fingerprint([base])
    assert len(fingerprint([])) == 64
