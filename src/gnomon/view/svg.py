"""Curves as inline SVG, drawn on the server: no script, and no image to fetch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from gnomon.report import style
from gnomon.report.format import metric_label, number
from gnomon.report.plots import Marks, Titles
from gnomon.runs.read import StageView
from gnomon.runs.rows import Column

WIDTH, HEIGHT = 420, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 12, 36
_POINTS = 240
"""A curve of more points is drawn through the lowest and the highest of each stretch."""
_LETTER = 6.8  # about how wide one is in the alarms' names
_COLORS = style.PALETTE[:-1]  # black cannot be seen on a dark page
_DASHES = ("", "6 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Curve:
    """One line: ``x``, ``y`` [n]."""

    label: str
    x: Column
    y: Column


@dataclass(frozen=True)
class _Frame:
    """From figures to places in the image."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, x: float) -> float:
        low, high = self.x
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * (x - low) / (high - low), 1)

    def down(self, y: float) -> float:
        low, high = self.y
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (y - low) / (high - low), 1)


def metric_chart(stage: StageView, name: str, titles: Titles, marks: Marks = ()) -> Markup:
    """A metric of a stage over its steps, training and held out, with alarms marked."""
    heading, unit = titles.get(name) or metric_label(name)
    sources = ((name, "training"), (f"eval/{name}", "held out"))
    curves = [Curve(label, *stage.series(key)) for key, label in sources]
    return chart(heading, unit, [c for c in curves if c.y.size], marks)


def chart(heading: str, unit: str, curves: Sequence[Curve], marks: Marks = ()) -> Markup:
    """A figure with its caption; the last values are in its description."""
    curves = [c for c in (_finite(curve) for curve in curves) if c.x.size]
    if not curves:
        empty = '<figure class="plot"><figcaption>{}: nothing logged yet</figcaption></figure>'
        return Markup(empty).format(heading)
    frame = _frame(curves, [step for step, _ in marks])
    last = "; ".join(f"{c.label}: {number(float(c.y[0]))} to {number(float(c.y[-1]))}"
                     for c in curves)  # fmt: skip
    told = "".join(f"; alarm {label} from step {number(step)}" for step, label in marks)
    body = [_axes(frame), *(_line(frame, curve, i) for i, curve in enumerate(curves))]
    body += [_mark(frame, step, label, i) for i, (step, label) in enumerate(marks)]
    return Markup(
        '<figure class="plot"><figcaption><b>{}</b> <span class="soft">{}</span>{}</figcaption>'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg></figure>'
    ).format(heading, unit, _legend(curves), WIDTH, HEIGHT, f"{heading}: {last}{told}",
             Markup("").join(body))  # fmt: skip


def timeline(alarms: Sequence[tuple[float, str, str]], end: float) -> Markup:
    """Alarms on the time axis: (the step from which it stood, its name, the link that shows it),
    each as a bar up to ``end``."""
    if not alarms:
        return Markup("")
    row, left = 24, 8
    end = max([end, *(step for step, _, _ in alarms)]) or 1.0
    wide = WIDTH - 2 * left
    height = row * len(alarms) + 24
    parts = []
    for i, (step, name, anchor) in enumerate(sorted(alarms)):
        x, y = round(left + wide * step / end, 1), row * i
        told = f"{name}, from step {number(step)}"
        start = max(left, min(x, WIDTH - left - _LETTER * len(told)))
        words = _text(start, y + 10, "start", told, "alarm-name")
        shape = Markup(
            '<a href="{}"><rect class="span" x="{}" y="{}" width="{}" height="5"/>'
            '<circle class="onset" cx="{}" cy="{}" r="5"/>{}</a>'
        )
        length = round(max(1.0, left + wide - x), 1)
        parts.append(shape.format(anchor, x, y + 15, length, x, y + 17, words))
    ticks = [_text(left, height - 4, "start", "step 0")]
    ticks.append(_text(left + wide, height - 4, "end", f"step {number(end)}"))
    base = Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        left, left + wide, height - 18, height - 18
    )
    names = ", ".join(f"{name} from step {number(step)}" for step, name, _ in sorted(alarms))
    told, body = f"Alarms over the steps: {names}", Markup("").join([base, *parts, *ticks])
    return Markup(
        '<svg class="timeline" viewBox="0 0 {} {}" role="group" aria-label="{}">{}</svg>'
    ).format(WIDTH, height, told, body)


def _text(x: float, y: float, anchor: str, text: str, kind: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, x, y, anchor, text
    )


