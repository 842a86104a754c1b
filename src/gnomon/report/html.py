"""``report.html``: one file with everything in it, rebuilt from a run directory at any time.

It opens with the answer (:mod:`gnomon.report.ship`), goes on with what that rests on, and folds the
rest.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gnomon.files import plain_errors, write_text
from gnomon.report import alarms, curves, evals, plots, samples
from gnomon.report import format as fmt
from gnomon.report.bought import bought, measures
from gnomon.report.bought_table import NOTE, cost_rows, signed, verdict
from gnomon.report.candidate import subject
from gnomon.report.kinds import WORDS, column_kinds
from gnomon.report.overoptimisation import best_of_curves, overoptimisation_plot, trajectory
from gnomon.report.ship import answer
from gnomon.report.verdict import verdicts
from gnomon.runs.audit import Finding
from gnomon.runs.peak import in_words, kept_stage
from gnomon.runs.read import RunView, StageView, read_run
from gnomon.runs.records import Evals
from gnomon.stats.intervals import Interval

_MIN_TRAJECTORY = 4
_CALL = {"command", "cwd"}  # of the manifest; shown as what to type
_OPEN_SAMPLES, _OPEN_PAIRS = 20, 6


@dataclass(frozen=True)
class Plot:
    """An image of the report: a data URI, and words for who cannot see it."""

    uri: str
    alt: str
    width: int
    narrow: bool = False


@dataclass(frozen=True)
class StageSection:
    """What the template shows of one stage."""

    view: StageView
    plots: tuple[Plot, ...]
    figures: tuple[tuple[str, Interval], ...]
    constants: tuple[tuple[str, float], ...]
    memory: tuple[tuple[str, str], ...]


def write_report(run_dir: str | Path) -> Path:
    """Draw the plots into ``plots/`` and write ``report.html``; returns its path.

    The page is self-contained: images are inlined, a content security policy forbids every request
    and every script but the page's own (by its hash), and all text of users and models is escaped.

    Raises:
        DataError: ``run_dir`` is not a run directory.
        RunError: the disk is full or cannot be written.
    """
    run = read_run(run_dir)
    folder = run.path / "plots"
    with plain_errors(folder):
        folder.mkdir(exist_ok=True)
        page = _page(run, folder)
    path = run.path / "report.html"
    write_text(path, page)
    return path


def _page(run: RunView, folder: Path) -> str:
    style, script = _part("report.css"), _part("report.js")
    stages = bought(run)
    cost_heads, cost_lines = cost_rows(stages) if stages else ([], [])
    return environment().get_template("report.html.j2").render(
        style=Markup(style),
        style_hash=_sha256(style),
        script=Markup(script),
        script_hash=_sha256(script),
        run=run,
        status=_status(run),
        answer=answer(run),
        gates=run.gates.all(),
        evals=evals.tables(run),
        alarms=[(alarm, list(_alarm_plots(run, alarm.finding, i, folder)))
                for i, alarm in enumerate(alarms.alarms(run), start=1)],
        looked=alarms.looked(run),
        looked_words=alarms.STATUS,
        key_stage=subject(run),
        key_plots=list(_key_plots(run, folder)),
        comparison=run.comparison,
        kinds={name: WORDS[kind] for name, kind in column_kinds(run).items() if WORDS[kind]},
        comparison_plot=_comparison_plot(run, folder),
        bought=stages,
        measures=measures(stages),
        cost_heads=cost_heads,
        cost_lines=cost_lines,
        bought_note=NOTE,
        verdicts=verdicts(run),
        browser=samples.browser(run),
        pairs=samples.pairs(run),
        open_samples=_OPEN_SAMPLES,
        open_pairs=_OPEN_PAIRS,
        stages=[_stage_section(run, stage, folder) for stage in run.stages],
        skipped=[s for s in run.stages if s.info.skipped.count],
        commands=alarms.commands(run),
        manifest=list(fmt.flatten(run.manifest.model_dump(exclude_unset=True, exclude=_CALL))),
    )  # fmt: skip


def _part(name: str) -> str:
    return files("gnomon.report").joinpath(f"templates/{name}").read_text("utf-8")


def _sha256(text: str) -> str:
    """As a content security policy names what it allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def environment(*rooms: str) -> Environment:
    """Templates of the report, and of other packages, which come first; all text is escaped."""
    packages = [*rooms, "gnomon.report"]
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        peak=lambda stage: in_words(stage.info),
        value=fmt.value,
        interval=fmt.interval,
        measured=fmt.measured,
        number=fmt.number,
        duration=fmt.duration,
        signed=signed,
        verdict=verdict,
        title_of=title,
    )
    return environment


