"""The ratio of two means over the same prompts."""

from __future__ import annotations

import numpy as np
import pytest

from gnomon.stats.intervals import Interval, mean_interval
from gnomon.stats.ratio import error_correlation, ratio


@pytest.mark.parametrize("true", [0.2, 0.75, 2.5])
@pytest.mark.parametrize("shared", [True, False])
def test_the_interval_covers_the_ratio(true: float, shared: bool) -> None:
    rng, hits, widths = np.random.default_rng(0), 0, []
    for _ in range(400):
        worth = rng.normal(2.0, 1.0, 24)
        base = worth if shared else rng.normal(2.0, 1.0, 24)
        edited = true * base + rng.normal(0.0, 0.3, 24)
        a, b = (dict(zip(map(str, range(24)), x.tolist(), strict=True)) for x in (edited, worth))
        found = ratio(
            mean_interval(edited, method="t"), mean_interval(worth, method="t"),
            error_correlation(a, b),
        )  # fmt: skip
        hits += found.low <= true <= found.high
        widths.append(found.high - found.low)
    assert 0.92 <= hits / 400 <= 0.98
    if shared:  # what moves one moves the other: no more is left than the edit's own noise
        assert np.median(widths) < 0.25


def test_nothing_is_known_of_a_ratio_over_what_may_be_nothing() -> None:
    assert not ratio(Interval(1.0, 0.5, 1.5, 9), Interval(0.3, -0.1, 0.7, 9)).known
    assert not ratio(Interval(1.0), Interval(0.3, 0.1, 0.5, 9)).known
    assert ratio(Interval(0.0, 0.0, 0.0, 9), Interval(0.3, 0.1, 0.5, 9)).value == 0.0


def test_errors_of_prompts_that_only_one_mean_has_are_its_own() -> None:
    same = {"a": 1.0, "b": 3.0}
    assert error_correlation(same, same) == pytest.approx(1.0)
    assert error_correlation(same, {"c": 1.0, "d": 3.0}) == 0.0
    assert error_correlation(same, {"a": 2.0, "b": 2.0}) == 0.0
