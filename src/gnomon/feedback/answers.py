"""What a labeller sent, as a label; and a label as the fields that it was sent in.

Answers are numbered on the page by their places, from 1; a label counts the item's responses. The
order is fixed by who looks and what at, so that the page is the same when it is loaded again, and a
form says nothing that has to be believed.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from gnomon.errors import DataError
from gnomon.feedback.adjudication import ADJUDICATION
from gnomon.feedback.auth import Form, first
from gnomon.feedback.records import MARGIN, WEIGHT, Item, Label
from gnomon.feedback.render import for_field
from gnomon.records import Cost

Ask = Literal["ranking", "rating", "approval", "edit"]
ASKS = get_args(Ask)
CONFIDENCES = (("0", "Guess"), ("0.25", "Unsure"), ("0.5", "Fairly sure"), ("0.75", "Sure"),
               ("1", "Certain"))  # fmt: skip
FLAGS = (
    *("The question makes no sense", "An answer is cut off or shown badly", "All say the same"),
    *("It holds personal data", "It is harmful or illegal", "I know too little of the subject"),
    "Something else (see comment)",
)
LONGEST_COMMENT = 10_000
LONGEST_EDIT = 400_000
_MOST_SECONDS, _MOST_SECONDS_UNSEEN = 4 * 3600.0, 3600.0
_QUESTIONS: Mapping[Ask, str] = {
    "ranking": "Which answer is better?",
    "rating": "How good is each answer?",
    "approval": "Is each answer good or bad?",
    "edit": "What would be a better answer?",
}


class Unfinished(DataError):  # noqa: N818 - nothing is wrong but that something is missing
    """A form that is no judgement yet, with what is missing."""


@dataclass(frozen=True)
class Task:
    """What a campaign asks of an item.

    Attributes:
        ask: ranking, rating, approval (good or bad) or edit.
        question: in words.
        scale: the ratings that can be given, worst first.
        low, high: what the first and the last of them mean.
        tags: reasons that can be ticked.
    """

    ask: Ask = "ranking"
    question: str = ""
    scale: tuple[int, ...] = (1, 2, 3, 4, 5)
    low: str = "bad"
    high: str = "good"
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any], campaign: str = "") -> Task:
        """By a campaign's settings: ``ask``, ``question``, ``scale`` (how many ratings, or a list
        of them), ``low``, ``high``, ``tags``.

        Raises:
            DataError: a setting that cannot be, with its cure.
        """
        ask = settings.get("ask", "ranking")
        if ask not in ASKS:
            raise DataError(f"campaign {campaign!r} asks for {ask!r}; give {', '.join(ASKS)}")
        scale = settings.get("scale", 5)
        points = range(1, scale + 1) if isinstance(scale, int) else scale
        fits = isinstance(points, Sequence) and not isinstance(points, str)
        if not fits or not 2 <= len(points) <= 11 or not all(isinstance(x, int) for x in points):
            raise DataError(
                f"campaign {campaign!r} has the scale {scale!r}; give how many ratings there are, "
                "from 2 to 11, or a list of whole numbers, worst first"
            )
        tags = settings.get("tags", ())
        if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
            raise DataError(f"campaign {campaign!r} has the tags {tags!r}; give a list of words")
        if own := [tag for tag in tags if tag == ADJUDICATION or tag.startswith((MARGIN, WEIGHT))]:
            raise DataError(f"campaign {campaign!r} has the tag {own[0]!r}, which means something "
                            "of its own in a store; take another word")  # fmt: skip
        words = {key: str(settings[key]) for key in ("low", "high", "question") if key in settings}
        return cls(ask, scale=tuple(points), tags=tuple(tags), **words)

    def for_item(self, item: Item) -> Task:
        """What is asked of this item: a single answer has nothing to be ranked against, and is
        judged good or bad."""
        single = self.ask == "ranking" and len(item.responses) < 2
        ask: Ask = "approval" if single else self.ask
        question = "" if single else self.question
        return replace(self, ask=ask, question=question or _asked(ask, len(item.responses)))


def _asked(ask: Ask, count: int) -> str:
    if ask == "ranking" and count > 2:
        return "Rank the answers from best to worst"
    return "Is this answer good or bad?" if ask == "approval" and count == 1 else _QUESTIONS[ask]


def order(labeller: str, item: Item) -> tuple[int, ...]:
    """The item's responses in the order in which this person sees them."""
    seed = hashlib.sha256(f"{labeller}\0{item.id}".encode("utf-8", "replace")).digest()
    places = list(range(len(item.responses)))
    random.Random(seed).shuffle(places)
    return tuple(places)


