"""The rows of an eval that are done: one JSON line an item, written as it is known.

Every line says what it is of (``of``: a fingerprint of model, settings and data), so that a killed
eval continues with the items that have no line yet, and rows of another model or of other settings
are never mixed in. What failed is asked again, and what it took before stays counted.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gnomon.errors import RunError
from gnomon.files import make_folder, plain_errors, write_bytes

FAILED = "error"
"""The key of a row whose item failed: it is in no score, and is asked again next time."""
COST = ("tokens", "money")
"""What a row says it took: of all attempts at its item together."""
KEPT = "kept"
"""What of a row's cost whoever answers tells once more when it is asked again, where that is a part
of it: of two judges one keeps its answers on disk, say."""
SECONDS = "seconds"
"""The same of time: from the rows before it, shared among those that were written together."""


def key_of(facts: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that tell apart what rows are of."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Rows:
    """The rows in a file, by the ids of their items.

    Args:
        path: ``<suite>.jsonl``.
        key: see :func:`key_of`.

    Attributes:
        kept: rows that were there already and count.
        foreign: rows of another model, of other settings or other data, which do not; the file is
            kept as ``<suite>.jsonl.old``.
        seconds_before: what the rows that were there took, failed ones too.
        told_again: whoever answers tells what it cost before, when it is asked again (a judge that
            keeps its answers on disk): then nothing is added to that, but for what a row's
            :data:`KEPT` leaves.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self._rows: dict[str, dict[str, Any]] = {}
        self._failed: dict[str, dict[str, Any]] = {}  # of earlier processes, to be asked again
        self.foreign = 0
        self.told_again = False
        for row in _read(path):
            if row.get("of") != key or "id" not in row:
                self.foreign += 1
                continue
            id = str(row["id"])
            self._failed.pop(id, None)  # a later row counts what the earlier took
            self._rows.pop(id, None)
            (self._failed if FAILED in row else self._rows)[id] = row
        self.kept = len(self._rows)
        known = [*self._rows.values(), *self._failed.values()]
        self.seconds_before = sum(_number(row, SECONDS) for row in known)
        self._since = time.perf_counter()
        if path.is_file():
            if self.foreign:
                set_aside(path)
            self._rewrite()

    def has(self, id: str) -> bool:
        """Whether the item has a row."""
        return id in self._rows

    def get(self, id: str) -> dict[str, Any]:
        """The item's row."""
        return self._rows[id]

    def all(self) -> list[dict[str, Any]]:
        """Every row, in the order in which they came."""
        return list(self._rows.values())

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, each with an ``id``; they are in the file when this returns.

        Raises:
            RunError: the disk is full or cannot be written; the rows before stay.
        """
        given = list(rows)
        now = time.perf_counter()
        each = (now - self._since) / max(1, len(given))
        self._since = now
        full = [
            self._with_earlier({"id": "", "of": self.key, **row, SECONDS: each}) for row in given
        ]
        lines = b"".join(map(_line, full))
        with plain_errors(self.path):
            make_folder(self.path.parent)
            with self.path.open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        self._rows |= {row["id"]: row for row in full}

    def tidy(self) -> None:
        """Leave out of the file the failed rows that later ones took the place of."""
        if self._failed.keys() & self._rows.keys():
            self._failed = {id: r for id, r in self._failed.items() if id not in self._rows}
            self._rewrite()

    def _with_earlier(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with what the failed attempts before it took."""
        row["id"] = str(row["id"])
        before = self._failed.get(row["id"]) if row["id"] not in self._rows else None
        if before is None:
            return row
        row[SECONDS] += _number(before, SECONDS)
        spent = self._not_told_again(before)
        if self.told_again and any(spent.values()):  # which are never told again either
            row.setdefault(KEPT, {name: _number(row, name) for name in COST})
        return row | {name: _number(row, name) + own for name, own in spent.items() if own}

    def _not_told_again(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What a failed attempt took, less what is told when its item is asked again."""
        if not self.told_again:
            return {name: _number(row, name) for name in COST}
        kept = row.get(KEPT)
        if not isinstance(kept, Mapping):
            return {}
        return {name: max(0, _number(row, name) - _number(kept, name)) for name in COST}

    def _rewrite(self) -> None:
        """The file with the rows of this model and these settings (and without half a line): the
        failed ones last."""
        rows = [*self._rows.values(), *self._failed.values()]
        write_bytes(self.path, b"".join(map(_line, rows)))


def set_aside(file: Path) -> None:
    """Keep a file as ``FILE.old``, where nothing takes it for a result."""
    with plain_errors(file):
        os.replace(file, file.with_name(f"{file.name}.old"))


def _line(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, default=_plain)
    # half of a surrogate pair, which a byte-level tokenizer can leave, is not valid UTF-8
    return (text + "\n").encode("utf-8", "replace")


def _number(row: Mapping[str, Any], name: str) -> Any:
    """A row's number of that name, 0 where it has none."""
    value = row.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a row cannot hold a {type(value).__name__}")


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; what a killed process left of its last one is passed over.

    Raises:
        RunError: the file is there and cannot be read.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error}); move it away to start anew") from error
    found = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found
