"""Confidence intervals of differences: of paired shares and quantities, and of figures apart."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from gnomon.stats.intervals import Floats, Interval, is_share, mean_interval, t_quantile, vector

PAIRED_AGREEMENT = 0.1
"""The correlation that is assumed of differences between a prompt's answers, where the data do not
show it. Difficulty has gone from them, so it is less than that of the answers."""


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    level: float = 0.95,
    *,
    method: Literal["auto", "t", "bootstrap"] = "auto",
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of a - b over pairs [n] (the same prompts, two models), with its interval.

    Pairing removes the spread between prompts, so it sees differences that two separate intervals
    would hide. ``interval.excludes(0)`` says whether the difference is beyond noise. ``auto`` takes
    pairs of nothing but 0, 1/2 and 1 as :func:`paired_shares` does.
    """
    x, y = _pair(a, b)
    if method == "auto":
        if x.size and is_share(np.concatenate([x, y])):
            return paired_shares(x, y, level=level)
        method = "t"  # rights less wrongs may look like a share; here they are quantities
    return mean_interval(x - y, level, method=method, resamples=resamples, seed=seed)


def paired_shares(
    a: ArrayLike, b: ArrayLike, samples: float = 1.0, level: float = 0.95
) -> Interval:
    """Mean of a - b over prompts [P], both shares of ``samples`` rights and wrongs of the prompt.

    Bonett & Price 2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data": one pair more that gained and one more that lost, so that
    pairs which all agree do not show that no pair can differ. Student's t in place of the normal
    quantile. With several samples the two pairs differ by less: what the mean of ``samples``
    answers would, were they correlated by PAIRED_AGREEMENT.

    Raises:
        ValueError: a share outside [0, 1], lengths that differ, fewer than one sample.
    """
    x, y = _pair(a, b)
    for name, side in (("a", x), ("b", y)):
        if side.size and not 0.0 <= side.min() <= side.max() <= 1.0:
            raise ValueError(f"{name} holds shares between 0 and 1, got {side.min()}-{side.max()}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    n = x.size
    if n == 0:
        return Interval(math.nan, -1.0, 1.0, 0.0, level)
    difference = x - y
    value = float(difference.mean())
    if n == 1:
        return Interval(value, -1.0, 1.0, 1.0, level)
    added = (1.0 + (samples - 1.0) * PAIRED_AGREEMENT) / samples
    centre = float(difference.sum()) / (n + 2)
    variance = (float((difference**2).sum()) + 2 * added) / (n + 2) - centre**2
    half = t_quantile(level, n - 1) * math.sqrt(variance / (n + 2))
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Interval(value, min(low, value), max(high, value), float(n), level)


def independent_difference(a: Interval, b: Interval) -> Interval:
    """a - b of two figures measured apart, from their intervals.

    The method of variance estimates recovery (Newcombe 1998, method 10; Zou & Donner 2008): each
    end is as far off as the two sides that lie towards it, added in squares, so that the
    lopsided intervals of shares near 0 and 1 stay so. NaN ends where either has no interval.
    """
    gap = a.value - b.value
    low = gap - math.hypot(a.value - a.low, b.high - b.value)
    high = gap + math.hypot(a.high - a.value, b.value - b.low)
    return Interval(gap, low, high, min(a.n, b.n), min(a.level, b.level))


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    x, y = vector(a, "a"), vector(b, "b")
    if x.size != y.size:
        raise ValueError(f"paired values must match one to one, got {x.size} and {y.size}")
    return x, y
