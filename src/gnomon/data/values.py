"""Rows, used and left out, and their single values, read strictly: JSON, text, numbers and flags.

CSV holds only text, so numbers and flags may be written as text everywhere ("0.5", "false"); what
is neither is refused rather than guessed. Everything in JSON that Python's parser would take
silently or choke on is named.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from gnomon.records import Source

MOST = 3.4e38
"""What float32 holds: weights, margins and scores become that."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_FLAGS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


class RowError(Exception):
    """Why one row cannot be used, and what would make it usable."""

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(f"{reason}: {cure}")
        self.reason = reason
        self.cure = cure

    def skip(self, source: Source | None) -> Skipped:
        """The row at ``source``, left out for this reason."""
        return Skipped(source, self.reason, self.cure)


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as the file has it. ``aside`` holds fields that another was mapped over: they go into
    ``Prompt.meta`` and mean nothing to a format."""

    source: Source
    data: Mapping[str, Any]
    aside: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row (or group) left out: where it is, why, and what would make it usable."""

    source: Source | None
    reason: str
    cure: str

    def __str__(self) -> str:
        where = f"{self.source}: " if self.source else ""
        return f"{where}{self.reason} ({self.cure})"


def summarise_skipped(skipped: Sequence[Skipped]) -> str:
    """A line for each of the ten most frequent reasons, with the first three row numbers."""
    if not skipped:
        return "no rows skipped"
    by_reason: dict[str, list[Skipped]] = {}
    for item in skipped:
        by_reason.setdefault(item.reason, []).append(item)
    lines = [f"{len(skipped)} skipped"]
    ordered = sorted(by_reason.items(), key=lambda kv: -len(kv[1]))
    shards = len({i.source.file for i in skipped if i.source}) > 1
    for reason, items in ordered[:10]:
        sources = [i.source for i in items[:3] if i.source]
        rows = ", ".join(f"{Path(s.file).name} {s.row}" if shards else str(s.row) for s in sources)
        more = ", ..." if len(items) > 3 else ""
        where = f" (row {rows}{more})" if rows else ""
        lines.append(f"  {len(items)} x {reason}{where}: {items[0].cure}")
    left = sum(len(items) for _reason, items in ordered[10:])
    if left:
        lines.append(f"  {left} x other reasons")
    return "\n".join(lines)


# --- single values -----------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A value for a message: not longer than a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_text(value: Any, name: str) -> str:
    """A string, or a number as written.

    Raises:
        RowError: anything else, true and false included.
    """
    if isinstance(value, str):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value if isinstance(value, float) else 0):
        raise RowError(
            f"field {name!r} is a {type(value).__name__}, not text", f"write {name!r} as a string"
        )
    return str(value)


def as_number(value: Any, name: str) -> float:
    """A finite number, which may be written as text.

    Raises:
        RowError: it is not a number, or more than float32 holds.
    """
    number = math.nan
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) <= MOST else math.nan
    elif isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value)
    if not abs(number) <= MOST:
        raise RowError(
            f"field {name!r} is {shown(value)}, not a number", f"write {name!r} as a number"
        )
    return number


def as_weight(value: Any, name: str) -> float:
    """How much something counts: 0 (not at all) or more.

    Raises:
        RowError: it is negative, or not a number.
    """
    weight = as_number(value, name)
    if weight < 0:
        raise RowError(
            f"field {name!r} is {weight:g}: a negative weight would train the opposite",
            "write 0 to switch it off, or a positive number",
        )
    return weight


def as_confidence(value: Any, name: str) -> float:
    """How sure a labeller is, from 0 to 1.

    Raises:
        RowError: it is outside of that, or not a number.
    """
    confidence = as_number(value, name)
    if not 0 <= confidence <= 1:
        raise RowError(
            f"field {name!r} is {confidence:g}, not a confidence", "write a number from 0 to 1"
        )
    return confidence


def as_probability(value: Any, name: str) -> float:
    """How likely it is that the better response is the better one, from 0.5 to 1.

    Raises:
        RowError: it is outside of that, or not a number.
    """
    probability = as_number(value, name)
    if not 0.5 <= probability <= 1:
        raise RowError(
            f"field {name!r} is {probability:g}, not the probability of the better response",
            "write a number from 0.5 to 1, or swap better and worse",
        )
    return probability


