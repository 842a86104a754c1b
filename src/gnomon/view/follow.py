"""Files of JSON lines that still grow: each reading takes only what was added since the last."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.runs.not_finite import is_bound, not_finite
from gnomon.runs.rows import Column

_TAIL = 64  # bytes before the place reached, by which a file that was cut and grew again is known
_MOST = 16 * 2**20  # bytes read at a time


class Lines:
    """The rows of a ``.jsonl`` file, as they come.

    Attributes:
        read: bytes read so far, of all readings together.
        wrong: numbers of lines that are no rows; they are passed over.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read = 0
        self._begin()

    def _begin(self) -> None:
        self.wrong: list[int] = []
        self._place, self._number, self._file, self._tail = 0, 0, 0, b""

    def advance(self) -> tuple[list[dict[str, Any]], bool]:
        """The rows added since the last reading, and whether they are all rows from the start: the
        file is another one, or was cut back (as a resumed run does).

        Raises:
            OSError: it cannot be read.
        """
        try:
            with self.path.open("rb") as stream:
                again = self._is_another(stream)
                if again:
                    self._begin()
                    self._file = self.path.stat().st_ino
                stream.seek(self._place)
                return list(self._rows(stream)), again
        except FileNotFoundError:
            again = self._place > 0
            self._begin()
            return [], again

    def _is_another(self, stream: Any) -> bool:
        if self._place == 0:
            return True
        if self.path.stat().st_ino != self._file:
            return True
        stream.seek(self._place - len(self._tail))
        self.read += len(self._tail)
        return bool(stream.read(len(self._tail)) != self._tail)

    def _rows(self, stream: Any) -> Iterable[dict[str, Any]]:
        rest = b""
        while block := stream.read(_MOST):
            self.read += len(block)
            *lines, rest = (rest + block).split(b"\n")  # the last may not be whole yet
            for line in lines:
                self._number += 1
                self._place += len(line) + 1
                self._tail = (self._tail + line + b"\n")[-_TAIL:]
                row = _row(line)
                if row is not None:
                    yield row
                elif line.strip():
                    self.wrong.append(self._number)

    @property
    def problem(self) -> str | None:
        """What is wrong with the file, in words."""
        if not self.wrong:
            return None
        more = f" and {len(self.wrong) - 1} more" if len(self.wrong) > 1 else ""
        return f"{self.path.name}, line {self.wrong[0]}{more}: not a row; left out"


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


class Metrics:
    """The numbers of a growing ``metrics.jsonl`` by column."""

    def __init__(self, path: Path) -> None:
        self.lines = Lines(path)
        self._begin()

    def _begin(self) -> None:
        self._columns: dict[str, list[float]] = {}
        self._broken: dict[str, list[int]] = {}
        self._size = 0

    def columns(self) -> Mapping[str, Column]:
        """Column -> [rows], NaN where a row has no number.

        Raises:
            OSError: the file cannot be read.
        """
        rows, again = self.lines.advance()
        if again:
            self._begin()
        for row in rows:
            for key, value in row.items():
                if isinstance(value, int | float):
                    column = self._columns.setdefault(key, [])
                    column += [math.nan] * (self._size - len(column))
                    column.append(_number(value))
                    if not math.isfinite(column[-1]):
                        self._broken.setdefault(key, []).append(_step(row, self._size))
            self._size += 1
        return {
            key: np.array(values + [math.nan] * (self._size - len(values)))
            for key, values in self._columns.items()
        }

    @property
    def problems(self) -> list[str]:
        """What is wrong with the rows read so far, in words."""
        named = {k: v for k, v in self._broken.items() if not is_bound(k, self._columns)}
        said = [f"{self.lines.path.name}: {text}" for text in not_finite(named)]
        return [*([self.lines.problem] if self.lines.problem else []), *said]


def _step(row: Mapping[str, Any], place: int) -> int:
    step = row.get("step")
    return int(step) if isinstance(step, int | float) and math.isfinite(step) else place


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.nan
