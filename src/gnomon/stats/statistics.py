"""Scores for evaluations, in plain numpy: calibration, categories, pass@k, wins, correlations.

Every number a person decides by comes with an interval; those are in :mod:`gnomon.stats.intervals`
and :mod:`gnomon.stats.prompts`. Levels are shares (0.95), probabilities lie in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gnomon.stats.intervals import (
    Floats,
    Interval,
    exact_interval,
    finite_or_none,
    mean_interval,
    mean_of_shares,
    t_quantile,
    vector,
    weighted_proportion,
    wilson_interval,
)

__all__ = [
    "Calibration",
    "CalibrationBin",
    "Floats",
    "Interval",
    "accuracy_by_category",
    "exact_interval",
    "expected_calibration_error",
    "finite_or_none",
    "mean_interval",
    "mean_of_shares",
    "pass_at_k",
    "pearson",
    "spearman",
    "t_quantile",
    "weighted_proportion",
    "wilson_interval",
    "win_rate",
]


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """One bar of a reliability diagram: predictions in [low, high) and how often they came true."""

    low: float
    high: float
    count: float
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Expected calibration error and the table behind it (empty bins left out)."""

    ece: float
    bins: tuple[CalibrationBin, ...]


def expected_calibration_error(
    probabilities: ArrayLike,
    outcomes: ArrayLike,
    bins: int = 10,
    *,
    lower: float = 0.0,
    weights: ArrayLike | None = None,
) -> Calibration:
    """Sum over bins of (share of predictions) * |accuracy - confidence|.

    Naeini et al. 2015 and Guo et al. 2017 (arXiv 1706.04599), eq. 3, with equal-width bins over
    [``lower``, 1]; pass ``lower=0.5`` for the confidence of a two-way choice.

    Args:
        probabilities: [n] predicted probability that the outcome is 1.
        outcomes: [n] what happened, 0 or 1 (a half for a draw).
        weights: [n] how much each prediction counts; one each by default.
    """
    p, y = vector(probabilities, "probabilities"), vector(outcomes, "outcomes")
    w = np.ones_like(p) if weights is None else vector(weights, "weights")
    if not p.size == y.size == w.size:
        raise ValueError(f"lengths differ: {p.size} probabilities, {y.size} outcomes, {w.size}")
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if p.size and (p.min() < lower or p.max() > 1.0):
        raise ValueError(f"probabilities must lie in [{lower:g}, 1]")
    total = float(w.sum())
    if total == 0.0:
        return Calibration(math.nan, ())
    edges = np.linspace(lower, 1.0, bins + 1)
    which = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, bins - 1)
    ece, table = 0.0, []
    for i in range(bins):
        inside = which == i
        mass = float(w[inside].sum())
        if mass == 0.0:
            continue
        confidence = float((w * p)[inside].sum()) / mass
        accuracy = float((w * y)[inside].sum()) / mass
        ece += mass / total * abs(accuracy - confidence)
        bar = CalibrationBin(float(edges[i]), float(edges[i + 1]), mass, confidence, accuracy)
        table.append(bar)
    return Calibration(ece, tuple(table))


def accuracy_by_category(
    correct: ArrayLike,
    category: Sequence[str | None],
    *,
    weights: ArrayLike | None = None,
    level: float = 0.95,
    clusters: Sequence[object] | None = None,
) -> dict[str, Interval]:
    """``weighted_proportion`` for each category, in order of name; None is "(none)"."""
    x = vector(correct, "correct")
    w = np.ones_like(x) if weights is None else vector(weights, "weights")
    if x.size != len(category):
        raise ValueError(f"{x.size} outcomes but {len(category)} categories")
    names = np.array([c if c is not None else "(none)" for c in category], dtype=object)
    out: dict[str, Interval] = {}
    for name in sorted(set(names.tolist())):
        at = np.flatnonzero(names == name)
        own = None if clusters is None else [clusters[int(i)] for i in at]
        out[str(name)] = weighted_proportion(x[at], w[at], level, clusters=own)
    return out


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k draws out of n samples, c of them correct, is correct.

    The unbiased estimator 1 - C(n-c, k) / C(n, k) of Chen et al. 2021 (arXiv 2107.03374), eq. 1, as
    a product that neither overflows nor cancels. Average it over prompts.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"need 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    if n - c < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def win_rate(
    a: ArrayLike, b: ArrayLike, *, tie_within: float = 0.0, level: float = 0.95
) -> Interval:
    """Share of pairs [n] in which a scores above b; differences up to ``tie_within`` count half."""
    x, y = vector(a, "a"), vector(b, "b")
    if x.size != y.size:
        raise ValueError(f"paired values must match one to one, got {x.size} and {y.size}")
    difference = x - y
    wins = np.where(np.abs(difference) <= tie_within, 0.5, difference > tie_within)
    return weighted_proportion(wins, level=level)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Linear correlation of two vectors [n]; NaN when either is constant or n < 2."""
    a, b = vector(x, "x"), vector(y, "y")
    if a.size != b.size:
        raise ValueError(f"lengths differ: {a.size} and {b.size}")
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Rank correlation (ties share their mean rank); NaN when either is constant or n < 2."""
    return pearson(_ranks(vector(x, "x")), _ranks(vector(y, "y")))


def _ranks(x: Floats) -> Floats:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Floats = (last - (counts - 1) / 2.0)[inverse]
    return shared
