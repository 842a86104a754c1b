"""Whether a judge's probabilities come true, and the map that makes them.

A judge says with which probability ``a`` is the better of two answers; people's labels say what
came of it. Which answer is ``a`` means nothing, so every map has f(1 - p) = 1 - f(p).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]
from scipy.special import expit, logit  # type: ignore[import-untyped]

from gnomon.errors import DataError
from gnomon.stats.intervals import Floats, Interval, t_quantile, vector
from gnomon.stats.reward_model import expected_calibration_error

Kind = Literal["none", "platt", "isotonic"]
SUREST = 0.995
"""Probabilities beyond this, or below 1 less this, count as this: log-odds have to be finite."""
FOLDS = 5
DRAWS, CHANCES = 400, 1000
"""Resamplings of the prompts, and of outcomes as the judge says."""
BINS = 10
RIDGE = 0.5
"""Pairs at even odds that both verdicts win, as a prior: without it, a judge that is never wrong
would have an infinite slope (Platt 1999 smooths his targets for this reason)."""


@dataclass(frozen=True)
class ProbabilityMap:
    """From the probability that a judge gives to that with which it comes true.

    Attributes:
        kind: ``platt`` multiplies the log-odds by ``slope`` (below 1: the judge is too sure);
            ``isotonic`` goes through ``points`` in straight lines; ``none`` changes nothing.
        slope: of the log-odds.
        points: (p, f(p)) in order, from 0 to 1.
    """

    kind: Kind = "none"
    slope: float = 1.0
    points: tuple[tuple[float, float], ...] = ()

    def __call__(self, p: ArrayLike) -> Floats:
        """The corrected probabilities, of the same shape."""
        x = np.asarray(p, dtype=np.float64)
        if self.kind == "platt":
            return np.asarray(expit(self.slope * _log_odds(x)), dtype=np.float64)
        if self.kind == "isotonic":
            given, gets = np.array(self.points).T
            return np.asarray(np.interp(x, given, gets), dtype=np.float64)
        return x

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a record."""
        out: dict[str, Any] = {"kind": self.kind}
        if self.kind == "platt":
            out["slope"] = self.slope
        if self.kind == "isotonic":
            out["points"] = [list(point) for point in self.points]
        return out

    @classmethod
    def parse(cls, raw: object) -> ProbabilityMap:
        """The map that :meth:`to_dict` wrote.

        Raises:
            DataError: it is none, or does not go up from 0 to 1.
        """
        try:
            if not isinstance(raw, Mapping):
                raise TypeError("it is no mapping")
            kind = raw["kind"]
            if kind == "none":
                return cls()
            if kind == "platt":
                slope = float(raw["slope"])
                if not 0 <= slope < math.inf:
                    raise ValueError(f"its slope is {slope}")
                return cls("platt", slope)
            if kind != "isotonic":
                raise ValueError(f"its kind is {kind!r}")
            points = tuple((float(x), float(y)) for x, y in raw["points"])
            inside = all(0 <= v <= 1 for point in points for v in point)
            rises = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(points))
            if len(points) < 2 or not inside or not rises:
                raise ValueError("its points do not go up from 0 to 1")
            return cls("isotonic", points=points)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"this is no map of probabilities: {error}") from error


@dataclass(frozen=True)
class Probabilities:
    """What a judge's probabilities are worth.

    Attributes:
        ece: expected calibration error of the probability of the answer that it prefers, with the
            bootstrap's interval over clusters.
        ece_by_chance: what a judge with perfect probabilities would show over as many pairs: the
            error is a sum of absolute values, and never 0. NaN for verdicts.
        slope: of the log-odds of what comes true on the log-odds that it gives (Cox 1958): 1 is
            right, below 1 it is too sure.
        map: the best of no map, Platt's and the isotonic, by cross-validation.
        ece_mapped: the error that is left, each fold by the map of the others.
        soft: whether it gives probabilities at all, not just verdicts.
    """

    ece: Interval
    ece_by_chance: float
    slope: Interval
    map: ProbabilityMap = field(default_factory=ProbabilityMap)
    ece_mapped: float = math.nan
    soft: bool = True


