"""The plots of a report, each a PNG drawn from what a run directory holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.report import style
from gnomon.report.format import METRICS, metric_label, number
from gnomon.report.format import value as format_value
from gnomon.runs.comparison import Comparison
from gnomon.runs.not_finite import is_bound
from gnomon.runs.read import StageView
from gnomon.runs.rows import Column, SampleRow
from gnomon.stats.intervals import Interval

_AXES = {"step", "iteration", "seconds", "monitor_seconds", "final"}


CONSTANT = 1e-4
"""A metric whose values differ by less than this share of the largest is not drawn."""
Titles = Mapping[str, tuple[str, str]]
"""Metric -> (title, unit), where a run knows better than :func:`metric_label`."""
Marks = Sequence[tuple[float, str]]
"""(optimizer step, label) to mark on curves."""


def curve_panels(stage: StageView) -> list[str]:
    """The metrics of a stage worth a panel, best-known first; ``eval/x`` shares the panel of x.

    Those that never change are not: see :func:`constants`.
    """
    still = constants(stage)
    return [name for name in _panels(stage) if name not in still]


def constants(stage: StageView) -> dict[str, float]:
    """The metrics of a stage that never change, and their values."""
    found = {}
    for name in _panels(stage):
        y = np.concatenate([stage.series(key)[1] for key in (name, f"eval/{name}")])
        if y.size > 1 and np.ptp(y) <= CONSTANT * np.abs(y).max():
            found[name] = float(y[-1])
    return found


def _panels(stage: StageView) -> list[str]:
    logged = {
        name
        for name, y in stage.metrics.items()
        if name not in _AXES and np.isfinite(y).any() and not is_bound(name, stage.metrics)
    }
    logged -= {
        name for name in logged if name.endswith("errors") and not np.nansum(stage.metrics[name])
    }
    bases = {name.removeprefix("eval/") for name in logged}
    known = [name for name in METRICS if name in bases]
    return known + sorted(bases - set(known))


def metric_curve(
    stage: StageView, name: str, path: str | Path, titles: Titles | None = None, marks: Marks = ()
) -> Path:
    """One metric of a stage against optimizer steps."""
    with style.new_figure(4.3, 2.5) as figure:
        axis = figure.subplots()
        _draw_panel(axis, stage, name, titles or {}, marks)
        axis.set_xlabel("optimizer steps" if "step" in stage.metrics else "logged rows")
        return style.save(figure, path)


def training_curves(
    stage: StageView,
    path: str | Path,
    columns: int = 3,
    titles: Titles | None = None,
    marks: Marks = (),
) -> Path | None:
    """Small multiples of every logged metric against optimizer steps; None without any."""
    panels = curve_panels(stage)
    if not panels:
        return None
    columns = 2 if len(panels) == 4 else min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style.new_figure(3.45 * columns + 0.2, 2.2 * rows + 0.75) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        window = 1
        for i, axis in enumerate(grid.flat):
            if i >= len(panels):
                axis.set_visible(False)
                continue
            window = max(window, _draw_panel(axis, stage, panels[i], titles or {}, marks))
            if i + columns >= len(panels):
                axis.set_xlabel("optimizer steps" if "step" in stage.metrics else "logged rows")
        kind = f" ({stage.info.algorithm})" if stage.info.algorithm not in ("", stage.name) else ""
        note = (
            f"Line: centred running mean, up to {window} points. Faint: as logged."
            if window > 1
            else "As logged."
        )
        style.title(figure, f"Training curves of stage {stage.name}{kind}", note)
        return style.save(figure, path)


def reliability_diagram(
    bins: Sequence[Mapping[str, Any]], path: str | Path, *, what: str = "", ece: float | None = None
) -> Path | None:
    """Accuracy against stated confidence, with the number of predictions behind each bar."""
    rows = [b for b in bins if all(parse in b for parse in ("low", "high", "accuracy"))]
    if not rows:
        return None
    left = np.array([float(b["low"]) for b in rows])
    width = np.array([float(b["high"]) for b in rows]) - left
    accuracy = np.array([float(b["accuracy"]) for b in rows])
    count = np.array([float(b.get("count", 0)) for b in rows])
    confidence = np.array(
        [float(b.get("confidence", x)) for b, x in zip(rows, left + width / 2, strict=True)]
    )
    with style.new_figure(5.2, 4.6) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        start = min(0.5, float(left.min()))
        top.bar(
            left, accuracy, width, align="edge", color=style.BLUE, alpha=0.75, edgecolor="white",
            label="accuracy in the bin",
        )  # fmt: skip
        top.plot(
            confidence, accuracy, style.MARKERS[0], color=style.INK, markersize=4,
            label="at the mean confidence",
        )  # fmt: skip
        top.plot([start, 1], [start, 1], "--", color=style.VERMILLION, label="perfect calibration")
        top.set(xlim=(start, 1), ylim=(0, 1.02), ylabel="share ranked as labelled")
        top.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")
        bottom.bar(left, count, width, align="edge", color=style.GREY, edgecolor="white")
        bottom.set(xlabel="confidence, sigmoid(|margin|)", ylabel="comparisons")
        style.tidy(top)
        style.tidy(bottom)
        error = "" if ece is None else f" (ECE {number(ece)})"
        where = f", {what.replace('_', ' ')}" if what else ""
        style.title(figure, f"Reward-model calibration{where}{error}")
        return style.save(figure, path)


def category_accuracy(
    by_category: Mapping[str, Interval], path: str | Path, *, overall: Interval | None = None
) -> Path | None:
    """Accuracy of each category with its interval, against chance."""
    if not by_category:
        return None
    items = sorted(by_category.items(), key=lambda item: item[1].value)
    with style.new_figure(5.2, 1.5 + 0.32 * len(items)) as figure:
        axis = figure.subplots()
        for i, (_, m) in enumerate(items):
            axis.errorbar(
                m.value, i, xerr=_error(m), fmt="o", color=style.BLUE, markersize=5, capsize=3,
                elinewidth=1.4,
            )  # fmt: skip
        axis.axvline(0.5, color=style.VERMILLION, linestyle="--", linewidth=1.2, label="chance")
        if overall is not None:
            label = f"all: {number(overall.value)}"
            axis.axvline(overall.value, color=style.GREY, linestyle=":", linewidth=1.4, label=label)
        axis.set_yticks(range(len(items)), [_cut(name, 32) for name, _ in items])
        axis.set(xlim=(0.0, 1.0), ylim=(-0.6, len(items) - 0.4))
        axis.set(xlabel="share of held-out pairs ranked as labelled")
        axis.grid(axis="y", visible=False)
        axis.legend(loc="upper left", frameon=True, framealpha=0.9, edgecolor="none")
        style.title(figure, "Reward-model accuracy by category")
        return style.save(figure, path)


def comparison_bars(comparison: Comparison, path: str | Path) -> Path | None:
    """One group of bars per measure, one bar per model, whiskers for the intervals."""
    columns = [i for i in range(len(comparison.columns)) if comparison.column(i)]
    if not columns:
        return None
    across = len(columns) if len(columns) <= 5 else min(5, math.ceil(len(columns) / 2))
    rows = math.ceil(len(columns) / across)
    with style.new_figure(max(4.0, 2.15 * across), 2.75 * rows + 0.5) as figure:
        grid = figure.subplots(rows, across, squeeze=False)
        for i, axis in enumerate(grid.flat):
            if i >= len(columns):
                axis.set_visible(False)
                continue
            _draw_bars(axis, comparison, columns[i])
        whiskers = any(m and m.known for row in comparison.rows for m in row.values)
        note = "Whiskers: intervals as reported in the table." if whiskers else ""
        style.title(figure, "The models side by side", note)
        return style.save(figure, path)


def length_histogram(stage: StageView, path: str | Path) -> Path | None:
    """Lengths of the sampled responses at the stage's first and last logged steps."""
    first, last = before_after(stage)
    groups = [
        (name, np.array([s["length"] for s in rows if s.get("length") is not None], dtype=float))
        for name, rows in (("before", first), ("after", last))
    ]
    groups = [(name, lengths) for name, lengths in groups if lengths.size]
    if not groups:
        return None
    everything = np.concatenate([lengths for _, lengths in groups])
    # Bins of a whole number of tokens: fractional ones hold unequal counts of integers.
    first_token, last_token = int(everything.min()), int(everything.max())
    width = max(1, math.ceil((last_token - first_token + 1) / 24))
    edges = [edge - 0.5 for edge in range(first_token, last_token + width + 1, width)]
    with style.new_figure(5.2, 3.2) as figure:
        axis = figure.subplots()
        for (name, lengths), color in zip(groups, (style.GREY, style.BLUE), strict=False):
            share = np.full(lengths.size, 1 / lengths.size)
            label = f"{name}: mean {number(float(lengths.mean()))}, n = {lengths.size}"
            axis.hist(lengths, edges, weights=share, color=color, alpha=0.45)
            axis.hist(
                lengths, edges, weights=share, color=color, histtype="step", linewidth=1.6,
                label=label,
            )  # fmt: skip
            axis.axvline(float(lengths.mean()), color=color, linestyle="--", linewidth=1.3)
        axis.set(xlabel="response length (tokens)", ylabel="share of samples")
        axis.legend(ncols=2, loc="upper left", frameon=True, framealpha=0.9, edgecolor="none")
        axis.margins(y=0.2)
        style.tidy(axis)
        style.title(figure, f"Response lengths before and after stage {stage.name}")
        return style.save(figure, path)


