"""Raw rows from files, folders of shards and `datasets`: one mapping per row, with where it stood.

Nothing here knows what a row means. A line that cannot be decoded comes out as a
:class:`BadRow`, so the caller counts it with the other skipped rows instead of losing the file.
A file that cannot be read to its end is an error.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from gnomon.data.fields import KNOWN
from gnomon.data.jsonvalues import JsonReader, without_missing
from gnomon.data.scalars import RowError
from gnomon.data.shards import find_files, is_saved_dataset
from gnomon.data.suffixes import ARROW, CSV, JSON, JSONL, PARQUET, SUFFIXES, stem
from gnomon.data.textfile import MAX_GB, Caps, open_text
from gnomon.errors import DataError
from gnomon.records import Source

__all__ = ["SUFFIXES", "BadRow", "RawRow", "iter_rows", "stem"]


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in the file. ``aside`` holds fields that another was mapped over: they
    go into ``Prompt.meta`` and mean nothing to a format."""

    source: Source
    data: Mapping[str, Any]
    aside: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not even be decoded."""

    source: Source
    reason: str
    cure: str


def iter_rows(
    path_or_id: str | Path, *, split: str | None = None, max_gb: float = MAX_GB
) -> Iterator[RawRow | BadRow]:
    """Rows of a file, a folder or glob of shards, a folder saved by `datasets`, or a hub id.

    Files are opened when the first row is asked for, not before.

    Args:
        path_or_id: where they stand; the endings are in ``SUFFIXES``.
        split: of a folder or a hub id with several.
        max_gb: GiB that one file may hold once unpacked; a row may take 1/32 of it.

    Raises:
        DataError: nothing is there, the ending is unknown, or `datasets` is needed and missing.
            While rows are read: the file is damaged, not UTF-8, or larger than ``max_gb``.
    """
    path = Path(path_or_id)
    caps = Caps.of(max_gb)
    try:
        saved = path.is_dir() and is_saved_dataset(path)
        files = None if saved else find_files(path, split)
    except OSError as error:
        raise DataError(f"{path}: cannot be looked at ({error.strerror or error}).") from error
    if saved:
        from gnomon.data.arrowfiles import saved_dataset_rows

        return map(_from_arrow, saved_dataset_rows(path, split))
    if files is not None:
        return chain.from_iterable(_from_file(file, caps) for file in files)
    from gnomon.data.arrowfiles import hub_rows

    return map(_from_arrow, hub_rows(str(path_or_id), split))


def _from_file(path: Path, caps: Caps) -> Iterator[RawRow | BadRow]:
    name = path.name.lower()
    if name.endswith(JSONL):
        yield from _jsonl(path, caps)
    elif name.endswith(JSON):
        yield from _json(path, caps)
    elif name.endswith(CSV):
        yield from _csv(path, caps)
    else:
        from gnomon.data.arrowfiles import arrow_rows, parquet_rows

        assert name.endswith((*PARQUET, *ARROW))
        read = parquet_rows if name.endswith(PARQUET) else arrow_rows
        yield from map(_from_arrow, read(path, caps))


def _from_arrow(found: tuple[Source, Any]) -> RawRow | BadRow:
    source, value = found
    return as_row(without_missing(value, padded=True), source)


def as_row(value: Any, source: Source) -> RawRow | BadRow:
    """A decoded value as a row, or what it is instead of one."""
    if isinstance(value, RowError):
        return BadRow(source, value.reason, value.cure)
    if isinstance(value, dict):
        return RawRow(source, value)
    messages = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    return BadRow(
        source,
        f"the row is {_article(value)}, not an object",
        'put the list under a name: {"messages": [...]}'
        if messages
        else 'write each row as an object of named fields: {"prompt": ...}',
    )


def _article(value: Any) -> str:
    names = {list: "a list", str: "a string", type(None): "null", bool: "true/false"}
    return names.get(type(value), "a number")


# --- JSON --------------------------------------------------------------------------------------


def _jsonl(path: Path, caps: Caps) -> Iterator[RawRow | BadRow]:
    reader = JsonReader()
    first = True
    with open_text(path, caps) as lines:
        number = 0
        while line := lines.readline(caps.row + 1):
            number += 1
            source = Source(str(path), number)
            if len(line) > caps.row:
                while line and not line.endswith(("\n", "\r")):
                    line = lines.readline(1 << 20)
                yield BadRow(source, *caps.long_row())
                continue
            if not line.strip():
                continue
            value: Any
            try:
                value = reader.read(line)
            except RowError as error:
                value = error
            if first:
                _refuse_other_layouts(path, line, value)
                first = False
            yield as_row(value, source)


def _refuse_other_layouts(path: Path, line: str, value: Any) -> None:
    """Say it once, of the file, where every line would be wrong for the same reason."""
    rename = f"Rename it to {stem(path)}.json, or write one object on each line."
    opening = line.strip()
    if isinstance(value, RowError) and opening[0] == "[":
        raise DataError(f"{path}: holds one JSON list over several lines, not .jsonl. {rename}")
    if isinstance(value, RowError) and opening == "{":
        raise DataError(
            f"{path}: its objects are spread over several lines. Write each on one line "
            "(jq -c . does it)."
        )
    rows = isinstance(value, list) and value and all(isinstance(v, dict) for v in value)
    if rows and not any("role" in v or "from" in v for v in value):
        raise DataError(f"{path}: holds one JSON list of rows, not .jsonl. {rename}")
    if isinstance(value, dict):
        _refuse_columns(path, value)


def _refuse_columns(path: Path, value: Mapping[str, Any]) -> None:
    """Refuse whole tables that are written as one object, as pandas does unless told otherwise."""
    cure = (
        "Write a list of objects, one for each row (pandas: "
        "df.to_json(..., orient='records', lines=True))."
    )
    names = ", ".join(list(map(str, value))[:6])
    columns = list(value.values())
    if {"columns", "data"} <= value.keys() <= {"columns", "index", "data"}:
        raise DataError(f"{path}: holds column names and cells apart, not rows. {cure}")
    if len(columns) < 2:
        return
    lists = all(isinstance(v, list) and not any(isinstance(i, dict) for i in v) for v in columns)
    if lists and len({len(v) for v in columns}) == 1:
        raise DataError(f"{path}: holds columns ({names}), each a list, not rows. {cure}")
    objects = all(isinstance(v, dict) and v and not {"role", "from"} & v.keys() for v in columns)
    if objects and len({tuple(v) for v in columns}) == 1:
        raise DataError(f"{path}: holds objects under names ({names}), not rows. {cure}")


def _json(path: Path, caps: Caps) -> Iterator[RawRow | BadRow]:
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
        yield from _jsonl(path, caps)
        return
    if isinstance(value, dict):
        value = _rows_of(path, value)
    elif not isinstance(value, RowError):
        raise DataError(f"{path}: expected a list of objects, found {_article(value)}.")
    for number, item in enumerate(value if isinstance(value, list) else [value], start=1):
        yield as_row(item, Source(str(path), number))


def _items(
    path: Path, text: str, start: int, reader: JsonReader, caps: Caps
) -> Iterator[RawRow | BadRow]:
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
        yield BadRow(source, *caps.long_row()) if end - start > caps.row else as_row(value, source)
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
        _refuse_columns(path, value)
        return [value]
    if len(lists) > 1:
        raise DataError(
            f"{path}: an object with several lists of rows ({', '.join(lists)}). "
            "Save the one you want as a list of its own."
        )
    return list(value[lists[0]])


# --- CSV ---------------------------------------------------------------------------------------


def _csv(path: Path, caps: Caps) -> Iterator[RawRow | BadRow]:
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
                    yield BadRow(source, "more fields than the header has", cure)
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
