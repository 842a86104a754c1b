"""Where prompts, responses, labels and those who gave them are kept.

>>> with Store.open("labels.db") as store:
...     store.add_items([make_item(prompt, responses, campaign="pilot")])
...     store.add_labels([label])
...     votes = store.vote_columns("pilot")

A file is SQLite; ``postgresql://USER@HOST/DATABASE`` is PostgreSQL. Any number of threads and
processes may use one store at the same time. What is added twice is there once: items and labels
are known by their ids. A label is never changed or removed, by gnomon or by anyone: the database
refuses it. A correction is another label that names the one it replaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, RowMapping

from gnomon.errors import DataError
from gnomon.feedback import schema as t
from gnomon.feedback.assignments import Queue, requeue
from gnomon.feedback.columns import ColumnBuilder, VoteColumns
from gnomon.feedback.database import Database
from gnomon.feedback.people import People, known_labellers
from gnomon.feedback.records import Item, Label, LabellerKind, Vote, votes
from gnomon.feedback.rows import (
    check_id,
    check_label,
    check_name,
    item_row,
    label_row,
    link_rows,
    now,
    prompt_row,
    read_item,
    read_label,
    response_rows,
)
from gnomon.plugins import did_you_mean
from gnomon.records import Cost

CHUNK = 1000
"""Rows that are written in one transaction, or read at a time."""
T = TypeVar("T")


@dataclass(frozen=True)
class Added:
    """How many were new, and how many were there already."""

    new: int = 0
    known: int = 0

    def __add__(self, other: Added) -> Added:
        return Added(self.new + other.new, self.known + other.known)


@dataclass(frozen=True)
class Campaign:
    """A collection of items that people are asked about in the same way.

    Attributes:
        kind: ``labels``, or ``spotcheck`` (people look at what a reward model liked).
        overlap: labellers per item.
        gold_rate: the share of questions whose answer is known, from 0 to 1.
        minutes: how long somebody has for an item before it is given to another.
        guideline: the version they work by; a label keeps the one it was given under.
        settings: of the page: what is asked (confidence, tags, ...).
        open: whether items are handed out.
    """

    name: str
    kind: str = "labels"
    overlap: int = 1
    gold_rate: float = 0.0
    minutes: float = 60.0
    guideline: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    open: bool = True
    at: str = ""


@dataclass(frozen=True)
class Guideline:
    """What labellers are told to go by. Another text is another version."""

    version: str
    text: str
    at: str = ""


@dataclass(frozen=True)
class Expense:
    """What was paid beside the labels' own costs: an hour's wage, a platform's fee."""

    what: str
    cost: Cost
    campaign: str | None = None
    labeller: str | None = None
    at: str = ""