def as_bool(value: Any, name: str) -> bool:
    """true or false, also as 1, 0 or text.

    Raises:
        RowError: anything else.
    """
    flag = as_flag(value)
    if flag is None:
        raise RowError(f"field {name!r} is {shown(value)}", f"write {name!r} as true or false")
    return flag


def as_flag(value: Any) -> bool | None:
    """As :func:`as_bool`, but None for what is not a flag."""
    if not isinstance(value, bool | int | float | str):
        return None
    if not isinstance(value, str):
        return bool(value) if value in (0, 1) else None
    return _FLAGS.get(value.strip().lower())


# --- JSON --------------------------------------------------------------------------------------

MAX_DEPTH = 100
MAX_DIGITS = 1000
_ONE = "write one complete JSON object on each line"


class JsonReader:
    """Reads JSON values and finds what is wrong with each. ``NaN`` is read as null."""

    def __init__(self) -> None:
        self._flaws: list[RowError] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_int=self._integer, parse_constant=_constant
        )

    def read(self, text: str) -> Any:
        """The value of a text that holds exactly one.

        Raises:
            RowError: it is not JSON, or JSON that cannot be meant.
        """
        start = len(text) - len(text.lstrip())
        try:
            value, end = self.read_at(text, start)
        except json.JSONDecodeError as error:
            raise RowError(f"invalid JSON at column {error.colno} ({error.msg})", _ONE) from error
        rest = text[end:].strip()
        if rest:
            what = (
                "more than one JSON value" if rest[0] in "[{" else f"{rest[:20]!r} after the value"
            )
            raise RowError(f"{what} on the line (at column {end + 1})", _ONE)
        if isinstance(value, RowError):
            raise value
        return value

    def read_at(self, text: str, start: int) -> tuple[Any | RowError, int]:
        """The value that begins at ``start`` (or what is wrong with it), and where it ends.

        Raises:
            json.JSONDecodeError: not JSON, so what follows cannot be read either.
            RowError: nested so deep that its end cannot be found.
        """
        self._flaws.clear()
        try:
            value, end = self._decoder.raw_decode(text, start)
        except RecursionError as error:
            raise too_deep() from error
        brackets = text.count("[", start, end) + text.count("{", start, end)
        if brackets > MAX_DEPTH and depth(value) > MAX_DEPTH:
            self._flaws.insert(0, too_deep())
        elif text.find("\\u", start, end) >= 0 and has_surrogate(value):
            self._flaws.append(
                RowError(
                    "half a character (a lone surrogate such as \\ud83d)",
                    "write whole characters: the text was cut in the middle of one",
                )
            )
        return (self._flaws[0] if self._flaws else value), end

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in value if names.count(name) > 1)
            self._flaws.append(
                RowError(f"the key {twice!r} appears twice", "keep the one that is meant")
            )
        return value

    def _integer(self, digits: str) -> int:
        if len(digits) > MAX_DIGITS:
            self._flaws.append(
                RowError(f"an integer of {len(digits)} digits", "write it as a string")
            )
            return 0
        return int(digits)


def _constant(name: str) -> float | None:
    return None if name == "NaN" else math.inf if name == "Infinity" else -math.inf


def too_deep() -> RowError:
    """The error for a value nested deeper than ``MAX_DEPTH``."""
    return RowError(f"nested more than {MAX_DEPTH} levels deep", "check for stray brackets")


def depth(value: Any) -> int:
    """Levels of lists and objects in a value."""
    level, layer = 0, [value]
    while layer := [v for v in layer if isinstance(v, list | dict)]:
        level += 1
        layer = [i for v in layer for i in (v.values() if isinstance(v, dict) else v)]
    return level


def has_surrogate(value: Any) -> bool:
    """Whether any text in a JSON value has a lone surrogate, which no encoding can write."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def without_missing(value: Any) -> Any:
    """NaN is null, and null fields of objects are left out: Arrow gives every object of a column
    the fields of all others, so nobody wrote them."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        cleaned = {k: without_missing(v) for k, v in value.items()}
        return {k: v for k, v in cleaned.items() if v is not None}
    if isinstance(value, list | tuple):
        return [without_missing(item) for item in value]
    return value
