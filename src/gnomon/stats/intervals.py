"""Confidence intervals of shares and of means; those of differences are in ``prompts``.

A figure that is a share (of answers that are right, of pairs ordered as labelled, of responses that
end) has an interval by the binomial distribution, which says something where all outcomes are the
same: 20 failures of 20 do not show that there are no successes. Answers to one prompt, or pairs of
one ranking, agree with each other; they count as an effective number of outcomes.
docs/intervals.md has the coverage and the width of every one of these, by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, stdtrit  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
Bounds = tuple[float, float]

PRIOR = 0.5
"""How many successes the assumptions below weigh against what the data show."""
AGREEMENT = 0.65
"""The correlation within clusters that is assumed where the data do not show it: all outcomes are
the same, or nearly."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value with its confidence interval.

    Attributes:
        value: the estimate; NaN when nothing was measured.
        low, high: the interval's ends; NaN where there is none.
        n: how many independent observations it is of: prompts where there are several answers to
            each, an effective number when they were weighted; 0 where that is not known.
        level: the interval's coverage.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: float = 0.0
    level: float = 0.95

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.n:.0f}"

    @property
    def known(self) -> bool:
        """Whether it has both ends."""
        return math.isfinite(self.low) and math.isfinite(self.high)

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

    @classmethod
    def parse(cls, raw: object) -> Interval | None:
        """The figure that :meth:`to_dict` wrote, or a plain number; None for anything else."""
        if isinstance(raw, cls):
            return raw
        if not isinstance(raw, Mapping):
            raw = {"value": raw}
        value, low, high, n = (_number(raw.get(key)) for key in ("value", "low", "high", "n"))
        return None if math.isnan(value) else cls(value, low, high, 0.0 if math.isnan(n) else n)

    def scaled(self, bounds: Bounds) -> Interval:
        """The interval of a share as that of a mean between two bounds."""
        low, high = bounds
        value, first, last = (low + (high - low) * x for x in (self.value, self.low, self.high))
        return Interval(value, first, last, self.n, self.level)


def _number(raw: object) -> float:
    """A finite number as a float; NaN for anything else."""
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        return math.nan
    return float(raw)


def finite_or_none(x: float) -> float | None:
    """``x``, or None where it is NaN or infinite (JSON has neither)."""
    return float(x) if math.isfinite(x) else None