class Store:
    """Prompts, responses, labels and labellers in one database; see the module.

    Attributes:
        where: the file or URL, without a password.
        people: labellers, their tokens, and what they told about themselves.
        queue: who is asked what next.
    """

    def __init__(self, database: Database) -> None:
        self.db = database
        self.where = database.name
        self.people = People(database)
        self.queue = Queue(database)

    @classmethod
    def open(cls, where: str | Path, *, create: bool = True) -> Store:
        """Open a store, making it where it is missing, and bringing an older one up to date.

        Args:
            where: a file, or ``postgresql://USER@HOST/DATABASE``.
            create: with False, a store that is not there is an error.

        Raises:
            ConfigError: a URL that is none, or a package that is missing.
            DataError: not a store, or one that a newer gnomon wrote.
            RunError: the database cannot be reached.
        """
        return cls(Database(where, create))

    def close(self) -> None:
        """Close all connections."""
        self.db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- campaigns and guidelines -----------------------------------------------------------------

    def set_campaign(self, campaign: Campaign) -> None:
        """Add a campaign, or change how it is run from now on.

        Raises:
            DataError: a name or number that cannot be.
        """
        check_name(campaign.name, "campaign", empty=True)
        if campaign.overlap < 1 or not 0 <= campaign.gold_rate <= 1 or not campaign.minutes > 0:
            raise DataError(
                f"campaign {campaign.name!r}: overlap is 1 or more, gold_rate from 0 to 1 and "
                f"minutes above 0, not {campaign.overlap}, {campaign.gold_rate:g} and "
                f"{campaign.minutes:g}"
            )
        row = _campaign_row(campaign)
        with self.db.write() as connection:
            old = {k: v for k, v in row.items() if k not in ("name", "at")}
            same = t.campaigns.c.name == campaign.name
            if not connection.execute(t.campaigns.update().where(same).values(old)).rowcount:
                connection.execute(t.campaigns.insert(), [row])

    def campaigns(self) -> list[Campaign]:
        """All campaigns, oldest first."""
        with self.db.read() as connection:
            rows = connection.execute(t.campaigns.select().order_by(t.campaigns.c.at)).mappings()
            return [Campaign(**row) for row in rows]

    def campaign(self, name: str) -> Campaign:
        """One campaign.

        Raises:
            DataError: there is none, with the nearest name.
        """
        known = {campaign.name: campaign for campaign in self.campaigns()}
        if name not in known:
            raise DataError(
                f"{self.where}: no campaign {name!r}; {did_you_mean(name, known, 'there are')}"
            )
        return known[name]

    def add_guideline(self, guideline: Guideline) -> None:
        """Add a version of the guidelines.

        Raises:
            DataError: the version is there with another text.
        """
        check_name(guideline.version, "guideline")
        with self.db.write() as connection:
            known = connection.scalar(
                sa.select(t.guidelines.c.text).where(t.guidelines.c.version == guideline.version)
            )
            if known is None:
                row = {"version": guideline.version, "text": guideline.text}
                connection.execute(t.guidelines.insert(), [row | {"at": guideline.at or now()}])
            elif known != guideline.text:
                raise DataError(
                    f"guideline {guideline.version!r} is there with another text, and labels may "
                    "have been given under it; give the new text a new version"
                )

    def guidelines(self) -> list[Guideline]:
        """All versions, oldest first."""
        with self.db.read() as connection:
            rows = connection.execute(t.guidelines.select().order_by(t.guidelines.c.at)).mappings()
            return [Guideline(**row) for row in rows]

    # -- items ------------------------------------------------------------------------------------

    def add_items(self, items: Iterable[Item]) -> Added:
        """Add items; a campaign that is missing is made. Those that are there stay as they are.

        Raises:
            DataError: an id that another item has; meta that is not JSON. Items of earlier chunks
                (of 1000) are in the store.
        """
        total = Added()
        for chunk in chunks(items):
            with self.db.write() as connection:
                total += self._add_items(connection, {item.id: item for item in chunk})
        return total

    def _add_items(self, connection: Connection, items: Mapping[str, Item]) -> Added:
        for item in items.values():
            check_id(item.id, "item")
            if not item.responses:
                raise DataError(f"item {item.id}: no responses, so there is nothing to judge")
        there = connection.execute(
            sa.select(t.items.c.id, t.items.c.campaign, t.items.c.prompt, t.items.c.size).where(
                t.items.c.id.in_(items)
            )
        )
        known = {row.id: (row.campaign, row.prompt, row.size) for row in there}
        fresh = [item for item in items.values() if item.id not in known]
        for key, said in known.items():
            row = item_row(items[key])
            if said != (row["campaign"], row["prompt"], row["size"]):
                raise DataError(f"item {key} is in the store with another content; give a new id")
        if fresh:
            self._insert_items(connection, fresh)
        gold = [(item.id, item.gold) for item in items.values() if item.gold is not None]
        _set_gold(connection, gold, "")
        return Added(len(fresh), len(known))

    def _insert_items(self, connection: Connection, items: Sequence[Item]) -> None:
        for name in sorted({item.campaign for item in items}):
            check_name(name, "campaign", empty=True)
            self._ensure(connection, t.campaigns, [_campaign_row(Campaign(name))])
        prompts = [prompt_row(item.prompt) for item in items]
        self._ensure(connection, t.prompts, prompts)
        self._ensure(connection, t.responses, [r for item in items for r in response_rows(item)])
        connection.execute(t.items.insert(), [item_row(item) for item in items])
        connection.execute(t.item_responses.insert(), [r for i in items for r in link_rows(i)])
        waiting = {"gold": False, "urgency": 0.0, "taken": 0}
        rows = [{"item": i.id, "campaign": i.campaign, **waiting} for i in items]
        connection.execute(t.queue.insert(), rows)

    def _ensure(self, connection: Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        """Insert rows that are not there yet, known by their primary key."""
        (key,) = table.primary_key.columns
        unique = {row[key.name]: row for row in rows}
        in_order = [
            unique[k] for k in sorted(unique)
        ]  # two processes that meet never wait in a ring
        dialect = sqlite if self.db.is_sqlite else postgresql
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), in_order)

    def items(self, campaign: str | None = None) -> Iterator[Item]:
        """Items in the order in which they came in, read a thousand at a time."""
        found = _items().order_by(t.items.c.seq)
        if campaign is not None:
            found = found.where(t.items.c.campaign == campaign)
        with self._stream(found) as (connection, rows):
            for part in chunks(rows):
                yield from _whole(connection, part)

    def item(self, id: str) -> Item:
        """One item.

        Raises:
            DataError: there is none.
        """
        with self.db.read() as connection:
            rows = list(connection.execute(_items().where(t.items.c.id == id)).mappings())
            if not rows:
                raise DataError(f"{self.where}: no item {id!r:.80}")
            return next(_whole(connection, rows))

    def set_gold(self, item: str, ranks: Sequence[float] | None, who: str = "") -> None:
        """Say which ranks of an item are right, which makes it a gold question; None takes it back.

        Raises:
            DataError: no such item, or not one rank for each response.
        """
        with self.db.write() as connection:
            _set_gold(connection, [(item, ranks)], who)

    # -- labels -----------------------------------------------------------------------------------

    def add_labels(
        self, labels: Iterable[Label], *, add_labellers: LabellerKind | None = None
    ) -> Added:
        """Add labels. The same label twice is one; a label without a time gets the present one.

        Assignments of their labellers for their items are closed, and drafts removed.

        Args:
            add_labellers: of which kind labellers are who are not known yet; None refuses them.

        Raises:
            DataError: a label that cannot be: of an unknown item or labeller, with an id that has
                another content, replacing one that is not its labeller's own or is replaced
                already. Nothing of its chunk (1000) is stored; earlier chunks are.
        """
        total = Added()
        for chunk in chunks(labels):
            with self.db.write() as connection:
                total += self._add_labels(connection, chunk, add_labellers)
        return total

    def _add_labels(
        self, connection: Connection, labels: Sequence[Label], kind: LabellerKind | None
    ) -> Added:
        fresh: dict[str, Label] = {}
        known = self._known(connection, {label.id for label in labels})
        for label in labels:
            check_id(label.id, "label")
            before = known.get(label.id) or fresh.get(label.id)
            if before is None:
                fresh[label.id] = label
            elif _comparable(label, before) != _comparable(before, label):
                raise DataError(
                    f"label {label.id!r} is there with another content, and a label is never "
                    "changed; give the correction an id of its own and replaces=" + repr(label.id)
                )
        if fresh:
            new = list(fresh.values())
            self._check(connection, new, known, kind)
            connection.execute(t.labels.insert(), [label_row(label) for label in new])
            requeue(connection, new)
        return Added(len(fresh), len(labels) - len(fresh))

    def _known(self, connection: Connection, ids: Iterable[str]) -> dict[str, Label]:
        rows = connection.execute(t.labels.select().where(t.labels.c.id.in_(list(ids)))).mappings()
        return {row["id"]: read_label(row) for row in rows}

    def _check(
        self,
        connection: Connection,
        labels: Sequence[Label],
        known: Mapping[str, Label],
        kind: LabellerKind | None,
    ) -> None:
        ids = {label.item for label in labels}
        found = connection.execute(
            sa.select(t.items.c.id, t.items.c.size).where(t.items.c.id.in_(ids))
        )
        sizes: dict[str, int] = {row.id: row.size for row in found}
        for label in labels:
            check_label(label, sizes.get(label.item))
        known_labellers(connection, [label.labeller for label in labels], kind)
        corrections = [label for label in labels if label.replaces is not None]
        if not corrections:
            return
        olds = self._known(connection, {str(label.replaces) for label in corrections})
        olds = {**{label.id: label for label in labels}, **olds}
        done = connection.execute(
            sa.select(t.labels.c.replaces, t.labels.c.id).where(t.labels.c.replaces.in_(olds))
        )
        replaced: dict[str, str] = {row.replaces: row.id for row in done}
        for label in corrections:
            _check_correction(label, olds, replaced)
            replaced[str(label.replaces)] = label.id

    def labels(
        self,
        campaign: str | None = None,
        *,
        item: str | None = None,
        labeller: str | None = None,
        standing: bool = False,
    ) -> Iterator[Label]:
        """Labels in the order in which they came in, read a thousand at a time.

        Args:
            standing: leave out those that a later one replaces.
        """
        found = t.labels.select().order_by(t.labels.c.seq)
        found = _within(found, campaign, standing)
        if item is not None:
            found = found.where(t.labels.c.item == item)
        if labeller is not None:
            found = found.where(t.labels.c.labeller == labeller)
        with self._stream(found) as (_, rows):
            yield from map(read_label, rows)

    def label(self, id: str) -> Label | None:
        """One label, or None."""
        with self.db.read() as connection:
            return self._known(connection, [id]).get(id)

    def votes(self, campaign: str | None = None) -> Iterator[Vote]:
        """Every comparison in the standing labels; see :meth:`vote_columns`."""
        return iter(self.vote_columns(campaign))

    def vote_columns(self, campaign: str | None = None) -> VoteColumns:
        """Every comparison in the standing labels, as arrays; edits, skips and "all bad" compare
        nothing."""
        c = t.labels.c
        texts = [sa.cast(column, sa.Text) for column in (c.ranks, c.ratings, c.approvals, c.shown)]
        found = sa.select(c.item, c.labeller, c.kind, c.confidence, *texts).order_by(c.seq)
        found = found.where(c.kind.in_(["ranking", "rating", "approval"]))
        built = ColumnBuilder()
        with self._stream(_within(found, campaign, standing=True), mappings=False) as (_, rows):
            for item, labeller, kind, confidence, *said in rows:
                built.add(item, labeller, _compared(kind, *said), confidence)
        return built.columns()

    # -- what it cost beside the labels ------------------------------------------------------------

    def add_expense(self, expense: Expense) -> None:
        """Note what was paid that no single label cost."""
        cost = expense.cost
        row = {
            "campaign": expense.campaign, "labeller": expense.labeller, "what": expense.what,
            "seconds": cost.seconds, "tokens": cost.tokens, "money": cost.money,
            "at": expense.at or now(),
        }  # fmt: skip
        with self.db.write() as connection:
            connection.execute(t.costs.insert(), [row])

    def expenses(self, campaign: str | None = None) -> list[Expense]:
        """What was paid beside the labels' own costs, in order; of one campaign, or all."""
        found = t.costs.select().order_by(t.costs.c.seq)
        if campaign is not None:
            found = found.where(t.costs.c.campaign == campaign)
        with self.db.read() as connection:
            return [
                Expense(
                    row.what,
                    Cost(row.seconds, row.tokens, row.money),
                    row.campaign,
                    row.labeller,
                    row.at,
                )
                for row in connection.execute(found)
            ]

    @contextmanager
    def _stream(
        self, found: sa.Select[Any], mappings: bool = True
    ) -> Iterator[tuple[Connection, Iterable[Any]]]:
        """Rows as they are read: what is written meanwhile is not among them."""
        with self.db.read() as connection:
            result = connection.execution_options(yield_per=CHUNK).execute(found)
            try:
                yield connection, result.mappings() if mappings else result
            finally:
                result.close()

    # -- labellers, by the names that other parts use ---------------------------------------------

    def add_labeller(
        self, name: str, kind: LabellerKind = "person", role: str = "labeller"
    ) -> None:
        """See :meth:`People.add <gnomon.feedback.people.People.add>`."""
        self.people.add(name, kind, role)

    def labellers(self) -> list[str]:
        """The pseudonyms of all labellers, oldest first."""
        return [labeller.name for labeller in self.people.all()]


