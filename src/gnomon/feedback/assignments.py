"""Who is asked what next, and what they have begun.

Items are handed out the most urgent first, and among those the one with the fewest labellers. In a
campaign one assignment is made at a time, so that no item gets more labellers than it needs,
however many ask at once.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gnomon.errors import DataError
from gnomon.feedback import schema as t
from gnomon.feedback.database import Database
from gnomon.feedback.records import Label, Queued
from gnomon.feedback.rows import now

OPEN, DONE, EXPIRED, RELEASED = "open", "done", "expired", "released"


@dataclass(frozen=True)
class Assignment:
    """An item that somebody was given.

    Attributes:
        id: new whenever the item is given; take it as the id of the label, so that a form that is
            sent twice is one label.
        item, labeller, campaign: who judges what.
        state: open, done, expired or released (given back).
        label: the id of the label that was given before, which a new one must replace.
        at, expires: when it was given, and until when it is kept for them.
    """

    id: str
    item: str
    labeller: str
    campaign: str
    state: str
    label: str | None
    at: str
    expires: str


@dataclass(frozen=True)
class Progress:
    """How far a campaign is.

    Attributes:
        items: that are asked about; gold questions do not count.
        complete: those with as many labellers as they need.
        labels: standing labels, gold questions included.
        open: items that somebody has before them.
        mine: of one labeller, what they have judged, if one was asked about.
    """

    items: int
    complete: int
    labels: int
    open: int
    mine: int = 0


class Queue:
    """Hands out a store's items."""

    def __init__(self, database: Database) -> None:
        self.db = database

    def assign(
        self,
        labeller: str,
        campaign: str,
        *,
        overlap: int | None = None,
        gold_rate: float | None = None,
        minutes: float | None = None,
        chance: random.Random | None = None,
    ) -> Assignment | None:
        """The next item for somebody; None where there is nothing left for them.

        It is never one that they judged, or that has enough labellers. Whoever has an item open
        gets that one again, with new time. What nobody finished in time is given to others.

        Args:
            overlap, gold_rate, minutes: in place of the campaign's own.
            chance: decides where a gold question comes.

        Raises:
            DataError: no such campaign or labeller, or one that is not active.
        """
        chance = chance or random.SystemRandom()
        with self.db.write(durable=False) as connection:
            about = self._begin(connection, labeller, campaign)
            if not about["open"]:
                return None
            _release_expired(connection, campaign)
            until = now(about["minutes"] if minutes is None else minutes)
            held = self._held(connection, labeller, campaign)
            if held is not None:
                same = t.assignments.c.id == held["id"]
                connection.execute(t.assignments.update().where(same).values(expires=until))
                return _assignment({**held, "expires": until})
            rate = about["gold_rate"] if gold_rate is None else gold_rate
            gold = chance.random() < rate
            enough = about["overlap"] if overlap is None else overlap
            item = self._next(connection, labeller, campaign, enough, gold=gold)
            if item is None and gold:
                item = self._next(connection, labeller, campaign, enough, gold=False)
            if item is None:
                return None
            return _give(connection, item, labeller, campaign, until, None)

    def _begin(self, connection: Connection, labeller: str, campaign: str) -> Mapping[str, Any]:
        """The campaign, which nobody else hands items out of before this transaction ends."""
        found = t.campaigns.select().where(t.campaigns.c.name == campaign).with_for_update()
        about = connection.execute(found).mappings().first()
        if about is None:
            raise DataError(f"no campaign {campaign!r:.80}; `gnomon label new` makes one")
        who = sa.select(t.labellers.c.active).where(t.labellers.c.name == labeller)
        active = connection.scalar(who)
        if active is None:
            raise DataError(f"no labeller {labeller!r:.80}; add them first")
        if not active:
            raise DataError(f"labeller {labeller!r} is no longer active")
        return dict(about)

    def _held(
        self, connection: Connection, labeller: str, campaign: str
    ) -> Mapping[str, Any] | None:
        a = t.assignments.c
        mine = sa.and_(a.labeller == labeller, a.campaign == campaign, a.state == OPEN)
        found = t.assignments.select().where(mine).order_by(a.at).limit(1)
        row = connection.execute(found).mappings().first()
        return None if row is None else dict(row)

    def _next(
        self, connection: Connection, labeller: str, campaign: str, overlap: int, gold: bool
    ) -> str | None:
        """The item to ask about; the answers to gold questions are known, so anyone may get one."""
        q, a = t.queue.c, t.assignments.c
        judged = sa.exists().where(t.labels.c.item == q.item, t.labels.c.labeller == labeller)
        done = sa.exists().where(a.item == q.item, a.labeller == labeller, a.state == DONE)
        found = sa.select(q.item).where(q.campaign == campaign, q.gold == gold, ~judged, ~done)
        if not gold:
            found = found.where(q.taken < sa.func.coalesce(q.overlap, overlap))
        found = found.order_by(q.urgency, q.taken, q.item).limit(1)
        item: str | None = connection.scalar(found)
        return item

    def release(self, assignment: str) -> None:
        """Give an item back unjudged; they may get it again."""
        with self.db.write(durable=False) as connection:
            same = sa.and_(t.assignments.c.id == assignment, t.assignments.c.state == OPEN)
            _close(connection, same, RELEASED)

    def reopen(self, labeller: str, item: str) -> Assignment:
        """Let somebody judge an item again: the new label must replace the old one
        (``Assignment.label``).

        Raises:
            DataError: they have not judged it.
        """
        a, later = t.assignments.c, t.labels.alias("later")
        replaced = sa.exists().where(later.c.replaces == t.labels.c.id)
        mine = sa.and_(t.labels.c.item == item, t.labels.c.labeller == labeller)
        with self.db.write(durable=False) as connection:
            last = sa.select(t.labels.c.id).where(mine, ~replaced)
            label = connection.scalar(last.order_by(t.labels.c.seq.desc()).limit(1))
            if label is None:
                raise DataError(f"labeller {labeller!r:.80} has not judged item {item!r:.80}")
            about = sa.select(t.campaigns).join(t.items, t.items.c.campaign == t.campaigns.c.name)
            row = connection.execute(about.where(t.items.c.id == item)).mappings().one()
            held = sa.and_(a.labeller == labeller, a.campaign == row["name"], a.state == OPEN)
            _close(connection, held, RELEASED)
            until = now(row["minutes"])
            return _give(connection, item, labeller, row["name"], until, label)

    def last(self, labeller: str, campaign: str) -> Assignment | None:
        """What somebody judged last, to undo it with :meth:`reopen`."""
        a = t.assignments.c
        mine = sa.and_(a.labeller == labeller, a.campaign == campaign, a.state == DONE)
        found = t.assignments.select().where(mine).order_by(a.closed.desc()).limit(1)
        with self.db.read() as connection:
            row = connection.execute(found).mappings().first()
        return None if row is None else _assignment(dict(row))

    def set_priority(self, priorities: Mapping[str, float]) -> None:
        """Say which items come first: the higher, the sooner (0 where none is given)."""
        self._set([{"key": k, "urgency": -float(v)} for k, v in priorities.items()], "urgency")

    def set_overlap(self, overlaps: Mapping[str, int | None]) -> None:
        """Ask for more (or fewer) labellers for some items; None is as many as the campaign's."""
        self._set([{"key": k, "overlap": v} for k, v in overlaps.items()], "overlap")

    def told(self, campaign: str | None = None) -> dict[str, Queued]:
        """By item, what :meth:`set_priority` and :meth:`set_overlap` were told, where it is not
        what holds of all."""
        q = t.queue.c
        found = sa.select(q.item, q.urgency, q.overlap)
        found = found.where(sa.or_(q.urgency != 0, q.overlap.is_not(None)))
        if campaign is not None:
            found = found.where(q.campaign == campaign)
        with self.db.read() as connection:
            rows = connection.execute(found.order_by(q.item))
            return {row.item: Queued(0.0 - row.urgency, row.overlap) for row in rows}

    def _set(self, rows: Sequence[dict[str, Any]], column: str) -> None:
        same = t.queue.c.item == sa.bindparam("key")
        change = t.queue.update().where(same).values({column: sa.bindparam(column)})
        if rows:
            with self.db.write(durable=False) as connection:
                connection.execute(change, rows)

    def progress(self, campaign: str, labeller: str | None = None) -> Progress:
        """How far a campaign is, and how much of it is one labeller's."""
        q, a = t.queue.c, t.assignments.c
        with self.db.read() as connection:

            def count(*where: Any) -> int:
                found = sa.select(sa.func.count()).select_from(t.queue).where(*where)
                return int(connection.scalar(found) or 0)

            own = sa.select(t.campaigns.c.overlap).where(t.campaigns.c.name == campaign)
            enough = sa.func.coalesce(q.overlap, own.scalar_subquery())
            asked = sa.and_(q.campaign == campaign, sa.not_(q.gold))
            later = t.labels.alias("later")
            labels = sa.select(sa.func.count(), sa.func.count().filter(_is(labeller)))
            labels = labels.select_from(t.labels).join(t.items, t.items.c.id == t.labels.c.item)
            labels = labels.where(t.items.c.campaign == campaign, t.labels.c.kind != "skip")
            labels = labels.where(~sa.exists().where(later.c.replaces == t.labels.c.id))
            total, mine = connection.execute(labels).one()
            held = sa.select(sa.func.count()).where(a.campaign == campaign, a.state == OPEN)
            return Progress(
                count(asked),
                count(asked, q.taken >= enough),
                int(total),
                int(connection.scalar(held) or 0),
                int(mine),
            )

    # -- drafts -----------------------------------------------------------------------------------

    def save_draft(self, labeller: str, item: str, body: Mapping[str, Any]) -> None:
        """Keep what somebody has entered so far; it is no label, and goes when theirs comes."""
        d = t.drafts.c
        same = sa.and_(d.labeller == labeller, d.item == item)
        row = {"labeller": labeller, "item": item, "body": dict(body), "at": now()}
        with self.db.write(durable=False) as connection:
            connection.execute(t.drafts.delete().where(same))
            connection.execute(t.drafts.insert(), [row])

    def draft(self, labeller: str, item: str) -> dict[str, Any] | None:
        """What somebody has entered so far, or None."""
        d = t.drafts.c
        found = sa.select(d.body).where(d.labeller == labeller, d.item == item)
        with self.db.read() as connection:
            body: dict[str, Any] | None = connection.scalar(found)
        return body


