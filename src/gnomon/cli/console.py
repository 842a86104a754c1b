"""What the commands print on. A line is never broken within a path: a terminal wraps it itself, and
a file or a pipe gets it whole."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement

from gnomon.console import make_console

out = make_console()
err = make_console(stderr=True)
_PIPED, _WIDEST = 120, 1000


def say(text: str, style: str = "") -> None:
    """One line of plain text."""
    out.print(text, style=style or None, soft_wrap=True, markup=False, highlight=False)


def complain(label: str, style: str, text: str) -> None:
    """A labelled line on standard error."""
    err.print(f"[bold {style}]{label}:[/] {escape(text)}", soft_wrap=True, highlight=False)


def show(renderable: RenderableType, most: int = _WIDEST) -> None:
    """A table or a panel: as wide as the terminal; in a file or a pipe as wide as it is, up to
    ``most`` columns."""
    if out.is_terminal:
        out.print(renderable)
        return
    wide = Console(width=_WIDEST)
    widest = Measurement.get(wide, wide.options, renderable).maximum
    width = _PIPED if widest >= _WIDEST else min(max(_PIPED, widest), most)
    make_console(width=width).print(renderable)


def announce(message: str) -> None:
    """Tell how a stage went."""
    say(message, "bold")
