"""What each page shows, from the records."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

from rich.text import Text

from gnomon.errors import DataError
from gnomon.report import alarms, curves, evals
from gnomon.report.candidate import subject
from gnomon.report.html import title
from gnomon.report.kinds import WORDS, column_kinds
from gnomon.report.plots import Titles, constants, curve_panels
from gnomon.report.runs import compare_runs, labels_of, short
from gnomon.report.samples import Sampled, Side, cut, is_held_out, sampled, side_of, truths_of
from gnomon.report.ship import answer, standing
from gnomon.runs.audit import Finding
from gnomon.runs.peak import kept_stage
from gnomon.runs.read import RunView, StageView
from gnomon.runs.records import recipe_changes
from gnomon.view import svg
from gnomon.view.library import Library, Opened, age, last_figure
from gnomon.view.samples import Page, Samples

_LAST_FIGURES = 3
MOST_COMPARED = 8


# -- all runs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunRow:
    """A run in the list; ``problem`` is why there is nothing else of it."""

    name: str
    state: str = ""
    answer: str = ""
    sentence: str = ""
    alarms: tuple[str, ...] = ()
    figures: tuple[tuple[str, float], ...] = ()
    progress: str = ""
    changed: str = ""
    written: float = 0.0
    age: str = ""
    problems: int = 0
    problem: str = ""


def run_rows(library: Library, known: MutableMapping[str, tuple[str, RunRow]]) -> list[RunRow]:
    """Every run of the folder; one that cannot be shown is in it with the reason.

    Args:
        known: rows made before, by the run's name and stamp; filled here.
    """
    found = []
    for name in library.names():
        stamp = library.stamp(name)
        if known.get(name, ("",))[0] != stamp:
            known[name] = (stamp, _run_row(library, name))
        row = known[name][1]
        found.append(replace(row, age=age(row.written)))
    return found


def _run_row(library: Library, name: str) -> RunRow:
    try:
        opened = library.open(name)
        run = opened.run
        said = answer(run)
        return RunRow(
            name=name,
            state=opened.state,
            answer=said.kind,
            sentence=said.sentence,
            alarms=tuple(f.name.replace("_", " ") for f in standing(run)),
            figures=tuple(_last_figures(opened)),
            progress=opened.progress,
            changed=_time(opened.changed),
            written=opened.changed,
            problems=len(run.problems),
        )
    except DataError as error:
        return RunRow(name, problem=str(error))
    except Exception as error:  # records that nobody foresaw must not hide the other runs
        return RunRow(name, problem=f"cannot be shown: {type(error).__name__}: {error}")


def _last_figures(opened: Opened) -> list[tuple[str, float]]:
    if not opened.run.stages:
        return []
    stage = kept_stage(opened.current)
    titles = curves.titles(opened.run, stage)
    found = []
    for name in curves.key_curves(opened.run, stage):
        value = last_figure(stage, name)
        if value is None:
            value = last_figure(stage, f"eval/{name}")
        if value is not None:
            found.append((titles.get(name, (title(name), ""))[0], value))
    return found[:_LAST_FIGURES]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


# -- a run ----------------------------------------------------------------------------------------


def run_page(opened: Opened) -> dict[str, Any]:
    """The page of a run."""
    run = opened.run
    stage = key_stage(opened)
    return dict(
        opened=opened,
        run=run,
        changed=_time(opened.changed),
        age=age(opened.changed),
        answer=answer(run),
        gates=run.gates.all(),
        evals=evals.tables(run),
        alarms=[(alarm, _alarm_plots(run, alarm.finding)) for alarm in alarms.alarms(run)],
        timelines=_timelines(run, ""),
        looked=alarms.looked(run),
        looked_words=alarms.STATUS,
        comparison=run.comparison,
        comparison_plot=None,
        kinds={name: WORDS[kind] for name, kind in column_kinds(run).items() if WORDS[kind]},
        stages=[(s, _stage_figures(run, s)) for s in run.stages],
        key_stage=stage,
        **(_charts(run, stage) if stage is not None else {"key_plots": [], "other_plots": []}),
    )


def key_stage(opened: Opened) -> StageView | None:
    """The stage whose curves come first: the one at work, or else the last policy's."""
    run = opened.run
    if not run.stages:
        return None
    if opened.state == "running" and opened.current.info.status != "done":
        return opened.current
    own = [stage for stage in run.stages if stage.name == subject(run)]
    return own[-1] if own else run.stages[-1]


