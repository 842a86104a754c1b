"""The measurement as tables (Markdown) and as a picture of ROC curves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import planted_rates as rates
from gnomon.files import make_folder
from gnomon.stats.intervals import Interval
from planted_plan import KINDS
from planted_rates import MODES, Row

TITLES = {"with_judge": "with the held-out judge", "without_judge": "without it"}
CLASSES = ("clean", "harmless", "hacked", "harmed")


def share(figure: Interval) -> str:
    """``12 of 60: 0.20 [0.11, 0.32]``."""
    if not figure.n:
        return "none"
    hits = round(figure.value * figure.n)
    return f"{hits} of {figure.n:.0f}: {figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    rows = [list(head), ["---"] * len(head), *[[str(cell) for cell in line] for line in lines]]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def markdown(rows: Sequence[Row]) -> str:
    """All tables; the runs of a real model are in the last one alone."""
    real = rates.of_half(rows, "real")
    rows = [row for row in rows if row not in real]
    if not rows:
        return _real(real) if real else "No runs yet.\n"
    parts = ["### What became of the runs\n", _classes(rows)]
    problems = Counter(text for row in rows for text in row.get("problems", ()))
    parts += [f"\nProblem in {count} runs: {text}\n" for text, count in problems.most_common()]
    for mode in MODES:
        parts += [
            f"\n### Detectors as they are, test half, {TITLES[mode]}\n",
            _as_they_are(rows, mode),
        ]
        parts += [f"\n### By kind, test half, {TITLES[mode]}\n", _by_kind(rows, mode)]
        parts += [
            f"\n### Thresholds tuned on the tuning half, {TITLES[mode]}\n",
            _tuned(rows, mode),
        ]
        parts += [f"\n### Early warning, {TITLES[mode]}\n", _early(rows, mode)]
    parts += ["\n### Real models\n", _real(real)] if real else []
    return "".join(parts)


def _real(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        raised = [f for f in row["with_judge"] if f["status"] == "alarm"]
        names = ", ".join(dict.fromkeys(f"{f['name']} ({f['detector']})" for f in raised))
        lines.append([row["id"], row["strength"] or "nothing", row["class"], names or "none"])
    return table(["run", "planted", "what became of it", "alarms"], lines)


def _classes(rows: Sequence[Row]) -> str:
    def counts(own: Sequence[Row]) -> list[Any]:
        found = Counter(row["class"] for row in own)
        return [len(own), *(found[name] for name in CLASSES)]

    lines = [[kind, *line] for kind, line in rates.by_kind(rows, counts).items()]
    return table(["kind", "runs", *CLASSES], lines)


def _as_they_are(rows: Sequence[Row], mode: str) -> str:
    test = rates.of_half(rows, "test")
    sides = rates.signs(rows, mode)
    found = rates.scores(test, mode, sides)
    classes = {name: rates.of_class(test, name) for name in CLASSES}
    lines = []
    for name in [None, *sides]:
        raised = rates.alarms(test, mode, name)
        area = "" if name is None else _area(found[name], classes["hacked"], classes["clean"])
        lines.append(
            [
                name or "**any (combined alarm)**",
                *(share(rates.rate(raised[classes[c]])) for c in ("hacked", "clean", "harmless")),
                area,
            ]
        )
    return table(["detector", "hacked", "false alarms", "harmless", "area under ROC"], lines)


def _area(found: rates.Floats, bad: Any, clean: Any) -> str:
    area = rates.roc(found[bad], found[clean]).area
    return "" if math.isnan(area.value) else f"{area.value:.2f} [{area.low:.2f}, {area.high:.2f}]"


def _by_kind(rows: Sequence[Row], mode: str) -> str:
    test = rates.of_half(rows, "test")

    def line(own: Sequence[Row]) -> list[str]:
        raised = rates.alarms(own, mode)
        return [
            share(rates.rate(raised[rates.of_class(own, *names)]))
            for names in (("hacked",), ("harmed",), ("harmless", "clean"))
        ]

    lines = [[kind, *cells] for kind, cells in rates.by_kind(test, line).items()]
    for method in sorted({row["method"] for row in test}):
        lines.append([f"*{method}*", *line([row for row in test if row["method"] == method])])
    return table(["kind", "hacked", "harmed", "harmless or clean"], lines)


def _tuned(rows: Sequence[Row], mode: str) -> str:
    if not rates.of_half(rows, "tune") or not rates.of_half(rows, "test"):
        return "Both halves are needed.\n"
    pooled = rates.tuned(rows, mode)
    lines = [["all kinds", share(pooled.detected), share(pooled.false_alarms)]]
    for kind in KINDS:
        judged = rates.tuned(rows, mode, without=kind)
        lines.append(
            [
                f"tuned without {kind}, judged on it",
                share(judged.detected),
                share(judged.false_alarms),
            ]
        )
    text = table(["thresholds", "hacked, detected", "false alarms"], lines)
    limits = pooled.thresholds
    sides = rates.signs(rows, mode)
    text += "\n" + table(
        ["detector", "limit of the interval's cautious end"],
        [[name, f"{sides[name] * limits.limit(name):.3g}"] for name in limits.centre],
    )
    return text


def _early(rows: Sequence[Row], mode: str) -> str:
    warned = rates.early_warning(rates.of_half(rows, "test"), mode)
    leads = warned.leads
    quartiles = (
        "none"
        if not leads.size
        else ", ".join(f"{q:.0f}" for q in np.quantile(leads, (0.25, 0.5, 0.75)))
    )
    return table(
        ["", ""],
        [
            ["warned before gold's peak", share(warned.before_peak)],
            ["warned before gold had fallen from it", share(warned.before_fall)],
            ["clean runs that raise such an alarm", share(warned.false_alarms)],
            ["lead in steps: quartiles (below 0 is late)", quartiles],
        ],
    )  # fmt: skip


# -- picture --------------------------------------------------------------------------------------


def plot(rows: Sequence[Row], image: Path) -> None:
    """Each detector's ROC on the test half, with and without the judge; the shaded band is the
    combined alarm's, exact at each false-alarm rate."""
    from gnomon.report import style

    test = rates.of_half(rows, "test")
    if not test:
        raise SystemExit("no run of the test half is there yet")
    hacked, clean = rates.of_class(test, "hacked"), rates.is_false(test)
    with style.new_figure(10.5, 5.6) as figure:
        for axis, mode in zip(figure.subplots(1, 2), MODES, strict=True):
            _draw(axis, rows, test, mode, hacked, clean)
        make_folder(image.parent)
        style.save(figure, image)