def read_label(
    fields: Form, item: Item, task: Task, labeller: str, *, id: str, guideline: str
) -> Label:
    """The label that a form holds.

    Args:
        task: of the item (:meth:`Task.for_item`).
        guideline: the version that was shown.

    Raises:
        Unfinished: something is missing, or does not fit.
    """
    shown = order(labeller, item)
    action = first(fields, "action") or "save"
    said: dict[str, Any]
    if action in ("skip", "retract"):
        said = {"kind": "skip"}
    elif action == "all_bad":
        said = {"kind": "all_bad"}
    elif action == "save":
        said = _READERS[task.ask](fields, item, task, shown)
    else:
        raise Unfinished(f"{action!r} is nothing that can be done with a question")
    wrong = first(fields, "flag")
    if wrong and wrong not in FLAGS:
        raise Unfinished("choose what is wrong from the list")
    return Label(
        id=id, item=item.id, labeller=labeller, shown=shown, guideline=guideline, flag=wrong,
        confidence=_confidence(first(fields, "confidence")) if action == "save" else None,
        tags=tuple(tag for tag in task.tags if tag in fields.get("tag", ())),
        comment=_words(fields, "comment", LONGEST_COMMENT),
        cost=Cost(seconds=seconds(fields)), **said,
    )  # fmt: skip


def _ranking(fields: Form, item: Item, task: Task, shown: Sequence[int]) -> dict[str, Any]:
    count = len(shown)
    if count == 2:
        choices = {"1": (1, 2), "tie": (1, 1), "2": (2, 1)}
        choice = first(fields, "choice")
        if choice not in choices:
            raise Unfinished("choose the better answer, or say that they are about equal")
        given: Sequence[int] = choices[choice]
    else:
        given = [_whole(first(fields, f"rank_{p}"), 1, count) for p in range(1, count + 1)]
        if missing := [str(p) for p, rank in enumerate(given, start=1) if not rank]:
            raise Unfinished(f"give a rank to answer {', '.join(missing)} as well; ties are fine")
    places = {rank: i for i, rank in enumerate(sorted(set(given)), start=1)}  # 1, 3, 3 is 1, 2, 2
    ranks = [0.0] * count
    for place, rank in enumerate(given):
        ranks[shown[place]] = float(places[rank])
    return {"kind": "ranking", "ranks": tuple(ranks)}


def _rating(fields: Form, item: Item, task: Task, shown: Sequence[int]) -> dict[str, Any]:
    known = {str(point): float(point) for point in task.scale} | {"none": None}
    ratings = _each(fields, "rating", known, shown, "rate answer {}, or say that you cannot")
    return {"kind": "rating", "ratings": ratings}


def _approval(fields: Form, item: Item, task: Task, shown: Sequence[int]) -> dict[str, Any]:
    known = {"good": True, "bad": False, "none": None}
    words = "say whether answer {} is good or bad, or that you cannot"
    return {"kind": "approval", "approvals": _each(fields, "good", known, shown, words)}


def judged_each(fields: Form, item: Item, task: Task) -> dict[str, Any]:
    """Ratings or approvals of a form whose answers are in the item's own order.

    Raises:
        Unfinished: something is missing.
    """
    return _READERS[task.ask](fields, item, task, range(len(item.responses)))


def _each(
    fields: Form, name: str, known: Mapping[str, Any], shown: Sequence[int], words: str
) -> tuple[Any, ...]:
    given = [first(fields, f"{name}_{place}") for place in range(1, len(shown) + 1)]
    if missing := [str(p) for p, value in enumerate(given, start=1) if value not in known]:
        raise Unfinished(words.format(", ".join(missing)))
    values = [None] * len(shown)
    for place, value in enumerate(given):
        values[shown[place]] = known[value]
    if all(value is None for value in values):
        raise Unfinished("you cannot say it of any answer: skip the question instead")
    return tuple(values)


