"""Intervals and scores for evaluations, in plain numpy.

Every number a person decides by comes with an interval. Levels are shares (0.95), probabilities lie
in [0, 1], and everything random takes a seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value with its confidence interval.

    Attributes:
        value: the estimate; NaN when nothing was measured.
        low, high: the interval's ends.
        n: how many observations stand behind it (an effective number when they were weighted).
        level: the interval's coverage.
    """

    value: float
    low: float
    high: float
    n: float = 0.0
    level: float = 0.95

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def excludes(self, x: float) -> bool:
        """Whether ``x`` lies outside the interval (False when it is NaN: nothing is shown)."""
        return self.low > x or self.high < x

    def to_dict(self) -> dict[str, float | None]:
        """``{"value", "low", "high", "n"}`` with None in place of NaN, as JSON wants it."""
        return {
            "value": finite_or_none(self.value),
            "low": finite_or_none(self.low),
            "high": finite_or_none(self.high),
            "n": self.n,
        }


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


def finite_or_none(x: float) -> float | None:
    """``x``, or None where it is NaN or infinite (JSON has neither)."""
    return float(x) if math.isfinite(x) else None


def _normal_quantile(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    return NormalDist().inv_cdf(0.5 + level / 2.0)


def _t_central_probability(theta: float, dof: int) -> float:
    """P(|T| <= t) at theta = arctan(t / sqrt(dof)): Abramowitz & Stegun 26.7.3 and 26.7.4."""
    sin, cos = math.sin(theta), math.cos(theta)
    odd = dof % 2 == 1
    term = cos if odd else 1.0
    total = 0.0 if dof == 1 else term
    for j in range(3 if odd else 2, dof - 1, 2):
        term *= (j - 1) / j * cos * cos
        total += term
    return 2.0 / math.pi * (theta + sin * total) if odd else sin * total


def t_quantile(level: float, dof: int) -> float:
    """The t with P(|T| <= t) = ``level`` for Student's t with ``dof`` degrees of freedom.

    Exact finite sums (Abramowitz & Stegun 26.7.3-4) inverted by bisection up to 400 degrees of
    freedom, the expansion 26.7.5 above that, where it is good to 1e-8.
    """
    if dof < 1:
        raise ValueError(f"degrees of freedom must be at least 1, got {dof}")
    z = _normal_quantile(level)
    if dof > 400:
        return (
            z
            + (z**3 + z) / (4 * dof)
            + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)
            + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * dof**3)
        )
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        if _t_central_probability(middle, dof) < level:
            low = middle
        else:
            high = middle
    return math.sqrt(dof) * math.tan((low + high) / 2)


