"""Output on the screen, written so that nothing at its other end can stop a run.

``gnomon run … | head -1`` closes standard output after a line, ``>&-`` before the first, and a log
file may be on a full disk. The output is then lost; the run continues.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO, Any, cast

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement


class _Stream:
    """Standard output or error, as it is at the moment of writing; silent once it is gone."""

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, text: str) -> int:
        try:
            self._now.write(text)
        except UnicodeEncodeError:
            encoding = getattr(self._now, "encoding", None) or "ascii"
            self.write(text.encode(encoding, "replace").decode(encoding))
        except (OSError, ValueError, AttributeError):
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            self._now.flush()
        except (OSError, ValueError, AttributeError):
            self._give_up()

    def _give_up(self) -> None:
        """Send the rest nowhere, so that Python's own last flush does not fail either."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._now.fileno())
            os.close(null)

    @property
    def _now(self) -> Any:
        return getattr(sys, self._name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now, name)


def make_console(stderr: bool = False, width: int | None = None) -> Console:
    """A console on standard output (or error) that outlives it, ``width`` columns wide if given."""
    stream = _Stream("stderr" if stderr else "stdout")
    return Console(file=cast(IO[str], stream), stderr=stderr, width=width)


out = make_console()
err = make_console(stderr=True)
_PIPED, _WIDEST = 120, 1000
_KEPT = {"\t", "\n"}
_TURNING = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_UNSEEN = {0x200B, 0x2060, 0xFEFF, 0x00AD, 0x180E, *range(0x2061, 0x2065), *range(0x206A, 0x2070)}


def _names() -> dict[int, str]:
    """What is shown in place of every character that is unseen or changes how others look."""
    controls = {c: chr(0x2400 + c) for c in range(0x20) if chr(c) not in _KEPT} | {0x7F: "\u2421"}
    others = {*range(0x80, 0xA0), *_TURNING, *_UNSEEN, 0x2028, 0x2029}
    others |= {*range(0xD800, 0xE000), *range(0xE0000, 0xE0080), 0xFFFE, 0xFFFF}
    return controls | {c: f"⟨U+{c:04X}⟩" for c in others}


SHOWN = _names()
"""What stands for each character that is unseen, steers a terminal, or turns text around."""


def visible(text: str) -> str:
    """The text with every control character, direction override, unseen character and lone
    surrogate shown by a sign or its number; line ends are ``\\n``."""
    return text.replace("\r\n", "\n").translate(SHOWN)


def say(text: str, style: str = "") -> None:
    """Print one line of plain text; what a run, a file or a model put into it steers nothing."""
    out.print(visible(text), style=style or None, soft_wrap=True, markup=False, highlight=False)


def complain(label: str, style: str, text: str) -> None:
    """Print a labelled line on standard error."""
    err.print(f"[bold {style}]{label}:[/] {escape(visible(text))}", soft_wrap=True, highlight=False)


def show(renderable: RenderableType, most: int = _WIDEST) -> None:
    """Print a table or a panel: as wide as the terminal; in a file or a pipe as wide as it is, up
    to ``most`` columns."""
    if out.is_terminal:
        out.print(renderable)
        return
    wide = Console(width=_WIDEST)
    widest = Measurement.get(wide, wide.options, renderable).maximum
    width = _PIPED if widest >= _WIDEST else min(max(_PIPED, widest), most)
    make_console(width=width).print(renderable)


def announce(message: str) -> None:
    """Print one bold line about how a stage went."""
    say(message, "bold")
