"""What crosses between a program and its tests: plain values as JSON, in length-prefixed frames.

Never pickle, and no object of the program's own making: an answer whose ``__eq__`` always says
True does not get through, it is an :class:`UnsupportedError`.
"""

from __future__ import annotations

import binascii
import json
import os
import sys

TYPE_CHECKING = False  # typing itself takes longer to import than a program takes to run
if TYPE_CHECKING:
    from typing import Any

MAX_FRAME = 8 * 2**20
"""Bytes of one frame; a larger one ends the conversation."""


class ClosedError(Exception):
    """The other side closed the pipe, or sent something else than a frame."""


def read_exactly(fd: int, count: int) -> bytes:
    """``count`` bytes from ``fd``, never one more (what follows is not ours yet)."""
    parts: list[bytes] = []
    while count:
        part = os.read(fd, min(count, 65536))
        if not part:
            raise ClosedError("the pipe was closed")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def receive(fd: int, limit: int = MAX_FRAME) -> Any:
    """The next frame.

    Raises:
        ClosedError: end of file, a frame over the limit, or bytes that are not JSON.
    """
    size = int.from_bytes(read_exactly(fd, 4), "little")
    if size > limit:
        raise ClosedError(f"a frame of {size} bytes, more than {limit}")
    try:
        return json.loads(read_exactly(fd, size))
    except (ValueError, RecursionError, MemoryError) as error:
        raise ClosedError(f"not a frame: {error}") from error


def frame(message: Any) -> bytes:
    """``message`` as bytes on the wire."""
    data = json.dumps(message).encode()
    return len(data).to_bytes(4, "little") + data


def send(fd: int, message: Any) -> None:
    """Write one frame.

    Raises:
        ClosedError: nobody reads any more.
    """
    view = memoryview(frame(message))
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise ClosedError(str(error)) from error


TYPE_CHECKING = False  # typing itself takes longer to import than a program takes to run
if TYPE_CHECKING:
    from typing import Any

MAX_DEPTH = 100
"""Nesting that values may have."""
ARGUMENTS = -MAX_DEPTH
"""The depth arguments are encoded from: they may wrap an answer, and so nest deeper than one."""

MAX_FRACTION = 50_000
"""Hexadecimal digits of a fraction's two numbers; bringing it to lowest terms is quadratic."""
MAX_COLLISIONS = 256
"""So many members of a set, or keys, may share a hash; putting in many more is quadratic."""

_SAFE_INT = 2**53


class UnsupportedError(TypeError):
    """A value that is not made of plain builtin types."""


class HeldError(Exception):
    """A test looks at an object that stays in the program's process."""


class Held:
    """Stands for an object in the program's process; it can be handed back there, nothing else.

    It is equal to nothing and neither true nor false, so that no test passes by looking at it.
    """

    __slots__ = ("_held_as",)

    def __init__(self, number: int) -> None:
        self._held_as = number

    def _refuse(self, *_: Any) -> Any:
        raise HeldError("an object of the program's own is not plain data")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __bool__ = __hash__ = __repr__ = __str__ = __format__ = __len__ = __iter__ = _refuse


class Objects:
    """Objects that do not cross, by the numbers that do."""

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.numbers: dict[int, int] = {}

    def hold(self, value: Any) -> int:
        """The number of an object, the same each time."""
        number = self.numbers.setdefault(id(value), len(self.kept))
        if number == len(self.kept):
            self.kept.append(value)
        return number

    def take(self, number: int) -> Any:
        """The object of a number."""
        return self.kept[number]


def encode(value: Any, depth: int = 0, hold: Any = None) -> Any:
    """``value`` as JSON: scalars and lists as they are, the rest as {tag: ...}.

    Subclasses are sent as the builtin type they extend (a Counter as a dict).

    Args:
        hold: gives a number to an object that is not plain data and stays here.

    Raises:
        UnsupportedError: an object of another type, or nesting beyond MAX_DEPTH.
    """
    if depth > MAX_DEPTH:
        raise UnsupportedError(f"a value nested more than {MAX_DEPTH} deep")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        plain = int.__int__(value)
        return plain if -_SAFE_INT <= plain <= _SAFE_INT else {"i": hex(plain)}
    if isinstance(value, float):
        return float.__float__(value)
    return _encode_container(value, depth + 1, hold)


