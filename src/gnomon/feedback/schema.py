"""The tables of a store, and how texts and lists become columns that SQLite and PostgreSQL keep.

Prompts, responses, items, labels and guidelines are never changed: triggers in the database refuse
it (``migrations/versions``). What a labeller agreed to tell about themselves is in ``personal`` and
nowhere else.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

VERSION_TABLE = "gnomon_store"
"""Where alembic notes the schema's version."""

_UNSAFE = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a([0-9a-f]{4})")


def escaped(text: str) -> str:
    """A text that every database takes: NUL (PostgreSQL refuses it), halves of characters (no
    encoding has them) and the escape itself become ``\\x1a`` and four hexadecimal digits."""
    return _UNSAFE.sub(lambda found: f"\x1a{ord(found[0]):04x}", text)


def unescaped(text: str) -> str:
    """The text that :func:`escaped` was given."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) if "\x1a" in text else text


class AnyText(TypeDecorator[str]):
    """Any text at all, read back as it was written."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else escaped(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> str | None:
        return None if value is None else unescaped(value)


class Json(TypeDecorator[Any]):
    """Lists and objects as JSON in ASCII; what JSON has no word for is refused."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any | None, dialect: Dialect) -> str | None:
        return None if value is None else dumps(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


def dumps(value: Any) -> str:
    """JSON that is the same for equal values."""
    return _encode(value)


_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _number() -> Column[int]:
    """The order in which rows came in."""
    kind = BigInteger().with_variant(Integer(), "sqlite")
    return Column("seq", kind, primary_key=True, autoincrement=True)


def _to(column: str, name: str, **more: Any) -> Column[str]:
    kind = AnyText() if column in ("campaigns.name", "labellers.name") else String(64)
    return Column(name, kind, ForeignKey(column), **more)


def _at(name: str = "at", nullable: bool = False) -> Column[str]:
    """A time in UTC, as ISO 8601."""
    return Column(name, String(40), nullable=nullable)


def _text(name: str) -> Column[str]:
    return Column(name, AnyText(), nullable=False, server_default="")


campaigns = Table(
    "campaigns", metadata,
    Column("name", AnyText(), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("overlap", Integer, nullable=False),
    Column("gold_rate", Float, nullable=False),
    Column("minutes", Float, nullable=False),
    _text("guideline"),
    Column("settings", Json, nullable=False),
    Column("open", Boolean, nullable=False),
    _at(),
)  # fmt: skip
guidelines = Table(
    "guidelines", metadata,
    Column("version", AnyText(), primary_key=True),
    Column("text", AnyText(), nullable=False),
    _at(),
)  # fmt: skip
prompts = Table(
    "prompts", metadata,
    Column("id", String(64), primary_key=True),
    Column("messages", Json, nullable=False),
    Column("text", AnyText()),
)  # fmt: skip
responses = Table(
    "responses", metadata,
    Column("id", String(64), primary_key=True),
    Column("messages", Json, nullable=False),
)  # fmt: skip
items = Table(
    "items", metadata,
    _number(),
    Column("id", String(64), nullable=False, unique=True),
    _to("campaigns.name", "campaign", nullable=False, index=True),
    _to("prompts.id", "prompt", nullable=False),
    Column("size", Integer, nullable=False),
    Column("name", AnyText(), nullable=False),
    Column("category", AnyText()),
    Column("meta", Json),
    Column("source", Json),
    Column("origin", Json),
)  # fmt: skip
item_responses = Table(
    "item_responses", metadata,
    _to("items.id", "item", primary_key=True),
    Column("place", Integer, primary_key=True),
    _to("responses.id", "response", nullable=False, index=True),
    Column("more", Json),
)  # fmt: skip
"""``more``: what is not in the words: id, rank, meta, ids, finished."""
gold = Table(
    "gold", metadata,
    _number(),
    _to("items.id", "item", nullable=False, index=True),
    Column("ranks", Json),
    _text("who"),
    _at(),
)  # fmt: skip
"""The last row of an item counts; ``ranks`` is null where it is no gold question any more."""
labellers = Table(
    "labellers", metadata,
    Column("name", AnyText(), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("role", String(32), nullable=False),
    Column("active", Boolean, nullable=False),
    _at(),
)  # fmt: skip
labels = Table(
    "labels", metadata,
    _number(),
    Column("id", String(64), nullable=False, unique=True),
    _to("items.id", "item", nullable=False),
    _to("labellers.name", "labeller", nullable=False, index=True),
    Column("kind", String(32), nullable=False),
    Column("ranks", Json),
    Column("ratings", Json),
    Column("approvals", Json),
    Column("edit", AnyText()),
    Column("shown", Json),
    Column("confidence", Float),
    Column("tags", Json),
    _text("comment"),
    _text("flag"),
    _text("guideline"),
    _text("principle"),
    _at(),
    Column("seconds", Float, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("money", Float, nullable=False),
    Column("replaces", String(64), ForeignKey("labels.id"), unique=True),
    Index("ix_labels_item_labeller", "item", "labeller"),
)  # fmt: skip
personal = Table(
    "personal", metadata,
    _to("labellers.name", "labeller", primary_key=True),
    _text("name"),
    _text("contact"),
    Column("demographics", Json, nullable=False),
    Column("consent", Json, nullable=False),
    _at(),
)  # fmt: skip
erasures = Table(
    "erasures", metadata,
    _number(),
    _to("labellers.name", "labeller", nullable=False, index=True),
    Column("what", Json, nullable=False),
    _at(),
)  # fmt: skip
costs = Table(
    "costs", metadata,
    _number(),
    _to("campaigns.name", "campaign"),
    _to("labellers.name", "labeller"),
    _text("what"),
    Column("seconds", Float, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("money", Float, nullable=False),
    _at(),
)  # fmt: skip
"""What no single label cost: an hour's wage, a platform's fee."""

queue = Table(
    "queue", metadata,
    _to("items.id", "item", primary_key=True),
    _to("campaigns.name", "campaign", nullable=False),
    Column("gold", Boolean, nullable=False),
    Column("urgency", Float, nullable=False),
    Column("taken", Integer, nullable=False),
    Column("overlap", Integer),
    Index("ix_queue_next", "campaign", "gold", "urgency", "taken", "item"),
)  # fmt: skip
"""``urgency`` is minus the priority, so that one index gives the order; ``taken`` counts the people
who judged the item or have it open; ``overlap`` is of this item, where it differs."""
assignments = Table(
    "assignments", metadata,
    Column("id", String(64), primary_key=True),
    _to("items.id", "item", nullable=False),
    _to("labellers.name", "labeller", nullable=False),
    _to("campaigns.name", "campaign", nullable=False),
    Column("state", String(16), nullable=False),
    Column("label", String(64)),
    _at(),
    _at("expires"),
    _at("closed", nullable=True),
    UniqueConstraint("item", "labeller"),
    Index("ix_assignments_open", "state", "expires"),
    Index("ix_assignments_labeller", "labeller", "campaign", "state"),
)  # fmt: skip
drafts = Table(
    "drafts", metadata,
    _to("labellers.name", "labeller", primary_key=True),
    _to("items.id", "item", primary_key=True),
    Column("body", Json, nullable=False),
    _at(),
)  # fmt: skip
access = Table(
    "access", metadata,
    Column("digest", String(64), primary_key=True),
    _to("labellers.name", "labeller", nullable=False, index=True),
    Column("role", String(32), nullable=False),
    _to("campaigns.name", "campaign"),
    _at(),
    _at("expires", nullable=True),
    _at("used", nullable=True),
    _at("revoked", nullable=True),
)  # fmt: skip
"""Tokens that let somebody in, as SHA-256 digests."""
