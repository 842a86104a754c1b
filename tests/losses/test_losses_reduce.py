"""Reduction: any split of a step into micro-batches gives the step's loss and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon.losses.preference import bradley_terry
from gnomon.losses.reduce import (
    Totals,
    aggregate,
    group_balanced_weight,
    masked_mean,
    masked_sum,
    response_logprobs,
    segment_sum,
    weighted_sum,
)
from gnomon.losses.sft import negative_log_likelihood
from gnomon.records import TokenGroup, TokenResponse

MASK = torch.tensor([1, 1, 0, 1, 0, 1]).bool()
OF = torch.tensor([0, 0, 0, 1, 1, 1])
VALUES = torch.tensor([1.0, 2.0, 100.0, 3.0, 100.0, 7.0])
LENGTHS = torch.tensor([2, 2])


def totals(lengths, weight=1.0):
    """Of one group with responses that have so many counted tokens, and one that does not."""
    masks = [[True] * int(n) + [False] for n in lengths]
    responses = tuple(TokenResponse([5] * len(mask), mask) for mask in masks)
    return Totals.of([TokenGroup("g", [1], responses, weight=weight)])


def test_hand_worked_sums():
    assert masked_sum(VALUES, MASK) == 13
    assert masked_mean(VALUES, MASK) == 3.25
    assert masked_mean(VALUES, torch.zeros(6, dtype=torch.bool)) == 0
    assert segment_sum(VALUES, OF, 3).tolist() == [103, 110, 0]
    assert response_logprobs(VALUES, MASK, OF, 2).tolist() == [3, 10]
    assert negative_log_likelihood(torch.tensor([-2.0])).tolist() == [2.0]


def test_hand_worked_aggregates_of_uneven_responses():
    loss = torch.tensor([1.0, 2.0, 3.0, 10.0])
    mask, of, lengths = torch.ones(4).bool(), torch.tensor([0, 0, 0, 1]), torch.tensor([3, 1])
    expected = {"token": 16 / 4, "sequence": (2 + 10) / 2, "constant": 16 / (2 * 8)}
    for mode, value in expected.items():
        denominator = totals(lengths).denominator(mode, 8)
        got = aggregate(loss, mask, of, lengths, mode=mode, denominator=denominator)
        assert got.item() == pytest.approx(value), mode


def test_denominator_leaves_out_responses_without_counted_tokens_except_when_constant():
    some = totals([3, 0, 2])
    assert some.denominator("token") == 5
    assert some.denominator("sequence") == 2
    assert some.denominator("constant", 4) == 12
    assert totals([0, 0]).denominator("token") == 1
    assert totals([0, 0]).denominator("sequence") == 1


def test_masked_nan_is_left_out():
    values = torch.where(MASK, VALUES, torch.nan).requires_grad_()
    for mode in ("token", "sequence", "constant"):
        loss = aggregate(values, MASK, OF, LENGTHS, mode=mode, denominator=4.0)
        (grad,) = torch.autograd.grad(loss, values)
        assert torch.isfinite(loss)
        assert (grad[~MASK] == 0).all()
        assert (grad[MASK] > 0).all()
    assert masked_sum(values, MASK) == 13
    kept = weighted_sum(torch.tensor([2.0, torch.nan]), torch.tensor([0.5, 0.0]), denominator=1)
    assert kept == 1


def test_half_precision_is_summed_in_float32():
    ones = torch.ones(4096, dtype=torch.bfloat16)
    assert masked_sum(ones, torch.ones(4096).bool()) == 4096
    assert segment_sum(ones, torch.zeros(4096, dtype=torch.long), 1).item() == 4096


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=7),
    mode=st.sampled_from(["token", "sequence", "constant"]),
    data=st.data(),
)
def test_any_split_gives_the_same_gradient(lengths, mode, data):
    total = sum(lengths)
    theta = torch.randn(total, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)))
    of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    counted = segment_sum(mask.double(), of, len(lengths)).long()
    denominator = totals(counted).denominator(mode, 6)
    whole = aggregate(theta.square(), mask, of, counted, mode=mode, denominator=denominator)
    (expected,) = torch.autograd.grad(whole, theta)

    cut = data.draw(st.integers(0, len(lengths)))
    parts = torch.zeros_like(theta)
    value = 0.0
    for lo, hi in ((0, cut), (cut, len(lengths))):
        rows = (of >= lo) & (of < hi)
        part = aggregate(
            theta[rows].square(),
            mask[rows],
            of[rows] - lo,
            counted[lo:hi],
            mode=mode,
            denominator=denominator,
        )
        parts += torch.autograd.grad(part, theta, allow_unused=True)[0]
        value += part.item()
    torch.testing.assert_close(parts, expected)
    assert value == pytest.approx(whole.item())


def test_the_split_test_would_catch_a_normaliser_per_micro_batch():
    loss, of, mask = torch.tensor([1.0, 1.0, 1.0, 9.0]), torch.tensor([0, 0, 0, 1]), torch.ones(4)
    lengths = torch.tensor([3, 1])
    whole = aggregate(loss, mask.bool(), of, lengths, mode="token", denominator=4)
    per_micro_batch = (loss[:3].mean() + loss[3:].mean()) / 2
    assert whole == 3
    assert per_micro_batch == 5


def test_comparisons_split_by_prompt_add_up():
    better = torch.randn(5, dtype=torch.float64, requires_grad=True)
    worse = torch.randn(5, dtype=torch.float64)
    group, weight = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([1.0, 0.5, 1.0, 2.0, 1.0]).double()
    balanced = group_balanced_weight(group, weight, 3)
    whole = weighted_sum(bradley_terry(better, worse), balanced, denominator=3)
    (expected,) = torch.autograd.grad(whole, better)
    got = torch.zeros_like(better)
    for rows, first, groups in ((slice(0, 3), 0, 1), (slice(3, 5), 1, 2)):
        part_weight = group_balanced_weight(group[rows] - first, weight[rows], groups)
        part = weighted_sum(bradley_terry(better[rows], worse[rows]), part_weight, denominator=3)
        got += torch.autograd.grad(part, better)[0]
    torch.testing.assert_close(got, expected)


def test_wrong_shapes_and_modes_are_refused():
    with pytest.raises(ValueError, match=r"values \(6,\), mask \(5,\)"):
        masked_sum(VALUES, MASK[:5])
    with pytest.raises(ValueError, match="use token, sequence or constant"):
        aggregate(VALUES, MASK, OF, LENGTHS, mode="mean", denominator=1)
    with pytest.raises(ValueError, match="use token, sequence or constant"):
        totals(LENGTHS).denominator("mean")
    with pytest.raises(ValueError, match="max_length"):
        totals(LENGTHS).denominator("constant")
