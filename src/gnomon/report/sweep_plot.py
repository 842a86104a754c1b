"""A sweep's plot: the objective against each key that was varied."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

from gnomon.recipe.sweep import short_keys, show
from gnomon.report import style
from gnomon.report.sweeps import SweepRow, SweepView

_MOST_PANELS = 6


def plot_sweep(view: SweepView, path: Path) -> Path | None:
    """One panel a key: every run as a faint dot, every setting's mean with its interval, a line
    through the means of each value; None where nothing was measured.

    Settings that an alarm or a closed gate stands against, or that nobody audited, are crosses,
    and no line goes through them.
    """
    rows = [row for row in view.rows if row.objective is not None]
    keys = [key for key in view.sweep.keys if len({_text(row, key) for row in rows}) > 1]
    keys = (keys or view.sweep.keys)[:_MOST_PANELS]
    if not rows or not keys:
        return None
    across = min(3, len(keys))
    down = math.ceil(len(keys) / across)
    names = short_keys(view.sweep.keys)
    with style.new_figure(max(4.6, 3.7 * across), 2.9 * down + 0.7) as figure:
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        for i, axis in enumerate(grid.flat):
            if i >= len(keys):
                axis.set_visible(False)
                continue
            _panel(axis, view, rows, keys[i])
            axis.set_title(names[keys[i]])
            if i % across == 0:
                axis.set_ylabel(view.sweep.objective)
        better = "higher" if view.sweep.sign > 0 else "lower"
        bars = "95% over seeds" if len(view.sweep.seeds) > 1 else "of one run, over its prompts"
        style.title(
            figure,
            f"{view.sweep.recipe}: {view.sweep.objective} ({better} is better)",
            f"Dots: runs. Circles: settings; the first is green.\n"
            f"Intervals: {bars}.\n"
            "Crosses: an alarm, a closed gate, or no audit.\n"
            "Line: mean of a value's circles.",
        )
        return style.save(figure, path)


def _text(row: SweepRow, key: str) -> str:
    return json.dumps(row.settings.get(key))


def _panel(axis: Any, view: SweepView, rows: list[SweepRow], key: str) -> None:
    given = [row.settings.get(key) for row in rows]
    values = [float(v) for v in given if isinstance(v, int | float) and not isinstance(v, bool)]
    numeric = len(values) == len(given)
    order = {text: i for i, text in enumerate(dict.fromkeys(_text(row, key) for row in rows))}

    def x(row: SweepRow) -> float:
        return float(row.settings[key]) if numeric else float(order[_text(row, key)])

    if numeric and min(values) > 0 and (key in view.sweep.log or max(values) > 20 * min(values)):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # not as mathematics
        axis.xaxis.set_minor_formatter(lambda value, _: "")
    elif numeric:
        axis.xaxis.set_major_locator(style.locator())
    else:
        shown = [show(json.loads(text))[:16] for text in order]
        axis.set_xticks(range(len(order)), shown, rotation=20 if len(order) > 3 else 0)
        axis.set_xlim(-0.5, len(order) - 0.5)
    clear: dict[float, list[float]] = {}
    for row in sorted(rows, key=x):
        m = row.objective
        assert m is not None
        color = style.VERMILLION if row.tier > 1 else style.BLUE
        color = style.GREEN if row is view.best else color
        for value in row.values.values():
            axis.plot(x(row), value, ".", color=color, alpha=0.35, markersize=5)
        error = [[m.value - m.low], [m.high - m.value]] if m.known else None
        axis.errorbar(
            x(row), m.value, yerr=error, fmt="x" if row.tier > 1 else "o", color=color,
            markersize=5, capsize=3, elinewidth=1.1, alpha=0.8,
            zorder=3 if row is view.best else 2,
        )  # fmt: skip
        if row.tier < 2:
            clear.setdefault(x(row), []).append(m.value)
    if len(clear) > 1:
        axis.plot(list(clear), [fmean(v) for v in clear.values()], color=style.BLUE, alpha=0.7,
                  linewidth=1.2, zorder=0)  # fmt: skip
