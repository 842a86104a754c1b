"""Single values of a row: text, numbers, weights and flags, read strictly.

CSV holds text only, so a number or a flag may be written as text ("0.5", "false") everywhere; what
is neither is refused rather than taken for true or for its own spelling.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

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
        RowError: it is none, or more than float32 holds.
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
        RowError: negative, or no number.
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
        RowError: outside of that, or no number.
    """
    confidence = as_number(value, name)
    if not 0 <= confidence <= 1:
        raise RowError(
            f"field {name!r} is {confidence:g}, not a confidence", "write a number from 0 to 1"
        )
    return confidence


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
    """As :func:`as_bool`, but None for what is no flag."""
    if not isinstance(value, bool | int | float | str):
        return None
    if not isinstance(value, str):
        return bool(value) if value in (0, 1) else None
    return _FLAGS.get(value.strip().lower())
