"""A judge's probabilities and their map: against scikit-learn, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from gnomon.errors import DataError
from gnomon.stats.judge_maps import ProbabilityMap, ece, fit_map, probabilities, slope_interval


def drawn(rng: np.random.Generator, n: int, slope: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities whose log-odds are worth ``slope`` of what they say, and what came true."""
    x = rng.normal(0, 2, n)
    return expit(x), (rng.random(n) < expit(slope * x)).astype(float)


def test_the_slope_is_a_logistic_regression_without_a_constant() -> None:
    p, y = drawn(np.random.default_rng(0), 500, 0.5)
    theirs = LogisticRegression(C=1e9, fit_intercept=False).fit(logit(p)[:, None], y).coef_[0, 0]
    assert fit_map("platt", p, y).slope == pytest.approx(theirs, abs=2e-3)


def test_the_isotonic_map_is_scikit_learns_over_pairs_and_their_mirror_images() -> None:
    p, y = drawn(np.random.default_rng(1), 300, 0.5)
    found = fit_map("isotonic", p, y)
    both, won = np.concatenate([p, 1 - p]), np.concatenate([y, 1 - y])
    theirs = IsotonicRegression().fit(both, won)
    inside = (p > 0.02) & (p < 0.98)
    assert found(p[inside]) == pytest.approx(theirs.predict(p[inside]).clip(0.005, 0.995), abs=1e-6)


@pytest.mark.parametrize("kind", ["platt", "isotonic", "none"])
def test_a_map_treats_both_answers_alike_and_survives_json(kind) -> None:
    p, y = drawn(np.random.default_rng(2), 200, 0.3)
    found = fit_map(kind, p, y)
    q = np.linspace(0, 1, 41)
    assert found(q) + found(1 - q) == pytest.approx(np.ones(41))
    assert (np.diff(found(q)) >= -1e-12).all()
    again = ProbabilityMap.parse(found.to_dict())
    assert again(q) == pytest.approx(found(q))


@pytest.mark.parametrize(
    "raw",
    [
        None,
        {},
        {"kind": "spline"},
        {"kind": "platt"},
        {"kind": "platt", "slope": -1},
        {"kind": "platt", "slope": "steep"},
        {"kind": "platt", "slope": float("nan")},
        {"kind": "isotonic", "points": [[0, 1], [1, 0]]},
        {"kind": "isotonic", "points": [[0, 0], [0, 1]]},
        {"kind": "isotonic", "points": [[0, 2], [1, 3]]},
        {"kind": "isotonic", "points": [[0]]},
    ],
)
def test_what_is_no_map_is_said_to_be_none(raw) -> None:
    with pytest.raises(DataError, match="no map of probabilities"):
        ProbabilityMap.parse(raw)


def test_the_error_is_that_of_the_side_that_is_preferred() -> None:
    p = np.array([0.9, 0.1, 0.5, 0.5])
    y = np.array([1.0, 1.0, 1.0, 0.0])
    assert ece(p, y) == pytest.approx(0.5 * 0.4)  # of 0.9 sure, right in one of two; ties are even
    assert ece(1 - p, 1 - y) == pytest.approx(ece(p, y))


def test_slope_and_error_cover_what_they_estimate() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(0, 2, 200_000)
    for slope in (1.0, 0.4):
        truth = ece(expit(x), expit(slope * x))
        found = [slope_interval(*drawn(rng, 200, slope), np.arange(200.0)) for _ in range(200)]
        assert np.mean([f.low <= slope <= f.high for f in found]) > 0.9
        each = [probabilities(*drawn(rng, 200, slope), range(200), seed) for seed in range(25)]
        assert np.mean([f.ece.low - 1e-9 <= truth <= f.ece.high for f in each]) > 0.8


def test_copies_of_a_prompt_are_no_more_prompts() -> None:
    p, y = drawn(np.random.default_rng(4), 50, 0.5)
    many_p, many_y = np.tile(p, 8), np.tile(y, 8)
    numbers = np.tile(np.arange(50.0), 8)
    free = slope_interval(many_p, many_y, np.arange(400.0))
    tied = slope_interval(many_p, many_y, numbers)
    assert tied.high - tied.low > 2.2 * (free.high - free.low)


def test_a_judge_that_is_too_sure_gets_a_map_and_a_right_one_none() -> None:
    rng = np.random.default_rng(5)
    p, y = drawn(rng, 400, 0.3)
    found = probabilities(p, y, list(range(400)))
    assert found.map.kind != "none"
    assert found.ece_mapped < 0.5 * found.ece.value
    assert found.slope.high < 1
    kinds = [probabilities(*drawn(rng, 200, 1.0), range(200)).map.kind for _ in range(8)]
    assert kinds.count("none") >= 6


def test_verdicts_are_mapped_to_how_often_they_are_right() -> None:
    rng = np.random.default_rng(6)
    y = (rng.random(400) < 0.5).astype(float)
    p = np.where(rng.random(400) < 0.75, y, 1 - y)
    found = probabilities(p, y, list(range(400)))
    assert not found.soft
    right = float((p == y).mean())
    assert found.map([1.0, 0.0]) == pytest.approx([right, 1 - right], abs=0.01)


def test_too_little_to_fit_changes_nothing() -> None:
    found = probabilities([0.9, 0.2], [1.0, 0.0], ["x", "y"])
    assert found.map == ProbabilityMap()
    found = probabilities([0.5] * 30, [1.0, 0.0] * 15, list(range(30)))
    assert np.isnan(found.slope.value)
