"""A plan as a picture: the pipeline, the memory of each instant against the GPU, time and money."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from gnomon.plan.answers import Plan
from gnomon.plan.shown import cost_line, memory_line
from gnomon.plan.sizing import Sized, euros
from gnomon.report import style
from gnomon.report.format import duration

_WIDE = 150
"""Characters of a line of the note, which is as wide as the figure."""
_ROW = 0.24
"""Inches of a bar."""


def draw(plan: Plan, path: str | Path) -> Path:
    """Write a PNG with the plan."""
    stages = plan.fit.stages
    bars = sum(len(stage.memory.instants) for stage in stages)
    with style.new_figure(10.6, 2.3 + _ROW * (bars + 1.6 * len(stages))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        _memory(left, plan)
        _time(right, plan)
        pipeline = "  \N{RIGHTWARDS ARROW}  ".join(_named(stage) for stage in stages)
        lines = (f"Memory: {memory_line(plan.fit)}.", f"Cost: {cost_line(plan)}.")
        note = "\n".join(textwrap.fill(line, _WIDE) for line in lines)
        style.title(figure, f"{plan.model}: {pipeline}", note)
        return style.save(figure, path)


def _named(stage: Sized) -> str:
    return stage.name if stage.name == stage.method else f"{stage.name} ({stage.method})"


def _memory(axis: Any, plan: Plan) -> None:
    """A bar for each instant of each stage: what is always there, and what the instant adds."""
    at, ticks, labels = 0.0, [], []
    room = plan.fit.hardware.gpu.memory / 1e9
    for stage in plan.fit.stages:
        axis.text(
            0.0, at - 0.75, _named(stage), fontsize=8.5, fontweight="bold", va="center",
            color=style.INK,
        )  # fmt: skip
        always = stage.memory.persistent / 1e9
        for name, extra in stage.memory.instants.items():
            worst = name == stage.memory.worst
            axis.barh(at, always, 0.72, color=style.GREY, alpha=0.55)
            axis.barh(
                at, extra / 1e9, 0.72, left=always, color=style.BLUE, alpha=1.0 if worst else 0.45
            )
            if worst:
                axis.text(
                    (always + extra / 1e9), at, f" {stage.memory.peak / 1e9:.1f}", va="center",
                    fontsize=8.0, fontweight="bold", color=style.INK,
                )  # fmt: skip
            ticks.append(at)
            labels.append(name)
            at += 1
        at += 1.6
    axis.axvline(room, color=style.VERMILLION, linestyle="--", linewidth=1.4)
    axis.text(
        room, at - 1.9, f"{plan.fit.hardware.gpu.name}: {room:.0f} GB ", ha="right", va="center",
        fontsize=8.0, color=style.VERMILLION,
    )  # fmt: skip
    axis.set_yticks(ticks, labels)
    axis.set(ylim=(at - 1.3, -1.5), xlim=(0, 1.08 * max(room, plan.fit.peak / 1e9)))
    axis.set_xlabel("GB on a GPU. Grey: always there; blue: what the instant adds")
    axis.set_title("Memory, instant by instant")
    axis.grid(axis="y", visible=False)


def _time(axis: Any, plan: Plan) -> None:
    """A bar for each stage, its phases one after the other, with its time and money."""
    stages = plan.fit.stages
    longest = max(stage.bill.hours for stage in stages)
    scale, unit = (1.0, "hours") if longest >= 2 else (60.0, "minutes")
    phases = list(dict.fromkeys(phase.name for stage in stages for phase in stage.bill.phases))
    colours = dict(zip(phases, style.PALETTE * 2, strict=False))
    for at, stage in enumerate(stages):
        start = 0.0
        for name, seconds in stage.bill.seconds.items():
            wide = seconds / 3600 * scale
            axis.barh(at, wide, 0.34, left=start, color=colours[name], label=name)
            start += wide
        priced = stage.bill.priced and not stage.bill.unpriced
        money = f", {euros(stage.bill.euros)}" if priced else ""
        axis.text(
            0.0, at - 0.3, f"{stage.name}: {duration(3600 * stage.bill.hours)}{money}",
            fontsize=8.0, va="center", color=style.INK,
        )  # fmt: skip
    axis.set_yticks([])
    axis.set(ylim=(len(stages) - 0.3, -0.8), xlim=(0, 1.05 * longest * scale or 1.0))
    axis.set_xlabel(unit)
    axis.set_title("Time and money, phase by phase")
    axis.grid(axis="y", visible=False)
    found = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(found.values(), found.keys(), loc="upper right", ncols=2, frameon=True,
                framealpha=0.9, edgecolor="none")  # fmt: skip
