"""Several runs side by side: what their last policies measured, and how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gnomon.errors import DataError
from gnomon.report.format import duration, measured
from gnomon.report.gaps import as_interval
from gnomon.report.read import Measured, RunView, flatten_evals, read_run
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import gain_between_runs, independent_difference

_MOST_CHANGES = 12
_NOT_IN_A_TABLE = 60


@dataclass(frozen=True)
class RunsComparison:
    """Tables to show, and remarks in words."""

    tables: tuple[Table, ...]
    notes: tuple[str, ...]


def compare_runs(folders: Sequence[Path]) -> RunsComparison:
    """Put runs side by side: one row a measure, one column a run, and the difference of each from
    the first.

    Where both runs compared their policies on the same prompts, a difference of rewards is paired
    by prompt; any other takes the two intervals as independent (Newcombe's square-and-add).

    Raises:
        DataError: a folder that is no run, or one given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise DataError("the same run is given twice: give the folders of different runs")
    runs = [read_run(folder) for folder in folders]
    figures = [dict(_figures(run)) for run in runs]
    names = list(dict.fromkeys(name for own in figures for name in own))
    table = Table(
        title=f"{len(runs)} runs", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    table.add_column("measure")
    labels = _labels(runs)
    for label in labels:
        table.add_column(Text(label))
    for label in labels[1:]:
        table.add_column(Text(f"{label} less {labels[0]}"))
    table.add_row("last policy", *(Text(_policy(run)) for run in runs))
    paired = [_paired(run, runs[0]) for run in runs[1:]]
    for name in names:
        own = [of.get(name) for of in figures]
        cells = [Text("" if m is None else measured(m)) for m in own]
        gaps = [
            _shown(known[name]) if name in known else _gap(m, own[0])
            for m, known in zip(own[1:], paired, strict=True)
        ]
        table.add_row(Text(name), *cells, *gaps)
    table.add_section()
    table.add_row("time", *(_time(run) for run in runs))
    return RunsComparison((table,), tuple(_notes(runs, labels)))


def _labels(runs: Sequence[RunView]) -> list[str]:
    """The runs' names, or their folders where two have one name."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _policy(run: RunView) -> str:
    """The policy that a run's figures are of."""
    if run.comparison.rows:
        return run.comparison.rows[-1][0]
    return run.stages[-1].name if run.stages else "n/a"


def _figures(run: RunView) -> Iterator[tuple[str, Measured]]:
    """What a run's last policy measured: in the comparison, then in its own stage."""
    compared = run.comparison
    if compared.rows:
        model, values = compared.rows[-1]
        for column, value in zip(compared.columns, values, strict=False):
            if value is not None:
                yield column, value
        gains = zip(compared.columns, compared.gains.get(model, ()), strict=False)
        for column, gain in gains if model != compared.reference else ():
            if gain is not None:
                yield f"gain in {column} over {compared.reference}, paired", gain
    if run.stages:
        last = run.stages[-1]
        for name, value in flatten_evals(last.evals):
            yield f"at the end of training: {name}", value


def _paired(new: RunView, old: RunView) -> dict[str, Interval]:
    """What the last policy's rewards are above the other run's, prompt by prompt; empty unless both
    were asked the same prompts (an id alone does not say so)."""
    asked = [run.recipe.get("compare") or {} for run in (new, old)]
    if any(asked[0].get(key) != asked[1].get(key) for key in ("prompts", "size")):
        return {}
    sides: list[dict[str, Mapping[str, Sequence[float | None]]]] = []
    for compared in (new.comparison, old.comparison):
        model = compared.rows[-1][0] if compared.rows else ""
        sides.append(dict(zip(compared.columns, compared.scores.get(model, ()), strict=False)))
    gaps = {
        name: gain_between_runs(sides[0][name], sides[1][name])
        for name in sides[0]
        if name in sides[1]
    }
    return {name: gap for name, gap in gaps.items() if gap.n}


def _gap(new: Measured | None, old: Measured | None) -> Text:
    """The difference of two figures that are not paired."""
    if new is None or old is None:
        return Text("")
    return _shown(independent_difference(as_interval(new), as_interval(old)))


def _shown(gap: Interval) -> Text:
    """A difference with its interval, bold where that leaves out 0."""
    low, high = (None if math.isnan(end) else end for end in (gap.low, gap.high))
    known = low is not None and high is not None
    style = ("bold" if gap.excludes(0) else "dim") if known else ""
    return Text(measured(Measured(gap.value, low, high, gap.n or None)), style=style)


def _time(run: RunView) -> Text:
    known = [stage.seconds for stage in run.stages if stage.seconds is not None]
    return Text(duration(sum(known)) if known else "n/a")


def _notes(runs: Sequence[RunView], labels: Sequence[str]) -> Iterator[str]:
    for run, label in zip(runs, labels, strict=True):
        unfinished = [f"{s.name} is {s.status}" for s in run.stages if s.status != "done"]
        if unfinished or not run.stages:
            yield f"{label}: {', '.join(unfinished) or 'no stage has begun'}"
        yield from (f"{label}: {problem}" for problem in run.problems)
    for run, label in zip(runs[1:], labels[1:], strict=True):
        changes = list(_changes(runs[0].recipe, run.recipe))
        shown = "; ".join(changes[:_MOST_CHANGES])
        more = f"; and {len(changes) - _MOST_CHANGES} more" if len(changes) > _MOST_CHANGES else ""
        yield f"recipes of {labels[0]} and {label}: {shown + more if changes else 'the same'}"


def _changes(old: Any, new: Any, at: str = "") -> Iterator[str]:
    """``key: old, then new`` of everything that differs, but for the run's name."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            if at or key != "name":
                place = f"{at}.{key}" if at else str(key)
                yield from _changes(old.get(key), new.get(key), place)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            named = isinstance(a, Mapping) and at == "stages" and "name" in a
            yield from _changes(a, b, str(a["name"]) if named else f"{at}.{i}")
    elif old != new:
        yield f"{at}: {_short(old)}, then {_short(new)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _NOT_IN_A_TABLE else f"{text[: _NOT_IN_A_TABLE - 3]}..."
