"""What the admin's pages show, and keeping it while nothing changes."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from gnomon.console import visible
from gnomon.feedback import schema as t
from gnomon.feedback.adjudication import ADJUDICATION
from gnomon.feedback.answers import Task, fields_of
from gnomon.feedback.assignments import OPEN
from gnomon.feedback.overview import ASSIGNED, DONE, WAITING, Overview, Prices, Quality, State
from gnomon.feedback.overview import overview as seen
from gnomon.feedback.pages import duration, moment
from gnomon.feedback.records import Item, Label
from gnomon.feedback.render import Shown, show
from gnomon.feedback.rows import now
from gnomon.feedback.store import Campaign, Store
from gnomon.records import Message
from gnomon.stats.intervals import Interval

PAGE = 25
SHOWN = ("disputed", WAITING, ASSIGNED, DONE, "flagged", "gold")
"""Lists of items."""
_KEPT = 16
SLOW = 1.0
"""Seconds."""
_PREVIEW = 160


@dataclass(frozen=True)
class Kept:
    """An overview that is as old as its labels."""

    overview: Overview
    prices: Prices

    def listed(self, store: Store, show: str, page: int) -> dict[str, Any]:
        """A page of one of the lists."""
        found = self._states(show)
        last = max(1, -(-len(found) // PAGE))
        at = min(max(1, page), last)
        rows = [
            Row(state, preview(store.item(state.item)))
            for state in found[(at - 1) * PAGE : at * PAGE]
        ]
        return {"rows": rows, "total": len(found), "page": at, "last": last}

    def _states(self, show: str) -> list[State]:
        if show == "disputed":
            return self.overview.disputed
        everything = self.overview.states.values()
        if show == "flagged":
            return [s for s in everything if s.flags]
        if show == "gold":
            return [s for s in everything if s.gold]
        return [s for s in everything if s.state == show and not s.gold]


@dataclass(frozen=True)
class Row:
    """An item in a list."""

    state: State
    prompt: str

    @property
    def apart(self) -> str:
        return "" if self.state.apart is None else f"{self.state.apart:.0%}"


class Board:
    """The overviews of campaigns, made anew when something has changed.

    One that takes more than a second is shown for five times as long as it took, so that looking at
    a large collection leaves the machine to those who label.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Any, float, Kept]] = OrderedDict()

    def read(self, store: Store, campaign: Campaign) -> Kept:
        """The present overview; whoever asks meanwhile waits for it."""
        with self._lock:
            stamp = _stamp(store, campaign)
            old = self._kept.get(campaign.name)
            began = time.monotonic()
            if old is not None and (old[0] == stamp or began < old[1]):
                return old[2]
            made = _overview(store, campaign)
            ended = time.monotonic()
            took = ended - began
            self._kept[campaign.name] = (stamp, ended + 5 * took if took > SLOW else ended, made)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return made


def _stamp(store: Store, campaign: Campaign) -> tuple[Any, ...]:
    """What an overview depends on, in a few numbers."""
    q, a = t.queue.c, t.assignments.c
    held = sa.select(sa.func.count(), sa.func.max(a.at))
    held = held.where(a.campaign == campaign.name, a.state == OPEN, a.expires >= now())
    labels = sa.select(sa.func.max(t.labels.c.seq)).join(t.items, t.items.c.id == t.labels.c.item)
    labels = labels.where(t.items.c.campaign == campaign.name)
    items = sa.select(sa.func.count(), sa.func.sum(q.overlap)).where(q.campaign == campaign.name)
    known = sa.select(sa.func.max(t.gold.c.seq))
    with store.db.read() as connection:
        found = [tuple(connection.execute(query).one()) for query in (held, labels, items, known)]
    return (*found, campaign.overlap, repr(sorted(campaign.settings.items())))


def _overview(store: Store, campaign: Campaign) -> Kept:
    q, a = t.queue.c, t.assignments.c
    open_ones = sa.select(a.item).where(a.campaign == campaign.name, a.state == OPEN)
    open_ones = open_ones.where(a.expires >= now())
    own = sa.select(q.item, q.overlap).where(q.campaign == campaign.name, q.overlap.is_not(None))
    with store.db.read() as connection:
        held = set(connection.execute(open_ones).scalars())
        overlaps: dict[str, int] = {row.item: row.overlap for row in connection.execute(own)}
    prices = Prices.of(campaign.settings)
    made = seen(
        store.items(campaign.name),
        list(store.labels(campaign.name)),
        overlap=campaign.overlap,
        overlaps=overlaps,
        held=held,
        prices=prices,
    )
    return Kept(made, prices)


# -- one item -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What one labeller said of an item, answers by the item's numbers."""

    labeller: str
    said: str
    when: str
    seconds: str
    comment: str
    flag: str
    decides: bool


