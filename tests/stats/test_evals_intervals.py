"""Intervals by hand: what all-alike outcomes, clusters, draws and pairs may claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gnomon.stats.intervals import (
    Interval,
    exact_interval,
    mean_interval,
    mean_of_shares,
    share_bounds,
    t_quantile,
    weighted_proportion,
)
from gnomon.stats.prompts import (
    gain_between_runs,
    gain_over_prompts,
    independent_difference,
    over_prompts,
    paired_shares,
    pass_curve,
    pass_gain,
)


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def test_outcomes_that_are_all_the_same_prove_nothing_for_certain() -> None:
    zeros = mean_interval([0] * 20)
    assert ends(zeros) == pytest.approx((0.0, 1 - 0.025 ** (1 / 20)))
    assert ends(mean_interval([1] * 20)) == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert mean_interval([0.7] * 20).low < 0.69 < 0.71 < mean_interval([0.7] * 20).high
    for curve in pass_curve([[False] * 4] * 20, [1, 2, 4]):
        assert curve.low == 0.0
        assert 0.1 < curve.high < 0.2
    assert pass_curve([[True] * 4] * 20, [1])[0].low < 0.9
    assert weighted_proportion([1] * 10).low < 0.75
    # a quantity without bounds that never moved has no interval, rather than a certain one
    assert all(math.isnan(x) for x in ends(mean_interval([3.0] * 5)))
    assert all(math.isnan(x) for x in ends(mean_interval([0.1 + 0.2] * 9, method="t")))
    assert not mean_interval([3.0] * 5).excludes(0)


@pytest.mark.parametrize("n", [2, 3, 20])
def test_pairs_that_all_agree_leave_room_for_some_that_do_not(n: int) -> None:
    assert not paired_shares([1] * 2, [0] * 2).excludes(0)
    same = paired_shares([1] * n, [1] * n)
    assert same.low == -same.high < -0.09
    gained = pass_gain([[True, True]] * n, [[True, True]] * n, [1, 2])
    assert all(g.low < 0 < g.high for g in gained)


def test_pairs_by_the_formula_of_bonett_and_price() -> None:
    a, b = [1] * 8 + [0] * 2 + [1] * 20, [0] * 8 + [1] * 2 + [1] * 20
    p, q, n = 9 / 32, 3 / 32, 32  # (8 + 1) / (30 + 2) gained, (2 + 1) / 32 lost
    half = stats.t.ppf(0.975, 29) * math.sqrt((p + q - (p - q) ** 2) / n)
    found = paired_shares(a, b)
    assert found.value == pytest.approx(0.2)
    assert ends(found) == pytest.approx((p - q - half, p - q + half))
    assert ends(paired_shares(b, a)) == pytest.approx((-found.high, -found.low))
    # several answers to a prompt say more than one
    assert paired_shares(a, b, samples=8).low > found.low


def test_clusters_count_for_between_one_and_all_of_their_outcomes() -> None:
    rng = np.random.default_rng(0)
    alike = np.repeat(rng.random(50) < 0.4, 6).astype(float)
    mixed = (rng.random(300) < 0.4).astype(float)
    names = np.repeat(np.arange(50), 6).tolist()
    width = {
        "alike": np.subtract(*ends(weighted_proportion(alike, clusters=names))),
        "mixed": np.subtract(*ends(weighted_proportion(mixed, clusters=names))),
        "50": np.subtract(*ends(exact_interval(50 * alike.mean(), 50))),
        "300": np.subtract(*ends(exact_interval(300 * mixed.mean(), 300))),
    }
    assert width["alike"] == pytest.approx(width["50"], rel=0.08)
    assert width["mixed"] == pytest.approx(width["300"], rel=0.2)
    by_name = weighted_proportion(mixed, clusters=[f"prompt {i}" for i in names])
    assert by_name == weighted_proportion(mixed, clusters=names)
    assert by_name.n == 50
    shares = mean_of_shares(mixed.reshape(50, 6).mean(1), 6)
    assert ends(shares) == pytest.approx(ends(by_name), abs=1e-9)
    one = weighted_proportion([1, 1, 0, 1], clusters=["a"] * 4)
    assert (one.low, one.high) == pytest.approx(ends(exact_interval(0.75, 1)))


def test_draws_vary_less_than_wins_and_losses() -> None:
    drawn = weighted_proportion([0.5] * 40)
    decided = weighted_proportion([1, 0] * 20)
    assert drawn.value == decided.value == 0.5
    assert drawn.high - drawn.low < 0.3 * (decided.high - decided.low)
    assert drawn.low < 0.5 < drawn.high


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        ([0, 1, 1], (0.0, 1.0)),
        ([0, 0.5, 1], (0.0, 1.0)),
        ([0, 0, 0], (0.0, 1.0)),
        ([-1, 1, 1], (-1.0, 1.0)),
        ([0, 10], (0.0, 10.0)),
        ([0, 1, 0.3, 1], (0.0, 1.0)),  # most are whole: partial credit
        ([0.2, 0.3, 0.9, 1.0], None),
        ([0.1, 2.0, 3.0], None),
        ([7.0, 7.0], None),
        ([], None),
    ],
)
def test_what_is_taken_for_a_share(values: list[float], bounds: tuple[float, float] | None) -> None:
    assert share_bounds(values) == bounds


def test_a_reward_of_two_values_is_a_share_of_their_distance() -> None:
    values = [[1.0]] * 3 + [[-1.0]] * 17
    found, share = over_prompts(values), exact_interval(3, 20)
    assert found.value == pytest.approx(-0.7)
    assert ends(found) == pytest.approx((2 * share.low - 1, 2 * share.high - 1))
    # one model that always gets -1 is seen as such beside one that does not
    never = over_prompts([[-1.0]] * 20, share_bounds([-1.0, 1.0]))
    assert ends(never) == pytest.approx((-1.0, 2 * exact_interval(0, 20).high - 1))
    gain = gain_over_prompts(values, [[-1.0]] * 20)
    assert gain.value == pytest.approx(0.3)
    plain = paired_shares([1] * 3 + [0] * 17, [0] * 20)
    assert ends(gain) == pytest.approx((2 * plain.low, 2 * plain.high))


def test_failed_samples_are_left_out_and_quantities_stay_student() -> None:
    values = [[1.0, 3.0], [None, 2.5], [None, None], [4.0, 4.4]]
    found = over_prompts(values)
    means = np.array([2.0, 2.5, 4.2])
    low, high = stats.t.interval(0.95, 2, loc=means.mean(), scale=stats.sem(means))
    assert (found.value, *ends(found), found.n) == pytest.approx((means.mean(), low, high, 3))


def test_two_runs_are_paired_on_the_prompts_that_both_answered() -> None:
    after = {"a": [1.0], "b": [1.0], "c": [1.0], "d": [None], "e": [0.0]}
    before = {"b": [0.0], "a": [0.0], "d": [0.0], "e": [0.0], "f": [1.0]}
    found = gain_between_runs(after, before)
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)
    assert found == gain_over_prompts([[1.0], [1.0], [0.0]], [[0.0], [0.0], [0.0]])
    nothing = gain_between_runs({"a": [1.0]}, {"b": [0.0]})
    assert nothing.n == 0
    assert not nothing.excludes(0)


def test_differences_of_figures_apart_keep_their_lopsidedness() -> None:
    a, b = exact_interval(0, 20), exact_interval(10, 20)
    found = independent_difference(a, b)
    assert found.value == -0.5
    assert found.low == pytest.approx(-0.5 - math.hypot(0.0, b.high - 0.5))
    assert found.high == pytest.approx(-0.5 + math.hypot(a.high, 0.5 - b.low))
    assert found.excludes(0)
    assert not independent_difference(exact_interval(0, 2), exact_interval(2, 2)).excludes(0)
    assert not independent_difference(a, mean_interval([3.0])).excludes(0)


def test_what_cannot_be_a_share_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        weighted_proportion([0.0, 2.0])
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired_shares([2.0], [0.0])
    with pytest.raises(ValueError, match="samples must be at least 1"):
        mean_of_shares([0.5], 0.5)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        paired_shares([0.5], [0.5], samples=0)
    with pytest.raises(ValueError, match="3 outcomes but 2 clusters"):
        weighted_proportion([1, 0, 1], clusters=["a", "b"])
    with pytest.raises(ValueError, match="degrees of freedom"):
        t_quantile(0.95, 0)
    with pytest.raises(ValueError, match="level"):
        t_quantile(1.0, 5)
