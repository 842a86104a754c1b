"""``report.html``: one file with everything in it, rebuilt from a run directory at any time."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from gnomon.files import plain_errors, write_text
from gnomon.report import format as fmt
from gnomon.report import plots
from gnomon.report.overoptimisation import overoptimisation_plot, trajectory
from gnomon.report.verdict import verdicts
from gnomon.runs.read import RunView, StageView, read_run
from gnomon.runs.records import Evals
from gnomon.runs.rows import SampleRow
from gnomon.stats.intervals import Interval

_MAX_SAMPLES = 8
_MIN_TRAJECTORY = 4
_CALL = {"command", "cwd"}  # of the manifest; shown as what to type


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
    memory: tuple[tuple[str, str], ...]


def write_report(run_dir: str | Path) -> Path:
    """Draw the plots into ``plots/`` and write ``report.html``; returns its path.

    The page is self-contained: images are inlined, a content security policy forbids every request
    and script, and all text of users and models is escaped.

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
    return _environment().get_template("report").render(
        run=run,
        status=_status(run),
        verdicts=verdicts(run),
        comparison=run.comparison,
        comparison_plot=_comparison_plot(run, folder),
        stages=[_stage_section(stage, folder) for stage in run.stages],
        samples=_samples(run),
        skipped=[s for s in run.stages if s.info.skipped.count],
        commands=_commands(run),
        manifest=list(fmt.flatten(run.manifest.model_dump(exclude_unset=True, exclude=_CALL))),
    )  # fmt: skip


def _environment() -> Environment:
    source = files("gnomon.report").joinpath("templates/report.html.j2").read_text("utf-8")
    environment = Environment(
        loader=DictLoader({"report": source}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        value=fmt.value, interval=fmt.interval, duration=fmt.duration, title_of=_title
    )
    return environment


def _stage_section(stage: StageView, folder: Path) -> StageSection:
    figures = {**stage.info.figures, **stage.evals.figures()}
    return StageSection(
        view=stage,
        plots=tuple(_stage_plots(stage, folder)),
        figures=tuple(figures.items()),
        memory=tuple(fmt.flatten(stage.info.memory)),
    )


def _stage_plots(stage: StageView, folder: Path) -> Iterator[Plot]:
    name = stage.folder.name
    path = plots.training_curves(stage, folder / f"{name}-curves.png")
    if path:
        yield _plot(path, f"Training curves of stage {stage.name}")
    t = trajectory(stage)
    if t is not None and t.kl.size >= _MIN_TRAJECTORY:
        path = overoptimisation_plot({stage.name: stage}, folder / f"{name}-overoptimisation.png")
        yield _plot(path, "Proxy and gold reward against the square root of the KL", narrow=True)
    evals = Evals({stage.name: stage.evals.root})
    for where, report in evals.tables("reliability"):
        ece, bins = Interval.parse(report.get("ece")), report["reliability"]
        file = folder / f"{name}-reliability-{_slug(where)}.png"
        rows = [b for b in bins if isinstance(b, Mapping)] if isinstance(bins, list) else []
        value = None if ece is None else ece.value
        path = plots.reliability_diagram(rows, file, what=where.split(".")[-1], ece=value)
        if path:
            yield _plot(path, "Reliability diagram of the reward model", narrow=True)
    for where, report in evals.tables("by_category"):
        values = report["by_category"] if isinstance(report["by_category"], Mapping) else {}
        known = {str(k): m for k, v in values.items() if (m := Interval.parse(v)) is not None}
        file = folder / f"{name}-categories-{_slug(where)}.png"
        overall = Interval.parse(report.get("accuracy"))
        path = plots.category_accuracy(known, file, overall=overall)
        if path:
            yield _plot(path, "Accuracy by category", narrow=True)
    path = plots.length_histogram(stage, folder / f"{name}-lengths.png")
    if path:
        yield _plot(path, "Response lengths before and after", narrow=True)


def _comparison_plot(run: RunView, folder: Path) -> Plot | None:
    path = plots.comparison_bars(run.comparison, folder / "comparison.png")
    return None if path is None else _plot(path, "The models side by side")


def _samples(run: RunView) -> list[dict[str, Any]]:
    """Prompts with answers side by side: of the models compared, else before and after a stage."""
    if run.comparison.samples:
        return [_side_by_side(sample) for sample in run.comparison.samples[:_MAX_SAMPLES]]
    for stage in reversed(run.stages):
        first, last = plots.before_after(stage)
        before = {s.get("prompt_id"): s for s in first}
        pairs = [(before[s.get("prompt_id")], s) for s in last if s.get("prompt_id") in before]
        if not first:
            pairs = [({}, s) for s in last]
        if pairs:
            return [_before_after(stage, b, a) for b, a in pairs[:_MAX_SAMPLES]]
    return []


def _side_by_side(sample: Mapping[str, str]) -> dict[str, Any]:
    answers = [{"who": k, "text": v, "note": ""} for k, v in sample.items() if k != "prompt"]
    return {"prompt": sample.get("prompt", ""), "answers": answers}


def _before_after(stage: StageView, before: SampleRow, after: SampleRow) -> dict[str, Any]:
    answers = [
        {"who": f"{when} {stage.name}", "text": s.get("response") or "", "note": _sample_note(s)}
        for when, s in (("before", before), ("after", after))
        if s
    ]
    return {"prompt": after.get("prompt") or "", "answers": answers}


def _sample_note(sample: SampleRow) -> str:
    parts = []
    if sample.get("error"):
        parts.append(f"reward failed: {sample['error']}")
    elif (reward := sample.get("reward")) is not None:
        parts.append(f"reward {fmt.number(reward)}")
    named = _json(sample.get("parts"))
    parts += [f"{k} {fmt.number(m.value)}" for k, v in named.items() if (m := Interval.parse(v))]
    if (length := sample.get("length")) is not None:
        parts.append(f"{length} tokens")
    if sample.get("finished") is False:
        parts.append("cut off")
    return " · ".join(parts)


def _json(raw: Any) -> Mapping[str, Any]:
    if not isinstance(raw, str):
        return {}
    try:
        parsed = json.loads(raw)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _commands(run: RunView) -> list[str]:
    """How to repeat the run next to this one: the command recorded, or else the recipe's."""
    recorded, cwd = run.manifest.command, run.manifest.cwd
    if isinstance(recorded, list):
        recorded = shlex.join(recorded)
    if not recorded.strip():
        if not run.recipe_text:
            return []
        recorded = shlex.join(["gnomon", "run", str(run.path.resolve() / "recipe.yaml")])
    again = re.sub(r" --resume\b", "", recorded)
    name = re.sub(r"-seed-?\d+$", "", run.name) if "--seeds" in again else run.name
    commands = [f"cd {shlex.quote(cwd)}"] if cwd else []
    return [*commands, f"{again} {shlex.quote(f'name={name}-again')}"]


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


def _title(name: str) -> str:
    """A metric's title with its unit; dotted names of nested figures keep their path."""
    if name in fmt.METRICS:
        heading, unit = fmt.METRICS[name]
        return f"{heading} ({unit})" if unit and unit not in heading.lower() else heading
    return name.replace("_", " ").replace(".", " › ")
