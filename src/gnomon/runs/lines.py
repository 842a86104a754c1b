"""Rows of named values as JSON lines, and by columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

Value = float | int | str | bool | None
_CHUNK = 4096  # rows that are put into columns together


def lines_of(parquet: Path) -> Path:
    """The file of lines that belongs to a parquet file."""
    return parquet.with_suffix(".jsonl")


def read_lines(file: Path) -> pa.Table:
    """The rows of a file of lines as a table, while it is being written or after.

    A last line that is not whole yet is left out.

    Raises:
        ValueError: a line that is no row, with its number.
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        return table_of(parsed(line for line in stream if line.endswith(b"\n")), pa.table({}))


def parsed(lines: Iterable[bytes]) -> Iterator[dict[str, Value]]:
    """The rows in lines.

    Raises:
        ValueError: a line that is no row, with its number.
    """
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no row, but {str(row)[:40]!r}")
        yield row


def table_of(rows: Iterator[dict[str, Value]], first: pa.Table) -> pa.Table:
    """Rows by columns; ``first`` brings columns that are there in any case.

    Raises:
        ValueError: a column's values are of several kinds.
    """
    tables = [first]
    types = {field.name: field.type for field in first.schema}
    while chunk := list(islice(rows, _CHUNK)):
        names = dict.fromkeys(name for row in chunk for name in row)
        columns = {
            name: _column([row.get(name) for row in chunk], types.get(name)) for name in names
        }
        tables.append(pa.table(columns))
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"a column's values change their kind: {error}") from error


def _column(values: list[Value], kind: pa.DataType | None) -> pa.Array:
    if any(isinstance(v, float) for v in values):
        values = [float(v) if isinstance(v, int) else v for v in values]
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"a column's values change their kind: {error}") from error
