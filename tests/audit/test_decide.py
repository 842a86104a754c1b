"""A figure against its limit, and what could have been seen: checked by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made import evidence_of, make

from gnomon.audit.decide import decided, detectable, status_of
from gnomon.audit.held_out import fall_from_peak, log_ratio
from gnomon.audit.limits import LIMITS
from gnomon.stats.intervals import Interval, mean_interval


@pytest.mark.parametrize(
    ("low", "high", "above", "status"),
    [
        (0.6, 0.8, True, "alarm"),
        (0.4, 0.8, True, "unclear"),
        (0.1, 0.4, True, "clear"),
        (0.1, 0.4, False, "alarm"),
        (0.4, 0.8, False, "unclear"),
        (0.6, 0.8, False, "clear"),
        (math.nan, math.nan, True, "unclear"),
    ],
)
def test_the_whole_interval_decides(low: float, high: float, above: bool, status: str) -> None:
    assert status_of(Interval((low + high) / 2, low, high), 0.5, above=above) == status


@pytest.mark.parametrize("above", [True, False])
def test_what_is_detectable_is_seen_four_times_of_five(above: bool) -> None:
    rng = np.random.default_rng(0)
    n, limit = 100, 0.5
    figure = mean_interval(rng.normal(limit, 1.0, n), method="t")
    size = detectable(figure, limit, above=above)
    assert size is not None
    assert size > limit if above else size < limit
    seen = [
        status_of(mean_interval(rng.normal(size, 1.0, n), method="t"), limit, above=above)
        for _ in range(600)
    ]
    assert seen.count("alarm") / len(seen) == pytest.approx(0.8, abs=0.08)


def test_a_figure_without_an_interval_shows_nothing() -> None:
    assert detectable(Interval(0.9), 0.5) is None
    assert status_of(Interval(0.9), 0.5) == "unclear"


def test_only_alarms_carry_exhibits_and_cures(tmp_path) -> None:  # type: ignore[no-untyped-def]
    evidence = evidence_of(make(tmp_path / "run"))
    limit = LIMITS["truncated"].value
    fields = {"measure": "m", "alarm": "A.", "since": 3.0, "cures": ["policy.train.steps=3"]}
    bad = Interval(limit + 0.2, limit + 0.1, limit + 0.3)
    alarm = decided(evidence, "x", "truncated", bad, **fields)
    other = decided(evidence, "x", "truncated", bad, only_if=False, **fields)
    assert (alarm.status, alarm.text, alarm.since, alarm.limit) == ("alarm", "A.", 3.0, limit)
    assert (other.status, other.text, other.since, other.cures) == ("unclear", "", None, [])


def test_a_curve_without_a_fall_is_seldom_taken_for_one() -> None:
    rng = np.random.default_rng(1)
    steps = np.arange(60.0)
    flat = [fall_from_peak(steps, rng.normal(0, 1, 60)) for _ in range(400)]
    false = sum(found is not None and found[0].low > 0 for found in flat)
    assert false / 400 < 0.05
    rising = [fall_from_peak(steps, steps / 20 + rng.normal(0, 1, 60)) for _ in range(200)]
    assert sum(found is not None and found[0].low > 0 for found in rising) / 200 < 0.02


def test_a_fall_is_seen_with_its_place_and_size() -> None:
    rng = np.random.default_rng(2)
    steps = np.arange(100.0)
    shape = np.where(steps < 50, steps / 50, 1 - (steps - 50) / 50) * 4
    found = fall_from_peak(steps, shape + rng.normal(0, 0.3, 100))
    assert found is not None
    fall, at = found
    assert fall.low > 0
    assert 45 <= at <= 65
    means = np.convolve(shape, np.ones(20) / 20, mode="valid")
    assert fall.low < means.max() - means[-1] < fall.high


def test_a_ratio_of_means_covers() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(400):
        found = log_ratio(rng.gamma(4, 0.25, 30), rng.gamma(4, 0.5, 30))
        hits += found.low <= math.log(2) <= found.high
    assert hits / 400 == pytest.approx(0.95, abs=0.035)
    assert math.isnan(log_ratio(np.zeros(5), np.ones(5)).value)