def item_page(store: Store, item: Item, campaign: Campaign, overview: Overview) -> dict[str, Any]:
    """Everything about one item."""
    labels = list(store.labels(item=item.id, standing=True))
    decided = [label for label in labels if ADJUDICATION in label.tags]
    decided = [label for label in decided if label.kind != "skip"]
    ranks = decided[-1].ranks if decided else ()
    task = Task.of(campaign.settings, campaign.name).for_item(item)
    choices = [(str(point), str(point)) for point in task.scale]
    if task.ask == "approval":
        choices = [("good", "good"), ("bad", "bad")]
    before = fields_of(decided[-1], range(len(item.responses))) if decided else {}
    asked = item.prompt.messages or (Message("", item.prompt.text or ""),)
    return {
        "item": item,
        "state": overview.states.get(item.id),
        "prompt": [_shown(m) for m in asked],
        "answers": [[_shown(m) for m in r.messages] for r in item.responses],
        "verdicts": [_verdict(label) for label in labels],
        "ranks": ranks,
        "ask": task.ask,
        "choices": [*choices, ("none", "cannot be said")],
        "before": {name: values[0] for name, values in before.items() if values},
        "decided": decided[-1].labeller if decided else "",
    }  # fmt: skip


def _shown(message: Message) -> tuple[str, Shown]:
    return message.role, show(message.content)


def _verdict(label: Label) -> Verdict:
    return Verdict(
        labeller=label.labeller,
        said=said(label),
        when=moment(label.at),
        seconds=duration(label.cost.seconds),
        comment=label.comment,
        flag=label.flag,
        decides=ADJUDICATION in label.tags,
    )


def said(label: Label) -> str:
    """What a label says in a few words, answers by their numbers in the item."""
    if label.kind == "ranking":
        tiers: dict[float, list[str]] = {}
        for i, rank in enumerate(label.ranks, start=1):
            tiers.setdefault(rank, []).append(str(i))
        return " > ".join(" = ".join(tiers[rank]) for rank in sorted(tiers))
    if label.kind == "rating":
        return ", ".join("–" if x is None else f"{x:g}" for x in label.ratings)
    if label.kind == "approval":
        words = {True: "good", False: "bad", None: "–"}
        return ", ".join(words[x] for x in label.approvals)
    return {"edit": "rewritten", "all_bad": "all bad", "skip": "skipped"}[label.kind]


def preview(item: Item) -> str:
    """The last words of the prompt, in a line."""
    asked = [m.content for m in item.prompt.messages if m.role != "system"]
    text = " ".join((asked[-1] if asked else item.prompt.text or "").split())
    return visible(text if len(text) <= _PREVIEW else f"{text[:_PREVIEW]}…")


# -- people ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Person:
    """A labeller in the table; ``quality`` is None where they have not judged anything here."""

    name: str
    kind: str
    role: str
    active: bool
    quality: Quality | None


def person_rows(
    store: Store, overview: Overview, campaign: str, *, whole: bool
) -> Sequence[Person]:
    """The labellers: everyone, or (without ``whole``) those who have to do with this campaign."""
    quality: Mapping[str, Quality] = {q.labeller: q for q in overview.quality}
    a = t.access.c
    with store.db.read() as connection:
        let_in = sa.select(a.labeller).where(a.campaign == campaign).distinct()
        own = set(connection.execute(let_in).scalars())
    return [
        Person(known.name, known.kind, known.role, known.active, quality.get(known.name))
        for known in store.people.all()
        if whole or known.name in quality or known.name in own
    ]


def share(figure: Interval) -> str:
    """A share with its interval, as people read it: "74% [66%, 81%] of 90"; a dash for nothing."""
    if math.isnan(figure.value):
        return "–"
    ends = f" [{figure.low:.0%}, {figure.high:.0%}]" if figure.known else ""
    return f"{figure.value:.0%}{ends}" + (f" of {figure.n:.0f}" if figure.n else "")


def number(figure: Interval) -> str:
    """A figure with its interval: "0.61 [0.52, 0.70]"; a dash for nothing."""
    if math.isnan(figure.value):
        return "–"
    return f"{figure.value:.2f}" + (
        f" [{figure.low:.2f}, {figure.high:.2f}]" if figure.known else ""
    )


def pace(seconds: float) -> str:
    """A typical time; a dash for none."""
    return "–" if math.isnan(seconds) else duration(seconds)


def euros(money: float) -> str:
    """As in "12.40 €"; a dash for what is not known, words where nothing has a price."""
    if money == 0:
        return "no price"
    return "–" if math.isnan(money) else f"{money:,.2f} €"


WORDS: Mapping[str, Any] = {"share": share, "number": number, "pace": pace, "euros": euros}
"""How the templates write figures."""
