"""The rows of an eval that are done: one JSON line an item, written as it is known.

Every line says what it is of (``of``: a fingerprint of model, settings and data), so that a killed
eval continues with the items that have no line yet, and rows of another model or of other settings
are never mixed in.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gnomon.errors import RunError
from gnomon.files import make_folder, plain_errors, write_bytes

FAILED = "error"
"""The key of a row whose item failed: it is in no score, and is asked again next time."""


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
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self.key = key
        self._rows: dict[str, dict[str, Any]] = {}
        self.foreign = 0
        for row in _read(path):
            if row.get("of") != key or "id" not in row:
                self.foreign += 1
            elif FAILED not in row:  # what failed is asked again
                self._rows[str(row["id"])] = row
        self.kept = len(self._rows)
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
        full = [{"id": str(row["id"]), "of": self.key, **row} for row in rows]
        lines = b"".join(map(_line, full))
        with plain_errors(self.path):
            make_folder(self.path.parent)
            with self.path.open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        self._rows |= {row["id"]: row for row in full}

    def _rewrite(self) -> None:
        """The file with the rows that count and no others (nor half a line)."""
        write_bytes(self.path, b"".join(map(_line, self._rows.values())))


def set_aside(file: Path) -> None:
    """Keep a file as ``FILE.old``, where nothing takes it for a result."""
    with plain_errors(file):
        os.replace(file, file.with_name(f"{file.name}.old"))


def _line(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, default=_plain)
    # half of a surrogate pair, which a byte-level tokenizer can leave, is not valid UTF-8
    return (text + "\n").encode("utf-8", "replace")


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
