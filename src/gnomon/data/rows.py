"""Raw rows from files, folders of shards and `datasets`: one mapping per row, with its place.

Nothing here knows what a row means. A line that cannot be decoded comes out as :class:`Skipped`, so
the caller counts it with the other rows left out instead of losing the file. A file that cannot be
read to its end is an error. Only .jsonl is read here; other formats have modules of their own.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from gnomon.data.values import JsonReader, RawRow, RowError, Skipped
from gnomon.errors import DataError
from gnomon.plugins import load_builtin
from gnomon.records import Source

JSONL = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
JSON = (".json", ".json.gz")
CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
PARQUET = (".parquet",)
ARROW = (".arrow", ".feather")
SUFFIXES = (*JSONL, *JSON, *PARQUET, *ARROW, *CSV)


@lru_cache(maxsize=64)
def stem(path_or_id: str | Path, split: str | None = None) -> str:
    """The name that identifiers start with: the file's name without its endings."""
    name = Path(path_or_id).name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    return f"{name}-{split}" if split else name


MAX_GB = 1.0
_MAGIC = {
    b"\x1f\x8b": "gzip; add .gz to its name",
    b"PAR1": "parquet; name it .parquet",
    b"ARROW1": "Arrow; name it .arrow",
    b"PK\x03\x04": "a zip archive (an .xlsx is one, too); unpack it, or save the sheet as CSV",
    b"BZh": "bzip2; unpack it",
    b"\xfd7zXZ": "xz; unpack it",
    b"\x28\xb5\x2f\xfd": "zstandard; unpack it",
    b"version https://git-lfs": "a Git LFS pointer, not the data; fetch it with git lfs pull",
    b"<!DOCTYPE": "a web page, not the data; fetch the raw file",
    b"<!doctype": "a web page, not the data; fetch the raw file",
    b"<html": "a web page, not the data; fetch the raw file",
}
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16's mark, which it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass(frozen=True, slots=True)
class Caps:
    """How much is read of one file: ``total`` bytes once unpacked, ``row`` bytes of one row."""

    total: int
    row: int

    @classmethod
    def of(cls, max_gb: float) -> Caps:
        """Caps of ``max_gb`` GiB for a file and 1/32 of that for a row."""
        total = int(max_gb * 2**30)
        return cls(total, total // 32)

    def refuse(self, path: Path | str) -> DataError:
        """The error for a file that holds more than ``total``."""
        return DataError(
            f"{path}: holds more than {self.total / 2**30:g} GB once unpacked, which may be a "
            "mistake and would fill the memory. Read fewer rows (limit), split the file, or raise "
            "max_gb."
        )

    def long_row(self) -> tuple[str, str]:
        """Reason and cure for a row that is longer than ``row``."""
        return (
            f"the row is longer than {self.row / 2**20:g} MB",
            "check for a missing line break, or raise max_gb (a row may take 1/32 of it)",
        )


class _Counted(io.RawIOBase):
    """Bytes of an open file up to a cap."""

    def __init__(self, inner: IO[bytes], path: Path, caps: Caps) -> None:
        self._inner, self._path, self._caps = inner, path, caps
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._inner.read(len(buffer))
        self._count += len(data)
        if self._count > self._caps.total:
            raise self._caps.refuse(self._path)
        buffer[: len(data)] = data
        return len(data)


def is_gzip(path: Path) -> bool:
    """Whether the name says that the file is gzipped."""
    return path.name.lower().endswith(".gz")


def open_bytes(path: Path) -> IO[bytes]:
    if is_gzip(path):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return open(path, "rb")


@contextmanager
def open_text(path: Path, caps: Caps) -> Iterator[io.TextIOWrapper]:
    """Open a (gzipped) text file; line ends are kept as written, a BOM is dropped.

    Raises:
        DataError: while opening or reading: not UTF-8 (with the likely encoding), not text, a
            broken gzip, longer than ``caps.total``, or the system cannot read it.
    """
    try:
        with open_bytes(path) as inner:
            _refuse_other_kinds(path, inner.read(4096))
            inner.seek(0)
            counted = io.BufferedReader(_Counted(inner, path, caps), 1 << 16)
            with io.TextIOWrapper(counted, encoding="utf-8-sig", newline="") as text:
                yield text
    except UnicodeDecodeError as error:
        raise DataError(_wrong_encoding(path)) from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        cure = "Fetch or compress the file again."
        if str(error).startswith("Not a gzipped"):
            cure = "If it is not compressed, take .gz from its name."
        raise DataError(f"{path}: broken gzip ({error}). {cure}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path}: is {what}.")
    if any(head.startswith(mark) for mark in MARKS) or b"\0" in head:
        raise DataError(_wrong_encoding(path))


def _wrong_encoding(path: Path) -> str:
    explained: str = load_builtin("gnomon.data.encodings:explain_encoding")(path)
    return explained


_READERS = {
    JSON: "gnomon.data.tables:json_rows",
    CSV: "gnomon.data.tables:csv_rows",
    SUFFIXES: "gnomon.data.arrowfiles:arrow_rows",
}
"""By ending: readers that build on this module, found when a file needs them."""


def iter_rows(
    path_or_id: str | Path, *, split: str | None = None, max_gb: float = MAX_GB
) -> Iterator[RawRow | Skipped]:
    """Rows of a file, a folder or glob of shards, a folder saved by `datasets`, or a hub id.

    Files are opened when the first row is asked for, not before.

    Args:
        path_or_id: the rows' place; the endings are in ``SUFFIXES``.
        split: of a folder or a hub id with several.
        max_gb: GiB that one file may hold once unpacked; a row may take 1/32 of it.

    Raises:
        DataError: no such file, the ending is unknown, or `datasets` is needed and missing.
            While rows are read: the file is damaged, not UTF-8, or larger than ``max_gb``.
    """
    path = Path(path_or_id)
    caps = Caps.of(max_gb)
    try:
        if split is None and path.name.lower().endswith(SUFFIXES) and path.is_file():
            return _from_file(path, caps)
        files: list[Path] | None = load_builtin("gnomon.data.shards:find_files")(path, split)
    except OSError as error:
        raise DataError(f"{path}: cannot be looked at ({error.strerror or error}).") from error
    if files is not None:
        return chain.from_iterable(_from_file(file, caps) for file in files)
    rows: Iterator[RawRow | Skipped]
    rows = load_builtin("gnomon.data.arrowfiles:dataset_rows")(path_or_id, split)
    return rows


IN_MEMORY = "data"
"""What rows that are in no file are said to come from."""


def rows_of(values: Iterable[Any]) -> Iterator[RawRow | Skipped]:
    """Rows that are in memory already, counted from 1."""
    for i, value in enumerate(values, start=1):
        row = dict(value) if isinstance(value, Mapping) else value
        yield as_row(row, Source(IN_MEMORY, i))


def _from_file(path: Path, caps: Caps) -> Iterator[RawRow | Skipped]:
    name = path.name.lower()
    if name.endswith(JSONL):
        yield from jsonl_rows(path, caps)
        return
    for endings, reader in _READERS.items():
        if name.endswith(endings):
            yield from load_builtin(reader)(path, caps)
            return


def as_row(value: Any, source: Source) -> RawRow | Skipped:
    """A decoded value as a row, or what it is instead of one."""
    if isinstance(value, RowError):
        return value.skip(source)
    if isinstance(value, dict):
        return RawRow(source, value)
    messages = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    return Skipped(
        source,
        f"the row is {what_it_is(value)}, not an object",
        'put the list under a name: {"messages": [...]}'
        if messages
        else 'write each row as an object of named fields: {"prompt": ...}',
    )


def what_it_is(value: Any) -> str:
    names = {list: "a list", str: "a string", type(None): "null", bool: "true/false"}
    return names.get(type(value), "a number")


# --- JSON --------------------------------------------------------------------------------------


def jsonl_rows(path: Path, caps: Caps) -> Iterator[RawRow | Skipped]:
    reader = JsonReader()
    number, first = 0, True
    with open_text(path, caps) as lines:
        while line := lines.readline(caps.row + 1):
            number += 1
            source = Source(str(path), number)
            if len(line) > caps.row:
                while line and not line.endswith(("\n", "\r")):
                    line = lines.readline(1 << 20)
                yield Skipped(source, *caps.long_row())
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
    """Refuse the file once where every line would be wrong for the same reason."""
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
        refuse_columns(path, value)


def refuse_columns(path: Path, value: Mapping[str, Any]) -> None:
    """Refuse whole tables that are written as one object, as pandas does by default."""
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