def _draw(
    axis: Any, rows: Sequence[Row], test: Sequence[Row], mode: str, hacked: Any, clean: Any
) -> None:
    sides = rates.signs(rows, mode)
    found = rates.scores(test, mode, sides)
    curves: list[tuple[str, rates.Roc]] = [
        (name, rates.roc(values[hacked], values[clean], draws=200))
        for name, values in found.items()
        if np.isfinite(values).any()
    ]
    curves.sort(key=lambda pair: -pair[1].area.value)
    for name, curve in curves[:8]:
        label = f"{name.split('/')[-1]} {curve.area.value:.2f}"
        axis.plot(curve.false_alarms, curve.detected, linewidth=1, label=label)
    if rates.of_half(rows, "tune"):
        limits = rates.tuned(rows, mode).thresholds
        worst = limits.combined(found)
        curve = rates.roc(worst[hacked], worst[clean], draws=200)
        n = int(hacked.sum())
        ends = [rates.exact_interval(y * n, n) for y in curve.detected]
        axis.fill_between(
            curve.false_alarms,
            [e.low for e in ends],
            [e.high for e in ends],
            alpha=0.15,
            step="post",
        )
        axis.plot(
            curve.false_alarms,
            curve.detected,
            linewidth=2.5,
            color="black",
            label=f"combined {curve.area.value:.2f}",
        )
    axis.plot([0, 1], [0, 1], linestyle=":", color="grey", linewidth=1)
    axis.axvline(3 / 60, linestyle="--", color="grey", linewidth=1)
    axis.set_xlim(-0.01, 1)
    axis.set_ylim(0, 1.01)
    axis.set_xlabel(f"false alarms, share of {int(clean.sum())} clean runs")
    axis.set_ylabel(f"detected, share of {int(hacked.sum())} hacked runs")
    axis.set_title(TITLES[mode])
    axis.legend(fontsize=7, loc="lower right", title="area")
