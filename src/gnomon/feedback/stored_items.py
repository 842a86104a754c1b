"""Items as a store keeps them: a prompt and its responses once each, whoever shares them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, RowMapping

from gnomon.errors import DataError
from gnomon.feedback import schema as t
from gnomon.feedback.campaigns import Added, Campaign, campaign_row
from gnomon.feedback.identity import prompt_id, response_id
from gnomon.feedback.records import Item, Queued
from gnomon.feedback.rows import (
    check_id,
    check_name,
    item_row,
    link_rows,
    now,
    prompt_row,
    read_item,
    response_rows,
)


def add_items(
    connection: Connection, items: Mapping[str, Item], told: Mapping[str, Queued]
) -> Added:
    """Add items by their ids; see ``Store.add_items``."""
    for item in items.values():
        check_id(item.id, "item")
        if not item.responses:
            raise DataError(f"item {item.id}: no responses, so there is nothing to judge")
    known = _known(connection, items)
    fresh = [item for item in items.values() if item.id not in known]
    for key, said in known.items():
        item = items[key]
        if said != (
            item.campaign,
            prompt_id(item.prompt),
            [response_id(r) for r in item.responses],
        ):
            raise DataError(f"item {key} is in the store with another content; give a new id")
    if fresh:
        _insert(connection, fresh, told)
    gold = [(item.id, item.gold) for item in items.values() if item.gold is not None]
    set_gold(connection, gold, "")
    return Added(len(fresh), len(known))


def _known(connection: Connection, ids: Iterable[str]) -> dict[str, tuple[str, str, list[str]]]:
    """Campaign, prompt and responses, by their ids, of the items that are there."""
    links = t.item_responses
    found = sa.select(t.items.c.id, t.items.c.campaign, t.items.c.prompt, links.c.response)
    found = found.join(links, links.c.item == t.items.c.id).where(t.items.c.id.in_(ids))
    known: dict[str, tuple[str, str, list[str]]] = {}
    for row in connection.execute(found.order_by(links.c.item, links.c.place)):
        known.setdefault(row.id, (row.campaign, row.prompt, []))[2].append(row.response)
    return known


def _insert(connection: Connection, items: Sequence[Item], told: Mapping[str, Queued]) -> None:
    for name in sorted({item.campaign for item in items}):
        check_name(name, "campaign", empty=True)
        _ensure(connection, t.campaigns, [campaign_row(Campaign(name))])
    prompts = [prompt_row(item.prompt) for item in items]
    _ensure(connection, t.prompts, prompts)
    _ensure(connection, t.responses, [r for item in items for r in response_rows(item)])
    connection.execute(t.items.insert(), [item_row(item) for item in items])
    connection.execute(t.item_responses.insert(), [r for i in items for r in link_rows(i)])
    connection.execute(t.queue.insert(), [_waiting(i, told.get(i.id, Queued())) for i in items])


def _waiting(item: Item, queued: Queued) -> dict[str, Any]:
    """An item's place in the queue."""
    asked = {"urgency": -queued.priority, "overlap": queued.overlap}
    return {"item": item.id, "campaign": item.campaign, "gold": False, "taken": 0, **asked}


def _ensure(connection: Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows that are not there yet, known by their primary key."""
    (key,) = table.primary_key.columns
    unique = {row[key.name]: row for row in rows}
    in_order = [unique[k] for k in sorted(unique)]  # else two processes may wait for each other
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    connection.execute(dialect.insert(table).on_conflict_do_nothing(), in_order)


def select_items() -> sa.Select[Any]:
    """Items with what their prompts say."""
    same = t.items.c.prompt == t.prompts.c.id
    return sa.select(t.items, t.prompts.c.messages, t.prompts.c.text).join(t.prompts, same)


def whole_items(connection: Connection, rows: Sequence[RowMapping]) -> Iterator[Item]:
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


def set_gold(
    connection: Connection, known: Sequence[tuple[str, Sequence[float] | None]], who: str
) -> None:
    """Note what is right of items, where it is not noted yet; see ``Store.set_gold``."""
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
        if item not in sizes:
            raise DataError(f"gold question {item!r:.80}: no such item")
        if new != before.get(item):
            row = {"item": item, "ranks": new, "who": who, "at": now()}
            connection.execute(t.gold.insert(), [row])
            asked = t.queue.update().where(t.queue.c.item == item)
            connection.execute(asked.values(gold=new is not None))
