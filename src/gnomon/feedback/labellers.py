"""A report on labellers: how far they agree, how far each can be believed, what is in dispute."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from gnomon.feedback.adjudication import of_labellers
from gnomon.feedback.agreement import Level, alpha, rating_scales, vote_units
from gnomon.feedback.ballots import Pair
from gnomon.feedback.consensus import Ability, Consensus, Gold, Method, consensus, gold_pairs
from gnomon.feedback.flags import Sign, flags
from gnomon.feedback.records import Item, Label, Vote
from gnomon.feedback.records import votes as votes_of
from gnomon.stats.intervals import Interval, finite_or_none, weighted_proportion

LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval")


@dataclass(frozen=True)
class LabellerReport:
    """One labeller.

    Attributes:
        ability: from the consensus; None where they compared nothing.
        gold: accuracy on gold questions, where a tie is half right; ``n`` counts items.
        seconds: the median of a label; NaN where it is not known.
        labels: that stand, or votes where there are only those.
    """

    name: str
    ability: Ability | None
    gold: Interval
    seconds: float
    labels: int


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        alphas: Krippendorff's alpha of the pairs, by level.
        rating_alphas: the same of ratings and approvals, each scale by its name.
        notes: what a reader must know, in words.
        labellers: by name.
        signs: flags first.
        disputed: pairs with two votes or more, those of least certain consensus first.
        found: the consensus behind it.
    """

    alphas: Mapping[Level, Interval]
    rating_alphas: Mapping[str, Mapping[Level, Interval]]
    labellers: tuple[LabellerReport, ...]
    signs: tuple[Sign, ...]
    disputed: tuple[Pair, ...]
    found: Consensus
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "method": self.found.method,
            "pairs": len(self.found.beliefs),
            "alpha": {level: a.to_dict() for level, a in self.alphas.items()},
            "rating_alpha": {
                scale: {level: a.to_dict() for level, a in own.items()}
                for scale, own in self.rating_alphas.items()
            },
            "labellers": [_labeller(report) for report in self.labellers],
            "signs": [_sign(sign) for sign in self.signs],
            "disputed": [self._dispute(pair) for pair in self.disputed],
            "notes": list(self.notes),
        }

    def _dispute(self, pair: Pair) -> dict[str, Any]:
        belief = self.found.beliefs[pair]
        item, a, b = pair
        known = {"probability": belief.probability, "tie": belief.tie, "votes": belief.votes}
        return {"item": item, "a": a, "b": b, **known}


def report_on(
    items: Iterable[Item],
    labels: Iterable[Label],
    *,
    votes: Sequence[Vote] | None = None,
    method: Method = "auto",
    progress: Callable[[str], None] = lambda what: None,
) -> Report:
    """Measure everything that labels show of their labellers; an adjudicator's decisions are left
    out, since what is decided about is what people disagree on.

    Args:
        votes: those in the labels; given where there are votes only.
        progress: is told what is measured next.
    """
    items, kept = list(items), of_labellers(labels)
    given = votes_of(kept) if votes is None else list(votes)
    gold = gold_pairs(items)
    progress("consensus")
    found = consensus(given, method, gold=gold)
    progress("agreement")
    units, (scales, unknown) = vote_units(given), rating_scales(kept, items)
    alphas = {level: alpha(units, level) for level in LEVELS} if given else {}
    ratings = {name: {level: alpha(own, level) for level in LEVELS} for name, own in scales.items()}
    progress("flags")
    signs = flags(items, kept, votes=given)
    known = gold_accuracy(given, gold)
    seconds: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    for label in kept:
        counts[label.labeller] = counts.get(label.labeller, 0) + 1
        if label.cost.seconds > 0:
            seconds.setdefault(label.labeller, []).append(label.cost.seconds)
    reports = [
        LabellerReport(
            name,
            found.labellers.get(name),
            known.get(name, Interval(math.nan)),
            median(seconds[name]) if name in seconds else math.nan,
            counts.get(name) or found.labellers[name].votes,
        )
        for name in sorted({*found.labellers, *counts})
    ]
    notes = (*found.notes, *unknown)
    return Report(alphas, ratings, tuple(reports), tuple(signs), disputed(found), found, notes)


def disputed(found: Consensus) -> tuple[Pair, ...]:
    """Pairs with two votes or more of which nothing is sure, the least sure first."""

    def sure(pair: Pair) -> float:
        belief = found.beliefs[pair]
        return max(belief.tie, abs(2.0 * belief.probability - 1.0))

    several = [pair for pair, belief in found.beliefs.items() if belief.votes > 1]
    return tuple(sorted((p for p in several if sure(p) < 0.5), key=sure))


def gold_accuracy(votes: Iterable[Vote], gold: Gold) -> dict[str, Interval]:
    """How far each labeller says what is known; a tie against a side, or the reverse, is half."""
    right: dict[str, list[tuple[float, str]]] = {}
    for vote in votes:
        truth = gold.get((vote.item, vote.a, vote.b))
        if truth is not None:
            right.setdefault(vote.labeller, []).append((1.0 - abs(vote.won - truth), vote.item))
    return {
        name: weighted_proportion([x for x, _ in rows], clusters=[item for _, item in rows])
        for name, rows in right.items()
    }


def _labeller(report: LabellerReport) -> dict[str, Any]:
    ability = report.ability
    return {
        "name": report.name,
        "labels": report.labels,
        "ability": None if ability is None else ability.accuracy.to_dict(),
        "standard_error": None if ability is None else finite_or_none(ability.error),
        "ties": None if ability is None else ability.ties,
        "gold": report.gold.to_dict(),
        "seconds": finite_or_none(report.seconds),
    }


def _sign(sign: Sign) -> dict[str, Any]:
    return {
        "labeller": sign.labeller,
        "kind": sign.kind,
        "figure": sign.figure.to_dict(),
        "allowed": sign.allowed,
        "detectable": finite_or_none(sign.detectable),
        "raised": sign.raised,
        "words": sign.words,
    }
