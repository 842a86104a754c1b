"""A program's encoded answer against the value expected, at no more cost than that value's size.

The answer is never built as a whole: what a program sends could take for ever to build (a fraction
of millions of digits, a set of numbers that all collide) or to compare. The expected value leads,
and parts of the answer that are larger than their counterparts are not looked at.
"""

from __future__ import annotations

import binascii
import cmath
import contextlib
import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

from gnomon.sandbox.inside import wire

_TAGS: dict[type, str] = {
    tuple: "t", set: "s", frozenset: "f", dict: "d", bytes: "b", bytearray: "y", complex: "c",
    Fraction: "q", Decimal: "n", range: "r",
}  # fmt: skip
_SLACK = 64
"""Characters that an equal value may be longer by than the one expected (1.0 for 1, say)."""
_FLOAT_DIGITS = 257
"""Hexadecimal digits of the largest integer that a float can equal, and one more."""
_DECODED = 4
"""Characters and parts of a value that is decoded to be shown, per character that is shown."""


def same_value(data: Any, want: Any, rel_tol: float = 0.0) -> bool:
    """Whether an encoded answer equals a plain value.

    Numbers may differ by ``rel_tol`` (integers not), True is not 1, nan equals nan, and
    everything else must be of the same type.

    Args:
        data: what :func:`wire.encode` made, or whatever a program sent in its place.
        want: the value expected.
    """
    if want is None or isinstance(want, bool):
        return data is want
    if isinstance(want, int | float):
        return _same_number(data, want, rel_tol)
    if isinstance(want, str):
        return isinstance(data, str) and data == want
    if isinstance(want, list):
        return _same_items(data, want, rel_tol)
    body = _body(data, _TAGS[type(want)])
    if isinstance(want, tuple):
        return _same_items(body, want, rel_tol)
    if isinstance(want, dict):
        return _same_dict(body, want, rel_tol)
    if isinstance(want, set | frozenset):
        return _same_members(body, want)
    if isinstance(want, bytes | bytearray):
        return isinstance(body, str) and body == binascii.hexlify(want).decode()
    return _same_rare(body, want, rel_tol)


def _body(data: Any, tag: str) -> Any:
    """What is under the tag; None where another tag, or none, is there."""
    return data.get(tag) if isinstance(data, dict) and len(data) == 1 else None


def _number(data: Any, digits: int) -> int | float | None:
    """A number of at most so many hexadecimal digits; None for anything else."""
    if isinstance(data, int | float):
        return None if isinstance(data, bool) else data
    text = _body(data, "i")
    if not isinstance(text, str) or len(text) > digits + len("-0x"):
        return None
    try:
        return int(text, 16)
    except ValueError:
        return None


def _same_number(data: Any, want: int | float, rel_tol: float) -> bool:
    digits = _FLOAT_DIGITS if isinstance(want, float) else len(hex(want))
    got = _number(data, digits)
    if got is None:
        return False
    if got == want or (isinstance(got, int) and isinstance(want, int)):
        return got == want
    if isinstance(got, float) and isinstance(want, float) and math.isnan(got):
        return math.isnan(want)
    try:
        return math.isclose(got, want, rel_tol=rel_tol)
    except OverflowError:  # an integer beyond the floats
        return False


def _same_items(data: Any, want: list[Any] | tuple[Any, ...], rel_tol: float) -> bool:
    return (
        isinstance(data, list)
        and len(data) == len(want)
        and all(same_value(d, w, rel_tol) for d, w in zip(data, want, strict=True))
    )


def _same_dict(body: Any, want: dict[Any, Any], rel_tol: float) -> bool:
    if not isinstance(body, list) or len(body) != len(want):
        return False
    room, seen = _room(want), set()
    for pair in body:
        if not isinstance(pair, list) or len(pair) != 2:
            return False
        key = _hashable(pair[0], room)
        if key not in want or not same_value(pair[1], want[key], rel_tol):
            return False
        seen.add(key)
    return len(seen) == len(want)


def _same_members(body: Any, want: set[Any] | frozenset[Any]) -> bool:
    if not isinstance(body, list) or len(body) != len(want):
        return False
    room, seen = _room(want), set()
    for item in body:
        member = _hashable(item, room)
        if member not in want:
            return False
        seen.add(member)  # only what is wanted too, and so cannot collide more than that does
    return len(seen) == len(want)


class _NoMember:
    """A value that is in no set."""


def _room(want: Any) -> int:
    """The size that one encoded member may have."""
    return _SLACK + 2 * max((_size(wire.encode(member)) for member in want), default=0)


def _size(data: Any, limit: float = math.inf) -> int:
    """Characters and parts of an encoded value, counted until they are more than ``limit``."""
    size, stack = 0, [data]
    while stack and size <= limit:
        part = stack.pop()
        size += len(part) if isinstance(part, str | list | dict) else 1
        if isinstance(part, list | dict) and size <= limit:
            stack += part if isinstance(part, list) else part.values()
    return size


def _hashable(data: Any, room: int) -> Any:
    """A member of a set or a dict's key, built if it is no longer than ``room``."""
    try:
        if _size(data, room) > room:
            return _NoMember()
        value = wire.decode(data)
        hash(value)
    except (wire.UnsupportedError, TypeError, ValueError, ArithmeticError, RecursionError):
        return _NoMember()
    return value


def _same_rare(body: Any, want: Any, rel_tol: float) -> bool:
    """Complex numbers, fractions, decimals and ranges."""
    if isinstance(want, Decimal):
        if not isinstance(body, str) or len(body) > _SLACK + 4 * len(str(want)):
            return False
        try:
            return Decimal(body) == want
        except ArithmeticError:
            return False
    if not isinstance(body, list):
        return False
    if isinstance(want, Fraction):
        return body == [hex(want.numerator), hex(want.denominator)]
    if isinstance(want, complex):
        numbers = [_number(part, _FLOAT_DIGITS) for part in body]
        if len(numbers) != 2 or None in numbers:
            return False
        try:
            got = complex(*(n for n in numbers if n is not None))
        except OverflowError:
            return False
        return got == want or cmath.isclose(got, want, rel_tol=rel_tol)
    parts = (want.start, want.stop, want.step)
    found = [_number(part, max(len(hex(p)) for p in parts) + 16) for part in body]
    if len(found) != 3 or not all(isinstance(p, int) for p in found) or not found[2]:
        return False
    return bool(range(*(p for p in found if isinstance(p, int))) == want)


# -- in words --------------------------------------------------------------------------------------


def shown(data: Any, limit: int) -> str:
    """An encoded value as Python prints it, cut off at ``limit`` characters.

    What is large, or was not made by :func:`wire.encode`, is shown as it was sent.
    """
    try:
        if _size(data, _DECODED * limit) <= _DECODED * limit:
            return repr(wire.decode(data))[:limit]
    except (wire.UnsupportedError, ValueError, RecursionError):
        pass
    text = ""
    with contextlib.suppress(RecursionError):
        for piece in json.JSONEncoder().iterencode(data):
            text += piece[:limit]
            if len(text) > limit:
                break
    return text[:limit]
