"""Live progress of a stage: a bar and the numbers that matter, or plain lines in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Literal

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gnomon.console import make_console

Numbers = Mapping[str, float | int | str | None]

_LINE_SECONDS = 5.0
_RECENT = 0.3  # weight of the newest iteration in the pace the ETA is made from
# What is shown, in this order: a label and the metrics it may be found under, the first one wins.
_SHOWN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("reward", ("reward", "reward/mean")),
    ("KL", ("kl",)),
    ("length", ("length", "length/mean")),
    ("entropy", ("entropy",)),
    ("loss", ("loss", "loss/tokens")),
    ("accuracy", ("accuracy",)),
    ("tokens/s", ("tokens_per_second", "tokens/s")),
)


class Progress:
    """Use as a context manager; tell it of each finished iteration and of phases within one.

    On a terminal it draws a bar that refreshes in place. Elsewhere (a log file, CI) it prints a
    plain line at most every five seconds, and the last one at the end.
    """

    def __init__(
        self,
        title: str,
        total: int,
        enabled: Literal["auto"] | bool = "auto",
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        title: the stage's name.
        total: iterations of the whole stage.
        enabled: "auto" draws on a terminal and prints lines elsewhere; True draws always;
            False shows nothing.
        console: where to show it; standard error by default.
        clock: seconds, from anywhere.
        """
        self.title = title
        self.total = total
        self._console = console or make_console(stderr=True)
        self._clock = clock
        self._done = 0
        self._metrics: Numbers = {}
        self._phase: tuple[str, int, int] | None = None
        self._pace: float | None = None
        self._iteration_at = clock()
        self._printed_at: float | None = None
        self._unprinted = False
        self._live = self._make_live(enabled)
        self._lines = enabled == "auto" and self._live is None

    def __enter__(self) -> Progress:
        self._iteration_at = self._clock()
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._lines and self._unprinted:
            self._print()

    def resume(self, iteration: int) -> None:
        """``iteration`` iterations were done before; they do not count for the pace."""
        self._done = iteration
        self._iteration_at = self._clock()

    def update(self, iteration: int, metrics: Numbers) -> None:
        """``iteration`` iterations are done now; ``metrics`` are the last one's figures."""
        now = self._clock()
        if iteration > self._done:
            seconds = (now - self._iteration_at) / (iteration - self._done)
            old = self._pace
            self._pace = seconds if old is None else _RECENT * seconds + (1 - _RECENT) * old
            self._iteration_at = now
        self._done = iteration
        self._metrics = metrics
        self._phase = None
        self._changed()

    def phase(self, name: str, done: int, total: int) -> None:
        """Within the current iteration, ``done`` of ``total`` units of ``name`` are finished."""
        self._phase = (name, done, total)
        self._changed()

    def note(self, text: str) -> None:
        """Say something beside the figures, above the bar where there is one."""
        line = Text(f"{self.title}: {text}", style="yellow")
        self._console.print(line, highlight=False, soft_wrap=True)

    def line(self) -> str:
        """What is known now, as one plain line."""
        parts = [f"{self.title} {self._done}/{self.total}", *self._figures()]
        if self._phase is not None:
            parts.append(self._phase_text())
        parts.append(f"ETA {self.eta()}")
        return "  ".join(parts)

    def eta(self) -> str:
        """Time to the end at the recent pace, as ``1:02:03`` or ``2:03``; ``?`` when unknown."""
        left = self.total - self._done
        if left <= 0:
            return "0:00"
        if self._pace is None:
            return "?"
        seconds = round(left * self._pace)
        hours, rest = divmod(seconds, 3600)
        minutes, rest = divmod(rest, 60)
        return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

    def _make_live(self, enabled: Literal["auto"] | bool) -> Live | None:
        if enabled is True or (enabled == "auto" and self._console.is_terminal):
            return Live(get_renderable=self._render, console=self._console, refresh_per_second=4)
        return None

    def _changed(self) -> None:
        if not self._lines:
            return  # a live bar refreshes itself
        self._unprinted = True
        now = self._clock()
        if self._printed_at is None or now - self._printed_at >= _LINE_SECONDS:
            self._print()

    def _print(self) -> None:
        self._console.print(self.line(), markup=False, highlight=False, soft_wrap=True)
        self._printed_at = self._clock()
        self._unprinted = False

    def _figures(self) -> list[str]:
        shown = []
        for label, keys in _SHOWN:
            value = next((v for k in keys if (v := self._metrics.get(k)) is not None), None)
            if isinstance(value, int | float):
                shown.append(f"{label} {_short(value)}")
        return shown

    def _phase_text(self) -> str:
        if self._phase is None:
            return ""
        name, done, total = self._phase
        return f"{name} {done}/{total}"

    def _render(self) -> Group:
        row = Table.grid(padding=(0, 1))
        row.add_row(
            Text(self.title, style="bold"),
            ProgressBar(total=max(1, self.total), completed=self._done, width=28),
            Text(f"{self._done}/{self.total}"),
            Text(self._phase_text(), style="cyan"),
            Text(f"ETA {self.eta()}", style="dim"),
        )
        return Group(row, Text("  ".join(self._figures()), style="dim"))


def _short(value: float) -> str:
    """Three or four significant digits, no exponent where one can be avoided."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == 0 or abs(value) >= 0.001:
        return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3f}"
    return f"{value:.1e}"
