"""How good is a reward model on held-out comparisons: accuracy, calibration, and length bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gnomon.errors import DataError
from gnomon.stats.intervals import Floats, Interval, finite_or_none, vector, weighted_proportion


@dataclass(frozen=True)
class RewardModelReport:
    """Held-out figures of a reward model over C comparisons.

    Attributes:
        accuracy: share of decided comparisons ranked as labelled; equal scores count half, labelled
            ties and comparisons of weight 0 are left out.
        by_category: the same within each category.
        calibration: of the confidence sigmoid(\\|margin\\|) in [0.5, 1] against being right.
        mean_margin: mean of score(better) - score(worse), in units of reward.
        undecided: comparisons to which the model gave exactly equal scores.
        ties: comparisons labelled a tie, and their mean absolute margin (NaN without any).
        length_pearson, length_spearman: correlation of score with length over all responses.
        better_shorter, better_longer: accuracy where the better response is the shorter or the
            longer one. A model that has learned "longer is better" shows a gap between the two.
    """

    accuracy: Interval
    by_category: dict[str, Interval]
    calibration: Calibration
    mean_margin: float
    undecided: int
    ties: int
    tie_margin: float
    length_pearson: float = math.nan
    length_spearman: float = math.nan
    better_shorter: Interval | None = None
    better_longer: Interval | None = None

    @property
    def ece(self) -> float:
        """Expected calibration error of sigmoid(margin)."""
        return self.calibration.ece

    def to_dict(self) -> dict[str, Any]:
        """Nested plain numbers for ``evals.json``; NaN becomes None."""
        out: dict[str, Any] = {
            "accuracy": self.accuracy.to_dict(),
            "ece": finite_or_none(self.ece),
            "mean_margin": finite_or_none(self.mean_margin),
            "undecided": self.undecided,
            "ties": self.ties,
            "tie_margin": finite_or_none(self.tie_margin),
            "by_category": {name: i.to_dict() for name, i in self.by_category.items()},
            "reliability": [
                {
                    "low": b.low,
                    "high": b.high,
                    "count": b.count,
                    "confidence": b.confidence,
                    "accuracy": b.accuracy,
                }
                for b in self.calibration.bins
            ],
        }
        if self.better_shorter is not None and self.better_longer is not None:
            out["length"] = {
                "pearson": finite_or_none(self.length_pearson),
                "spearman": finite_or_none(self.length_spearman),
                "accuracy_better_shorter": self.better_shorter.to_dict(),
                "accuracy_better_longer": self.better_longer.to_dict(),
            }
        return out


def evaluate_comparisons(
    scores_better: ArrayLike,
    scores_worse: ArrayLike,
    *,
    category: Sequence[str | None] | None = None,
    ties: Sequence[bool] | None = None,
    weights: ArrayLike | None = None,
    lengths: tuple[ArrayLike, ArrayLike] | None = None,
    prompts: Sequence[object] | None = None,
    bins: int = 10,
    level: float = 0.95,
) -> RewardModelReport:
    """Judge a reward model by its scores on C labelled comparisons.

    Args:
        scores_better, scores_worse: [C] scores of the labelled winner and loser.
        category: [C] labels to break the accuracy down by.
        ties: [C] True where the labeller called them equal; these do not count in accuracy.
        weights: [C] weight of each judgement; 0 removes it.
        lengths: ([C], [C]) tokens (or characters) of the better and the worse response.
        prompts: [C] which prompt each comparison is about. The comparisons of one ranking share
            their scores; intervals are then as wide as that makes them.

    Raises:
        DataError: a score that is not finite (the message names the comparison).
        ValueError: lengths of the arguments that do not match.
    """
    better, worse = _scores(scores_better, "better"), _scores(scores_worse, "worse")
    count = better.size
    w = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    tie = np.zeros(count, dtype=bool) if ties is None else np.asarray(ties, dtype=bool)
    names = list(category) if category is not None else [None] * count
    for what, size in (("worse", worse.size), ("weights", w.size), ("ties", tie.size),
                       ("category", len(names)),
                       ("prompts", count if prompts is None else len(prompts))):  # fmt: skip
        if size != count:
            raise ValueError(f"{count} better scores but {size} in {what}")

    margin = better - worse
    counted = w > 0
    decided = counted & ~tie
    correct = np.where(margin > 0, 1.0, np.where(margin == 0, 0.5, 0.0))
    confidence = 1.0 / (1.0 + np.exp(-np.minimum(np.abs(margin), 700.0)))
    about = None if prompts is None else _numbered(prompts)
    decided_about = None if about is None else about[decided].tolist()
    by_category = (
        accuracy_by_category(
            correct[decided],
            [names[i] for i in np.flatnonzero(decided)],
            weights=w[decided],
            level=level,
            clusters=decided_about,
        )
        if category is not None
        else {}
    )
    is_tie = counted & tie
    length = {} if lengths is None else _length_probe(
        better, worse, lengths, correct, decided, counted, w, level, about
    )  # fmt: skip
    return RewardModelReport(
        accuracy=weighted_proportion(correct[decided], w[decided], level, clusters=decided_about),
        by_category=by_category,
        # The label puts the winner first, so sigmoid(margin) against "first wins" would always be
        # judged against 1. The confidence in whichever response the model prefers is symmetric.
        calibration=expected_calibration_error(
            confidence[decided], correct[decided], bins, lower=0.5, weights=w[decided]
        ),
        mean_margin=_weighted_mean(margin[decided], w[decided]),
        undecided=int((decided & (margin == 0)).sum()),
        ties=int(is_tie.sum()),
        tie_margin=_weighted_mean(np.abs(margin[is_tie]), w[is_tie]),
        **length,
    )


def _numbered(names: Sequence[object]) -> Any:
    """[C] a number for each different name."""
    places: dict[object, int] = {}
    return np.array([places.setdefault(name, len(places)) for name in names], dtype=np.int64)


def _length_probe(
    better: Floats,
    worse: Floats,
    lengths: tuple[ArrayLike, ArrayLike],
    correct: Floats,
    decided: np.ndarray[Any, np.dtype[np.bool_]],
    counted: np.ndarray[Any, np.dtype[np.bool_]],
    w: Floats,
    level: float,
    about: Any,
) -> dict[str, Any]:
    long_b = np.asarray(lengths[0], dtype=np.float64)
    long_w = np.asarray(lengths[1], dtype=np.float64)
    if not long_b.size == long_w.size == better.size:
        raise ValueError(
            f"{better.size} comparisons but lengths of {long_b.size} better and {long_w.size} worse"
        )
    scores = np.concatenate([better[counted], worse[counted]])
    sizes = np.concatenate([long_b[counted], long_w[counted]])
    shorter, longer = decided & (long_b < long_w), decided & (long_b > long_w)

    def share(chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> Interval:
        own = None if about is None else about[chosen].tolist()
        return weighted_proportion(correct[chosen], w[chosen], level, clusters=own)

    linear, rank = _correlations(scores, sizes)
    return {
        "length_pearson": linear,
        "length_spearman": rank,
        "better_shorter": share(shorter),
        "better_longer": share(longer),
    }


def _correlations(x: Floats, y: Floats) -> tuple[float, float]:
    """Pearson's and Spearman's correlation; NaN where either is constant or there is one value."""
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan, math.nan
    from scipy.stats import pearsonr, spearmanr  # type: ignore[import-untyped]  # slow to import

    return float(pearsonr(x, y).statistic), float(spearmanr(x, y).statistic)


def _scores(scores: ArrayLike, side: str) -> Floats:
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 1:
        raise ValueError(f"scores_{side} must be one-dimensional, got shape {x.shape}")
    bad = np.flatnonzero(~np.isfinite(x))
    if bad.size:
        raise DataError(
            f"the {side} response of comparison {bad[0]} (counted from 0) scored {x[bad[0]]}, and "
            f"{bad.size} of {x.size} scores are not finite: the reward model has diverged; lower "
            "its learning rate or load an earlier checkpoint"
        )
    return x


def _weighted_mean(x: Floats, w: Floats) -> float:
    total = float(w.sum())
    return float((x * w).sum()) / total if total > 0 else math.nan


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