def stage_page(opened: Opened, stage: StageView) -> dict[str, Any]:
    """The page of a stage."""
    run = opened.run
    page = f"/runs/{quote(run.name, safe='')}"
    return dict(
        opened=opened,
        run=run,
        stage=stage,
        changed=_time(opened.changed),
        age=age(opened.changed),
        timelines=[t for t in _timelines(run, page) if t[0] == stage.name],
        figures=list({**kept_stage(stage).info.figures, **stage.evals.figures()}.items()),
        constants=list(constants(stage).items()),
        **_charts(run, stage),
    )


def _charts(run: RunView, stage: StageView) -> dict[str, Any]:
    titles, marks = curves.titles(run, stage), curves.onsets(run, stage.name)
    keys = curves.key_curves(run, stage)
    others = [name for name in curve_panels(stage) if name not in keys]
    return {
        "key_plots": [svg.metric_chart(stage, name, titles, marks) for name in keys],
        "other_plots": [svg.metric_chart(stage, name, titles, marks) for name in others],
    }


def _alarm_plots(run: RunView, finding: Finding) -> list[Any]:
    for stage in run.stages:
        if stage.name == finding.stage:
            drawn = curve_panels(stage)
            titles, marks = curves.titles(run, stage), curves.onsets(run, stage.name)
            names = dict.fromkeys(name.removeprefix("eval/") for name in finding.curves)
            chosen = [name for name in names if name in drawn][: alarms.CURVES]
            return [svg.metric_chart(stage, name, titles, marks) for name in chosen]
    return []


def _timelines(run: RunView, page: str) -> list[tuple[str, Any, list[str]]]:
    """Of each stage with alarms: its name, they over its steps, each with a link into ``page``, and
    those that are of no time."""
    found = []
    shown = alarms.alarms(run)
    for stage in run.stages:
        own = [(i, a.finding) for i, a in enumerate(shown, 1) if a.finding.stage == stage.name]
        timed = [
            (f.since, f"{f.name.replace('_', ' ')} ({f.detector})", f"{page}#alarm-{i}")
            for i, f in own
            if f.since is not None
        ]
        rest = [f"{f.name.replace('_', ' ')} ({f.detector})" for _, f in own if f.since is None]
        steps = stage.metrics.get("step")
        end = float(steps[-1]) if steps is not None and steps.size else 0.0
        if own:
            found.append((stage.name, svg.timeline(timed, end), rest))
    return found


def _stage_figures(run: RunView, stage: StageView) -> list[tuple[str, float]]:
    stage = kept_stage(stage)
    titles = curves.titles(run, stage)
    names = curves.key_curves(run, stage)[:_LAST_FIGURES]
    values = [(titles.get(n, (title(n), ""))[0], last_figure(stage, n)) for n in names]
    return [(name, value) for name, value in values if value is not None]


# -- several runs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class HtmlTable:
    """A table of :mod:`gnomon.report.runs` as rows; ``strong`` marks what its interval shows."""

    heads: list[str]
    rows: list[list[tuple[str, bool]]]


