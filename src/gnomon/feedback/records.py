"""The nouns of feedback: an item that is judged, a label, and the votes in it.

People, models, programs and simulated labellers leave the same :class:`Label`; nothing in one says
more than who it is. A label is never changed: a correction is another label that names the one it
replaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gnomon.records import Cost, Prompt, Response, comparisons_from_ranks

LabelKind = Literal["ranking", "rating", "approval", "edit", "all_bad", "skip"]
MARGIN, WEIGHT = "margin=", "weight="
"""Tags that begin so keep what only a comparison has."""
LabellerKind = Literal["person", "model", "program", "simulated"]


@dataclass(frozen=True)
class Item:
    """A prompt and the responses that are judged side by side.

    Attributes:
        id: fixed by what it holds, so that the same question is the same item wherever it comes in.
        campaign: the collection that it belongs to.
        gold: ranks that are known to be right (1 is best), where it is a gold question; nobody who
            labels is shown which questions those are.
        origin: where it came from: a run, a stage and a round; a file and a row.
    """

    id: str
    prompt: Prompt
    responses: tuple[Response, ...]
    campaign: str = ""
    gold: tuple[float, ...] | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Label:
    """What one labeller said of one item, once.

    Attributes:
        id: unique.
        item: the item's id.
        labeller: a pseudonym.
        kind: which of the fields below holds the judgement.
        ranks: one for each response: 1 is best, equal ranks tie.
        ratings: one for each response: higher is better; None where it was not rated.
        approvals: one for each response: good or bad; None where it was not judged.
        edit: a better answer, in the labeller's words.
        shown: the responses' places on the screen: ``shown[0]`` is the index of the one shown
            first; empty where there was no order.
        confidence: from 0 (guessed) to 1; None where it was not asked.
        tags, comment, flag: what else they had to say; ``flag`` says what is wrong with the item.
        guideline: version of the guideline they worked by.
        principle: of a constitution or rubric, with its version, where one was applied.
        at: when it was given, in UTC (ISO 8601).
        cost: seconds of work, tokens of a model, money in euros.
        replaces: the id of the label that this one takes back.
    """

    id: str
    item: str
    labeller: str
    kind: LabelKind
    ranks: tuple[float, ...] = ()
    ratings: tuple[float | None, ...] = ()
    approvals: tuple[bool | None, ...] = ()
    edit: str | None = None
    shown: tuple[int, ...] = ()
    confidence: float | None = None
    tags: tuple[str, ...] = ()
    comment: str = ""
    flag: str = ""
    guideline: str = ""
    principle: str = ""
    at: str = ""
    cost: Cost = field(default_factory=Cost)
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """One comparison in a label: what response ``a`` won against ``b``.

    Attributes:
        item: the item's id.
        labeller: a pseudonym.
        a, b: indices of the item's responses, ``a < b``.
        won: 1 where ``a`` is the better one, 0 where ``b`` is, 0.5 for a tie.
        confidence: the labeller's own, from 0 to 1; None where it was not asked.
        a_first: whether ``a`` was shown before ``b``; None where there was no order.
    """

    item: str
    labeller: str
    a: int
    b: int
    won: float
    confidence: float | None = None
    a_first: bool | None = None


def standing(labels: Iterable[Label]) -> list[Label]:
    """The labels that no later one takes back, in their order."""
    everything = list(labels)
    gone = {label.replaces for label in everything}
    return [label for label in everything if label.id not in gone]


def votes(labels: Iterable[Label]) -> list[Vote]:
    """Every comparison in the standing labels; edits, skips and "all bad" compare nothing."""
    return [vote for label in standing(labels) for vote in _votes(label)]


def _votes(label: Label) -> list[Vote]:
    place = {response: i for i, response in enumerate(label.shown)}
    out = []
    for c in comparisons_from_ranks(_ranks(label)):
        a, b = sorted((c.better, c.worse))
        won = 0.5 if c.tie else float(c.better == a)
        first = place[a] < place[b] if a in place and b in place else None
        out.append(Vote(label.item, label.labeller, a, b, won, label.confidence, first))
    return out


def _ranks(label: Label) -> Sequence[float]:
    """Ranks, whichever way they were given; none where a response was left out."""
    if label.kind == "ranking":
        return label.ranks
    given: Sequence[float | bool | None] = {
        "rating": label.ratings,
        "approval": label.approvals,
    }.get(label.kind, ())
    return [-float(value) for value in given if value is not None] if None not in given else ()


@dataclass(frozen=True)
class Queued:
    """When an item is asked about, and how often, as the queue was told.

    Attributes:
        priority: the higher, the sooner it is asked about; 0 where nobody said.
        overlap: how many labellers it needs; None is as many as the campaign's.
    """

    priority: float = 0.0
    overlap: int | None = None