def requeue(connection: Connection, labels: Sequence[Label]) -> None:
    """Count new labels: their assignments are done, their drafts go, their items have one more."""
    items = list({label.item for label in labels})
    by_who = {(label.item, label.labeller): label.id for label in labels}
    a = t.assignments.c
    waiting = sa.select(a.id, a.item, a.labeller).where(a.item.in_(items))
    done = [
        {"key": row.id, "given": by_who[row.item, row.labeller]}
        for row in connection.execute(waiting)
        if (row.item, row.labeller) in by_who
    ]
    if done:
        change = t.assignments.update().where(a.id == sa.bindparam("key"))
        values = {"state": DONE, "label": sa.bindparam("given"), "closed": now()}
        connection.execute(change.values(values), done)
    d = t.drafts.c
    drafts = connection.execute(sa.select(d.item, d.labeller).where(d.item.in_(items)))
    for item, labeller in [tuple(row) for row in drafts]:
        if (item, labeller) in by_who:
            same = sa.and_(d.item == item, d.labeller == labeller)
            connection.execute(t.drafts.delete().where(same))
    recount(connection, items)


def recount(connection: Connection, items: Iterable[str]) -> None:
    """Count anew who judged some items, or has them open; a skip is no judgement."""
    q, a, later = t.queue.c, t.assignments.c, t.labels.alias("later")
    judged = sa.select(sa.func.count(sa.distinct(t.labels.c.labeller))).where(
        t.labels.c.item == q.item,
        t.labels.c.kind != "skip",
        ~sa.exists().where(later.c.replaces == t.labels.c.id),
    )
    held = sa.select(sa.func.count()).where(a.item == q.item, a.state == OPEN, a.label.is_(None))
    taken = judged.scalar_subquery() + held.scalar_subquery()
    connection.execute(t.queue.update().where(q.item.in_(list(items))).values(taken=taken))