def _stage_section(run: RunView, stage: StageView, folder: Path) -> StageSection:
    figures = {**kept_stage(stage).info.figures, **stage.evals.figures()}
    return StageSection(
        view=stage,
        plots=tuple(_stage_plots(run, stage, folder)),
        figures=tuple(figures.items()),
        constants=tuple(plots.constants(stage).items()),
        memory=tuple(fmt.flatten(stage.info.memory)),
    )


def _key_plots(run: RunView, folder: Path) -> Iterator[Plot]:
    """The curves of the policy that the run ends with which say most."""
    for stage in run.stages:
        if stage.name == subject(run):
            for name in curves.key_curves(run, stage):
                yield _curve(run, stage, name, folder / f"key-{_slug(name)}.png")


def _alarm_plots(run: RunView, finding: Finding, place: int, folder: Path) -> Iterator[Plot]:
    for stage in run.stages:
        if stage.name == finding.stage:
            drawn = plots.curve_panels(stage)
            names = dict.fromkeys(name.removeprefix("eval/") for name in finding.curves)
            for name in [n for n in names if n in drawn][: alarms.CURVES]:
                yield _curve(run, stage, name, folder / f"alarm-{place}-{_slug(name)}.png")


def _curve(run: RunView, stage: StageView, name: str, file: Path) -> Plot:
    titles, marks = curves.titles(run, stage), curves.onsets(run, stage.name)
    path = plots.metric_curve(stage, name, file, titles, marks)
    return _plot(path, f"{title(name)} of stage {stage.name} over training", narrow=True)


def _stage_plots(run: RunView, stage: StageView, folder: Path) -> Iterator[Plot]:
    name = stage.folder.name
    path = plots.training_curves(
        stage,
        folder / f"{name}-curves.png",
        titles=curves.titles(run, stage),
        marks=curves.onsets(run, stage.name),
    )
    if path:
        yield _plot(path, f"Training curves of stage {stage.name}")
    t = trajectory(stage)
    if t is not None and t.kl.size >= _MIN_TRAJECTORY:
        file = folder / f"{name}-overoptimisation.png"
        path = overoptimisation_plot({stage.name: stage}, file, best_of_curves(run, stage))
        yield _plot(path, "Trained and gold reward against the square root of the KL", narrow=True)
    yield from _eval_plots(stage, folder)
    path = plots.length_histogram(kept_stage(stage), folder / f"{name}-lengths.png")
    if path:
        yield _plot(path, "Response lengths before and after", narrow=True)


def _eval_plots(stage: StageView, folder: Path) -> Iterator[Plot]:
    name, tables = stage.folder.name, Evals({stage.name: stage.evals.root})
    for where, report in tables.tables("reliability"):
        ece, bins = Interval.parse(report.get("ece")), report["reliability"]
        file = folder / f"{name}-reliability-{_slug(where)}.png"
        rows = [b for b in bins if isinstance(b, Mapping)] if isinstance(bins, list) else []
        value = None if ece is None else ece.value
        path = plots.reliability_diagram(rows, file, what=where.split(".")[-1], ece=value)
        if path:
            yield _plot(path, "Reliability diagram of the reward model", narrow=True)
    for where, report in tables.tables("by_category"):
        values = report["by_category"] if isinstance(report["by_category"], Mapping) else {}
        known = {str(k): m for k, v in values.items() if (m := Interval.parse(v)) is not None}
        file = folder / f"{name}-categories-{_slug(where)}.png"
        overall = Interval.parse(report.get("accuracy"))
        path = plots.category_accuracy(known, file, overall=overall)
        if path:
            yield _plot(path, "Accuracy by category", narrow=True)


def _comparison_plot(run: RunView, folder: Path) -> Plot | None:
    path = plots.comparison_bars(run.comparison, folder / "comparison.png")
    return None if path is None else _plot(path, "The models side by side")


def _status(run: RunView) -> str:
    states = [s.info.status for s in run.stages]
    if "failed" in states:
        return "failed"
    return "done" if states and all(s == "done" for s in states) else "unfinished"


def _plot(path: Path, alt: str, narrow: bool = False) -> Plot:
    png = path.read_bytes()
    data = base64.b64encode(png).decode("ascii")
    # Bytes 16 to 20 of a PNG hold its width; shown at half size it is sharp on dense screens.
    width = int.from_bytes(png[16:20], "big") // 2
    return Plot(f"data:image/png;base64,{data}", alt, width, narrow)


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text).strip("-").lower() or "eval"


def title(name: str) -> str:
    """A metric's title with its unit; dotted names of nested figures keep their path."""
    if name in fmt.METRICS:
        heading, unit = fmt.METRICS[name]
        return f"{heading} ({unit})" if unit and unit not in heading.lower() else heading
    return name.replace("_", " ").replace(".", " › ")
