"""A growing table: one JSON line per row as it comes, one parquet file when the stage ends.

``x.jsonl`` only ever grows, so writing a row costs the same however many there are, and it can be
followed while the run goes on (``tail -f``). ``x.parquet`` is made of it by :meth:`RowStore.finish`
and holds the same rows by columns. A checkpoint keeps a :class:`Mark`; a resumed run cuts the lines
off there, after checking that what lies before it is what was written.

NaN and infinities stand in the lines as ``NaN``, ``Infinity`` and ``-Infinity``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gnomon.errors import RunError
from gnomon.files import make_folder, plain_errors, write_file
from gnomon.runs.lines import Value, lines_of, parsed, table_of

_INT64 = 2**63
_KINDS = {bool: "truth value", int: "number", float: "number", str: "text"}


@dataclass(frozen=True)
class Mark:
    """A place in the lines: bytes and rows up to there, and the SHA-256 of those bytes."""

    bytes: int = 0
    rows: int = 0
    sha256: str = hashlib.sha256().hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


class RowStore:
    """Rows of named values, in ``<path>.jsonl`` as they come and in ``<path>`` at the end.

    Columns are the union of the rows' keys, in order of first appearance; a value that a row lacks
    is null. Whole numbers and fractions may mix in a column (it becomes float); numbers, truth
    values and text may not. NaN and infinity are values, not null.
    """

    def __init__(self, path: Path, *, schema: Mapping[str, pa.DataType] | None = None) -> None:
        """Args:
        path: the parquet file; the lines lie beside it. Nothing is read or written yet.
        schema: columns that are there from the start, in this order and of these types.
        """
        self.path = Path(path)
        self.lines = lines_of(self.path)
        self._schema = dict(schema or {})
        self._kinds: dict[str, str] = {}
        self._file: FileIO | None = None
        self._size = 0
        self._rows = 0
        self._digest = hashlib.sha256()

    def __len__(self) -> int:
        return self._rows

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows, with None where a value is missing."""
        rows: list[dict[str, Any]] = self._table().to_pylist()
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is in the file when this returns.

        Raises:
            TypeError: a value is neither a number, a string, a bool nor None, or of another kind
                than its column's.
            RunError: the disk is full or the file is gone; the rows before are as they were.
        """
        plain = {key: _plain(key, value) for key, value in row.items()}
        for key, value in plain.items():
            self._check_kind(key, value)
        line = (json.dumps(plain, ensure_ascii=False) + "\n").encode("utf-8")
        with plain_errors(self.lines):
            file = self._open()
            if not self._still_there(file):
                raise RunError(
                    f"{self.lines} was removed while the run was writing it, so its folder is not "
                    "whole any more. The run stops here. Put the folder back and go on with "
                    "--resume; without it --resume begins this stage anew."
                )
            self._write(file, line)
        self._digest.update(line)
        self._size += len(line)
        self._rows += 1

    def mark(self) -> Mark:
        """Where the lines end now, forced to disk: what a checkpoint keeps.

        Raises:
            RunError: the disk does not take them.
        """
        if self._file is not None:
            with plain_errors(self.lines):
                os.fsync(self._file.fileno())
        return Mark(self._size, self._rows, self._digest.hexdigest())

    def restore(self, mark: Mark) -> None:
        """Take up the lines where a checkpoint left them and cut off what came after.

        Raises:
            RunError: what the checkpoint knows of is not there, or not what was written.
        """
        self.close()
        if mark.rows == 0:
            self.reset()
            return
        cure = (
            "Put the file back as it was and go on with --resume; or remove the folder "
            f"{self.lines.parent}, and the stage begins anew."
        )
        try:
            with self.lines.open("rb") as stream:
                kept = stream.read(mark.bytes)
        except OSError as error:
            raise RunError(
                f"{self.lines} cannot be read ({error}), and the checkpoint knows of {mark.rows} "
                f"rows in it. {cure}"
            ) from error
        digest = hashlib.sha256(kept)
        if digest.hexdigest() != mark.sha256:
            raise RunError(
                f"{self.lines} is not what the run wrote: it has {kept.count(10)} of the "
                f"{mark.rows} rows that the checkpoint knows of, or others. {cure}"
            )
        with plain_errors(self.lines):
            os.truncate(self.lines, mark.bytes)
        self._size, self._rows, self._digest = mark.bytes, mark.rows, digest
        for row in parsed(kept.splitlines()):
            for key, value in row.items():
                self._check_kind(key, value)

    def reset(self) -> None:
        """Begin with no rows: what an earlier run left is removed."""
        self.close()
        self._remove_files()
        self._size, self._rows, self._digest = 0, 0, hashlib.sha256()
        self._kinds = {}

    def finish(self) -> None:
        """Put all rows into the parquet file, in one step; none are written if there are none.

        Raises:
            RunError: the disk is full; the lines are whole.
        """
        self.mark()
        if not self._rows:
            return
        table = self._table()
        with write_file(self.path) as tmp:
            pq.write_table(table, tmp, compression="zstd")

    def close(self) -> None:
        """Let go of the file; the next row opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _remove_files(self) -> None:
        with plain_errors(self.lines):
            for file in (self.lines, self.path):
                file.unlink(missing_ok=True)

    def _open(self) -> FileIO:
        if self._file is None:
            if self._rows == 0:
                self._remove_files()
            make_folder(self.lines.parent)
            self._file = FileIO(self.lines, "a")
        return self._file

    def _still_there(self, file: FileIO) -> bool:
        try:
            return os.path.samestat(os.stat(self.lines), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _write(self, file: FileIO, line: bytes) -> None:
        """Write a whole line or nothing."""
        done = 0
        try:
            while done < len(line):
                done += file.write(line[done:]) or 0
        except BaseException:
            os.ftruncate(file.fileno(), self._size)
            raise

    def _check_kind(self, key: str, value: Value) -> None:
        if value is None:
            return
        kind = _KINDS[type(value)]
        known = self._kinds.setdefault(key, kind)
        if kind != known:
            raise TypeError(f"{self.path.name}, column {key!r}: {value!r} is no {known}")

    def _table(self) -> pa.Table:
        first = pa.table({name: pa.array([], kind) for name, kind in self._schema.items()})
        if not self._rows:
            return first
        try:
            with self.lines.open("rb") as stream:
                return table_of(parsed(islice(stream, self._rows)), first)
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.lines} cannot be read ({error}): the disk or another program has damaged "
                "it. Put it back and go on with --resume."
            ) from error


def _plain(key: str, value: Any) -> Value:
    """A Python value from what metrics come as (0-dim tensors and numpy scalars included)."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, str):
        # half of a surrogate pair, which a byte-level tokenizer can leave, is not valid UTF-8
        return value.encode("utf-8", "replace").decode("utf-8")
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -_INT64 <= value < _INT64 else _as_float(value)
    raise TypeError(f"{key!r} is a {type(value).__name__}; a row holds numbers, strings and None")


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