def _encode_container(value: Any, depth: int, hold: Any) -> Any:
    if isinstance(value, list):
        return [encode(item, depth, hold) for item in list.__iter__(value)]
    if isinstance(value, dict):
        pairs = [[encode(k, depth, hold), encode(v, depth, hold)] for k, v in dict.items(value)]
        return {"d": pairs}
    for tag, kind in (("t", tuple), ("s", set), ("f", frozenset)):
        if isinstance(value, kind):
            items: Any = kind
            return {tag: [encode(item, depth, hold) for item in items.__iter__(value)]}
    if isinstance(value, bytes | bytearray):
        tag = "b" if isinstance(value, bytes) else "y"
        return {tag: binascii.hexlify(value).decode()}
    if isinstance(value, complex):
        return {"c": [value.real, value.imag]}
    if _is(value, "fractions", "Fraction"):
        return {"q": [hex(value.numerator), hex(value.denominator)]}
    if _is(value, "decimal", "Decimal"):
        return {"n": str(value)}
    if type(value) is range:
        return {"r": [encode(part) for part in (value.start, value.stop, value.step)]}
    if type(value) is Held:
        return {"o": value._held_as}
    if hold is not None:
        return {"o": hold(value)}
    raise UnsupportedError(f"a value of type {type(value).__name__} is not plain data")


def _is(value: Any, module: str, name: str) -> bool:
    """Whether ``value`` is of a library type, without importing that library for the question."""
    return module in sys.modules and type(value) is getattr(sys.modules[module], name, None)


def decode(data: Any, depth: int = 0, take: Any = None) -> Any:
    """The inverse of :func:`encode`; makes builtin types only, whatever ``data`` says.

    Takes time proportional to the size of ``data``.

    Args:
        take: makes something of the number of an object that was not sent itself.

    Raises:
        UnsupportedError: ``data`` was not made by :func:`encode`, or would take far longer to build
            than to read.
    """
    if depth > MAX_DEPTH:
        raise UnsupportedError("a value nested too deep")
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if isinstance(data, list):
        return [decode(item, depth + 1, take) for item in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise UnsupportedError("not an encoded value")
    ((tag, body),) = data.items()
    try:
        return _decode_tag(tag, body, depth + 1, take)
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise UnsupportedError(f"not an encoded value: {error}") from error


def _decode_tag(tag: str, body: Any, depth: int, take: Any) -> Any:
    if tag == "d":
        keys = _apart([decode(key, depth, take) for key, _ in body])
        return {key: decode(value, depth, take) for key, (_, value) in zip(keys, body, strict=True)}
    if tag == "t":
        return tuple(decode(item, depth, take) for item in body)
    if tag in ("s", "f"):
        members = _apart([decode(item, depth, take) for item in body])
        return set(members) if tag == "s" else frozenset(members)
    if tag == "i":
        return int(body, 16)
    if tag in ("b", "y"):
        raw = binascii.unhexlify(body)
        return raw if tag == "b" else bytearray(raw)
    if tag == "c":
        return complex(*body)
    if tag == "q":
        from fractions import Fraction

        if sum(map(len, body)) > MAX_FRACTION:
            raise ValueError("a fraction of too many digits")
        return Fraction(int(body[0], 16), int(body[1], 16))
    if tag == "n":
        from decimal import Decimal

        return Decimal(body)
    if tag == "r":
        return range(*(decode(part) for part in body))
    if tag == "o" and take is not None and type(body) is int:
        return take(body)
    raise KeyError(tag)


def _apart(members: list[Any]) -> list[Any]:
    """``members``, of which not many share a hash.

    Raises:
        ValueError: too many do.
    """
    if len(members) > MAX_COLLISIONS:
        counts: dict[int, int] = {}
        for member in members:
            number = hash(member)
            counts[number] = counts.get(number, 0) + 1
        if max(counts.values()) > MAX_COLLISIONS:
            raise ValueError("members that all collide")
    return members