def _edit(fields: Form, item: Item, task: Task, shown: Sequence[int]) -> dict[str, Any]:
    text = _words(fields, "edit", LONGEST_EDIT)
    if not text.strip():
        raise Unfinished("write a better answer, or skip the question")
    same = [p for p, i in enumerate(shown, start=1)
            if text.strip() == for_field(item.responses[i].text).strip()]  # fmt: skip
    if same:
        raise Unfinished(f"this is answer {same[0]} as it was: change it, or skip the question")
    return {"kind": "edit", "edit": text}


_READERS = {"ranking": _ranking, "rating": _rating, "approval": _approval, "edit": _edit}


def _words(fields: Form, name: str, longest: int) -> str:
    text = first(fields, name).replace("\r\n", "\n").strip("\n" if name == "edit" else None)
    if len(text) > longest:
        raise Unfinished(f"the {name} has {len(text):,} characters; at most {longest:,} are kept")
    return text


def _whole(text: str, low: int, high: int) -> int:
    """A whole number from low to high; 0 where it is none."""
    if not text.isascii() or not text.isdecimal() or len(text) > 3:
        return 0
    return int(text) if low <= int(text) <= high else 0


def _confidence(text: str) -> float | None:
    if not text:
        return None
    if text not in dict(CONFIDENCES):
        raise Unfinished("choose how sure you are from the list")
    return float(text)


def seconds(fields: Form) -> float:
    """How long the page was looked at: as the page counted while it could be seen, else since it
    was made; at most four hours, and one where nothing counted."""
    counted, made = _number(first(fields, "seconds")), _number(first(fields, "made"))
    if counted is not None:
        return round(min(counted, _MOST_SECONDS), 1)
    if made is None:
        return 0.0
    return round(min(max(0.0, time.time() - made), _MOST_SECONDS_UNSEEN), 1)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def same_judgement(a: Label, b: Label) -> bool:
    """Whether two labels say the same."""
    return judgement(a) == judgement(b)


def judgement(label: Label) -> tuple[Any, ...]:
    """All that a label says; when it was said, and how long it took, do not count."""
    return (
        label.kind, label.ranks, label.ratings, label.approvals, label.edit, label.confidence,
        label.tags, label.comment, label.flag,
    )  # fmt: skip


def fields_of(label: Label, shown: Sequence[int]) -> Form:
    """A label as the form that it came from.

    Args:
        shown: the order of the responses on the page that is made now.
    """
    fields: Form = {"comment": [label.comment], "flag": [label.flag], "tag": list(label.tags)}
    if label.confidence is not None:
        near = min(CONFIDENCES, key=lambda c: abs(float(c[0]) - (label.confidence or 0.0)))
        fields["confidence"] = [near[0]]
    for place, i in enumerate(shown, start=1):
        if label.kind == "ranking":
            fields[f"rank_{place}"] = [f"{label.ranks[i]:g}"]
        elif label.kind == "rating":
            rating = label.ratings[i]
            fields[f"rating_{place}"] = ["none" if rating is None else f"{rating:g}"]
        elif label.kind == "approval":
            good = label.approvals[i]
            fields[f"good_{place}"] = ["none" if good is None else "good" if good else "bad"]
    if label.kind == "ranking" and len(label.ranks) == 2:
        one, two = (label.ranks[i] for i in shown)
        fields["choice"] = ["tie" if one == two else "1" if one < two else "2"]
    if label.edit is not None:
        fields["edit"] = [label.edit]
    return fields


def in_words(label: Label) -> str:
    """What a label says, in a few words; answers by the numbers that they had on the page."""
    count = max(map(len, (label.ranks, label.ratings, label.approvals)))
    shown = label.shown or tuple(range(count))
    place = {i: str(p) for p, i in enumerate(shown, start=1)}
    if label.kind == "ranking":
        tiers: dict[float, list[str]] = {}
        for i, rank in enumerate(label.ranks):
            tiers.setdefault(rank, []).append(place.get(i, "?"))
        return " > ".join(" = ".join(sorted(tiers[rank])) for rank in sorted(tiers))
    if label.kind == "rating":
        given = [label.ratings[i] for i in shown]
        return ", ".join("–" if value is None else f"{value:g}" for value in given)
    if label.kind == "approval":
        return ", ".join({True: "good", False: "bad", None: "–"}[label.approvals[i]]
                         for i in shown)  # fmt: skip
    return {"edit": "rewritten", "all_bad": "all bad", "skip": "skipped"}[label.kind]
