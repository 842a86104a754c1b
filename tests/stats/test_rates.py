"""Corrected shares: by hand, at their limits, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gnomon.stats.intervals import Interval, weighted_proportion
from gnomon.stats.judges import JudgedPair, attenuation
from gnomon.stats.rates import corrected_win_rate, rogan_gladen


def test_the_share_is_rogan_and_gladens() -> None:
    found = rogan_gladen(Interval(0.3, n=1000), Interval(0.9, n=500), Interval(0.8, n=500))
    assert found.value == pytest.approx((0.3 + 0.8 - 1) / (0.9 + 0.8 - 1))
    assert found.low < found.value < found.high


def test_without_errors_of_the_judge_it_is_agresti_and_coulls_interval() -> None:
    n, p, z = 200, 0.3, 1.959964
    found = rogan_gladen(Interval(p, n=n), Interval(1.0, n=1e9), Interval(1.0, n=1e9))
    centre = (n * p + z * z / 2) / (n + z * z)
    half = z * math.sqrt(centre * (1 - centre) / (n + z * z))
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-5)


def test_a_judge_that_is_no_better_than_chance_says_nothing() -> None:
    for se, sp in ((0.5, 0.5), (0.3, 0.4)):
        found = rogan_gladen(Interval(0.3, n=100), Interval(se, n=50), Interval(sp, n=50))
        assert math.isnan(found.value)
        assert (found.low, found.high) == (0.0, 1.0)
    found = rogan_gladen(Interval(0.3, n=100), Interval(0.9, n=0), Interval(0.9, n=50))
    assert (found.low, found.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("share", "se", "sp"), [(0.1, 0.8, 0.9), (0.5, 0.7, 0.7), (0.02, 0.9, 0.95)]
)
def test_lang_and_reiczigels_interval_covers(share: float, se: float, sp: float) -> None:
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(600):
        found = rogan_gladen(
            Interval(rng.binomial(300, share * se + (1 - share) * (1 - sp)) / 300, n=300),
            Interval(rng.binomial(60, se) / 60, n=60),
            Interval(rng.binomial(100, sp) / 100, n=100),
        )
        hits.append(found.low <= share <= found.high)
    assert 0.92 <= np.mean(hits) <= 0.99


def channel(rng: np.random.Generator, n: int, rate: float, right: float) -> list[JudgedPair]:
    people = (rng.random(n) < rate).astype(float)
    judge = np.where(rng.random(n) < right, people, 1 - people)
    return [
        JudgedPair(i, (float(h),), float(j), float(j))
        for i, (h, j) in enumerate(zip(people, judge, strict=True))
    ]


@pytest.mark.parametrize(("right", "rate"), [(0.65, 0.6), (0.8, 0.75), (0.8, 0.5), (0.95, 0.9)])
def test_a_corrected_win_rate_covers_peoples(right: float, rate: float) -> None:
    rng = np.random.default_rng(1)
    hits, raw = [], []
    for _ in range(150):
        keeps = attenuation(channel(rng, 150, 0.5, right))
        observed = weighted_proportion([p.win for p in channel(rng, 300, rate, right)])
        found = corrected_win_rate(observed, keeps)
        hits.append(found.low <= rate <= found.high)
        raw.append(observed.low <= rate <= observed.high)
    assert np.mean(hits) >= 0.9
    if rate != 0.5 and right < 0.9:
        assert np.mean(raw) < 0.6  # what the judge says, taken for what people say, does not


def test_a_judge_that_keeps_nothing_says_nothing_of_people() -> None:
    observed = Interval(0.7, 0.65, 0.75, 300)
    for keeps in (Interval(0.1, -0.1, 0.3, 60), Interval(-0.2, -0.4, 0.0, 60), Interval(0.5)):
        found = corrected_win_rate(observed, keeps)
        assert (found.low, found.high) == (0.0, 1.0)
    sure = corrected_win_rate(observed, Interval(0.5, 0.5, 0.5, 1e6))
    assert (sure.value, sure.low, sure.high) == pytest.approx((0.9, 0.8, 1.0))
