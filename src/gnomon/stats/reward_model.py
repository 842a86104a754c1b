"""How good is a reward model on held-out comparisons: accuracy, calibration, and length bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich.table import Table

from gnomon.errors import DataError
from gnomon.stats.statistics import (
    Calibration,
    Floats,
    Interval,
    accuracy_by_category,
    expected_calibration_error,
    finite_or_none,
    pearson,
    spearman,
    weighted_proportion,
)


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
    length_pearson: float | None = None
    length_spearman: float | None = None
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
                "pearson": finite_or_none(_number(self.length_pearson)),
                "spearman": finite_or_none(_number(self.length_spearman)),
                "accuracy_better_shorter": self.better_shorter.to_dict(),
                "accuracy_better_longer": self.better_longer.to_dict(),
            }
        return out

    def render(self) -> Table:
        """The figures as a table for the terminal."""
        table = Table(title="Reward model on held-out comparisons", title_justify="left")
        table.add_column("measure")
        table.add_column("value", justify="right")
        table.add_column(f"{self.accuracy.level:.0%} interval", justify="right")
        table.add_column("n", justify="right")
        _add_interval(table, "accuracy", self.accuracy)
        if len(self.by_category) > 1:
            for name, interval in self.by_category.items():
                _add_interval(table, f"  {name}", interval)
        if self.better_shorter is not None and self.better_longer is not None:
            _add_interval(table, "accuracy, better is shorter", self.better_shorter)
            _add_interval(table, "accuracy, better is longer", self.better_longer)
            table.add_row("score-length Pearson r", f"{_number(self.length_pearson):+.3f}", "", "")
            table.add_row(
                "score-length Spearman ρ", f"{_number(self.length_spearman):+.3f}", "", ""
            )
        table.add_row("calibration error (ECE)", f"{self.ece:.3f}", "", "")
        table.add_row("mean margin (reward)", f"{self.mean_margin:+.3f}", "", "")
        if self.ties:
            table.add_row("mean |margin| on ties", f"{self.tie_margin:.3f}", "", str(self.ties))
        return table


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
        ties: [C] True where the labeller called them equal; these say nothing of accuracy.
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

    return {
        "length_pearson": pearson(scores, sizes),
        "length_spearman": spearman(scores, sizes),
        "better_shorter": share(shorter),
        "better_longer": share(longer),
    }


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


def _number(x: float | None) -> float:
    return math.nan if x is None else x


def _add_interval(table: Table, name: str, interval: Interval) -> None:
    table.add_row(
        name,
        f"{interval.value:.3f}",
        f"{interval.low:.3f} - {interval.high:.3f}",
        f"{interval.n:.0f}",
    )
