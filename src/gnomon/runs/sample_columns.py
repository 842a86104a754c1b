"""Columns of samples of the kinds that they should have, whoever wrote them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from gnomon.runs.rows import COLUMNS

HELD_OUT = "evaluation"
"""The column whose values say that a row is held out, of whichever kind they are."""


def checked(table: pa.Table, problems: list[str]) -> pa.Table:
    """The table with the columns of samples of their kinds: cast where that loses nothing; values
    that are of another kind are left out, and that is added to ``problems``."""
    for name, kind in COLUMNS.items():
        place = table.schema.get_field_index(name)
        if place >= 0 and table.schema.field(place).type != kind:
            table = table.set_column(place, name, _cast(table.column(place), name, kind, problems))
    return table


def _cast(
    column: pa.ChunkedArray, name: str, kind: pa.DataType, problems: list[str]
) -> pa.ChunkedArray | pa.Array:
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        values = column.to_pylist()
    found = [None if value is None else _VALUES[kind](value) for value in values]
    lost = sum(new is None and old is not None for new, old in zip(found, values, strict=True))
    if lost and name == HELD_OUT:  # whatever it says, the row is no training's
        return column
    if lost:
        of = f"{lost} of {len(values)} values" if lost < len(values) else "every value"
        problems.append(f"column {name} of the samples: {of} of another kind; left out")
    return pa.array(found, type=kind)


def _text(raw: Any) -> str | None:
    return json.dumps(raw, default=str) if isinstance(raw, Mapping) else None


def _number(raw: Any) -> float | None:
    try:
        return float(raw)
    except (TypeError, ValueError):
        return None


def _whole(raw: Any) -> int | None:
    number = _number(raw)
    if number is None or not number.is_integer() or abs(number) >= 2**63:
        return None
    return int(number)


def _truth(raw: Any) -> bool | None:
    number = _number(raw)
    return bool(number) if number in (0.0, 1.0) else None


_VALUES: Mapping[pa.DataType, Callable[[Any], Any]] = {
    pa.string(): _text,
    pa.float64(): _number,
    pa.int64(): _whole,
    pa.bool_(): _truth,
}
