"""Metrics and samples: one JSON line per row as it comes, one parquet file when the stage ends.

``x.jsonl`` only ever grows, so writing a row costs the same however many there are, and it can be
followed during the run (``tail -f``). ``x.parquet`` is made from it by :meth:`RowStore.finish` and
holds the same rows by columns. A checkpoint keeps a :class:`Mark`; a resumed run cuts the lines off
there, after checking that what is before it is what was written.

NaN and infinities are ``NaN``, ``Infinity`` and ``-Infinity`` in the lines.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TypedDict, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gnomon.errors import RunError
from gnomon.files import first_line, make_folder, plain_errors, write_file
from gnomon.runs.not_finite import is_bound, not_finite

Value = float | int | str | bool | None
Column = NDArray[np.float64]

_NAMED = 12  # columns that a message names
_CHUNK = 4096  # rows that are put into columns together
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

    Every row has a ``step``. Columns are the union of the rows' keys, in order of first appearance;
    a value that a row lacks is null. Whole numbers and fractions may mix in a column (it becomes
    float); numbers, truth values and text may not. NaN and infinity are values, not null.
    """

    schema: ClassVar[Mapping[str, pa.DataType]] = {}
    """Columns that are there from the start, in this order and of these types."""

    def __init__(self, path: Path) -> None:
        """Args:
        path: the parquet file; the lines are next to it. Nothing is read or written yet.
        """
        self.path = Path(path)
        self.lines = self.path.with_suffix(".jsonl")
        self._kinds: dict[str, str] = {}
        self._file: FileIO | None = None
        self._size = 0
        self._rows = 0
        self._digest = hashlib.sha256()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows, with None where a value is missing."""
        rows: list[dict[str, Any]] = self._table().to_pylist()
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is in the file when this returns.

        Raises:
            ValueError: it has no ``step``, so nobody could tell which checkpoint it comes before.
            TypeError: a value is neither a number, a string, a bool nor None, or of another kind
                than its column's.
            RunError: the disk is full or the file is gone; the rows before are as they were.
        """
        if row.get("step") is None:
            raise ValueError("a row needs a 'step'")
        plain = {key: _plain(key, value) for key, value in row.items()}
        for key, value in plain.items():
            self._check_kind(key, value)
        line = (json.dumps(plain, ensure_ascii=False) + "\n").encode("utf-8")
        with plain_errors(self.lines):
            file = self._open()
            if not self._still_there(file):
                raise RunError(
                    f"{self.lines} was removed while the run was writing it, so its folder is no "
                    "longer complete. The run stops here. Put the folder back and resume with "
                    "--resume; without it --resume starts this stage again from the beginning."
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
        """Continue from the lines that a checkpoint marked; what came after is cut off.

        Raises:
            RunError: the rows that the checkpoint counts are not there, or not what was written.
        """
        self.close()
        if mark.rows == 0:
            self.reset()
            return
        cure = (
            "Put the file back as it was and resume with --resume; or remove the folder "
            f"{self.lines.parent} to start the stage again from the beginning."
        )
        try:
            with self.lines.open("rb") as stream:
                kept = stream.read(mark.bytes)
        except OSError as error:
            raise RunError(
                f"{self.lines} cannot be read ({error}), and the checkpoint counts {mark.rows} "
                f"rows in it. {cure}"
            ) from error
        digest = hashlib.sha256(kept)
        if digest.hexdigest() != mark.sha256:
            raise RunError(
                f"{self.lines} is not what the run wrote: it has {kept.count(10)} of the "
                f"{mark.rows} rows that the checkpoint counts, or other rows. {cure}"
            )
        with plain_errors(self.lines):
            os.truncate(self.lines, mark.bytes)
        self._size, self._rows, self._digest = mark.bytes, mark.rows, digest
        for row in parsed(kept.splitlines()):
            for key, value in row.items():
                self._check_kind(key, value)

    def reset(self) -> None:
        """Start with no rows: what an earlier run left is removed."""
        self.close()
        self._remove_files()
        self._size, self._rows, self._digest = 0, 0, hashlib.sha256()
        self._kinds = {}

    def finish(self) -> None:
        """Write all rows to the parquet file, in one step; without rows there is no file.

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
        """Close the file; the next row opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @classmethod
    def read_table(cls, path: Path, done: bool) -> tuple[pa.Table, list[str]]:
        """A stage's rows as a table, during the run or after, and what could not be read.

        The parquet file is read when the stage is ``done``, else the lines; or the other of the
        two where one cannot be read.
        """
        store = cls(path)
        files = [file for file in (store.path, store.lines) if file.exists()]
        problems: list[str] = []
        for file in files if done else files[::-1]:
            try:
                if file == store.path:
                    return pq.read_table(file), problems
                with file.open("rb") as stream:
                    whole = (line for line in stream if line.endswith(b"\n"))
                    table = table_of(parsed(whole), pa.table({}))
                if done and _is_cut_off(file):  # during the run it is being written
                    problems.append(f"{file}: its last row is cut off; left out")
                return table, problems
            except (pa.ArrowException, OSError, ValueError) as error:
                reason = first_line(error).replace(str(file), file.name)
                problems.append(f"{file} cannot be read ({reason})")
        return pa.table({}), problems

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
            raise TypeError(f"{self.path.name}, column {key!r}: {value!r} is not a {known}")

    def _table(self) -> pa.Table:
        first = pa.table({name: pa.array([], kind) for name, kind in self.schema.items()})
        if not self._rows:
            return first
        try:
            with self.lines.open("rb") as stream:
                return table_of(parsed(islice(stream, self._rows)), first)
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.lines} cannot be read ({error}): the disk or another program has damaged "
                "it. Put it back and resume with --resume."
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


