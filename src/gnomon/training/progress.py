"""Live progress of a stage: a bar and the figures that matter, or plain lines in a log."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal

from rich import progress as bar
from rich.console import Console, RenderableType
from rich.text import Text

from gnomon.console import make_console
from gnomon.training.callbacks import Callback, StageStart, StepDone

Numbers = Mapping[str, float | int | str | None]

_LINE_SECONDS = 5.0
_CELL_SECONDS, _CELL_BAR = 1.0, 20
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
    ("failed", ("failed",)),
    ("tokens", ("tokens",)),
    ("euros", ("euros",)),
)


class _Bar(bar.Progress):
    """A bar with the figures in a line below it."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield from (Text(task.fields["figures"], style="dim") for task in self.tasks)


class _Cell:
    """An output of a notebook's cell whose text is replaced in place; it needs no widgets."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        data = {"text/plain": text}
        if self._handle is None:
            display = importlib.import_module("IPython.display").display
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


class Progress(Callback):
    """Use as a context manager; tell it of each finished iteration and of phases within one.

    On a terminal it draws a bar that refreshes in place, and in a notebook a line that is replaced
    every second. Elsewhere (a log file, CI) it prints a plain line at most every five seconds, and
    the last one at the end.
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
        enabled: "auto" draws on a terminal and prints lines elsewhere; True always draws;
            False shows nothing.
        console: where to show it; standard error by default.
        clock: seconds, from anywhere.
        """
        self.title = title
        self.total = total
        self._console = console or make_console(stderr=True)
        self._clock = clock
        self._live = enabled is True or (enabled == "auto" and self._console.is_terminal)
        self._lines = enabled == "auto" and not self._live
        self._cell = _Cell() if self._lines and self._console.is_jupyter else None
        self._pause = _LINE_SECONDS if self._cell is None else _CELL_SECONDS
        self._bar = _Bar(
            bar.TextColumn("{task.description}", style="bold", markup=False),
            bar.BarColumn(28),
            bar.MofNCompleteColumn(),
            bar.TextColumn("{task.fields[phase]}", style="cyan", markup=False),
            bar.TextColumn("ETA {task.fields[eta]}", style="dim"),
            console=self._console,
            refresh_per_second=4,
        )
        self._bar.add_task(title, total=total, phase="", eta="?", figures="")
        self._task = self._bar.tasks[0]
        self._pace: float | None = None
        self._iteration_at = clock()
        self._printed_at = -math.inf
        self._unprinted = False

    def __enter__(self) -> Progress:
        self._iteration_at = self._clock()
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._bar.stop()
        elif self._unprinted:
            self._print()

    def on_start(self, stage: StageStart) -> None:
        if stage.resumed:
            self.resume(stage.iteration)

    def on_step(self, event: StepDone) -> None:
        self.update(event.iteration, event.metrics)

    def expect(self, total: int) -> None:
        """There are ``total`` iterations, where that was not known from the start."""
        self.total = total
        self._task.total = total

    def resume(self, iteration: int) -> None:
        """``iteration`` iterations were done before; they do not count for the pace."""
        self._task.completed = iteration
        self._iteration_at = self._clock()

    def update(self, iteration: int, metrics: Numbers) -> None:
        """``iteration`` iterations are done now; ``metrics`` are the last one's figures."""
        now, new = self._clock(), iteration - self._task.completed
        if new > 0:
            seconds = (now - self._iteration_at) / new
            old = seconds if self._pace is None else self._pace
            self._pace = _RECENT * seconds + (1 - _RECENT) * old
            self._iteration_at = now
        self._task.completed = iteration
        self._show(phase="", figures="  ".join(_figures(metrics)), eta=self.eta())

    def phase(self, name: str, done: int, total: int) -> None:
        """Within the current iteration, ``done`` of ``total`` units of ``name`` are finished."""
        self._show(phase=f"{name} {done}/{total}")

    def note(self, text: str) -> None:
        """Show a message with the figures, above the bar where there is one."""
        line = Text(f"{self.title}: {text}", style="yellow")
        self._console.print(line, highlight=False, soft_wrap=True)

    def line(self) -> str:
        """What is known now, as one plain line."""
        done = f"{self.title} {self._task.completed:.0f}/{self.total}"
        fields = self._task.fields
        parts = (done, fields["figures"], fields["phase"], f"ETA {fields['eta']}")
        return "  ".join(part for part in parts if part)

    def eta(self) -> str:
        """Time to the end at the recent pace, as ``1:02:03``; ``?`` when unknown."""
        left = self._task.remaining or 0
        if left <= 0:
            return str(timedelta())
        return "?" if self._pace is None else str(timedelta(seconds=round(left * self._pace)))

    def _show(self, **fields: Any) -> None:
        self._task.fields.update(fields)  # a live bar refreshes itself
        self._unprinted = self._lines
        if self._lines and self._clock() - self._printed_at >= self._pause:
            self._print()

    def _print(self) -> None:
        if self._cell is not None:
            full = round(_CELL_BAR * min(1.0, self._task.completed / max(1, self.total)))
            self._cell.show(f"{'█' * full}{'░' * (_CELL_BAR - full)} {self.line()}")
        else:
            self._console.print(self.line(), markup=False, highlight=False, soft_wrap=True)
        self._printed_at = self._clock()
        self._unprinted = False


def _figures(metrics: Numbers) -> Iterable[str]:
    for label, keys in _SHOWN:
        value = next((v for k in keys if (v := metrics.get(k)) is not None), None)
        if isinstance(value, int | float):
            yield f"{label} {_short(value)}"


def _short(value: float) -> str:
    """Three or four significant digits, no exponent where one can be avoided."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == 0 or abs(value) >= 0.001:
        return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3f}"
    return f"{value:.1e}"
