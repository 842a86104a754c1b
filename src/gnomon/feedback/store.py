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
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gnomon.errors import DataError
from gnomon.feedback import schema as t
from gnomon.feedback.assignments import Queue
from gnomon.feedback.campaigns import Added, Campaign, Expense, Guideline, campaign_row
from gnomon.feedback.columns import ColumnBuilder, VoteColumns
from gnomon.feedback.database import Database
from gnomon.feedback.people import People
from gnomon.feedback.records import Item, Label, LabellerKind, Queued, Vote
from gnomon.feedback.rows import check_name, now, read_label
from gnomon.feedback.stored_items import add_items, select_items, set_gold, whole_items
from gnomon.feedback.stored_labels import add_labels, compared, known_labels, within
from gnomon.plugins import did_you_mean
from gnomon.records import Cost

__all__ = ["CHUNK", "Added", "Campaign", "Expense", "Guideline", "Store", "chunks"]

CHUNK = 1000
"""Rows that are written in one transaction, or read at a time."""
T = TypeVar("T")


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
        row = campaign_row(campaign)
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

    def add_items(self, items: Iterable[Item], told: Mapping[str, Queued] | None = None) -> Added:
        """Add items; a campaign that is missing is made. Those that are there stay as they are.

        Args:
            told: by id, how soon new items come and how many labellers they need.

        Raises:
            DataError: an id that another item has; meta that is not JSON. Items of earlier chunks
                (of 1000) are in the store.
        """
        total = Added()
        for chunk in chunks(items):
            with self.db.write() as connection:
                total += add_items(connection, {item.id: item for item in chunk}, told or {})
        return total

    def items(self, campaign: str | None = None) -> Iterator[Item]:
        """Items in the order in which they came in, read a thousand at a time."""
        found = select_items().order_by(t.items.c.seq)
        if campaign is not None:
            found = found.where(t.items.c.campaign == campaign)
        with self._stream(found) as (connection, rows):
            for part in chunks(rows):
                yield from whole_items(connection, part)

    def item(self, id: str) -> Item:
        """One item.

        Raises:
            DataError: there is none.
        """
        with self.db.read() as connection:
            rows = list(connection.execute(select_items().where(t.items.c.id == id)).mappings())
            if not rows:
                raise DataError(f"{self.where}: no item {id!r:.80}")
            return next(whole_items(connection, rows))

    def set_gold(self, item: str, ranks: Sequence[float] | None, who: str = "") -> None:
        """Say which ranks of an item are right, which makes it a gold question; None takes it back.

        Raises:
            DataError: no such item, or not one rank for each response.
        """
        with self.db.write() as connection:
            set_gold(connection, [(item, ranks)], who)

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
                total += add_labels(connection, chunk, add_labellers)
        return total

    def labels(
        self,
        campaign: str | None = None,
        *,
        item: str | None = None,
        labeller: str | None = None,
        standing: bool = False,
        first: int | None = None,
    ) -> Iterator[Label]:
        """Labels in the order in which they came in, read a thousand at a time.

        Args:
            standing: leave out those that a later one replaces.
            first: as if only so many of the campaign's labels had come in yet.
        """
        found = t.labels.select().order_by(t.labels.c.seq)
        found = within(found, campaign, standing, first)
        if item is not None:
            found = found.where(t.labels.c.item == item)
        if labeller is not None:
            found = found.where(t.labels.c.labeller == labeller)
        with self._stream(found) as (_, rows):
            yield from map(read_label, rows)

    def label(self, id: str) -> Label | None:
        """One label, or None."""
        with self.db.read() as connection:
            return known_labels(connection, [id]).get(id)

    def votes(self, campaign: str | None = None) -> Iterator[Vote]:
        """Every comparison in the standing labels; see :meth:`vote_columns`."""
        return iter(self.vote_columns(campaign))

    def vote_columns(self, campaign: str | None = None, *, first: int | None = None) -> VoteColumns:
        """Every comparison in the standing labels, as arrays; edits, skips and "all bad" compare
        nothing.

        Args:
            first: as if only so many of the campaign's labels had come in yet.
        """
        c = t.labels.c
        texts = [sa.cast(column, sa.Text) for column in (c.ranks, c.ratings, c.approvals, c.shown)]
        found = sa.select(c.item, c.labeller, c.kind, c.confidence, *texts).order_by(c.seq)
        found = found.where(c.kind.in_(["ranking", "rating", "approval"]))
        built = ColumnBuilder()
        found = within(found, campaign, True, first)
        with self._stream(found, mappings=False) as (_, rows):
            for item, labeller, kind, confidence, *said in rows:
                built.add(item, labeller, compared(kind, *said), confidence)
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