def compare_page(library: Library, names: Sequence[str], metric: str) -> dict[str, Any]:
    """Runs side by side.

    Raises:
        DataError: fewer than two, too many, or one that is not there.
    """
    if not 2 <= len(names) <= MOST_COMPARED:
        raise DataError(f"choose 2 to {MOST_COMPARED} runs to compare; {len(names)} were chosen")
    opened = [library.open(name) for name in names]
    compared = compare_runs([library.path(name) for name in names], library.view)
    stages = [(o.run, s) for o in opened if (s := key_stage(o)) is not None]
    logged = dict.fromkeys(n for _, stage in stages for n in curve_panels(stage))
    keys = dict.fromkeys(n for run, stage in stages for n in curves.key_curves(run, stage))
    chosen = [metric] if metric in logged else list(keys)[: curves.KEY]
    return {
        "names": list(names),
        "metric": metric if metric in logged else "",
        "metrics": [(name, title(name)) for name in logged],
        "plots": [_together(stages, name) for name in chosen],
        "tables": [_html(table) for table in compared.tables],
        "remarks": compared.remarks,
        "changes": _changes([o.run for o in opened]),
    }


def _together(stages: Sequence[tuple[RunView, StageView]], name: str) -> Any:
    lines, heading, unit = [], "", ""
    labels = labels_of([run for run, _ in stages])
    for (run, stage), label in zip(stages, labels, strict=True):
        titles: Titles = curves.titles(run, stage)
        own = titles.get(name)
        heading, unit = own if own and not heading else (heading, unit)
        key = name if stage.series(name)[1].size else f"eval/{name}"
        lines.append(svg.Curve(f"{label}: {stage.name}", *stage.series(key)))
    return svg.chart("Trained reward" if name == "reward" else heading or title(name), unit, lines)


def _html(table: Any) -> HtmlTable:
    heads = [str(column.header) for column in table.columns]
    cells = [list(column.cells) for column in table.columns]
    rows = [[(str(c), isinstance(c, Text) and "bold" in str(c.style)) for c in row]
            for row in zip(*cells, strict=True)]  # fmt: skip
    return HtmlTable(heads, rows)


def _changes(runs: Sequence[RunView]) -> list[tuple[str, list[str]]]:
    """(key, each run's value) of everything in which a recipe differs from the first."""
    own = [
        {key: (old, new) for key, old, new in recipe_changes(runs[0].recipe, run.recipe)}
        for run in runs[1:]
    ]
    first = {key: old for changes in own for key, (old, _) in changes.items()}
    return [
        (key, [_plain(old), *(_now(changes, key, old) for changes in own)])
        for key, old in first.items()
        if key not in ("name", "output")
    ]


def _now(changes: Mapping[str, tuple[Any, Any]], key: str, old: Any) -> str:
    """A run's value of a key: the first run's, unless it or what it is part of changed."""
    if key in changes:
        return _plain(changes[key][1])
    parts = key.split(".")
    wholes = [".".join(parts[:n]) for n in range(1, len(parts))]
    return next((f"see {whole}" for whole in wholes if whole in changes), _plain(old))


def _plain(value: Any) -> str:
    return "not there" if value is None else short(value)


# -- samples --------------------------------------------------------------------------------------


def sample_rows(run: RunView, stage: StageView, page: Page) -> list[tuple[Sampled, int]]:
    """Rows as they are shown, each with its place among all, for the link to its prompt's page."""
    truths = truths_of(run, stage)
    return [(sampled(row, truths), at) for row, at in zip(page.rows, page.places, strict=True)]


def history(run: RunView, stage: StageView, samples: Samples, place: int) -> dict[str, Any]:
    """Every answer in a stage to the prompt of one of its samples, before and after first.

    Raises:
        DataError: nothing was sampled of it.
    """
    rows = samples.of_prompt(stage.folder, stage.info.status == "done", place)
    if not rows:
        raise DataError(f"stage {stage.name} has no sample {place}, or it has no prompt")
    truths = truths_of(run, stage)
    steps = [row.get("step") for row in rows]
    told: list[Side] = []
    for row in rows:
        where = "held-out" if is_held_out(row) else "training"
        told.append(side_of(f"step {row.get('step')}, {where}", row, truths))
    first, last = told[0], told[-1]
    return {
        "prompt": cut(rows[0].get("prompt")),
        "ends": [first, last] if steps[0] != steps[-1] else told[:1],
        "between": told[1:-1] if steps[0] != steps[-1] else told[1:],
        "steps": len(set(steps)),
    }
