"""What a campaign's labels come to: a verdict on each item, with who, when and at what cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from gnomon.feedback.adjudication import decisions, of_labellers, settled
from gnomon.feedback.groups import compared_groups
from gnomon.feedback.records import Item, Label, standing
from gnomon.judges.protocol import total_cost, win_shares
from gnomon.records import Comparison, Cost
from gnomon.runs.records import Record

Kind = Literal["ranking", "rating", "approval"]
Method = Literal["calibrated", "majority"]
_LONGEST_REASON = 1000


class Verdict(Record):
    """What people said of one item.

    Attributes:
        comparisons: [better, worse, tie, weight, probability] each, by the item's responses.
        scores: one for each of the item's responses; None where nobody judged it.
        seconds, money: of all labels, those that were taken back too.
        reason: who and when. Their comments stay in the store, where they can be erased.
        version: how the labels were weighed, and the guideline's version.
    """

    comparisons: list[list[float]] = Field(default_factory=list)
    scores: list[float | None] = Field(default_factory=list)
    seconds: float = 0.0
    money: float = 0.0
    reason: str = ""
    version: str = ""


def lacking(asked: Sequence[str], labels: Iterable[Label], overlap: int) -> dict[str, int]:
    """How many labels each item still lacks, by its id; items that lack none are left out.

    An item has enough where ``overlap`` people judged it, an adjudicator decided, or as many people
    skipped it.
    """
    own = standing(labels)
    decided = decisions(own)
    judged: dict[str, set[str]] = {}
    skipped: dict[str, set[str]] = {}
    for label in of_labellers(own):
        said = skipped if label.kind == "skip" else judged
        said.setdefault(label.item, set()).add(label.labeller)
    out = {}
    for item in asked:
        who = judged.get(item, set())
        gave_up = len(skipped.get(item, set()) - who) >= overlap
        if len(who) < overlap and not gave_up and item not in decided:
            out[item] = overlap - len(who)
    return out


def verdicts(
    items: Sequence[Item], labels: Sequence[Label], kind: Kind, method: Method
) -> dict[str, Verdict]:
    """A verdict on every item, by its id.

    Args:
        items: of a campaign; those with ``gold`` say who can be believed.
        labels: of these items, in the order in which they were given.
        kind: rankings give comparisons, ratings and approvals the mean of each response.
        method: ``calibrated`` weighs labellers by how far they can be believed
            (:func:`gnomon.feedback.consensus.consensus`), ``majority`` alike. An adjudicator's
            decision stands for all labels of its item.
    """
    own: dict[str, list[Label]] = {}
    for label in standing(labels):
        own.setdefault(label.item, []).append(label)
    spent: dict[str, list[Cost]] = {}
    for label in labels:
        spent.setdefault(label.item, []).append(label.cost)
    compared = compared_groups(items, labels, method) if kind == "ranking" else {}
    found = {}
    for item in items:
        said = own.get(item.id, [])
        if kind == "ranking":
            comparisons = compared[item.id].comparisons if item.id in compared else ()
            scores: list[float | None] = [*win_shares(comparisons, len(item.responses))]
            if all(label.kind == "skip" for label in said):
                scores = [None] * len(scores)
        else:
            comparisons, scores = (), _means(item, settled(said), kind)
        cost = total_cost(spent.get(item.id, ()))
        found[item.id] = Verdict(
            comparisons=_plain(comparisons),
            scores=scores,
            seconds=cost.seconds,
            money=cost.money,
            reason=_reason(said),
            version=_version(said, method if kind == "ranking" else "mean"),
        )
    return found


def _plain(comparisons: Iterable[Comparison]) -> list[list[float]]:
    return [
        [float(x) for x in (c.better, c.worse, c.tie, c.weight, c.probability)] for c in comparisons
    ]


def _means(item: Item, labels: Iterable[Label], kind: Kind) -> list[float | None]:
    """The mean of what each response was given; "all bad" is bad of each, where that was asked."""
    given: list[dict[str, float]] = [{} for _ in item.responses]
    for label in labels:
        values: Sequence[float | bool | None] = ()
        if label.kind == kind:
            values = label.ratings if kind == "rating" else label.approvals
        elif label.kind == "all_bad" and kind == "approval":
            values = [False] * len(given)
        for own, value in zip(given, values, strict=False):
            if value is not None:
                own[label.labeller] = float(value)
    return [math.fsum(own.values()) / len(own) if own else None for own in given]


def _reason(labels: Sequence[Label]) -> str:
    """Who said it and when."""
    parts = []
    for label in labels:
        kind = "" if label.kind in ("ranking", "rating", "approval") else f" ({label.kind})"
        parts.append(f"{label.labeller}{kind} at {label.at}")
    text = "; ".join(parts)
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."


def _version(labels: Sequence[Label], method: str) -> str:
    guidelines = sorted({label.guideline for label in labels if label.guideline})
    return ", ".join([method, *(f"guideline {version}" for version in guidelines)])
