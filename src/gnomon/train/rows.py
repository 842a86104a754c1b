"""A growing parquet table: rows are appended, the file is always whole.

The file is rewritten in one step from time to time, and the larger it is the more rarely, so that
writing stays a small share of the run. What was appended since the last flush dies with the
process; flush before saving a checkpoint, and nothing a resumed run needs is ever missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gnomon.atomic import clean_temporaries, write_file
from gnomon.errors import RunError

# A table of this size doubles the time between two flushes; writing it takes well under a second.
_BYTES_PER_INTERVAL = 16 * 2**20
_MAX_CHUNKS = 64


class RowStore:
    """Rows of named values, kept in memory as arrow columns and on disk as one parquet file.

    Columns are the union of the rows' keys, in order of first appearance; a value that a row lacks
    is null. Whole numbers and fractions may mix in a column (it becomes float); numbers and
    strings may not. NaN and infinity are values, not null.
    """

    def __init__(
        self,
        path: Path,
        flush_seconds: float = 10,
        *,
        schema: Mapping[str, pa.DataType] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        path: the parquet file. It is read by :meth:`truncate_after` and otherwise overwritten.
        flush_seconds: least time between two writes by :meth:`append`; grows with the table.
        schema: columns that are there from the start, in this order and of these types.
        clock: seconds, from anywhere.
        """
        self.path = Path(path)
        self.flush_seconds = flush_seconds
        self._clock = clock
        self._last_flush = clock()
        self._interval = flush_seconds
        self._schema = dict(schema or {})
        self._table = pa.table({k: pa.array([], t) for k, t in self._schema.items()})
        self._pending: list[dict[str, Any]] = []
        self._dirty = False

    def __len__(self) -> int:
        return int(self._table.num_rows) + len(self._pending)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows, with None where a value is missing."""
        self._absorb()
        rows: list[dict[str, Any]] = self._table.to_pylist()
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; now and then this also flushes.

        Raises:
            TypeError: a value is neither a number, a string, a bool nor None.
        """
        self._pending.append({key: _plain(key, value) for key, value in row.items()})
        self._dirty = True
        if self._clock() - self._last_flush >= self._interval:
            self.flush()

    def flush(self) -> None:
        """Write everything to disk in one step, if anything changed.

        Raises:
            RunError: the disk is full; the file is as it was.
        """
        if self._dirty:
            self._absorb()
            with write_file(self.path) as tmp:
                pq.write_table(self._table, tmp, compression="zstd")
            self._dirty = False
        self._interval = self.flush_seconds * (1 + self._table.nbytes / _BYTES_PER_INTERVAL)
        self._last_flush = self._clock()

    def truncate_after(self, step: int) -> None:
        """Drop the rows whose ``step`` is greater, as a run resumed at ``step`` needs it.

        A store that holds nothing yet first reads its file, so this is how a run is taken up.

        Raises:
            RunError: the file cannot be read.
        """
        if not len(self):
            self._read()
        self._absorb()
        if "step" not in self._table.column_names:
            return
        keep = pc.fill_null(pc.less_equal(self._table["step"], step), True)
        kept = self._table.filter(keep)
        self._dirty = self._dirty or kept.num_rows < self._table.num_rows
        self._table = kept

    def _read(self) -> None:
        if not self.path.parent.is_dir():
            return
        clean_temporaries(self.path.parent)
        if not self.path.is_file():
            return
        try:
            table = pq.read_table(self.path)
        except (pa.ArrowInvalid, OSError) as error:
            raise RunError(
                f"{self.path} cannot be read ({error}). It is written in one step, so the disk or "
                "another program has damaged it: restore it, or move it away to resume without "
                "what it held."
            ) from error
        self._table = _joined(self._table, table)

    def _absorb(self) -> None:
        """Move the pending rows into the table."""
        if not self._pending:
            return
        columns = list(dict.fromkeys(key for row in self._pending for key in row))
        new = pa.table({c: self._column(c, [r.get(c) for r in self._pending]) for c in columns})
        self._table = _joined(self._table, new)
        self._pending = []

    def _column(self, name: str, values: list[Any]) -> pa.Array:
        if any(isinstance(v, float) for v in values):
            values = [float(v) if isinstance(v, int) else v for v in values]
        try:
            return pa.array(values, type=self._schema.get(name))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise TypeError(f"{self.path.name}, column {name!r}: {error}") from error


def _joined(table: pa.Table, new: pa.Table) -> pa.Table:
    try:
        table = pa.concat_tables([table, new], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TypeError(f"a column's values changed their type: {error}") from error
    chunks = max((column.num_chunks for column in table.columns), default=0)
    return table.combine_chunks() if chunks > _MAX_CHUNKS else table


def _plain(key: str, value: Any) -> float | int | str | bool | None:
    """A Python value from what metrics come as (0-dim tensors and numpy scalars included)."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, str):
        # half of a surrogate pair, which a byte-level tokenizer can leave, is not valid UTF-8
        return value.encode("utf-8", "replace").decode("utf-8")
    if value is None or isinstance(value, bool | int | float):
        return value
    raise TypeError(f"{key!r} is a {type(value).__name__}; a row holds numbers, strings and None")
