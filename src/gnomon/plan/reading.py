"""How a plan's files are read: what their columns are called, and what their labels mean.

Files differ, so that a column's name counts for those of them that have the column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnomon.data.rows import iter_rows
from gnomon.data.values import RawRow
from gnomon.errors import ConfigError
from gnomon.plugins import did_you_mean


@dataclass(frozen=True)
class Reading:
    """Attributes:
    columns: gnomon's name of a field -> the files'.
    labels: what the values of a preference column mean.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)

    def of(self, path: Path) -> Reading:
        """The part of it that one file is read with."""
        if not self.columns:
            return self
        has = columns_of(path)
        mine = {ours: theirs for ours, theirs in self.columns.items() if theirs in has}
        return Reading(mine, self.labels)

    def options(self, path: Path) -> dict[str, Any]:
        """The data keys of a recipe that one file is read with."""
        found = {"columns": dict(self.of(path).columns), "labels": dict(self.labels)}
        return {key: value for key, value in found.items() if value}

    def check(self, paths: Sequence[Path]) -> None:
        """Refuse a column that none of the files has.

        Raises:
            ConfigError: there is one; it may be misspelt.
        """
        has = {name for path in paths for name in columns_of(path)} if self.columns else set()
        for ours, theirs in self.columns.items():
            if has and theirs not in has:
                hint = did_you_mean(theirs, sorted(has), "they have", 0.7)
                raise ConfigError(f"--columns {ours}={theirs}: no file has that column; {hint}")


def columns_of(path: Path) -> set[str]:
    """The names of a file's columns, of all its rows."""
    return {str(key) for row in iter_rows(path) if isinstance(row, RawRow) for key in row.data}
