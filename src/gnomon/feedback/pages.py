"""What the labeller's pages show: a question, how far one is, what one said."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

import sqlalchemy as sa
from markupsafe import Markup

from gnomon.console import visible
from gnomon.feedback import schema as t
from gnomon.feedback.answers import Ask, Task, fields_of, in_words, order
from gnomon.feedback.assignments import DONE
from gnomon.feedback.auth import Form
from gnomon.feedback.records import Item, Label
from gnomon.feedback.render import Shown, for_field, markdown, show
from gnomon.feedback.rows import read_label
from gnomon.feedback.store import Store
from gnomon.records import Message

_ROLES = {"user": "User", "assistant": "Assistant", "system": "System", "tool": "Tool"}
_RECENT = 20
_LATEST = 50
_PREVIEW = 160
_LATER = t.labels.alias("later")  # made once: it takes a millisecond


@dataclass(frozen=True)
class Turn:
    """A turn of a conversation; ``whole`` is the address of all of it, where it is very long."""

    role: str
    kind: str
    named: bool
    shown: Shown
    whole: str


@dataclass(frozen=True)
class Answer:
    """A response by its place on the page, from 1; ``source`` is as an edit begins with it."""

    place: int
    turns: Sequence[Turn]
    source: str


@dataclass(frozen=True)
class Given:
    """A label that is being changed."""

    said: str
    at: str
    when: str


@dataclass(frozen=True)
class Question:
    """A question as the page shows it.

    Attributes:
        ticket: the id of the label that the form becomes.
        made: when the page was, in seconds since 1970.
        fields: what is filled in.
        base: place of the answer that an edit begins with.
        draft: when the fields were saved, if they are a draft's.
        replaces: what was said before, if that is being changed.
        keys: which keys do what.
    """

    item: str
    ticket: str
    made: str
    task: Task
    prompt: Sequence[Turn]
    answers: Sequence[Answer]
    fields: Mapping[str, Any]
    base: int
    draft: str
    replaces: Given | None
    keys: Sequence[tuple[Sequence[str], str]]

    @property
    def kind(self) -> Ask:
        return self.task.ask


def question(
    item: Item,
    task: Task,
    labeller: str,
    ticket: str,
    *,
    fields: Form | None = None,
    draft: str = "",
    replaces: Label | None = None,
) -> Question:
    """A question for one person.

    Args:
        task: of the item (:meth:`Task.for_item`).
        fields: what they have filled in already.
        draft: when that was saved.
        replaces: their label that a new one will replace; fills the form where nothing else does.
    """
    answers = [_answer(item, place, i) for place, i in enumerate(order(labeller, item), start=1)]
    if fields is None and replaces is not None:
        fields = fields_of(replaces, order(labeller, item))
    filled: defaultdict[str, Any] = defaultdict(str)
    filled |= {name: values[-1] for name, values in (fields or {}).items() if values}
    filled["tags"] = list((fields or {}).get("tag", ()))
    filled |= {name: for_field(filled[name]) for name in ("comment", "edit")}
    if task.ask == "edit" and not filled["edit"]:
        filled["edit"] = answers[0].source
    return Question(
        item.id, ticket, f"{time.time():.3f}", task, _prompt(item), answers, filled,
        base=1, draft=moment(draft), keys=_keys(task, len(answers)),
        replaces=None if replaces is None else
        Given(in_words(replaces), replaces.at, moment(replaces.at)),
    )  # fmt: skip


def _prompt(item: Item) -> list[Turn]:
    messages = item.prompt.messages or (Message("text", item.prompt.text or ""),)
    return _turns(messages, f"/label/{item.id}/whole/0", named=len(messages) > 1)


def _answer(item: Item, place: int, i: int) -> Answer:
    response = item.responses[i]
    messages = response.messages
    turns = _turns(messages, f"/label/{item.id}/whole/{place}", named=len(messages) > 1)
    return Answer(place, turns, for_field(response.text))


def _turns(messages: Sequence[Message], address: str, named: bool) -> list[Turn]:
    return [
        Turn(
            _ROLES.get(m.role, m.role), m.role if m.role in _ROLES else "other", named,
            show(m.content), f"{address}/{i}",
        )
        for i, m in enumerate(messages)
    ]  # fmt: skip


def whole(item: Item, labeller: str, place: int, turn: int) -> tuple[str, str] | None:
    """A heading and the whole text of one turn: of the prompt (place 0) or of an answer."""
    shown = order(labeller, item)
    if not 0 <= place <= len(shown):
        return None
    messages: Sequence[Message] = item.prompt.messages
    if place:
        messages = item.responses[shown[place - 1]].messages
    elif not messages:
        messages = (Message("text", item.prompt.text or ""),)
    heading = f"Answer {place}" if place else "Prompt"
    return (heading, messages[turn].content) if 0 <= turn < len(messages) else None


def _keys(task: Task, count: int) -> list[tuple[Sequence[str], str]]:
    """Which keys do what on the page of a question."""
    own: dict[str, list[tuple[Sequence[str], str]]] = {
        "rating": [(("1", "…", "9"), "rate the answer in the frame, and go to the next"),
                   (("↑", "↓"), "the answer before or after")],
        "approval": [(("g",), "the answer in the frame is good; go to the next"),
                     (("b",), "it is bad"), (("↑", "↓"), "the answer before or after")],
        "edit": [(("Ctrl", "Enter"), "save while you write")],
    }  # fmt: skip
    if task.ask == "ranking" and count == 2:
        keys: list[tuple[Sequence[str], str]] = [
            (("1",), "the first is better"), (("2",), "the second is better"),
            (("t",), "about equal")]  # fmt: skip
    elif task.ask == "ranking":
        keys = [
            (("3", "1", "2"), "rank them: best first"), (("=", "4"), "ties 4 with the last"),
            (("⌫",), "take the last back"), (("↑", "↓"), "move the number in the frame"),
        ]  # fmt: skip
    else:
        keys = list(own[task.ask])
    if count > 1 and task.ask != "edit":
        keys.append((("0",), "all are bad"))
    return [*keys, (("s",), "skip"), (("u",), "undo the last"), (("c",), "write a comment"),
            (("Enter",), "save and go on"), (("?",), "these keys")]  # fmt: skip


@dataclass(frozen=True)
class Guide:
    """A version of the guidelines as it is shown; ``changed`` is the one they worked by before."""

    version: str
    at: str
    html: Markup
    changed: str = ""


def guide(store: Store, version: str, before: str = "") -> Guide | None:
    """The guidelines of a version; None where there are none."""
    for known in store.guidelines():
        if known.version == version:
            changed = before if before and before != version else ""
            return Guide(version, known.at, markdown(known.text), changed)
    return None


# -- how far --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """How far somebody is.

    Attributes:
        done: what they were given and judged or skipped.
        of: that and what is left for them.
        pace: how long they typically take; empty while nothing is known.
        left: how long the rest will take at that pace.
        last: the item that they judged last.
        guideline: the version that they worked by then.
        labels: their latest labels, the last one first.
        skipped: of ``done``, what they skipped and did not judge later.
    """

    done: int
    of: int
    pace: str
    left: str
    last: str
    guideline: str
    labels: Sequence[Label]
    skipped: int = 0

    @property
    def judged(self) -> int:
        """What they were given and judged."""
        return self.done - self.skipped

    @property
    def words(self) -> str:
        return f"{self.done} of {self.of} done"


def progress(store: Store, campaign: str, labeller: str) -> Progress:
    """How far one person is in a campaign, and at what pace."""
    a, q = t.assignments.c, t.queue.c
    own = sa.and_(a.labeller == labeller, a.campaign == campaign, a.state == DONE)
    enough = sa.select(t.campaigns.c.overlap).where(t.campaigns.c.name == campaign)
    judged = sa.exists().where(t.labels.c.item == q.item, t.labels.c.labeller == labeller)
    held = sa.exists().where(a.item == q.item, a.labeller == labeller, a.state == "open")
    free = q.taken < sa.func.coalesce(q.overlap, enough.scalar_subquery())
    waiting = sa.select(sa.func.count()).select_from(t.queue)
    waiting = waiting.where(q.campaign == campaign, ~judged, (free & ~q.gold) | held)
    said, later = t.labels.c, t.labels.alias().c
    skips = sa.select(sa.func.count()).select_from(
        t.labels.join(t.items, t.items.c.id == said.item)
    )
    skips = skips.where(t.items.c.campaign == campaign, said.labeller == labeller)
    skips = skips.where(said.kind == "skip", ~sa.exists().where(later.replaces == said.id))
    with store.db.read() as connection:
        skipped = int(connection.scalar(skips) or 0)
        done = int(connection.scalar(sa.select(sa.func.count()).where(own)) or 0)
        left = int(connection.scalar(waiting) or 0)
    latest = latest_labels(store, labeller, campaign, _RECENT)
    times = [label.cost.seconds for label in latest if label.cost.seconds]
    each = median(times) if times else 0.0
    last = latest[0] if latest else None
    return Progress(
        done, done + left, duration(each), duration(each * left) if each else "",
        last.item if last else "", last.guideline if last else "", latest, min(skipped, done),
    )  # fmt: skip


def latest_labels(
    store: Store, labeller: str, campaign: str | None = None, most: int = _LATEST
) -> list[Label]:
    """Somebody's standing labels, the latest first."""
    c = t.labels.c
    found = sa.select(t.labels).where(c.labeller == labeller)
    found = found.where(~sa.exists().where(_LATER.c.replaces == c.id))
    if campaign is not None:
        found = found.join(t.items, t.items.c.id == c.item).where(t.items.c.campaign == campaign)
    with store.db.read() as connection:
        rows = connection.execute(found.order_by(c.seq.desc()).limit(most)).mappings()
        return [read_label(row) for row in rows]