def t_quantile(level: float, dof: float) -> float:
    """The t with P(\\|T\\| <= t) = ``level`` for Student's t; with infinite ``dof`` the normal's.

    Raises:
        ValueError: a level outside (0, 1), or degrees of freedom not above 0.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if not dof > 0:
        raise ValueError(f"degrees of freedom must be above 0, got {dof}")
    return float(stdtrit(dof, 0.5 + level / 2.0))


# -- shares ---------------------------------------------------------------------------------------


def exact_interval(successes: float, n: float, level: float = 0.95) -> Interval:
    """Clopper and Pearson's interval for a proportion (1934, Biometrika 26): no p that it leaves
    out makes as few successes, or as many, likelier than (1 - level) / 2.

    Its coverage is never below ``level``; it is at most 14% wider than Wilson's between p = 0.02
    and 0.5. Halves (a tie) and effective sample sizes are allowed, so both numbers are floats.

    Raises:
        ValueError: successes outside [0, n].
    """
    p = _proportion(successes, n)
    if n == 0:
        return Interval(math.nan, 0.0, 1.0, 0.0, level)
    tail, x = (1.0 - level) / 2.0, p * n
    low = 0.0 if p == 0.0 else float(betaincinv(x, n - x + 1.0, tail))
    high = 1.0 if p == 1.0 else float(betaincinv(x + 1.0, n - x, 1.0 - tail))
    return Interval(p, min(low, p), max(high, p), float(n), level)


def _proportion(successes: float, n: float) -> float:
    if n < 0 or not -1e-9 <= successes <= n + 1e-9:
        raise ValueError(f"successes must lie in [0, n], got {successes} of {n}")
    return min(max(successes / n, 0.0), 1.0) if n else math.nan


def weighted_proportion(
    correct: ArrayLike,
    weights: ArrayLike | None = None,
    level: float = 0.95,
    *,
    clusters: Sequence[object] | None = None,
) -> Interval:
    """Share correct with its interval; ``correct`` [n] holds 0, 1 or a part (a half for a draw).

    Clopper and Pearson's interval at an effective number of outcomes (Korn & Graubard 1998,
    "Confidence intervals for proportions with small expected number of positive counts estimated
    from survey data"). With unequal weights that is Kish's, (sum w)^2 / sum w^2. Outcomes of one
    cluster (the pairs of one prompt's ranking, which share their scores) are not independent: with
    ``clusters`` [n] it is divided by the design effect. Draws vary less than rights and wrongs:
    they count for more.

    Raises:
        ValueError: an outcome outside [0, 1], a negative weight, lengths that do not match.
    """
    x = vector(correct, "correct")
    w = np.ones_like(x) if weights is None else vector(weights, "weights")
    if x.size != w.size:
        raise ValueError(f"{x.size} outcomes but {w.size} weights")
    if np.any(w < 0):
        raise ValueError("weights must not be negative")
    if x.size and not 0.0 <= x.min() <= x.max() <= 1.0:
        raise ValueError(f"a share is of outcomes between 0 and 1, got {x.min()} to {x.max()}")
    if clusters is not None and len(clusters) != x.size:
        raise ValueError(f"{x.size} outcomes but {len(clusters)} clusters")
    total = float(w.sum())
    if total == 0.0:
        return exact_interval(0, 0, level)
    p = min(1.0, float((w * x).sum()) / total)
    w = w * (total / float((w**2).sum()))  # now they sum to Kish's size, as their squares do
    n = float(w.sum())
    spread = n * p * (1 - p)
    own = (float((w * (x - p) ** 2).sum()) + PRIOR) / (spread + PRIOR)  # 1 for rights and wrongs
    if clusters is None:
        return _at_size(p, n / own, n, level)
    place: dict[object, int] = {}
    of = np.array([place.setdefault(key, len(place)) for key in clusters])
    sizes, sums = np.zeros(len(place)), np.zeros(len(place))
    np.add.at(sizes, of, w)
    np.add.at(sums, of, w * (x - p))
    sizes, sums = sizes[sizes > 0], sums[sizes > 0]
    effective = _clustered_size(p, sums, sizes, rows=int((w > 0).sum()), own=own, level=level)
    return _at_size(p, effective, float(sizes.size), level)


def mean_of_shares(shares: ArrayLike, samples: float = 1.0, level: float = 0.95) -> Interval:
    """Mean over prompts of ``shares`` [P], each of ``samples`` rights and wrongs of one prompt.

    The effective number of outcomes lies between P (the answers to a prompt are all alike) and
    P x samples (prompts do not differ); see :func:`weighted_proportion`. ``samples`` need not be
    whole: pass@k of n answers has the variance of n / k outcomes at most (Hoeffding 1948).

    Raises:
        ValueError: a share outside [0, 1], fewer than one sample.
    """
    y = vector(shares, "shares")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if samples == 1 or not y.size:
        return weighted_proportion(y, level=level)
    p = min(1.0, max(0.0, float(y.mean())))
    sizes = np.full(y.size, float(samples))
    rows = y.size * samples
    effective = _clustered_size(p, samples * (y - p), sizes, rows=rows, own=1.0, level=level)
    return _at_size(p, effective, float(y.size), level)


def mean_samples(counts: Sequence[float]) -> float:
    """The ``samples`` of prompts that were sampled differently often: the harmonic mean of their
    numbers, since variances are averaged; 1 without any."""
    return len(counts) / sum(1.0 / n for n in counts) if counts else 1.0


def _clustered_size(
    p: float, sums: Floats, sizes: Floats, *, rows: float, own: float, level: float
) -> float:
    """The number of independent outcomes that a share of clustered ones is as sure as.

    The design effect is the variance of the share between clusters over the binomial one. It is
    at least ``own``, that of independent outcomes. PRIOR successes speak for a correlation of
    AGREEMENT: nothing else does where all outcomes are the same. As in Korn & Graubard, the
    degrees of freedom are those of the clusters.

    Args:
        sums: [G] each cluster's sum of residuals from p.
        sizes: [G] each cluster's weight; together the number of outcomes.
        rows: outcomes, not weighted.
        own: the variance of one outcome over p (1 - p).
    """
    n, clusters = float(sizes.sum()), sizes.size
    alike = float((sizes**2).sum()) / n  # the design effect of clusters that agree throughout
    if alike <= 1.0 + 1e-9:
        return n / own
    if clusters == 1:
        return n / alike
    between = float((sums**2).sum()) * clusters / (clusters - 1)
    assumed = PRIOR * (1.0 + (alike - 1.0) * AGREEMENT)
    design = max(own, (between + assumed) / (n * p * (1 - p) + PRIOR))
    freedom = t_quantile(level, max(1.0, rows - 1)) / t_quantile(level, clusters - 1)
    return n / design * freedom**2


def _at_size(p: float, effective: float, n: float, level: float) -> Interval:
    found = exact_interval(p * effective, effective, level)
    return Interval(p, min(found.low, p), max(found.high, p), n, level)


# -- means ----------------------------------------------------------------------------------------


def share_bounds(values: ArrayLike) -> Bounds | None:
    """Between which two values ``values`` are shares, or None where they are quantities.

    Nothing but 0, 1/2 and 1, or parts of 1 most of which are 0 or 1, are shares of 1. So are two
    values of any kind (a reward of 1 or -1). Ask it of all that a measure gave, not of one model's.
    """
    x = np.unique(vector(values, "values"))
    if not x.size:
        return None
    if x[0] >= 0.0 and x[-1] <= 1.0:
        whole = np.isin(np.asarray(values, dtype=np.float64), (0.0, 1.0)).mean()
        if whole >= 0.5 or np.isin(x, (0.0, 0.5, 1.0)).all() or x.size == 1:
            return 0.0, 1.0
    return (float(x[0]), float(x[1])) if x.size == 2 else None


def mean_interval(
    values: ArrayLike,
    level: float = 0.95,
    *,
    method: Literal["auto", "t"] = "auto",
) -> Interval:
    """Mean of ``values`` [n] with its interval.

    The observations are taken as independent: for K samples of each prompt pass the prompts' means,
    or those of rights and wrongs to :func:`mean_of_shares`.

    Args:
        method: ``auto`` takes nothing but 0, 1/2 and 1 as a share, as it does one value between 0
            and 1 throughout (:func:`weighted_proportion`), everything else as ``t``, Student's.
            It has no interval (NaN ends) where all values are the same: nothing shows how far
            others would be.

    Raises:
        ValueError: values that are not finite, or not one-dimensional.
    """
    x = vector(values, "values")
    n = x.size
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0.0, level)
    if method == "auto" and _is_share(x):
        return weighted_proportion(x, level=level)
    mean = float(x.mean())
    if n == 1 or _constant(x):
        return Interval(mean, math.nan, math.nan, float(n), level)
    half = t_quantile(level, n - 1) * float(x.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, float(n), level)


def _is_share(x: Floats) -> bool:
    """Whether nothing but the values says that they are shares; see :func:`mean_interval`."""
    whole = bool(np.isin(x, (0.0, 0.5, 1.0)).all())
    return whole or (x.size > 1 and _constant(x) and bool(0.0 <= x[0] <= 1.0))


def _constant(x: Floats) -> bool:
    """Whether all values are the same, up to rounding."""
    return bool(np.ptp(x) <= 1e-12 * max(1.0, float(np.abs(x).max())))


def vector(values: ArrayLike, name: str) -> Floats:
    """``values`` as finite float64 [n].

    Raises:
        ValueError: not one-dimensional, or not finite; the message names the first that is not.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {x.shape}")
    bad = np.flatnonzero(~np.isfinite(x))
    if bad.size:
        raise ValueError(f"{name}[{bad[0]}] is {x[bad[0]]}; {bad.size} of {x.size} are not finite")
    return x
