"""pass@k against enumeration of all subsets, and against drawing from known policies."""

import itertools
import math
import random

import pytest

from gnomon.stats.prompts import ks_up_to, pass_curve, pass_gain, prompt_pass_at_k


def by_enumeration(row, k):
    """The share of k-subsets of a prompt's judged answers with a right one."""
    known = [r for r in row if r is not None]
    draws = list(itertools.combinations(known, k))
    return sum(any(d) for d in draws) / len(draws)


ROWS = [
    [True, False, False, True, False],
    [False] * 5,
    [True] * 5,
    [False, None, True, False, None],
    [None, None, None, None, True],
]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_every_prompt_and_their_mean_are_the_share_of_subsets(k):
    expected = [by_enumeration(r, k) for r in ROWS if sum(x is not None for x in r) >= k]
    found = [x for x in prompt_pass_at_k(ROWS, k) if not math.isnan(x)]
    assert found == pytest.approx(expected)
    (interval,) = pass_curve(ROWS, [k])
    assert interval.value == pytest.approx(sum(expected) / len(expected))
    assert interval.n == len(expected)


def test_the_estimate_is_unbiased_where_any_of_the_first_k_of_n_is_not():
    draw, p, n, k = random.Random(0), 0.2, 6, 4
    rows = [[draw.random() < p for _ in range(n)] for _ in range(4000)]
    (interval,) = pass_curve(rows, [k])
    assert not interval.excludes(1 - (1 - p) ** k)
    # the plug-in 1 - (1 - c/n)^k is biased low, and shown to be by the same draws
    plug_in = sum(1 - (1 - sum(r) / n) ** k for r in rows) / len(rows)
    assert interval.excludes(plug_in)


def test_sharpening_gains_at_1_and_not_at_n_discovery_at_both():
    before = [[True, False, False, False]] * 5 + [[False] * 4] * 5
    sharpened = [[True] * 4] * 5 + [[False] * 4] * 5
    discovered = [[True] * 4] * 10
    ones = pass_gain(sharpened, before, [1, 4])
    assert [g.value for g in ones] == pytest.approx([0.375, 0.0])
    assert ones[0].low > 0
    assert pass_gain(discovered, before, [4])[0].value == pytest.approx(0.5)


def test_gains_are_paired_by_prompt():
    # prompts differ much, each gains a little: only pairing sees it
    before = [[i < c for i in range(20)] for c in range(0, 19, 2)]
    after = [[i < c + 1 for i in range(20)] for c in range(0, 19, 2)]
    (paired,) = pass_gain(after, before, [1])
    assert paired.value == pytest.approx(0.05)
    apart = [pass_curve(rows, [1])[0] for rows in (after, before)]
    assert paired.high - paired.low < 0.5 * (apart[0].high - apart[0].low)
    # twice as many answers gained are beyond noise, which no two intervals apart could see
    (more,) = pass_gain([[i < c + 3 for i in range(20)] for c in range(0, 17, 2)], before[:9], [1])
    assert more.excludes(0)
    # a prompt that one side cannot be judged on is left out on both
    assert pass_gain([*after, [True] * 20], [*before, [None] * 20], [1])[0].n == 10
    with pytest.raises(ValueError, match="paired"):
        pass_gain(after, before[:-1], [1])


def test_intervals_stay_within_0_and_1_and_one_prompt_says_nothing():
    (high,) = pass_curve([[True, True]] * 9 + [[True, False]], [1])
    assert high.value == pytest.approx(0.95)
    assert high.low < 0.95 < high.high <= 1.0
    (one,) = pass_curve([[True]], [1])
    assert (one.low, one.value, one.high, one.n) == (pytest.approx(0.025), 1.0, 1.0, 1)


def test_ks():
    assert [ks_up_to(n) for n in (1, 2, 5, 8, 12)] == [
        [1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8], [1, 2, 4, 8, 12],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="at least 1"):
        ks_up_to(0)