def _is_cut_off(file: Path) -> bool:
    """Whether its last line has no end."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 1))
        return stream.read() not in (b"", b"\n")


def parsed(lines: Iterable[bytes]) -> Iterator[dict[str, Value]]:
    """The rows in lines; a ValueError with the number of a line that is not a row."""
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not a row but {str(row)[:40]!r}")
        yield row


def table_of(rows: Iterator[dict[str, Value]], first: pa.Table) -> pa.Table:
    """Rows by columns, those of ``first`` before them; a ValueError if kinds mix in a column."""
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


class MetricsStore(RowStore):
    """The figures of a stage: one row per iteration, and per evaluation."""

    @classmethod
    def read(cls, path: Path, done: bool) -> tuple[dict[str, Column], list[str]]:
        """The numbers by column, NaN where a row has none, and what could not be read or is not
        finite."""
        table, problems = cls.read_table(path, done)
        kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
        numbers = [f.name for f in table.schema if any(is_kind(f.type) for is_kind in kinds)]
        others = [
            f.name for f in table.schema if f.name not in numbers and not pa.types.is_null(f.type)
        ]
        if others:
            named = ", ".join(others[:_NAMED]) + (", ..." if len(others) > _NAMED else "")
            problems.append(f"{path}: {named} holds no numbers; left out")
        columns, broken = {}, {}
        for name in numbers:
            values = table.column(name).to_pylist()
            columns[name] = np.array([math.nan if v is None else float(v) for v in values])
            wrong = [i for i, v in enumerate(values) if v is not None and not math.isfinite(v)]
            if wrong and not is_bound(name, numbers):
                broken[name] = wrong
        steps = columns.get("step", np.arange(table.num_rows, dtype=np.float64))
        places = {n: [int(x) for x in np.nan_to_num(steps[rows])] for n, rows in broken.items()}
        problems += [f"{path}: {said}" for said in not_finite(places)]
        return columns, problems


class SampleRow(TypedDict, total=False):
    """A sampled response with its reward; a row may hold more.

    ``reward`` is null when ``error`` is set; ``parts`` are the reward's named parts, as JSON;
    ``length`` counts tokens, EOS included; ``finished`` is False when it was cut off; ``reason`` is
    what the judges said of the prompt's responses, where they said anything;
    ``evaluation`` is null for what was trained on, and for answers to held-out prompts the number
    of iterations that the policy had been trained for: 0 before the first.
    """

    step: int
    prompt_id: str
    category: str | None
    prompt: str
    response: str
    reward: float | None
    parts: str | None
    error: str | None
    length: int
    finished: bool
    reason: str | None
    evaluation: int | None


_ARROW = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
COLUMNS = {
    name: _ARROW[next(iter(get_args(kind)), kind)]
    for name, kind in get_type_hints(SampleRow).items()
}


class SampleStore(RowStore):
    """The samples of a stage; the columns of :class:`SampleRow` are there from the start."""

    schema = COLUMNS

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a sample; ``parts`` may be a mapping or its JSON. See :meth:`RowStore.append`."""
        parts = row.get("parts")
        if isinstance(parts, Mapping):
            row = {**row, "parts": json.dumps(dict(parts), ensure_ascii=False)}
        super().append(row)

    @classmethod
    def read(cls, path: Path, done: bool) -> tuple[list[SampleRow], list[str]]:
        """The samples, and what could not be read."""
        table, problems = cls.read_table(path, done)
        return table.to_pylist(), problems