def probabilities(
    wins: ArrayLike, labels: ArrayLike, clusters: Sequence[object], seed: int = 0
) -> Probabilities:
    """Measure a judge's probabilities against people's labels.

    Args:
        wins: [n] the probability that ``a`` is better, ties half.
        labels: [n] what ``a`` won by people, from 0 to 1.
        clusters: [n] pairs that belong together.
    """
    p, y = vector(wins, "wins"), vector(labels, "labels")
    of = _numbered(clusters)
    rng = np.random.default_rng(seed)
    soft = not np.isin(np.round(p, 6), (0.0, 0.5, 1.0)).all()
    best, mapped = _choose(p, y, of, rng)
    chance, most = _chance(p, y, rng)
    return Probabilities(
        _ece_interval(p, y, of, rng, most),
        chance if soft else math.nan,
        slope_interval(p, y, of),
        best,
        ece(mapped, y),
        soft,
    )


# -- how far off -----------------------------------------------------------------------------------


def ece(p: Floats, y: Floats) -> float:
    """Expected calibration error of the probability of the side that is preferred."""
    return expected_calibration_error(*_preferred(p, y), BINS, lower=0.5).ece


def _preferred(p: Floats, y: Floats) -> tuple[Floats, Floats]:
    """How sure a judge is of the side that it prefers, and what that side won."""
    right = np.where(p == 0.5, 0.5, np.where(p > 0.5, y, 1 - y))
    return np.maximum(p, 1 - p), right


def _ece_interval(
    p: Floats, y: Floats, of: Floats, rng: np.random.Generator, by_chance: float
) -> Interval:
    """The bootstrap's over clusters. The error is a sum of absolute values: too large on average,
    and by as much again when resampled, which is taken off. It begins at 0 where the error is not
    above ``by_chance``, what perfect probabilities show in one case of 40."""
    value, count = ece(p, y), int(of.max()) + 1 if of.size else 0
    if count < 2:
        return Interval(value, n=float(count))
    sure, right = _preferred(p, y)
    bars = _bars(sure)
    excess = np.zeros((count, BINS))
    np.add.at(excess, (of.astype(np.int64), bars), right - sure)
    sizes = np.bincount(of.astype(np.int64), minlength=count)
    times = rng.multinomial(count, np.full(count, 1 / count), DRAWS)
    drawn = np.abs(times @ excess).sum(1) / (times @ sizes)
    middle = 2 * value - float(drawn.mean())
    half = t_quantile(0.95, count - 1) * float(drawn.std(ddof=1))
    low = middle - half if value > by_chance else 0.0
    return Interval(value, min(value, max(0.0, low)), max(value, middle + half), float(count))


