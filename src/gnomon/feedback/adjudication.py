"""Where labels contradict each other and somebody has decided.

An adjudicator's decision is a label like any other, which is never changed; its tag says that it is
one, and it stands for all labels of its item where a verdict is needed. It says nothing of who can
be believed: what is decided about is what people disagree on, a few hard items, and one decision
against all of them must not turn them into adversaries. That is what gold questions are for.
"""

from __future__ import annotations

from collections.abc import Iterable

from gnomon.feedback.records import Label, standing

ADJUDICATION = "adjudication"
"""The tag of a label that decides about an item."""


def decisions(labels: Iterable[Label]) -> dict[str, Label]:
    """The standing adjudication of each item that has one; of several, the last. A skip is none: it
    takes a decision back."""
    own = (label for label in standing(labels) if ADJUDICATION in label.tags)
    return {label.item: label for label in own if label.kind != "skip"}


def settled(labels: Iterable[Label]) -> list[Label]:
    """The standing labels; of an item that was decided about, only the decision."""
    own = standing(labels)
    decided = decisions(own)
    return [x for x in own if x.item not in decided or decided[x.item].id == x.id]


def of_labellers(labels: Iterable[Label]) -> list[Label]:
    """The standing labels without the decisions: what labellers said, whose agreement and accuracy
    may be measured."""
    return [label for label in standing(labels) if ADJUDICATION not in label.tags]