def _finite(curve: Curve) -> Curve:
    keep = np.isfinite(curve.x) & np.isfinite(curve.y)
    return Curve(curve.label, curve.x[keep], curve.y[keep])


def _frame(curves: Sequence[Curve], steps: Sequence[float]) -> _Frame:
    x = np.concatenate([*(c.x for c in curves), np.array(steps, dtype=np.float64)])
    y = np.concatenate([c.y for c in curves])
    return _Frame(_range(x), _range(y, 0.06))


def _range(values: Column, margin: float = 0.0) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    reach = high - low
    if reach <= 1e-9 * max(abs(low), abs(high)):
        around = abs(low) / 2 or 1.0
        return low - around, high + around
    return low - margin * reach, high + margin * reach


def _axes(frame: _Frame) -> Markup:
    parts = []
    for value, label in _ticks(*frame.y, False):
        y = frame.down(value)
        grid = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
        parts += [grid.format(_LEFT, WIDTH - _RIGHT, y, y), _text(_LEFT - 6, y + 4, "end", label)]
    for value, label in _ticks(*frame.x, True):
        parts.append(_text(frame.across(value), HEIGHT - _BOTTOM + 15, "middle", label))
    parts.append(_text(WIDTH - _RIGHT, HEIGHT - 5, "end", "optimizer steps"))
    return Markup("").join(parts)


def _ticks(low: float, high: float, integer: bool) -> list[tuple[float, str]]:
    places = [float(v) for v in style.locator(integer=integer).tick_values(low, high)]
    inside = [v for v in places if low - 1e-12 <= v <= high + 1e-12]
    names = style.Ticks()
    names.set_locs(inside)
    return [(v, names(v)) for v in inside]


def _line(frame: _Frame, curve: Curve, place: int) -> Markup:
    color = _COLORS[place % len(_COLORS)]
    mean, window = style.smooth(curve.y)
    dash = _DASHES[place // len(_COLORS) % len(_DASHES)]
    parts = [] if window == 1 else [_path(frame, curve.x, curve.y, color, "", "raw")]
    parts.append(_path(frame, curve.x, mean, color, dash, "mean"))
    if curve.x.size <= 12:
        parts += [
            Markup('<circle cx="{}" cy="{}" r="2.5" fill="{}"/>').format(
                frame.across(x), frame.down(y), color
            )
            for x, y in zip(curve.x, curve.y, strict=True)
        ]
    return Markup("").join(parts)


def _path(frame: _Frame, x: Column, y: Column, color: str, dash: str, kind: str) -> Markup:
    keep = _thinned(y)
    points = " ".join(f"{frame.across(x[i])},{frame.down(y[i])}" for i in keep)
    dashed = Markup(' stroke-dasharray="{}"').format(dash) if dash else Markup("")
    return Markup('<polyline class="{}" points="{}" stroke="{}"{}/>').format(
        kind, points, color, dashed
    )


def _thinned(y: Column) -> list[int]:
    """The places to draw: all, or of each stretch the first, the lowest, the highest, the last."""
    if y.size <= _POINTS:
        return list(range(y.size))
    edges = np.linspace(0, y.size, _POINTS // 2 + 1).astype(int)
    places = {0, y.size - 1}
    for start, end in pairwise(edges):
        places |= {int(start + y[start:end].argmin()), int(start + y[start:end].argmax())}
    return sorted(places)


def _mark(frame: _Frame, step: float, label: str, place: int) -> Markup:
    x = frame.across(step)
    left = x > WIDTH / 2
    return Markup(
        '<line class="mark" x1="{}" x2="{}" y1="{}" y2="{}"/>'
        '<text class="alarm-name" x="{}" y="{}" text-anchor="{}">{}</text>'
    ).format(x, x, _TOP, HEIGHT - _BOTTOM, x - 4 if left else x + 4,
             HEIGHT - _BOTTOM - 5 - 13 * place, "end" if left else "start", label)  # fmt: skip


def _legend(curves: Sequence[Curve]) -> Markup:
    if len(curves) == 1 and curves[0].label == "training":
        return Markup("")
    key = Markup(
        '<span class="legend"><svg viewBox="0 0 18 8" aria-hidden="true">'
        '<line x1="0" x2="18" y1="4" y2="4" stroke="{}" stroke-width="3"/></svg>{}</span>'
    )
    keys = [key.format(_COLORS[i % len(_COLORS)], c.label)
            for i, c in enumerate(curves)]  # fmt: skip
    return Markup('<span class="legends">{}</span>').format(Markup("").join(keys))
