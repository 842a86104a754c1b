"""JSON as data files have it: everything that Python's parser would take silently or choke on is
named."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from gnomon.data.scalars import RowError

MAX_DEPTH = 100
MAX_DIGITS = 1000
_ONE = "write one complete JSON object on each line"


class JsonReader:
    """Reads JSON values and says of each what is wrong with it. ``NaN`` is read as null."""

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
            json.JSONDecodeError: no JSON, so nothing can be said of what follows.
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
    """Whether any text in a value has a lone surrogate, which no encoding can write."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item, *item.values()]
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, str) and not item.isascii():
            try:
                item.encode()
            except UnicodeEncodeError:
                return True
    return False


def without_missing(value: Any, padded: bool) -> Any:
    """NaN is null. With ``padded``, fields of nested objects that are null are left out: Arrow
    gives every object of a column the fields of all others, so nobody wrote them."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        cleaned = {k: without_missing(v, padded) for k, v in value.items()}
        return {k: v for k, v in cleaned.items() if v is not None or not padded}
    if isinstance(value, list | tuple):
        return [without_missing(item, padded) for item in value]
    return value
