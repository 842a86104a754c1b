"""The columns of a file: given gnomon's names, and read where they hold JSON as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gnomon.data.fields import (
    CHOSEN,
    COMPLETION,
    KNOWN,
    PROMPT_TEXT,
    PROMPT_TURNS,
    REJECTED,
    RESPONSE_A,
    RESPONSE_B,
    RESPONSES,
    RIVALS,
)
from gnomon.data.turns import is_messages, role_of
from gnomon.data.values import JsonReader, RawRow, RowError, Skipped
from gnomon.errors import DataError
from gnomon.plugins import did_you_mean

Rows = Sequence[RawRow | Skipped]

#: Fields that hold lists or objects: text in them that opens like JSON is JSON.
STRUCTURED = (
    *(*PROMPT_TURNS, *RESPONSES, "chosen_messages", "rejected_messages", "conversation_a"),
    *("conversation_b", "corrects", "incorrects", "comparisons", "ranking", "scores", "history"),
    *("instances", "meta"),
)
#: Fields of text or of conversations: they are JSON only where the whole column is conversations.
EITHER = tuple(
    name
    for group in (PROMPT_TEXT, CHOSEN, REJECTED, COMPLETION, RESPONSE_A, RESPONSE_B)
    for name in group
    if name not in STRUCTURED
)
_EITHER, _JSON = frozenset(EITHER), frozenset((*STRUCTURED, *EITHER))
_OPENS = re.compile(r"\s*[\[{]")
_PYTHON = re.compile(r"\s*\[\s*\{\s*'(role|from|content|value)'\s*:")


def rename(raw: Rows, columns: Mapping[str, str], name: str) -> list[RawRow | Skipped]:
    """Give mapped columns gnomon's names. Columns that they displace, or that have the
    same meaning, go aside.

    Raises:
        DataError: a name that gnomon does not know, or that no row has.
    """
    present = {key for item in raw if isinstance(item, RawRow) for key in item.data}
    for ours, theirs in columns.items():
        if ours not in KNOWN:
            hint = did_you_mean(ours, sorted(set(KNOWN)), "known:", 0.7)
            raise DataError(f"{name}: columns maps onto the unknown field {ours!r}; {hint}")
        if present and theirs not in present:
            hint = did_you_mean(theirs, sorted(present), "the file has", 0.7)
            raise DataError(f"{name}: columns names {theirs!r}, which no row has; {hint}")
    taken = set(columns.values())
    rivals = {n for group in RIVALS if columns.keys() & set(group) for n in group} | columns.keys()

    def renamed(item: RawRow | Skipped) -> RawRow | Skipped:
        if isinstance(item, Skipped):
            return item
        kept = {k: v for k, v in item.data.items() if k not in taken}
        data = {k: v for k, v in kept.items() if k not in rivals}
        data |= {o: item.data[t] for o, t in columns.items() if t in item.data}
        return replace(item, data=data, aside={k: v for k, v in kept.items() if k in rivals})

    return [renamed(item) for item in raw]


def decode(raw: Rows) -> list[RawRow | Skipped]:
    """Read structured fields that are written as JSON text. A text that merely looks like JSON
    stays a text: a column of texts is one of conversations only if every cell is one."""
    reader = JsonReader()
    texts: dict[str, list[str]] = {}
    for item in raw:
        for name, value in item.data.items() if isinstance(item, RawRow) else ():
            if isinstance(value, str) and name in _EITHER:
                texts.setdefault(name, []).append(value)
    names = {n for n, cells in texts.items() if all(_is_conversation(c, reader) for c in cells)}
    names |= set(STRUCTURED)

    def decoded(item: RawRow | Skipped) -> RawRow | Skipped:
        if isinstance(item, Skipped):
            return item
        try:
            found = {
                name: _value(text, name, reader if name in names else None)
                for name, text in item.data.items()
                if isinstance(text, str) and _OPENS.match(text) and name in _JSON
            }
        except RowError as error:
            return error.skip(item.source)
        return replace(item, data={**item.data, **found}) if found else item

    return [decoded(item) for item in raw]


def _value(text: str, name: str, reader: JsonReader | None) -> Any:
    if _PYTHON.match(text):
        raise RowError(
            f"field {name!r} is a Python list written as text, not JSON",
            "write it with json.dumps, or save the table as parquet or .jsonl",
        )
    if reader is None:
        return text
    try:
        return reader.read(text)
    except RowError as error:
        raise RowError(
            f"field {name!r} is text that is not JSON: {error.reason}", "correct it"
        ) from error


def _is_conversation(text: str, reader: JsonReader) -> bool:
    try:
        value = reader.read(text) if _OPENS.match(text) else None
    except RowError:
        return False
    return is_messages(value) and all(role_of(message) for message in value or ())