def chunks(rows: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """Lists of at most ``size`` of them."""
    left = iter(rows)
    while part := list(islice(left, size)):
        yield part


def _campaign_row(campaign: Campaign) -> dict[str, Any]:
    row = {name: getattr(campaign, name) for name in campaign.__dataclass_fields__}
    return row | {"settings": dict(campaign.settings), "at": campaign.at or now()}


def _items() -> sa.Select[Any]:
    same = t.items.c.prompt == t.prompts.c.id
    return sa.select(t.items, t.prompts.c.messages, t.prompts.c.text).join(t.prompts, same)


def _whole(connection: Connection, rows: Sequence[RowMapping]) -> Iterator[Item]:
    """Items with their responses and gold ranks."""
    ids = [row["id"] for row in rows]
    links = t.item_responses
    same = links.c.response == t.responses.c.id
    found = sa.select(links, t.responses.c.messages).join(t.responses, same)
    found = found.where(links.c.item.in_(ids)).order_by(links.c.item, links.c.place)
    parts: dict[str, list[RowMapping]] = {}
    for link in connection.execute(found).mappings():
        parts.setdefault(link["item"], []).append(link)
    said = sa.select(t.gold.c.item, t.gold.c.ranks).where(t.gold.c.item.in_(ids))
    gold = {row.item: row.ranks for row in connection.execute(said.order_by(t.gold.c.seq))}
    for row in rows:
        yield read_item(row, parts.get(row["id"], []), gold.get(row["id"]))


def _set_gold(
    connection: Connection, known: Sequence[tuple[str, Sequence[float] | None]], who: str
) -> None:
    if not known:
        return
    ids = [item for item, _ in known]
    found = connection.execute(sa.select(t.items.c.id, t.items.c.size).where(t.items.c.id.in_(ids)))
    sizes = {row.id: row.size for row in found}
    said = sa.select(t.gold.c.item, t.gold.c.ranks).where(t.gold.c.item.in_(ids))
    before = {row.item: row.ranks for row in connection.execute(said.order_by(t.gold.c.seq))}
    for item, ranks in known:
        new = None if ranks is None else [float(rank) for rank in ranks]
        if new is not None and len(new) != sizes.get(item):
            raise DataError(
                f"gold question {item!r:.80}: {len(new)} ranks for {sizes.get(item, 'no')} "
                "responses; give one for each"
            )
        if item in sizes and new != before.get(item):
            row = {"item": item, "ranks": new, "who": who, "at": now()}
            connection.execute(t.gold.insert(), [row])
            asked = t.queue.update().where(t.queue.c.item == item)
            connection.execute(asked.values(gold=new is not None))


def _within(found: sa.Select[Any], campaign: str | None, standing: bool) -> sa.Select[Any]:
    """Labels of a campaign; with ``standing``, those that none replaces."""
    if campaign is not None:
        found = found.join(t.items, t.items.c.id == t.labels.c.item)
        found = found.where(t.items.c.campaign == campaign)
    if standing:
        later = t.labels.alias("later")
        found = found.where(~sa.exists().where(later.c.replaces == t.labels.c.id))
    return found


def _comparable(label: Label, other: Label) -> dict[str, Any]:
    """What must be equal for two labels to be the same: a time only where both give one."""
    row = label_row(label)
    return row if label.at and other.at else row | {"at": ""}


def _check_correction(label: Label, olds: Mapping[str, Label], replaced: Mapping[str, str]) -> None:
    old = olds.get(str(label.replaces))
    problem = ""
    if old is None or old.id == label.id:
        problem = "there is no such label"
    elif (old.item, old.labeller) != (label.item, label.labeller):
        problem = f"that one is of {old.labeller!r} about item {old.item}"
    elif old.id in replaced:
        problem = f"it is replaced by {replaced[old.id]!r} already; replace that one"
    if problem:
        raise DataError(f"label {label.id!r} replaces {label.replaces!r}, but {problem}")


@lru_cache(maxsize=100_000)
def _compared(
    kind: Any, ranks: str | None, ratings: str | None, approvals: str | None, shown: str | None
) -> tuple[tuple[int, int, float, int], ...]:
    """The comparisons in a judgement: (a, b, won, a_first). Few judgements differ, so most are
    remembered."""
    import json

    def listed(text: str | None) -> tuple[Any, ...]:
        return () if text is None else tuple(json.loads(text))

    label = Label(
        "", "", "", kind, listed(ranks), listed(ratings), listed(approvals), shown=listed(shown)
    )
    return tuple(
        (v.a, v.b, v.won, -1 if v.a_first is None else int(v.a_first)) for v in votes([label])
    )
