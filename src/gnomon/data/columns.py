"""A file's columns under gnomon's names, with what is written as JSON text read as what it says."""

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
    did_you_mean,
)
from gnomon.data.jsonvalues import JsonReader
from gnomon.data.rows import BadRow, RawRow
from gnomon.data.scalars import RowError
from gnomon.data.turns import ROLES, is_messages
from gnomon.errors import DataError

Rows = Sequence[RawRow | BadRow]

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
_PYTHON = re.compile(r"\s*\[\s*\{\s*'(role|from|content|value)'\s*:")


def rename(raw: Rows, columns: Mapping[str, str], name: str) -> list[RawRow | BadRow]:
    """Give mapped columns gnomon's names. What they displace, and the other columns that could
    have been meant, go aside.

    Raises:
        DataError: a name that gnomon does not know, or that no row has.
    """
    present = {key for item in raw if isinstance(item, RawRow) for key in item.data}
    for ours, theirs in columns.items():
        if ours not in KNOWN:
            raise DataError(
                f"{name}: columns maps onto the unknown field {ours!r}; "
                f"{did_you_mean(ours, KNOWN) or 'known: ' + ', '.join(sorted(set(KNOWN)))}"
            )
        if present and theirs not in present:
            hint = did_you_mean(theirs, present) or f"the file has {', '.join(sorted(present))}"
            raise DataError(f"{name}: columns names {theirs!r}, which no row has; {hint}")
    taken = set(columns.values())
    rivals = {n for group in RIVALS if columns.keys() & set(group) for n in group} | columns.keys()

    def renamed(item: RawRow | BadRow) -> RawRow | BadRow:
        if isinstance(item, BadRow):
            return item
        kept = {k: v for k, v in item.data.items() if k not in taken}
        data = {k: v for k, v in kept.items() if k not in rivals}
        data |= {o: item.data[t] for o, t in columns.items() if t in item.data}
        return replace(item, data=data, aside={k: v for k, v in kept.items() if k in rivals})

    return [renamed(item) for item in raw]


def decode(raw: Rows) -> list[RawRow | BadRow]:
    """Read structured fields that are written as JSON text. A text that merely looks like JSON
    stays a text: a column of texts is one of conversations only if every cell is one."""
    reader = JsonReader()
    names = [n for n in EITHER if _all_conversations(raw, n, reader)]

    def decoded(item: RawRow | BadRow) -> RawRow | BadRow:
        if isinstance(item, BadRow):
            return item
        try:
            found = {
                n: _value(item.data[n], n, reader)
                for n in (*STRUCTURED, *names)
                if isinstance(item.data.get(n), str)
            }
            _refuse_python(item.data)
        except RowError as error:
            return BadRow(item.source, error.reason, error.cure)
        return replace(item, data={**item.data, **found}) if found else item

    return [decoded(item) for item in raw]


def _value(text: str, name: str, reader: JsonReader) -> Any:
    if text.lstrip()[:1] not in ("[", "{"):
        return text
    try:
        return reader.read(text)
    except RowError as error:
        if _PYTHON.match(text):
            return text  # its own error
        raise RowError(
            f"field {name!r} is text that is not JSON: {error.reason}", "correct it"
        ) from error


def _refuse_python(data: Mapping[str, Any]) -> None:
    for name in (*STRUCTURED, *EITHER):
        value = data.get(name)
        if isinstance(value, str) and _PYTHON.match(value):
            raise RowError(
                f"field {name!r} is a Python list written as text, not JSON",
                "write it with json.dumps, or save the table as parquet or .jsonl",
            )


def _all_conversations(raw: Rows, name: str, reader: JsonReader) -> bool:
    cells = [item.data[name] for item in raw if isinstance(item, RawRow) and name in item.data]
    texts = [cell for cell in cells if isinstance(cell, str)]
    return bool(texts) and all(_is_conversation(text, reader) for text in texts)


def _is_conversation(text: str, reader: JsonReader) -> bool:
    if text.lstrip()[:1] != "[":
        return False
    try:
        value = reader.read(text)
    except RowError:
        return False
    return is_messages(value) and all(
        str(m.get("role") or m.get("from")).strip().lower() in ROLES for m in value
    )
