"""Where labels contradict each other and somebody has decided.

An adjudicator's decision is a label like any other, which is never changed; its tag says that it is
one. It stands for all labels of its item where a verdict is needed, and like a gold question it
says who was right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gnomon.feedback.records import Item, Label, standing, votes

ADJUDICATION = "adjudication"
"""The tag of a label that decides about an item."""


def decisions(labels: Iterable[Label]) -> dict[str, Label]:
    """The standing adjudication of each item that has one; of several, the last."""
    return {label.item: label for label in standing(labels) if ADJUDICATION in label.tags}


def settled(labels: Iterable[Label]) -> list[Label]:
    """The standing labels; of an item that was decided about, only the decision."""
    own = standing(labels)
    decided = decisions(own)
    return [x for x in own if x.item not in decided or decided[x.item].id == x.id]


def of_labellers(labels: Iterable[Label]) -> list[Label]:
    """The standing labels without the decisions: what labellers said, whose agreement and accuracy
    may be measured."""
    return [label for label in standing(labels) if ADJUDICATION not in label.tags]


def with_decisions(items: Iterable[Item], labels: Sequence[Label]) -> list[Item]:
    """The items, where one was ranked by an adjudicator with these ranks as known to be right; those
    of gold questions stay."""
    decided = decisions(labels)
    return [_known(item, decided.get(item.id)) for item in items]


def _known(item: Item, decision: Label | None) -> Item:
    if decision is None or item.gold is not None:
        return item
    n = len(item.responses)
    points = [0.0] * n
    said = votes([decision])
    if len(said) != n * (n - 1) // 2 or not said:
        return item  # "all bad", an edit: it ranks nothing
    for vote in said:
        points[vote.a] += vote.won
        points[vote.b] += 1.0 - vote.won
    return replace(item, gold=tuple(n - p for p in points))