def _is(labeller: str | None) -> sa.ColumnElement[bool]:
    return sa.false() if labeller is None else t.labels.c.labeller == labeller


def _give(
    connection: Connection, item: str, labeller: str, campaign: str, until: str, label: str | None
) -> Assignment:
    row: dict[str, Any] = {
        "id": secrets.token_hex(16),
        "item": item,
        "labeller": labeller,
        "campaign": campaign,
        "state": OPEN,
        "label": label,
        "at": now(),
        "expires": until,
    }
    a = t.assignments.c
    mine = sa.and_(a.item == item, a.labeller == labeller)
    if not connection.execute(t.assignments.update().where(mine).values(row)).rowcount:
        connection.execute(t.assignments.insert(), [row])
    recount(connection, [item])
    return Assignment(**row)


def _release_expired(connection: Connection, campaign: str) -> None:
    a = t.assignments.c
    late = sa.and_(a.state == OPEN, a.expires < now(), a.campaign == campaign)
    _close(connection, late, EXPIRED)


def _close(connection: Connection, which: sa.ColumnElement[bool], state: str) -> None:
    """Close open assignments without a label; one that was reopened counts as done again."""
    a = t.assignments.c
    rows = list(connection.execute(sa.select(a.id, a.item, a.label).where(which)))
    if not rows:
        return
    after = [{"key": row.id, "after": DONE if row.label is not None else state} for row in rows]
    change = t.assignments.update().where(a.id == sa.bindparam("key"))
    connection.execute(change.values(state=sa.bindparam("after")), after)
    recount(connection, {row.item for row in rows})


def _assignment(row: Mapping[str, Any]) -> Assignment:
    return Assignment(**{name: row[name] for name in Assignment.__dataclass_fields__})