def wilson_interval(successes: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927, "Probable inference", JASA 22).

    Unlike the normal interval it stays inside [0, 1] and keeps its coverage near 0 and 1. Halves
    (a tie) and effective sample sizes are allowed, so both numbers are floats.

    Raises:
        ValueError: successes outside [0, n].
    """
    if n < 0 or not -1e-9 <= successes <= n + 1e-9:
        raise ValueError(f"successes must lie in [0, n], got {successes} of {n}")
    z = _normal_quantile(level)
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0.0, level)
    p = min(max(successes / n, 0.0), 1.0)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Exact at the ends, where rounding would leave the estimate just outside its own interval.
    low = 0.0 if p == 0.0 else max(0.0, centre - half)
    high = 1.0 if p == 1.0 else min(1.0, centre + half)
    return Interval(p, low, high, float(n), level)


def mean_interval(
    values: ArrayLike,
    level: float = 0.95,
    *,
    method: Literal["t", "bootstrap"] = "t",
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of ``values`` [n] with a Student-t or a percentile-bootstrap interval.

    The observations are taken as independent: for K samples of each prompt pass the prompts' means.
    One observation has a mean but no interval (NaN ends); none has neither.

    Raises:
        ValueError: values that are not finite, or not one-dimensional.
    """
    x = _vector(values, "values")
    n = x.size
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0.0, level)
    mean = float(x.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1.0, level)
    if method == "bootstrap":
        rng = np.random.default_rng(seed)
        # Row by row, so that the memory stays O(n) rather than O(n * resamples).
        means = np.array([x[rng.integers(0, n, n)].mean() for _ in range(resamples)])
        low, high = np.quantile(means, [0.5 - level / 2, 0.5 + level / 2])
        return Interval(mean, float(low), float(high), float(n), level)
    half = t_quantile(level, n - 1) * float(x.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, float(n), level)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    level: float = 0.95,
    *,
    method: Literal["t", "bootstrap"] = "t",
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of a - b over pairs [n] (the same prompts, two models), with its interval.

    Pairing removes the spread between prompts, so it sees differences that two separate intervals
    would hide. ``interval.excludes(0)`` says whether the difference is beyond noise.
    """
    x, y = _vector(a, "a"), _vector(b, "b")
    if x.size != y.size:
        raise ValueError(f"paired values must match one to one, got {x.size} and {y.size}")
    return mean_interval(x - y, level, method=method, resamples=resamples, seed=seed)


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
    p, y = _vector(probabilities, "probabilities"), _vector(outcomes, "outcomes")
    w = np.ones_like(p) if weights is None else _vector(weights, "weights")
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


def weighted_proportion(
    correct: ArrayLike,
    weights: ArrayLike | None = None,
    level: float = 0.95,
    *,
    clusters: Sequence[object] | None = None,
) -> Interval:
    """Share correct with a Wilson interval; ``correct`` [n] holds 0, 1 or a half for a draw.

    With unequal weights n is Kish's effective sample size, (sum w)^2 / sum w^2. Outcomes of one
    cluster (the pairs of one prompt's ranking, which share their scores) are not independent: with
    ``clusters`` [n] n is divided by the design effect.
    """
    x = _vector(correct, "correct")
    w = np.ones_like(x) if weights is None else _vector(weights, "weights")
    if x.size != w.size:
        raise ValueError(f"{x.size} outcomes but {w.size} weights")
    if np.any(w < 0):
        raise ValueError("weights must not be negative")
    total = float(w.sum())
    if total == 0.0:
        return wilson_interval(0, 0, level)
    n = total**2 / float((w**2).sum())
    p = float((w * x).sum()) / total
    if clusters is not None:
        n = _clustered_size(n, w * (x - p), clusters)
    return wilson_interval(p * n, n, level)


def _clustered_size(n: float, residuals: Floats, clusters: Sequence[object]) -> float:
    """n over the design effect (Kish 1965): the variance of a sum of clusters over that of a sum
    of independent outcomes. Clusters of one leave n as it is."""
    if len(clusters) != residuals.size:
        raise ValueError(f"{residuals.size} outcomes but {len(clusters)} clusters")
    sums: dict[object, float] = {}
    for key, residual in zip(clusters, residuals, strict=True):
        sums[key] = sums.get(key, 0.0) + float(residual)
    together = sum(value**2 for value in sums.values())
    if together == 0.0:  # all right or all wrong: nothing shows how outcomes of a cluster agree
        return min(n, float(len(sums)))
    return n * min(1.0, float((residuals**2).sum()) / together)


def accuracy_by_category(
    correct: ArrayLike,
    category: Sequence[str | None],
    *,
    weights: ArrayLike | None = None,
    level: float = 0.95,
    clusters: Sequence[object] | None = None,
) -> dict[str, Interval]:
    """``weighted_proportion`` for each category, in order of name; None is "(none)"."""
    x = _vector(correct, "correct")
    w = np.ones_like(x) if weights is None else _vector(weights, "weights")
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
    x, y = _vector(a, "a"), _vector(b, "b")
    if x.size != y.size:
        raise ValueError(f"paired values must match one to one, got {x.size} and {y.size}")
    difference = x - y
    wins = float((difference > tie_within).sum())
    ties = float((np.abs(difference) <= tie_within).sum())
    return wilson_interval(wins + ties / 2, x.size, level)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Linear correlation of two vectors [n]; NaN when either is constant or n < 2."""
    a, b = _vector(x, "x"), _vector(y, "y")
    if a.size != b.size:
        raise ValueError(f"lengths differ: {a.size} and {b.size}")
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Rank correlation (ties share their mean rank); NaN when either is constant or n < 2."""
    return pearson(_ranks(_vector(x, "x")), _ranks(_vector(y, "y")))


def _ranks(x: Floats) -> Floats:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Floats = (last - (counts - 1) / 2.0)[inverse]
    return shared


def _vector(values: ArrayLike, name: str) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {x.shape}")
    bad = np.flatnonzero(~np.isfinite(x))
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] is {x[bad[0]]}; {bad.size} of {x.size} are not finite")
    return x
