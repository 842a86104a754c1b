"""Rows of .json files (a list, an object, or one object a line after all) and of CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from gnomon.data.fields import KNOWN
from gnomon.data.rows import Caps, as_row, jsonl_rows, open_text, refuse_columns, what_it_is
from gnomon.data.values import JsonReader, RawRow, RowError, Skipped
from gnomon.errors import DataError
from gnomon.records import Source


def json_rows(path: Path, caps: Caps) -> Iterator[RawRow | Skipped]:
    with open_text(path, caps) as file:
        text = file.read()
    reader = JsonReader()
    start = _after_space(text, 0)
    if text[start : start + 1] == "[":
        yield from _items(path, text, start + 1, reader, caps)
        return
    try:
        value, end = reader.read_at(text, start)
    except json.JSONDecodeError as error:
        raise _invalid(path, error) from error
    except RowError as error:
        raise DataError(f"{path}: {error.reason}; {error.cure}.") from error
    if text[end:].strip():  # one object a line under the wrong ending
        del text
        yield from jsonl_rows(path, caps)
        return
    if isinstance(value, dict):
        value = _rows_of(path, value)
    elif not isinstance(value, RowError):
        raise DataError(f"{path}: expected a list of objects, found {what_it_is(value)}.")
    for number, item in enumerate(value if isinstance(value, list) else [value], start=1):
        yield as_row(item, Source(str(path), number))


def _items(
    path: Path, text: str, start: int, reader: JsonReader, caps: Caps
) -> Iterator[RawRow | Skipped]:
    """The items of a JSON list, each judged by itself."""
    number = 0
    start = _after_space(text, start)
    closed = text[start : start + 1] == "]"
    while not closed:
        number += 1
        source = Source(str(path), number)
        try:
            value, end = reader.read_at(text, start)
        except json.JSONDecodeError as error:
            raise _invalid(path, error) from error
        except RowError as error:
            raise DataError(f"{source}: {error.reason}; {error.cure}.") from error
        yield Skipped(source, *caps.long_row()) if end - start > caps.row else as_row(value, source)
        start = _after_space(text, end)
        closed = text[start : start + 1] == "]"
        if not closed and text[start : start + 1] != ",":
            raise _invalid(path, json.JSONDecodeError("Expecting ',' or ']'", text, start))
        start = start if closed else _after_space(text, start + 1)
    if text[start + 1 :].strip():
        raise _invalid(path, json.JSONDecodeError("text after the list", text, start + 1))


def _after_space(text: str, start: int) -> int:
    while text[start : start + 1] in (" ", "\t", "\n", "\r"):
        start += 1
    return start


def _invalid(path: Path, error: json.JSONDecodeError) -> DataError:
    return DataError(
        f"{path}: invalid JSON at line {error.lineno}, column {error.colno} ({error.msg}). "
        "Expected a list of objects."
    )


def _rows_of(path: Path, value: dict[str, Any]) -> list[Any]:
    """The rows of an object: those in its one list or, where it has a row's fields, itself."""
    lists = [k for k, v in value.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
    if not lists or value.keys() & (set(KNOWN) - {"id", "meta", "category"}):
        refuse_columns(path, value)
        return [value]
    if len(lists) > 1:
        raise DataError(
            f"{path}: an object with several lists of rows ({', '.join(lists)}). "
            "Save the one you want as a list of its own."
        )
    return list(value[lists[0]])


# --- CSV ---------------------------------------------------------------------------------------


def csv_rows(path: Path, caps: Caps) -> Iterator[RawRow | Skipped]:
    """Cells are text, whatever they look like; an empty one is missing."""
    csv.field_size_limit(min(caps.row, sys.maxsize, 2**31 - 1))
    with open_text(path, caps) as file:
        lines = _short_lines(path, file, caps)
        opening = next(lines, "")
        delimiter = _delimiter(path, opening)
        if opening.lower().startswith("sep="):  # Excel's way of naming it
            delimiter, opening = opening[4:5], next(lines, "")
        reader = csv.reader(chain([opening], lines), delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            number = 0
            for cells in reader:
                if not cells:
                    continue
                number += 1
                source = Source(str(path), number)
                if len(cells) > len(header):
                    cure = "quote fields that hold separators or line breaks"
                    yield Skipped(source, "more fields than the header has", cure)
                    continue
                named = zip(header, cells, strict=False)
                yield RawRow(source, {name: cell for name, cell in named if cell != ""})
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num}: not valid CSV ({error}). Look for a quote that "
                'is not closed or not doubled ("" inside quotes), in or before that line, or '
                "raise max_gb for fields that are meant to be so long."
            ) from error


def _short_lines(path: Path, file: TextIO, caps: Caps) -> Iterator[str]:
    number = 0
    while line := file.readline(caps.row + 1):
        number += 1
        if len(line) > caps.row:
            raise DataError(f"{path}, line {number}: {': '.join(caps.long_row())}.")
        yield line


def _delimiter(path: Path, header: str) -> str:
    """What separates the header's fields: the tab of .tsv, else what gives the most fields."""
    if path.name.lower().endswith((".tsv", ".tsv.gz")):
        return "\t"
    counts = {d: len(next(csv.reader([header], delimiter=d), [])) for d in (",", ";", "\t", "|")}
    return max(counts, key=counts.__getitem__)  # the first of equals


def _check_header(path: Path, header: list[str]) -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: the column {twice!r} appears twice; rename one of them.")
