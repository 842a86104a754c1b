"""One look for every plot: palette, fonts, figures without global state, and saving.

The colours are Okabe & Ito's (2008), distinct to readers with any common colour blindness; series
differ by dash or marker too, so that a print in grey still reads.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, MaxNLocator

from gnomon.files import write_bytes
from gnomon.runs.rows import Column

BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, GREY, INK = "#CC79A7", "#56B4E9", "#8A8F98", "#22262B"
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DPI = 200

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    # Names come from users and models: a "$" in one is a dollar, not mathematics.
    "text.parse_math": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7.0,
    "axes.labelsize": 8.5,
    "axes.labelcolor": "#4A4F57",
    "axes.edgecolor": "#9AA0A8",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E8EB",
    "grid.linewidth": 0.7,
    "xtick.color": "#6A7079",
    "ytick.color": "#6A7079",
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of ``width`` x ``height`` inches in gnomon's style, free of pyplot's state."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def save(figure: Figure, path: str | Path) -> Path:
    """Write a PNG in one step; call inside ``new_figure``. Glyphs a font lacks show as boxes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="png", dpi=DPI)
    path = Path(path)
    write_bytes(path, buffer.getvalue())
    return path


def title(figure: Figure, text: str, note: str = "") -> None:
    """Write the figure's headline, and under it in grey how to read it."""
    figure.suptitle(text, x=0.008, ha="left", fontsize=11.5, fontweight="bold", color=INK)
    if note:
        # An empty supxlabel-like line inside the layout keeps the note clear of the axes.
        figure.supxlabel(note, x=0.008, ha="left", fontsize=8.0, color="#6A7079")


def smooth(y: Column) -> tuple[Column, int]:
    """Centred running mean and its window: about a fifteenth of the points, 1 below 20 points.

    At the ends the mean is over the part of the window that exists: the single last point, noise
    and all, is never shown as the trend.
    """
    n = y.size
    if n < 20:
        return y, 1
    half = max(1, n // 30)
    totals = np.concatenate([[0.0], np.cumsum(y)])
    i = np.arange(n)
    start, end = np.maximum(i - half, 0), np.minimum(i + half + 1, n)
    means: Column = (totals[end] - totals[start]) / (end - start)
    return means, 2 * half + 1


def draw_series(axis: Any, x: Column, y: Column, color: str, label: str | None, **line: Any) -> int:
    """A smoothed line over the faint raw one; markers where there are few points. The window."""
    mean, window = smooth(y)
    marker = "o" if y.size <= 12 else ""
    if window > 1:
        axis.plot(x, y, color=color, alpha=0.25, linewidth=0.8)
    axis.plot(x, mean, color=color, label=label, marker=marker, markersize=3.5, **line)
    return window


def tidy(axis: Any, *, integer_x: bool = False) -> None:
    """Few, round, plain ticks."""
    axis.yaxis.set_major_locator(locator())
    axis.yaxis.set_major_formatter(Ticks())
    axis.xaxis.set_major_locator(locator(integer=integer_x))
    axis.xaxis.set_major_formatter(Ticks())


def level_axis(axis: Any, value: float) -> None:
    """Set one tick for a series that never changes, rather than five for its rounding."""
    reach = abs(value) / 2 or 1.0
    axis.set_ylim(value - reach, value + reach)
    axis.set_yticks([value], [_tick(value)])


def locator(*, integer: bool = False) -> MaxNLocator:
    """At most about five ticks, at multiples of 1, 2, 2.5 or 5."""
    return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=integer, min_n_ticks=3)


class Ticks(Formatter):
    """Labels of ticks in as few digits as tell them apart."""

    digits = 4

    def set_locs(self, locs: Any) -> None:
        """Choose the digits for ticks at these places."""
        super().set_locs(locs)
        places = {float(v) for v in locs}
        self.digits = next(
            (d for d in range(4, 16) if len({_tick(v, d) for v in places}) == len(places)), 16
        )

    def __call__(self, x: float, pos: int | None = None) -> str:
        return _tick(x, self.digits)


def _tick(v: float, digits: int = 4) -> str:
    size = abs(v)
    if size == 0:
        return "0"
    if size >= 1e6 or size < 1e-3:
        return f"{v:.{digits - 1}g}".replace("e-0", "e-").replace("e+0", "e")
    if size >= 1e4:
        return f"{v / 1e3:.{digits + 2}g}k"
    return f"{round(v, digits):.{digits + 2}g}"


def mark(axis: Any, x: float, label: str) -> None:
    """A vertical line at ``x``, named at its foot: where an alarm would first have been raised."""
    axis.axvline(x, color=VERMILLION, linestyle=(0, (2, 2)), linewidth=1.2)
    axis.annotate(
        label, (x, 0.02), xycoords=("data", "axes fraction"), xytext=(3, 0),
        textcoords="offset points", fontsize=7.0, color=VERMILLION, va="bottom",
        annotation_clip=True,
    )  # fmt: skip
