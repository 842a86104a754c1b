"""Several runs side by side: what their last policies measured, and how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.table import Table
from rich.text import Text

from gnomon.audit import truths
from gnomon.errors import DataError
from gnomon.report.format import duration, measured
from gnomon.report.kinds import stage_specs
from gnomon.runs.read import RunView, read_run
from gnomon.runs.records import recipe_changes
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import gain_between_runs, independent_difference

_MOST_CHANGES = 12
_NOT_IN_A_TABLE = 60


@dataclass(frozen=True)
class RunsComparison:
    """Tables to show, remarks in words, and how the recipes differ from the first."""

    tables: tuple[Table, ...]
    remarks: tuple[str, ...]
    recipes: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """The remarks, then how the recipes differ."""
        return (*self.remarks, *self.recipes)


def compare_runs(
    folders: Sequence[Path], read: Callable[[Path], RunView] = read_run
) -> RunsComparison:
    """Put runs side by side: one row a measure, one column a run, and the difference of each from
    the first.

    Where both runs compared their policies on the same prompts, a difference of rewards is paired
    by prompt; any other takes the two intervals as independent (Newcombe's square-and-add).

    Args:
        read: how to read a run's folder.

    Raises:
        DataError: a folder that is not a run, or one given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise DataError("the same run is given twice: give the folders of different runs")
    runs = [read(folder) for folder in folders]
    figures = [dict(_figures(run)) for run in runs]
    names = list(dict.fromkeys(name for own in figures for name in own))
    table = Table(
        title=f"{len(runs)} runs", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    table.add_column("measure")
    labels = labels_of(runs)
    for label in labels:
        table.add_column(Text(label))
    for label in labels[1:]:
        table.add_column(Text(f"{label} less {labels[0]}"))
    table.add_row("last policy", *(Text(_policy(run)) for run in runs))
    paired = [_paired(run, runs[0]) for run in runs[1:]]
    judges = [_other_judges(run, runs[0]) for run in runs[1:]]
    for name in names:
        own = [of.get(name) for of in figures]
        cells = [Text("" if m is None else measured(m)) for m in own]
        gaps = [
            Text("another judge", style="dim")
            if _judge_of(name) in others or _of_another(name, run, runs[0])
            else _shown(known[name])
            if name in known
            else _gap(m, own[0])
            for m, known, others, run in zip(own[1:], paired, judges, runs[1:], strict=True)
        ]
        table.add_row(Text(name), *cells, *gaps)
    table.add_section()
    table.add_row("time", *(_time(run) for run in runs))
    return RunsComparison((table,), tuple(_remarks(runs, labels)), tuple(_recipes(runs, labels)))


_GAIN = "gain in {column} over "


def _judge_of(measure: str) -> str:
    """The column that a measure is of."""
    before, _, after = _GAIN.partition("{column}")
    inside = measure.startswith(before) and after in measure
    return measure.removeprefix(before).rpartition(after)[0] if inside else measure


def _other_judges(new: RunView, old: RunView) -> set[str]:
    """Names that mean one judge in one run and another in the other: their figures have nothing to
    do with each other. A model of the run itself is another where the recipe up to it is."""
    mine, theirs = (
        {
            truths.label(entry).replace("_", " "): _known_by(run, entry)
            for entry in truths.reward_entries(
                (run.recipe.get("compare") or {}).get("rewards") or []
            )
        }
        for run in (new, old)
    )
    return {name for name, known in mine.items() if name in theirs and known != theirs[name]}


_END = "at the end of training: "
_WHOLE = ("reward", "return", "solved", "unsolved", "pass@", "length_correct", "length_incorrect")
"""What the names of figures begin with that are made of all that a stage is trained on."""


def _of_another(measure: str, new: RunView, old: RunView) -> bool:
    """Whether a figure of the last stages is by judges that are others in one run than in the
    other: of an observer, of a part of the reward, or of the reward as a whole."""
    if not measure.startswith(_END):
        return False
    heading, _, inner = measure.removeprefix(_END).partition(".")
    name = inner or heading
    judges = [_stage_judges(run) for run in (new, old)]
    asked = name.removeprefix("reward/").partition("/")[0].removesuffix("_errors")
    if any(asked in own for own in judges):
        return judges[0].get(asked) != judges[1].get(asked)
    whole = [_trained_on(run) for run in (new, old)]
    return name.startswith(_WHOLE) and whole[0] != whole[1]


def _last_spec(run: RunView) -> Mapping[str, Any]:
    return stage_specs(run).get(run.stages[-1].name, {}) if run.stages else {}


def _stage_judges(run: RunView) -> dict[str, Any]:
    """What says which judge each name in the last stage is, whatever it weighs."""
    spec = _last_spec(run)
    asked = [e for key in ("observe", "reward") for e in truths.reward_entries(spec.get(key) or [])]
    return {
        truths.label(entry): _known_by(run, {k: v for k, v in entry.items() if k != "weight"})
        for entry in asked
    }


def _trained_on(run: RunView) -> Any:
    """What says which reward the last stage is trained on: its judges with their weights, and its
    environment."""
    spec = _last_spec(run)
    entries = truths.reward_entries(spec.get("reward") or [])
    return [_known_by(run, entry) for entry in entries], spec.get("environment")


def _known_by(run: RunView, entry: Mapping[str, Any]) -> Any:
    """What says which judge an entry is."""
    stages = run.recipe.get("stages") or []
    names = [stage.get("name") for stage in stages if isinstance(stage, Mapping)]
    if entry.get("model") not in names:
        return entry
    begun = stages[: names.index(entry["model"]) + 1]
    return entry, run.recipe.get("model"), run.recipe.get("seed"), begun


def labels_of(runs: Sequence[RunView]) -> list[str]:
    """The runs' names, or their folders where two have one name."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.path) for run in runs]


def _policy(run: RunView) -> str:
    """The policy that a run's figures are of."""
    if run.comparison.rows:
        return run.comparison.models[-1]
    return run.stages[-1].name if run.stages else "n/a"


def _figures(run: RunView) -> Iterator[tuple[str, Interval]]:
    """What a run's last policy measured: in the comparison, then in its own stage."""
    compared = run.comparison
    if compared:
        row, reference = compared.rows[-1], compared.reference
        for column, value in zip(compared.columns, row.values, strict=False):
            if value is not None:
                yield column, value
        gains = zip(compared.columns, row.gains, strict=False)
        for column, gain in gains if row.model != reference else ():
            if gain is not None:
                yield f"{_GAIN.format(column=column)}{reference}, paired", gain
    if run.stages:
        for name, value in run.stages[-1].evals.figures().items():
            yield f"{_END}{name}", value


def _paired(new: RunView, old: RunView) -> dict[str, Interval]:
    """What the last policy's rewards are above the other run's, prompt by prompt; empty unless both
    were asked the same prompts (an id alone does not say so)."""
    asked = [run.recipe.get("compare") or {} for run in (new, old)]
    if any(asked[0].get(key) != asked[1].get(key) for key in ("prompts", "size", "environment")):
        return {}
    after, before = (
        run.comparison.scores(run.comparison.models[-1]) if run.comparison else {}
        for run in (new, old)
    )
    gaps = {name: gain_between_runs(after[name], before[name]) for name in after if name in before}
    return {name: gap for name, gap in gaps.items() if gap.n}


def _gap(new: Interval | None, old: Interval | None) -> Text:
    """The difference of two figures that are not paired."""
    if new is None or old is None:
        return Text("")
    return _shown(independent_difference(new, old))


def _shown(gap: Interval) -> Text:
    """A difference with its interval, bold where that leaves out 0."""
    style = ("bold" if gap.excludes(0) else "dim") if gap.known else ""
    return Text(measured(gap), style=style)


def _time(run: RunView) -> Text:
    known = [s.info.seconds for s in run.stages if s.info.seconds is not None]
    return Text(duration(sum(known)) if known else "n/a")


def _remarks(runs: Sequence[RunView], labels: Sequence[str]) -> Iterator[str]:
    for run, label in zip(runs, labels, strict=True):
        states = ((stage.name, stage.info.status) for stage in run.stages)
        unfinished = [f"{name} is {status}" for name, status in states if status != "done"]
        if unfinished or not run.stages:
            yield f"{label}: {', '.join(unfinished) or 'no stage has started'}"
        yield from (f"{label}: {problem}" for problem in run.problems)


def _recipes(runs: Sequence[RunView], labels: Sequence[str]) -> Iterator[str]:
    for run, label in zip(runs[1:], labels[1:], strict=True):
        changes = [
            f"{key}: {short(old)}, then {short(new)}"
            for key, old, new in recipe_changes(runs[0].recipe, run.recipe)
            if key != "name"
        ]
        shown = "; ".join(changes[:_MOST_CHANGES])
        more = f"; and {len(changes) - _MOST_CHANGES} more" if len(changes) > _MOST_CHANGES else ""
        yield f"recipes of {labels[0]} and {label}: {shown + more if changes else 'the same'}"


def _said(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _said(v) for key, v in value.items() if v is not None}
    return [_said(v) for v in value] if isinstance(value, list) else value


def short(value: Any) -> str:
    """A value of a recipe, cut to what a table has room for."""
    text = str(value)
    if isinstance(value, Mapping | list):  # what it says, without what it leaves open
        text = yaml.safe_dump(_said(value), default_flow_style=True, width=math.inf).strip()
    return text if len(text) <= _NOT_IN_A_TABLE else f"{text[: _NOT_IN_A_TABLE - 3]}..."