def before_after(stage: StageView) -> tuple[list[SampleRow], list[SampleRow]]:
    """The samples at the first and at the last step; the first is empty if there is but one."""
    steps = sorted({s["step"] for s in stage.samples if s.get("step") is not None})
    if not steps:
        return [], list(stage.samples)
    last = [s for s in stage.samples if s.get("step") == steps[-1]]
    return [s for s in stage.samples if s.get("step") == steps[0]] if len(steps) > 1 else [], last


def _draw_panel(axis: Any, stage: StageView, name: str, titles: Titles, marks: Marks) -> int:
    heading, unit = titles.get(name) or metric_label(name)
    if name == "loss":
        units = {"sft": "nats per token", "reward_model": "nats per pair"}
        unit = units.get(stage.info.algorithm, "")
    window, drawn = 1, []
    sources = ((name, "training", style.BLUE), (f"eval/{name}", "held out", style.VERMILLION))
    for key, label, color in sources:
        x, y = stage.series(key)
        if not y.size:
            continue
        window = max(window, style.draw_series(axis, x, y, color, label))
        drawn.append(label)
        xb, low, high = _band(stage, key)
        if low.size:
            axis.fill_between(xb, low, high, color=color, alpha=0.15, linewidth=0)
    for step, named in marks:
        style.mark(axis, step, named)
    axis.set_title(_cut(heading, 46))
    axis.set_ylabel(unit)
    if "held out" in drawn:
        axis.legend(loc="best")
    style.tidy(axis, integer_x=True)
    values = np.concatenate([stage.series(key)[1] for key, _, _ in sources])
    if np.ptp(values) <= 1e-9 * np.abs(values).max():
        style.level_axis(axis, float(values[0]))
    return window


