"""Coverage and width of every interval of a share, on grids of n, p and correlation."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import intervals as simulation
from gnomon.stats.intervals import exact_interval

NOISE = 0.012
"""Two standard errors of a coverage of 93% over as many draws as are made here."""
DRAWS = 1600


def check(cases: Iterable[simulation.Case], noise: float, rare: float) -> None:
    """Every cell covers 93%. Those in which ``rare`` and more events are expected are at most 1.25
    times as wide as Wilson's interval of as many independent outcomes."""
    found = list(cases)
    assert found
    for case in found:
        assert case.coverage >= 0.93 - noise, case
        if case.events >= rare:
            assert case.width <= 1.25, case


def test_shares_of_independent_outcomes() -> None:
    """Enumerated: the whole grid, and other n and p between; nothing is too rare."""
    check(simulation.plain_shares(), 0, rare=0)
    check(simulation.plain_shares((21, 37, 77), (0.026, 0.061, 0.144, 0.38, 0.457)), 0, rare=0)


def test_several_answers_to_each_prompt() -> None:
    cases = simulation.clustered_shares(DRAWS, (20, 100), (0.02, 0.1, 0.3), (4,), (0.0, 0.5, 0.8))
    check(cases, NOISE, rare=2)


def test_prompts_of_two_to_eight_pairs() -> None:
    cases = simulation.uneven_clusters(DRAWS // 2, (20, 50), (0.1, 0.5), (0.0, 0.8))
    check(cases, 1.5 * NOISE, rare=4)


def test_pass_at_2_of_4() -> None:
    cases = list(simulation.pass_at_2_of_4(DRAWS // 2, (20,), (0.05, 0.2)))
    check(cases, 1.5 * NOISE, rare=2)


def test_paired_differences() -> None:
    """Enumerated. With fewer than 4 pairs that differ the reference is too narrow for anyone: no
    pair of 20 that differs leaves room for a gain of 12% one time in twelve."""
    cases = list(simulation.paired_differences((20, 50), (0.02, 0.05, 0.1, 0.3, 0.5)))
    check(cases, 0, rare=4)
    # Wilson's interval for paired differences is Newcombe's; this one is never much wider
    assert max(case.newcombe for case in cases) <= 1.25


def test_paired_differences_of_several_answers() -> None:
    cases = list(simulation.paired_samples(DRAWS // 4, (20, 50), (0.1, 0.3)))
    for case in cases:
        assert case.coverage >= 0.90, case  # 93% within the noise of 400 draws


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 20), (7, 10), (20, 20), (63, 100)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_exact_interval_is_scipys(k: int, n: int, level: float) -> None:
    theirs = stats.binomtest(k, n).proportion_ci(level, method="exact")
    ours = exact_interval(k, n, level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert ours.low <= ours.value <= ours.high


def test_what_wilsons_interval_lacks() -> None:
    """Why shares are not given with it: 92.5% at n = 20, p = 0.05."""
    low, high = simulation.wilson(np.arange(21), 20)
    covered = (low <= 0.05) & (high >= 0.05)
    assert sum(stats.binom.pmf(range(21), 20, 0.05)[covered]) < 0.93
    assert math.isnan(exact_interval(0, 0).value)
