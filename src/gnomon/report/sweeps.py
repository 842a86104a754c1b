"""A sweep's settings side by side, best first: each with its objective over the seeds, its alarms
and the answer to whether it may ship.

A setting that an alarm stands against, or that the answer holds for another reason, comes after
all those that nothing speaks against, however high its objective: what a search finds first is a
reward's loopholes. So does one of whose runs failed or has not ended: the seeds that are left are
those that it did well on. The row says where it would have come.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gnomon.audit.readings import Reading, compared_readings, eval_readings, stage_readings
from gnomon.console import visible
from gnomon.errors import DataError, GnomonError
from gnomon.plugins import did_you_mean
from gnomon.recipe.sweep import short_keys, show
from gnomon.report import markdown
from gnomon.report.candidate import subject
from gnomon.report.format import duration, measured, number
from gnomon.report.ship import Kind, answer, standing
from gnomon.runs.read import RunView, read_run
from gnomon.runs.sweeps import SWEEP, Sweep, SweptRun
from gnomon.stats.intervals import Interval, finite_or_none, mean_interval
from gnomon.stats.prompts import independent_difference

TABLE, ROWS, PLOT = "sweep.md", "sweep.jsonl", "sweep.png"


@dataclass(frozen=True)
class SeedResult:
    """One run of a setting.

    Attributes:
        value: the objective; None where the run did not measure it.
        looked: whether the run was audited; one that failed before was not.
        alarms: those that stand, by name.
        answer: ship, hold or not shown; empty where there is no run to ask.
        seconds: of the stages that were trained in it.
    """

    swept: SweptRun
    value: Interval | None = None
    looked: bool = False
    alarms: tuple[str, ...] = ()
    answer: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class SweepRow:
    """One setting, with its runs in the order of the seeds."""

    settings: Mapping[str, Any]
    runs: tuple[SeedResult, ...]
    seeds: int

    @cached_property
    def values(self) -> dict[int, float]:
        """The objective by seed, where it was measured."""
        return {r.swept.seed: r.value.value for r in self.runs if r.value is not None}

    @cached_property
    def objective(self) -> Interval | None:
        """The mean over the seeds with Student's interval; of one seed, the run's own interval,
        which is over prompts or rows."""
        known = [r.value for r in self.runs if r.value is not None]
        if not known:
            return None
        return (
            known[0] if len(known) == 1 else mean_interval(list(self.values.values()), method="t")
        )

    @property
    def alarms(self) -> list[str]:
        return list(dict.fromkeys(name for run in self.runs for name in run.alarms))

    @property
    def looked(self) -> bool:
        """Whether every run that measured the objective was audited for alarms."""
        return all(run.looked for run in self.runs if run.value is not None)

    @property
    def held(self) -> bool:
        """Whether something speaks against a model of it: an alarm, a gate, a loss elsewhere."""
        return any(run.answer == "hold" for run in self.runs)

    @property
    def answer(self) -> str:
        """The answers of its runs, in words: ``hold (2 of 3), not shown``."""
        said = [run.answer for run in self.runs if run.answer]
        kinds = [kind for kind in ("hold", "not shown", "ship") if kind in said]
        if len(said) < 2 or len(kinds) == 1:
            return kinds[0] if kinds else ""
        return ", ".join(f"{kind} ({said.count(kind)} of {len(said)})" for kind in kinds)

    @property
    def failed(self) -> bool:
        """Whether one of its runs failed, stopped at a gate, or has not come to its end."""
        return any(run.swept.problem for run in self.runs)

    @property
    def complete(self) -> bool:
        """Whether every seed has its objective and came to its end."""
        return len(self.values) == self.seeds and not self.failed

    @property
    def tier(self) -> int:
        """0: nothing speaks against it; 1: seeds are missing; 2: held, or one of its runs has a
        problem; 3: nobody looked for alarms; 4: not measured."""
        if self.objective is None or self.held or (self.failed and self.looked):
            return 4 if self.objective is None else 2
        return 3 if not self.looked else 0 if self.complete else 1


@dataclass(frozen=True)
class SweepView:
    """A sweep as its folder has it, the settings best first."""

    path: Path
    sweep: Sweep
    rows: tuple[SweepRow, ...]

    @property
    def best(self) -> SweepRow | None:
        """The first setting; None where none was measured and found free of alarms, closed gates
        and failed runs."""
        return next((row for row in self.rows if row.tier < 2), None)

    @property
    def answer(self) -> Kind:
        """Whether the setting that comes first may ship: ``ship`` where all its runs may, ``hold``
        where none comes first and some are held."""
        if self.best is None:
            return "hold" if any(row.held for row in self.rows) else "not shown"
        ships = self.best.complete and all(run.answer == "ship" for run in self.best.runs)
        return "ship" if ships else "not shown"

    @property
    def notes(self) -> list[str]:
        """What the table does not say, in sentences."""
        return [*_notes(self)]


def figures(run: RunView) -> dict[str, Reading]:
    """Every figure of the policy that a run was for (or of its last stage), by the names that gates
    have for them."""
    names = [stage.name for stage in run.stages]
    model = subject(run) or (names[-1] if names else "")
    readings = eval_readings(run.results, model)
    if model in names:
        readings |= stage_readings(run.stages[names.index(model)])
    return {**readings, **compared_readings(run.comparison, model)}


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (folder / SWEEP).is_file()


def read_sweep(folder: Path) -> SweepView:
    """A sweep's settings, best first; runs that cannot be read are rows that say so.

    Raises:
        DataError: the folder holds no sweep.
    """
    try:
        sweep = Sweep.read(folder / SWEEP)
    except ValueError as error:
        raise DataError(f"{folder} holds no sweep: {error}") from error
    tried = {json.dumps(run.settings, sort_keys=True): run.settings for run in sweep.runs}
    rows = [read_setting(folder, sweep, settings) for settings in tried.values()]
    return SweepView(folder, sweep, tuple(sorted(rows, key=lambda row: _place(row, sweep.sign))))


def read_setting(folder: Path, sweep: Sweep, settings: Mapping[str, Any]) -> SweepRow:
    """One setting of a sweep, with those of its runs that were begun."""
    own = [run for run in sweep.runs if run.settings == settings]
    runs = tuple(_result(folder, run, sweep.objective) for run in own)
    return SweepRow(settings, runs, max(1, len(sweep.seeds)))


def _place(row: SweepRow, sign: int) -> tuple[int, float]:
    return row.tier, -sign * row.objective.value if row.objective is not None else math.inf


def _result(folder: Path, swept: SweptRun, objective: str) -> SeedResult:
    try:
        run = read_run(folder / swept.name)
    except GnomonError:  # it was never begun: the row's problem says why
        return SeedResult(swept)
    reading = figures(run).get(objective)
    own = [s.info.seconds or 0.0 for s in run.stages if s.name not in swept.shared]
    return SeedResult(
        swept,
        None if reading is None else reading.figure,
        run.audit is not None,
        tuple(dict.fromkeys(finding.name for finding in standing(run))),
        answer(run).kind,
        sum(own),
    )


def known_figures(folder: Path, name: str, wanted: str) -> str:
    """What to say where a finished run of a sweep lacks the objective: the nearest figure."""
    return did_you_mean(wanted, sorted(figures(read_run(folder / name))), "it has")


# -- in words -------------------------------------------------------------------------------------


def _notes(view: SweepView) -> list[str]:
    sweep, measured_rows = view.sweep, [row for row in view.rows if row.objective is not None]
    notes = [f"{sweep.objective}: {'higher' if sweep.sign > 0 else 'lower'} is better"
             + (f"; {sweep.why}" if sweep.why else "") + "."]  # fmt: skip
    if sweep.stopped:
        notes.append(f"Not all was tried: {sweep.stopped}.")
    notes += _clear_first(view, measured_rows)
    notes += _passed_over(view, measured_rows)
    for row in view.rows:
        for run in row.runs:
            if run.swept.problem:
                notes.append(f"{run.swept.name}: {run.swept.problem}")
    return notes


def _clear_first(view: SweepView, rows: Sequence[SweepRow]) -> list[str]:
    """Whether the first is known to be better than the second."""
    if not rows:
        return ["No run has measured it."]
    if view.best is None:
        return ["No setting is known to be free of alarms, closed gates and failed runs: none is "
                "best."]  # fmt: skip
    notes = []
    others = [row for row in rows if row is not view.best and row.tier < 2]
    if others:
        gap, how = _gap(view.best, others[0], view.sweep.sign)
        apart = gap.low > 0
        notes.append(
            f"The first is better than the second by {measured(gap)}, {how}: "
            + ("beyond its interval." if apart else "not told apart; try both on more seeds.")
        )
    if len(rows) > 2:
        notes.append(
            f"It is the best of {len(rows)}, so its own figure is likely too good: run it again "
            "on seeds that were not used here."
        )
    return notes


def _gap(first: SweepRow, second: SweepRow, sign: int) -> tuple[Interval, str]:
    """By how much the first is better: paired by seed where several are known of both."""
    shared = sorted(first.values.keys() & second.values.keys())
    if len(shared) > 1:
        gaps = [sign * (first.values[s] - second.values[s]) for s in shared]
        return mean_interval(gaps, method="t"), f"paired by {len(shared)} seeds"
    new, old = first.objective, second.objective
    assert new is not None
    assert old is not None
    gap = independent_difference(new, old)
    if sign < 0:
        gap = Interval(-gap.value, -gap.high, -gap.low, gap.n)
    return gap, "on one seed, which says nothing of other seeds"


def _passed_over(view: SweepView, rows: Sequence[SweepRow]) -> list[str]:
    """Settings that come later than their objective alone would have them."""
    if view.best is None or view.best.objective is None:
        return []
    best, sign, notes = view.best.objective.value, view.sweep.sign, []
    for row in rows:
        if row.tier > 1 and row.objective and sign * row.objective.value > sign * best:
            why = _against(row)
            notes.append(
                f"{_named(view, row)} has {number(row.objective.value)}, more than the first "
                f"({why}): it is not ranked by that."
                if sign > 0
                else f"{_named(view, row)} has {number(row.objective.value)}, less than the first "
                f"({why}): it is not ranked by that."
            )
    return notes


def _against(row: SweepRow) -> str:
    """Why a setting is not ranked by its objective."""
    if row.alarms:
        return f"alarms: {', '.join(row.alarms)}"
    if row.held:
        return "its answer is hold"
    looked = "not all of its runs came to their end"
    return looked if row.looked else "nobody has looked for alarms"


def _named(view: SweepView, row: SweepRow) -> str:
    names = short_keys(view.sweep.keys)
    return ", ".join(f"{names.get(k, k)}={show(v)}" for k, v in row.settings.items())


# -- the table ------------------------------------------------------------------------------------


def _header(view: SweepView) -> list[str]:
    names = short_keys(view.sweep.keys)
    several = len(view.sweep.seeds) > 1
    spread = ["lowest to highest"] if several else []
    return ["", *(names[key] for key in view.sweep.keys), view.sweep.objective, *spread,
            "alarms", "answer", "time", "remark"]  # fmt: skip


def _cells(view: SweepView, place: int, row: SweepRow) -> list[str]:
    spread = []
    if len(view.sweep.seeds) > 1:
        seen = row.values.values()
        spread = [f"{number(min(seen))} to {number(max(seen))}" if seen else ""]
    return [
        str(place) if row.tier < 2 else "",
        *(show(row.settings.get(key)) for key in view.sweep.keys),
        "n/a" if row.objective is None else measured(row.objective),
        *spread,
        ", ".join(row.alarms) or _none_found(row),
        row.answer or "n/a",
        duration(sum(run.seconds for run in row.runs)),
        _remark(row),
    ]


def _none_found(row: SweepRow) -> str:
    """What is said in place of alarms: which of the runs were looked at."""
    missed = sum(not run.looked for run in row.runs)
    some = f" ({missed} of {len(row.runs)})" if missed < len(row.runs) else ""
    return f"not looked for{some}" if missed else "none"


def _remark(row: SweepRow) -> str:
    done, problems = len(row.values), [r.swept for r in row.runs if r.swept.problem]
    parts = [f"{done} of {row.seeds} seeds"] if done < row.seeds and row.seeds > 1 else []
    return "; ".join([*parts, *(p.problem[:80] for p in problems[:1])])


def _title(view: SweepView) -> str:
    seeds, runs = len(view.sweep.seeds), len(view.sweep.runs)
    over = f", mean over {seeds} seeds with its 95% interval" if seeds > 1 else ""
    return f"{view.sweep.recipe}: {len(view.rows)} settings, {runs} runs, best first{over}"


def sweep_table(view: SweepView) -> Table:
    """For the terminal; settings that something speaks against are dim, their alarms red."""
    table = Table(
        box=box.SIMPLE_HEAD, title=Text(_title(view)), title_justify="left", title_style="bold"
    )
    header = _header(view)
    for column in header:
        table.add_column(Text(column), overflow="fold")
    for place, row in enumerate(view.rows, start=1):
        cells = [
            Text(visible(cell), style="dim" if row.tier > 1 else "")
            for cell in _cells(view, place, row)
        ]
        if row.alarms:
            cells[header.index("alarms")].stylize("bold red")
        table.add_row(*cells)
    return table


def sweep_markdown(view: SweepView) -> str:
    """The table and its notes as Markdown."""
    head = [markdown.text(column) for column in _header(view)]
    body = [
        [markdown.text(c) for c in _cells(view, i, r)] for i, r in enumerate(view.rows, start=1)
    ]
    parts = [f"# {markdown.text(_title(view))}", markdown.table(head, body),
             markdown.bullets(markdown.text(note) for note in view.notes)]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def sweep_rows(view: SweepView) -> list[dict[str, Any]]:
    """One plain mapping a setting, best first."""
    return [
        {
            "rank": place if row.tier < 2 else None,
            "settings": dict(row.settings),
            "objective": view.sweep.objective,
            "mean": None if row.objective is None else row.objective.to_dict(),
            "seeds": {str(seed): finite_or_none(value) for seed, value in row.values.items()},
            "spread": [min(row.values.values()), max(row.values.values())] if row.values else None,
            "alarms": row.alarms,
            "looked": row.looked,
            "answer": row.answer,
            "seconds": round(sum(run.seconds for run in row.runs), 1),
            "runs": [run.swept.name for run in row.runs],
            "problems": {r.swept.name: r.swept.problem for r in row.runs if r.swept.problem},
        }
        for place, row in enumerate(view.rows, start=1)
    ]