def _band(stage: StageView, key: str) -> tuple[Column, Column, Column]:
    empty = np.empty(0)
    low, high = (stage.metrics.get(f"{key}_{side}", empty) for side in ("low", "high"))
    if not low.size or low.size != high.size:
        return empty, empty, empty
    x = stage.metrics.get("step", np.arange(low.size, dtype=np.float64))
    present = np.isfinite(low) & np.isfinite(high) & np.isfinite(x)
    return x[present], low[present], high[present]


def _draw_bars(axis: Any, comparison: Comparison, place: int) -> None:
    models, column = comparison.models, comparison.columns[place]
    values = comparison.column(place)
    for i, model in enumerate(models):
        m = values.get(model)
        if m is None:
            axis.annotate("n/a", (i, 0), xytext=(0, 3), textcoords="offset points", ha="center",
                          fontsize=8, color=style.GREY)  # fmt: skip
            continue
        color = style.PALETTE[i % len(style.PALETTE)]
        axis.bar(i, m.value, 0.68, color=color, alpha=0.85)
        axis.errorbar(i, m.value, yerr=_error(m), color=style.INK, capsize=3, elinewidth=1.2)
        bottom, top = (m.low, m.high) if m.known else (m.value, m.value)
        up = m.value >= 0
        axis.annotate(
            format_value(m), (i, top if up else bottom), xytext=(0, 3 if up else -3),
            textcoords="offset points", ha="center", va="bottom" if up else "top", fontsize=8,
        )  # fmt: skip
    axis.axhline(0, color="#9AA0A8", linewidth=0.8)
    axis.margins(y=0.16)
    axis.set_title(_cut(column, 24))
    turn = 30 if max(len(m) for m in models) > 7 or len(models) > 4 else 0
    axis.set_xticks(
        range(len(models)), [_cut(m, 18) for m in models], rotation=turn,
        ha="right" if turn else "center",
    )  # fmt: skip
    units = {"kl": "nats per response", "length": "tokens", "accuracy": "share", "reward": "reward"}
    words = column.lower().split()
    axis.set_ylabel(next((unit for word, unit in units.items() if word in words), ""))
    axis.grid(axis="x", visible=False)
    axis.yaxis.set_major_locator(style.locator())


def _error(m: Interval) -> Any:
    if not m.known:
        return None
    return np.array([[max(0.0, m.value - m.low)], [max(0.0, m.high - m.value)]])


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"
