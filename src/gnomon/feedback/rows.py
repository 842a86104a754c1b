"""Records as rows of a store's tables, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from gnomon.errors import DataError
from gnomon.feedback.identity import prompt_id, response_id, turns
from gnomon.feedback.records import Item, Label
from gnomon.feedback.schema import dumps
from gnomon.records import Cost, Message, Prompt, Response, Source

Row = Mapping[Any, Any]
"""Columns by name: a database's row, or one of a file."""
LONGEST_NAME = 200
_ID = re.compile(r"[!-~]{1,64}")
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
NEEDS: Mapping[str, str | None] = {
    "ranking": "ranks", "rating": "ratings", "approval": "approvals", "edit": "edit",
    "all_bad": None, "skip": None,
}  # fmt: skip
"""The field that holds a label's judgement, by the label's kind."""


def now(minutes: float = 0.0) -> str:
    """The time in UTC, or so many minutes from now, to a microsecond."""
    moment = datetime.now(UTC) + timedelta(minutes=minutes)
    return moment.isoformat(timespec="microseconds")


def check_id(value: str, what: str) -> None:
    """Check an id: 64 printable characters of ASCII at most.

    Raises:
        DataError: it is none.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise DataError(
            f"{what} {value!r:.80} is no id: give 1 to 64 printable ASCII characters without spaces"
        )


def check_name(value: str, what: str, empty: bool = False) -> None:
    """Check the name of a labeller, a campaign or a guideline.

    Raises:
        DataError: it is empty, too long, or has characters that no screen shows.
    """
    if (value or empty) and len(value) <= LONGEST_NAME and not _CONTROL.search(value):
        return
    raise DataError(
        f"{what} {value!r:.80}: give 1 to {LONGEST_NAME} characters, without line breaks or other "
        "control characters"
    )


# -- items ----------------------------------------------------------------------------------------


def prompt_row(prompt: Prompt) -> dict[str, Any]:
    messages = turns(prompt.messages)
    return {"id": prompt_id(prompt), "messages": messages, "text": prompt.text}


def response_rows(item: Item) -> list[dict[str, Any]]:
    return [{"id": response_id(r), "messages": turns(r.messages)} for r in item.responses]


def item_row(item: Item) -> dict[str, Any]:
    prompt = item.prompt
    source = None if prompt.source is None else [prompt.source.file, prompt.source.row]
    return {
        "id": item.id,
        "campaign": item.campaign,
        "prompt": prompt_id(prompt),
        "size": len(item.responses),
        "name": prompt.id,
        "category": prompt.category,
        "meta": _json(prompt.meta, f"item {item.id}: its prompt's meta"),
        "source": source,
        "origin": _json(item.origin, f"item {item.id}: its origin"),
    }


def link_rows(item: Item) -> list[dict[str, Any]]:
    rows = []
    for place, r in enumerate(item.responses):
        given = {"id": r.id, "rank": r.rank, "meta": dict(r.meta), "ids": list(r.ids)}
        more = {k: v for k, v in given.items() if v not in (None, {}, [])}
        if not r.finished:
            more["finished"] = False
        kept = _json(more, f"item {item.id}: the meta of response {place + 1}")
        row = {"item": item.id, "place": place, "response": response_id(r), "more": kept}
        rows.append(row)
    return rows


def _json(value: Mapping[str, Any], what: str) -> dict[str, Any] | None:
    if not value:
        return None
    try:
        plain: dict[str, Any] = _plain(value)
        dumps(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{what} cannot be stored as JSON ({error}); leave that out") from error
    return plain


def _plain(value: Any) -> Any:
    """The value with what tables hold beside JSON in it as text or numbers: dates as ISO 8601."""
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return value


def read_item(row: Row, links: Sequence[Row], gold: Sequence[float] | None) -> Item:
    """An item from its rows: that of ``items`` with its prompt's columns, those of its responses
    in their order, and the gold ranks."""
    source = row["source"]
    prompt = Prompt(
        row["name"],
        _messages(row["messages"]),
        row["text"],
        None if source is None else Source(source[0], source[1]),
        row["category"],
        row["meta"] or {},
    )
    responses = tuple(_response(link) for link in links)
    known = None if gold is None else tuple(float(rank) for rank in gold)
    return Item(row["id"], prompt, responses, row["campaign"], known, row["origin"] or {})


def _messages(given: Sequence[Sequence[str]]) -> tuple[Message, ...]:
    return tuple(Message(role, content) for role, content in given)


def _response(link: Row) -> Response:
    more = link["more"] or {}
    return Response(
        _messages(link["messages"]),
        more.get("id"),
        more.get("rank"),
        more.get("meta", {}),
        tuple(more.get("ids", ())),
        more.get("finished", True),
    )


# -- labels ---------------------------------------------------------------------------------------


def label_row(label: Label) -> dict[str, Any]:
    return {
        "id": label.id,
        "item": label.item,
        "labeller": label.labeller,
        "kind": label.kind,
        "ranks": list(label.ranks) or None,
        "ratings": list(label.ratings) or None,
        "approvals": list(label.approvals) or None,
        "edit": label.edit,
        "shown": list(label.shown) or None,
        "confidence": label.confidence,
        "tags": list(label.tags) or None,
        "comment": label.comment,
        "flag": label.flag,
        "guideline": label.guideline,
        "principle": label.principle,
        "at": label.at or now(),
        "seconds": label.cost.seconds,
        "tokens": label.cost.tokens,
        "money": label.cost.money,
        "replaces": label.replaces,
    }


def read_label(row: Row) -> Label:
    return Label(
        id=row["id"],
        item=row["item"],
        labeller=row["labeller"],
        kind=row["kind"],
        ranks=tuple(row["ranks"] or ()),
        ratings=tuple(row["ratings"] or ()),
        approvals=tuple(row["approvals"] or ()),
        edit=row["edit"],
        shown=tuple(row["shown"] or ()),
        confidence=row["confidence"],
        tags=tuple(row["tags"] or ()),
        comment=row["comment"],
        flag=row["flag"],
        guideline=row["guideline"],
        principle=row["principle"],
        at=row["at"],
        cost=Cost(row["seconds"], row["tokens"], row["money"]),
        replaces=row["replaces"],
    )


def check_label(label: Label, size: int | None) -> None:
    """Check that a label says something about an item of ``size`` responses (None: no such item).

    Raises:
        DataError: it does not, with what is wrong and the cure.
    """
    problem = "" if size is None else _problem(label, size)
    if size is None:
        problem = f"there is no item {label.item!r} in the store; add it first (add_items)"
    if problem:
        raise DataError(f"label {label.id!r} of {label.labeller!r}: {problem}")


def _problem(label: Label, size: int) -> str:
    """What is wrong with a label, or nothing."""
    if label.kind not in NEEDS:
        return f"unknown kind {label.kind!r}; the kinds are {', '.join(NEEDS)}"
    need = NEEDS[label.kind]
    if need == "edit" and label.edit is None:
        return "an edit without a text; give edit"
    for name in ("ranks", "ratings", "approvals"):
        given: Sequence[Any] = getattr(label, name)
        if need == name and len(given) != size:
            return f"{len(given)} {name} for {size} responses; give one for each"
        if given and len(given) not in (0, size):
            return f"{len(given)} {name} for {size} responses; give one for each, or none"
    numbers = (*label.ranks, *(r for r in label.ratings if r is not None))
    if not all(isinstance(n, int | float) and abs(n) < 1e300 for n in numbers):
        return "a rank or rating that is not a number"
    if need in ("ratings", "approvals") and all(v is None for v in getattr(label, need)):
        return f"no response has one of its {need}; a label that judges nothing is a skip"
    if len(set(label.shown)) != len(label.shown) or not set(label.shown) <= set(range(size)):
        return f"shown {list(label.shown)} is no order of the {size} responses (0 to {size - 1})"
    if label.confidence is not None and not 0 <= label.confidence <= 1:
        return f"confidence {label.confidence:g}; give 0 (guessed) to 1"
    cost = label.cost
    if not all(0 <= n < 1e300 for n in (cost.seconds, cost.tokens, cost.money)):
        return f"a cost below zero, or none: {cost}"
    return "" if not label.at or _is_time(label.at) else f"{label.at!r} is no time (ISO 8601)"


def _is_time(text: str) -> bool:
    try:
        return len(text) <= 40 and datetime.fromisoformat(text).year > 0
    except ValueError:
        return False
