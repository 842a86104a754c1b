"""Bradley-Terry, ties, Plackett-Luce: against hand-worked values and plain Python."""

import itertools
import math

import pytest
import torch

from gnomon.losses.preference import (
    bradley_terry,
    plackett_luce,
)
from gnomon.losses.reduce import group_balanced_weight


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_hand_worked_values():
    # sigma(ln 3) = 3/4
    gap = math.log(3)
    assert bradley_terry(t(gap), t(0)).item() == pytest.approx(-math.log(0.75))
    with_margin = bradley_terry(t(2 + gap), t(0), margin=t(2))
    assert with_margin.item() == pytest.approx(-math.log(0.75))
    smoothed = bradley_terry(t(gap), t(0), label_smoothing=0.1)
    assert smoothed.item() == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25))
    tied = bradley_terry(t(gap), t(0), margin=t(5), tie=torch.tensor([True]))
    assert tied.item() == pytest.approx(-0.5 * math.log(0.75) - 0.5 * math.log(0.25))


def test_direction_a_better_score_lowers_the_loss():
    """Fails if the sign is wrong."""
    better, worse = t(0.0).requires_grad_(), t(0.0).requires_grad_()
    bradley_terry(better, worse).sum().backward()
    assert better.grad.item() == pytest.approx(-0.5)
    assert worse.grad.item() == pytest.approx(0.5)


def test_a_tie_pulls_scores_together_whatever_the_order():
    tie = torch.tensor([True])
    assert bradley_terry(t(1), t(3), tie=tie) == bradley_terry(t(3), t(1), tie=tie)
    assert bradley_terry(t(2), t(2), tie=tie) < bradley_terry(t(3), t(1), tie=tie)


def test_extreme_gaps_stay_finite():
    loss = bradley_terry(torch.tensor([1e4, -1e4]), torch.zeros(2))
    assert loss.tolist() == [0, 1e4]


def test_gradcheck():
    a, b = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    tie = torch.tensor([0, 1, 0, 0, 1, 0]).bool()
    margin = torch.rand(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, y: bradley_terry(x, y, margin=margin, label_smoothing=0.1, tie=tie), (a, b)
    )


def naive_plackett_luce(scores: list[float]) -> float:
    """-log P of the order given, best first, by repeated choice."""
    total = 0.0
    for k in range(len(scores)):
        left = scores[k:]
        total -= math.log(math.exp(scores[k]) / sum(map(math.exp, left)))
    return total


def test_plackett_luce_matches_repeated_choice_over_groups_in_any_order():
    generator = torch.Generator().manual_seed(3)
    sizes = [1, 2, 3, 5, 9]
    scores, ranks, groups, expected = [], [], [], []
    for g, k in enumerate(sizes):
        best_first = torch.randn(k, generator=generator, dtype=torch.float64).tolist()
        expected.append(naive_plackett_luce(best_first))
        for r in torch.randperm(k, generator=generator).tolist():
            scores.append(best_first[r])
            ranks.append(float(10 * r + 1))  # only the order of ranks matters
            groups.append(g)
    shuffle = torch.randperm(len(scores), generator=generator)
    got = plackett_luce(t(*scores)[shuffle], t(*ranks)[shuffle], torch.tensor(groups)[shuffle], 5)
    torch.testing.assert_close(got, t(*expected))
    assert got[0] == 0


def test_plackett_luce_probabilities_of_all_orders_sum_to_one():
    scores = t(0.3, -1.0, 0.8, 0.1)
    total = sum(
        math.exp(-plackett_luce(scores, t(*order), torch.zeros(4).long(), 1).item())
        for order in itertools.permutations(range(4))
    )
    assert total == pytest.approx(1)


@pytest.mark.parametrize("tied", [False, True])
def test_plackett_luce_of_two_is_bradley_terry(tied):
    scores, rank = t(0.4, -0.9), t(1, 1 if tied else 2)
    pl = plackett_luce(scores, rank, torch.zeros(2).long(), 1)
    bt = bradley_terry(scores[:1], scores[1:], tie=torch.tensor([tied]))
    torch.testing.assert_close(pl, bt)


def test_plackett_luce_ties_follow_breslow():
    a, b, c = 0.5, -0.2, 0.1  # a and b tie for the first place, c is last
    everyone = math.log(sum(map(math.exp, (a, b, c))))
    got = plackett_luce(t(a, b, c), t(1, 1, 3), torch.zeros(3).long(), 1)
    assert got.item() == pytest.approx(2 * everyone - a - b)
    # and for the last place: c chosen among all, then the tie's half
    got = plackett_luce(t(a, b, c), t(2, 2, 1), torch.zeros(3).long(), 1)
    two = math.log(math.exp(a) + math.exp(b))
    assert got.item() == pytest.approx(everyone - c + 0.5 * (2 * two - a - b))


def test_plackett_luce_gradient():
    scores = torch.randn(7, dtype=torch.float64, requires_grad=True)
    rank, group = t(1, 2, 2, 3, 1, 1, 1), torch.tensor([0, 0, 0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda s: plackett_luce(s, rank, group, 3), (scores,))
    plackett_luce(scores, rank, group, 3).sum().backward()
    assert scores.grad[0] < 0  # the best must rise
    assert scores.grad[3] > 0  # the worst must fall
    assert scores.grad[6] == 0  # alone in its group


def test_plackett_luce_is_stable_for_large_scores():
    loss = plackett_luce(torch.tensor([1e4, -1e4]), t(2, 1), torch.zeros(2).long(), 1)
    assert loss.item() == pytest.approx(2e4)


def test_group_balanced_weight_is_one_over_the_number_of_pairs():
    group = torch.tensor([0] * 6 + [1, 2, 2])  # K = 4 has six pairs, K = 2 one
    weight = torch.ones(9)
    weight[8] = 0  # removed, so group 2 has one left
    weight[7] = 0.5  # a less confident labeller
    got = group_balanced_weight(group, weight, 3)
    assert got.tolist() == pytest.approx([1 / 6] * 6 + [1, 0.5, 0])


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="shapes must be equal"):
        bradley_terry(torch.zeros(3), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="label_smoothing"):
        bradley_terry(torch.zeros(3), torch.zeros(3), label_smoothing=0.6)
