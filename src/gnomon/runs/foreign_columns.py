"""Columns of another trainer's rows whose names mean something in gnomon's samples.

One that holds the same thing is cast to the kind that gnomon writes; one that holds something else
is kept as ``theirs/NAME``, so that nobody takes it for what it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gnomon.runs.foreign import Imported, is_number, keep_apart

Row = dict[str, Any]


def _as_text(raw: Any) -> str | None:
    return str(raw) if isinstance(raw, str | int | float | bool) else None


def _as_count(raw: Any) -> int | None:
    return int(raw) if is_number(raw) and raw >= 0 and float(raw).is_integer() else None


def _as_truth(raw: Any) -> bool | None:
    return bool(raw) if isinstance(raw, int | float) and raw in (0, 1) else None


_SAME: Mapping[str, Callable[[Any], Any]] = {
    "category": _as_text,
    "reason": _as_text,
    "length": _as_count,
    "finished": _as_truth,
}
"""Columns that may hold what gnomon's do, and how a value is cast; None where it is none."""
_OWN = ("evaluation", "prompt_id", "policy_iteration")
"""Columns that gnomon fills itself."""


def fit_columns(rows: Sequence[Row], out: Imported) -> None:
    """Cast or rename the columns of all rows that mean something in gnomon's samples."""
    for name, cast in _SAME.items():
        values = [row[name] for row in rows if row.get(name) is not None]
        if all(cast(value) is not None for value in values):
            for row in rows:
                if row.get(name) is not None:
                    row[name] = cast(row[name])
        else:
            keep_apart(rows, (name,), out)
    keep_apart(rows, _OWN, out)
