"""Length-prefixed JSON frames over file descriptors, and nothing that could run code."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False  # typing itself takes longer to import than a program takes to run
if TYPE_CHECKING:
    from typing import Any

MAX_FRAME = 8 * 2**20
"""Bytes of one frame; a larger one ends the conversation."""


class ClosedError(Exception):
    """The other side closed the pipe, or sent what is no frame."""


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
