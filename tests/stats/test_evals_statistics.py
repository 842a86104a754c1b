"""Statistics against scipy, hand-worked values and brute force."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from gnomon.stats.intervals import (
    exact_interval,
    mean_interval,
    t_quantile,
    weighted_proportion,
)
from gnomon.stats.prompts import gain_over_prompts, pass_at_k
from gnomon.stats.reward_model import (
    accuracy_by_category,
    evaluate_comparisons,
    expected_calibration_error,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (7, 10), (63, 100), (499, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_exact_is_scipys(successes, n, level):
    theirs = stats.binomtest(successes, n).proportion_ci(level, method="exact")
    ours = exact_interval(successes, n, level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert ours.low <= ours.value <= ours.high


def test_exact_without_data():
    empty = exact_interval(0, 0)
    assert math.isnan(empty.value)
    assert (empty.low, empty.high) == (0.0, 1.0)
    with pytest.raises(ValueError, match=r"\[0, n\]"):
        exact_interval(11, 10)


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 7, 30, 99, 400, 401, 5000])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_t_quantile_is_scipys(dof, level):
    assert t_quantile(level, dof) == pytest.approx(stats.t.ppf(0.5 + level / 2, dof))


def test_mean_interval_is_students():
    x = np.random.default_rng(1).normal(3.0, 2.0, 60)
    ours = mean_interval(x, 0.9)
    low, high = stats.t.interval(0.9, 59, loc=x.mean(), scale=stats.sem(x))
    assert (ours.value, ours.low, ours.high) == pytest.approx((x.mean(), low, high))


def test_mean_interval_of_one_and_of_nan():
    one = mean_interval([2.0])
    assert one.value == 2.0
    assert math.isnan(one.low)
    assert not one.excludes(0.0)
    assert one.to_dict() == {"value": 2.0, "low": None, "high": None, "n": 1.0}
    with pytest.raises(ValueError, match=r"values\[1\] is nan"):
        mean_interval([1.0, float("nan")])


def test_paired_difference_sees_what_separate_intervals_hide():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 5, 50)
    a, b = difficulty + 0.5 + rng.normal(0, 0.2, 50), difficulty
    first, second = [[x] for x in a], [[x] for x in b]
    paired = gain_over_prompts(first, second)
    theirs = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (paired.low, paired.high) == pytest.approx((theirs.low, theirs.high))
    assert paired.excludes(0)
    assert mean_interval(a).low < mean_interval(b).high
    # The sign is a - b.
    assert gain_over_prompts(second, first).value == pytest.approx(-paired.value)


def test_calibration_by_hand():
    # Bin [0.6, 0.8): confidence 0.7, one of two right. Bin [0.8, 1]: 0.9 and 1.0, both right.
    result = expected_calibration_error([0.7, 0.7, 0.9, 1.0], [1, 0, 1, 1], bins=5)
    assert result.ece == pytest.approx(0.5 * 0.2 + 0.5 * 0.05)
    assert [(b.low, b.count) for b in result.bins] == [(pytest.approx(0.6), 2), (0.8, 2)]
    assert result.bins[0].accuracy == 0.5
    # Weights act as copies.
    copied = expected_calibration_error([0.7, 0.7, 0.7, 0.9, 1.0], [1, 1, 0, 1, 1], bins=5)
    weighted = expected_calibration_error(
        [0.7, 0.7, 0.9, 1.0], [1, 0, 1, 1], bins=5, weights=[2, 1, 1, 1]
    )
    assert weighted.ece == pytest.approx(copied.ece)


def test_calibration_tells_honest_from_overconfident():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 20000)
    outcome = rng.uniform(size=p.size) < p
    assert expected_calibration_error(p, outcome, lower=0.5).ece < 0.02
    sharpened = p**4 / (p**4 + (1 - p) ** 4)
    assert expected_calibration_error(sharpened, outcome, lower=0.5).ece > 0.1
    with pytest.raises(ValueError, match=r"\[0.5, 1\]"):
        expected_calibration_error([0.4], [1], lower=0.5)


@pytest.mark.parametrize("n", [1, 4, 6])
def test_pass_at_k_is_the_share_of_subsets(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(any(d) for d in draws) / len(draws))


def test_pass_at_k_large_and_wrong():
    assert pass_at_k(10000, 1, 5000) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="k <= n"):
        pass_at_k(4, 1, 5)


def test_categories_and_weights():
    by = accuracy_by_category([1, 0, 1, 1, 0.5], ["a", "a", "b", None, "b"])
    assert list(by) == ["(none)", "a", "b"]
    assert by["a"].value == 0.5
    assert by["b"].value == 0.75
    assert by["b"].n == 2
    # Kish: weights (3, 1) are worth 16/10 observations, equal weights all of them.
    assert weighted_proportion([1, 0], [3, 1]).n == pytest.approx(1.6)
    assert weighted_proportion([1, 0], [3, 1]).value == pytest.approx(0.75)
    assert weighted_proportion([1, 0, 1], [2, 2, 2]) == weighted_proportion([1, 0, 1])


def test_correlations_with_length_are_scipys():
    rng = np.random.default_rng(2)
    length, score = rng.integers(0, 6, 40), rng.normal(size=40)
    report = evaluate_comparisons(score[:20], score[20:], lengths=(length[:20], length[20:]))
    assert report.length_pearson == pytest.approx(stats.pearsonr(score, length).statistic)
    assert report.length_spearman == pytest.approx(stats.spearmanr(score, length).statistic)
    constant = evaluate_comparisons([1.0, 2.0], [0.0, 1.0], lengths=([3, 3], [3, 3]))
    assert math.isnan(constant.length_pearson)
    assert constant.to_dict()["length"]["spearman"] is None