@dataclass(frozen=True)
class Said:
    """A row of what somebody said."""

    item: str
    said: str
    prompt: str
    at: str
    when: str
    seconds: str
    flag: str
    replaced: bool


def mine(store: Store, labeller: str, campaign: str | None) -> list[Said]:
    """What somebody said lately, the last first."""
    return [
        Said(
            label.item, in_words(label), _preview(store.item(label.item)), label.at,
            moment(label.at), duration(label.cost.seconds), label.flag, label.replaces is not None,
        )
        for label in latest_labels(store, labeller, campaign)
    ]  # fmt: skip


def _preview(item: Item) -> str:
    asked = [m.content for m in item.prompt.messages if m.role != "system"]
    text = " ".join((asked[-1] if asked else item.prompt.text or "").split())
    return visible(text if len(text) <= _PREVIEW else f"{text[:_PREVIEW]}…")


def moment(at: str) -> str:
    """A time as people say it, in UTC: "26 Nov, 10:31 UTC"; empty where there is none."""
    try:
        when = datetime.fromisoformat(at)
    except ValueError:
        return ""
    return f"{when.day} {when:%b, %H:%M} UTC"


def duration(seconds: float) -> str:
    """As in "40 s", "12 min", "3 h"; empty for no time."""
    if seconds <= 0:
        return ""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 6000 else f"{round(seconds / 3600)} h"