def _chance(p: Floats, y: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """The mean error, and that of one case in 40, where every label comes as the judge says; draws
    are left out."""
    q = p[np.abs(y - 0.5) > 1e-9]
    if not q.size:
        return math.nan, math.inf
    sure = np.maximum(q, 1 - q)
    came = rng.random((CHANCES, q.size)) < sure
    found = np.abs((came - sure) @ np.eye(BINS)[_bars(sure)]).sum(1) / q.size
    return float(found.mean()), float(np.quantile(found, 0.975))


def _bars(sure: Floats) -> NDArray[np.int64]:
    """Which bar of the reliability diagram each is in; they divide [1/2, 1] evenly."""
    return np.minimum(((sure - 0.5) * 2 * BINS).astype(np.int64), BINS - 1)


def slope_interval(p: Floats, y: Floats, of: Floats) -> Interval:
    """The calibration slope (Cox 1958) with its cluster-robust interval; NaN where every verdict
    is at even odds."""
    x = _log_odds(p)
    if not np.abs(x).max(initial=0.0) > 1e-9:
        return Interval(math.nan)
    slope = _slope(x, y)
    fitted = expit(slope * x)
    bread = float((x * x * fitted * (1 - fitted)).sum())
    count = int(of.max()) + 1
    scores = np.zeros(count)
    np.add.at(scores, of.astype(np.int64), x * (y - fitted))
    if count < 2 or not bread > 1e-9:
        return Interval(slope, n=float(count))
    error = math.sqrt(count / (count - 1) * float((scores**2).sum())) / bread
    half = t_quantile(0.95, count - 1) * error
    return Interval(slope, slope - half, slope + half, float(count))


# -- maps ------------------------------------------------------------------------------------------


def fit_map(kind: Kind, p: Floats, y: Floats) -> ProbabilityMap:
    """The map of a kind that fits best."""
    if kind == "platt":
        return ProbabilityMap("platt", max(0.0, _slope(_log_odds(p), y)))
    if kind == "isotonic":
        return _isotonic(p, y)
    return ProbabilityMap()


def _slope(x: Floats, y: Floats) -> float:
    """Newton's iterations for a logistic regression on ``x`` alone, without a constant."""
    x, y = np.concatenate([x, [1.0, 1.0]]), np.concatenate([y, [1.0, 0.0]])
    w = np.concatenate([np.ones(x.size - 2), [RIDGE, RIDGE]])
    slope = 0.0
    for _ in range(50):
        q = expit(slope * x)
        step = float((w * x * (y - q)).sum()) / max(1e-9, float((w * x * x * q * (1 - q)).sum()))
        slope += max(-1.0, min(1.0, step))
        if abs(step) < 1e-9:
            break
    return slope


def _isotonic(p: Floats, y: Floats) -> ProbabilityMap:
    """Pool-adjacent-violators over the pairs and their mirror images."""
    x, t = np.concatenate([p, 1 - p]), np.concatenate([y, 1 - y])
    given, at, counts = np.unique(np.round(x, 9), return_inverse=True, return_counts=True)
    means = np.bincount(at, t) / counts
    gets = np.clip(isotonic_regression(means, weights=counts).x, 1 - SUREST, SUREST)
    points = dict(zip(given.tolist(), gets.tolist(), strict=True))
    points.setdefault(0.0, float(gets[0]))
    points.setdefault(1.0, float(gets[-1]))
    path = sorted(points.items())
    return ProbabilityMap("isotonic", points=tuple(_corners(path)))


def _corners(path: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The path without points inside a flat stretch."""
    inner = [
        b for a, b, c in zip(path, path[1:], path[2:], strict=False) if not a[1] == b[1] == c[1]
    ]
    return [path[0], *inner, path[-1]]


def _choose(
    p: Floats, y: Floats, of: Floats, rng: np.random.Generator
) -> tuple[ProbabilityMap, Floats]:
    """The map whose squared error on prompts that it has not seen is least, and the probabilities
    of those folds. A map with more freedom has to be better by one standard error."""
    count = int(of.max()) + 1 if of.size else 0
    if count < 2 * FOLDS:
        return ProbabilityMap(), p
    fold = rng.permutation(np.arange(count) % FOLDS)[of.astype(np.int64)]
    kind: Kind = "none"
    best = p
    kinds: tuple[Kind, ...] = ("platt", "isotonic")
    for other in kinds:
        mapped = np.empty_like(p)
        for k in range(FOLDS):
            out = fold == k
            mapped[out] = fit_map(other, p[~out], y[~out])(p[out])
        gains = np.zeros(count)
        np.add.at(gains, of.astype(np.int64), (best - y) ** 2 - (mapped - y) ** 2)
        if gains.mean() > gains.std(ddof=1) / math.sqrt(count):
            kind, best = other, mapped
    return fit_map(kind, p, y), best


def _log_odds(p: ArrayLike) -> Floats:
    x = np.clip(np.asarray(p, dtype=np.float64), 1 - SUREST, SUREST)
    return np.asarray(logit(x), dtype=np.float64)


def _numbered(names: Sequence[object]) -> Floats:
    place: dict[object, int] = {}
    return np.array([place.setdefault(name, len(place)) for name in names], dtype=np.float64)
