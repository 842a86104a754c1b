"""A run's folder as its records, whatever is missing from it.

A report can be made of a run that is still going, was killed, or came from an older version: what
cannot be read is left out and named in ``RunView.problems``, and only a folder that is not a run at
all is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np

from gnomon.errors import DataError
from gnomon.runs.audit import AUDIT, GATES, Audit, Gates
from gnomon.runs.comparison import Comparison
from gnomon.runs.evals import (
    CALIBRATION_FOLDER,
    EVAL_FOLDER,
    Calibration,
    EvalResult,
    is_outdated,
    model_fingerprints,
    outdated,
)
from gnomon.runs.joins import JOINS, Joins
from gnomon.runs.labels import (
    BELIEVED,
    CONSTITUTIONS,
    STORE_COSTS,
    BelievedLabels,
    Constitutions,
    LabelCosts,
)
from gnomon.runs.manifest import MANIFEST, Manifest
from gnomon.runs.probes import PROBES, Probes
from gnomon.runs.records import (
    COMPARISON,
    EVALS,
    STAGE,
    Evals,
    JsonFile,
    StageInfo,
    plain_hash,
    read_recipe,
)
from gnomon.runs.rows import Column, MetricsStore, SampleRow, SampleStore
from gnomon.runs.sample_columns import checked
from gnomon.runs.spotchecks import SPOTCHECK_FOLDER, SpotCheck

R = TypeVar("R", bound=JsonFile)


class Unread(str):
    """A problem, in words, of a record that the answer whether a policy may ship rests on."""

    __slots__ = ()


@dataclass(frozen=True)
class StageView:
    """One stage of a run.

    Attributes:
        info: stage.json; its status is "unknown" where that is missing.
        metrics: column -> [rows] floats, NaN where the row has no value.
        samples: rows of samples.parquet (of samples.jsonl, while the stage is running).
    """

    folder: Path
    name: str
    info: StageInfo = field(default_factory=StageInfo)
    metrics: Mapping[str, Column] = field(default_factory=dict)
    samples: Sequence[SampleRow] = ()
    evals: Evals = field(default_factory=lambda: Evals({}))
    probes: Probes = field(default_factory=Probes)
    constitutions: Constitutions = field(default_factory=lambda: Constitutions({}))
    labels: BelievedLabels = field(default_factory=lambda: BelievedLabels({}))
    joins: Joins = field(default_factory=lambda: Joins({}))

    def series(self, name: str, against: str = "step") -> tuple[Column, Column]:
        """(x, y) of a metric where it was logged, in order of logging; x counts rows without it."""
        y = self.metrics.get(name)
        if y is None:
            return np.empty(0), np.empty(0)
        x = self.metrics.get(against, np.arange(y.size, dtype=np.float64))
        present = np.isfinite(y) & np.isfinite(x)
        return x[present], y[present]


@dataclass(frozen=True)
class RunView:
    """A whole run, as read from its folder.

    Attributes:
        audit: None where nobody has looked yet, or what was found cannot be read.
        results: what evals measured, models and suites in order.
        label_costs: of the store whose labels it was trained on; empty where it is not kept there.
    """

    path: Path
    name: str
    recipe_text: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    manifest: Manifest = field(default_factory=Manifest)
    stages: tuple[StageView, ...] = ()
    comparison: Comparison = field(default_factory=Comparison)
    audit: Audit | None = None
    gates: Gates = field(default_factory=lambda: Gates({}))
    results: tuple[EvalResult, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    spotchecks: tuple[SpotCheck, ...] = ()
    label_costs: LabelCosts = field(default_factory=LabelCosts)
    problems: tuple[str, ...] = ()

    @property
    def unread(self) -> list[str]:
        """The problems of records that the answer whether a policy may ship rests on."""
        return [problem for problem in self.problems if isinstance(problem, Unread)]


StageReader = Callable[[Path, list[str]], StageView]
"""Reads a stage's folder; what cannot be read it adds to the list."""


def read_run(path: str | Path, stage: StageReader | None = None) -> RunView:
    """Read ``runs/<name>``.

    Args:
        stage: how to read a stage, :func:`read_stage` by default.

    Raises:
        DataError: the folder does not exist, or is not a run's folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path} is not a folder: give the run's directory, such as runs/<name>")
    folders = sorted((p for p in path.glob("stages/*") if _is_stage(p)), key=_stage_order)
    if not folders and not any((path / f).exists() for f in ("recipe.yaml", MANIFEST)):
        raise DataError(
            f"{path} holds no recipe.yaml, manifest.json or stages/: it is not a run directory"
        )
    problems: list[str] = []
    text, recipe = _recipe(path / "recipe.yaml", problems)
    manifest = _read(Manifest, path / MANIFEST, problems)
    if not (path / MANIFEST).exists():
        problems.append(
            Unread(f"{MANIFEST} is missing: nothing says whether the recipe is the run's")
        )
    comparison, problem = read_comparison(path)
    problems += [problem] if problem is not None else []
    stages = tuple((stage or read_stage)(folder, problems) for folder in folders)
    problems += _not_of_the_run(recipe, manifest, stages)
    return RunView(
        path=path,
        name=path.resolve().name,
        recipe_text=text,
        recipe=recipe,
        manifest=manifest,
        stages=stages,
        comparison=comparison,
        audit=_audit(path / AUDIT, problems),
        gates=_read(Gates, path / GATES, problems),
        results=tuple(_results(path, problems)),
        calibrations=tuple(_all(Calibration, path / CALIBRATION_FOLDER, problems)),
        spotchecks=tuple(_all(SpotCheck, path / SPOTCHECK_FOLDER, problems, str)),
        label_costs=_read(LabelCosts, path / STORE_COSTS, problems, kept=str),
        problems=tuple(problems),
    )


def read_comparison(path: str | Path) -> tuple[Comparison, str | None]:
    """What a run compared, and what is wrong with comparison.json; without rows if there is none.

    Underscores in the names of columns and tables are spaces here.
    """
    problems: list[str] = []
    file = Path(path) / COMPARISON
    found = _read(Comparison, file, problems)
    if not found and file.exists() and not problems:
        problems.append(Unread(f"{COMPARISON} holds no comparison"))
    return _spaced(found), problems[0] if problems else None


def _spaced(comparison: Comparison) -> Comparison:
    changes: dict[str, Any] = {
        "title": comparison.title.replace("_", " "),
        "columns": [column.replace("_", " ") for column in comparison.columns],
        "tables": [_spaced(table) for table in comparison.tables if table],
    }
    return comparison.model_copy(update=changes)


def read_stage(folder: Path, problems: list[str]) -> StageView:
    """A stage's records; what cannot be read is added to ``problems``."""
    view = read_stage_records(folder, problems)
    done = view.info.status == "done"
    table, sample_problems = SampleStore.read_table(folder / "samples.parquet", done)
    own: list[str] = []
    samples: list[SampleRow] = checked(table, own).to_pylist()
    problems += [f"{_short(folder)}: {problem}" for problem in own]
    metrics, metric_problems = MetricsStore.read(folder / "metrics.parquet", done)
    problems += [p.replace(str(folder), _short(folder)) for p in sample_problems + metric_problems]
    return replace(view, metrics=metrics, samples=samples)


def read_stage_records(folder: Path, problems: list[str]) -> StageView:
    """A stage's records without its metrics and samples, which may be large."""
    info = _read(StageInfo, folder / STAGE, problems, required=True)
    return StageView(
        folder=folder,
        name=info.name or re.sub(r"^\d+-", "", folder.name),
        info=info,
        evals=_read(Evals, folder / EVALS, problems),
        probes=_read(Probes, folder / PROBES, problems),
        constitutions=_read(Constitutions, folder / CONSTITUTIONS, problems, kept=str),
        labels=_read(BelievedLabels, folder / BELIEVED, problems, kept=str),
        joins=_read(Joins, folder / JOINS, problems),
    )


def _read(
    kind: type[R],
    file: Path,
    problems: list[str],
    required: bool = False,
    kept: type[str] = Unread,
) -> R:
    """A record; an empty one where the file is missing or damaged.

    Args:
        kept: what a problem of a damaged one is kept as.
    """
    try:
        if file.exists():
            return kind.read(file)
        if required:
            problems.append(f"{_short(file)} is missing: the run has not got that far, or was cut")
    except ValueError as error:
        problems.append(kept(str(error).replace(str(file), _short(file))))
    return kind.model_validate({})


def _audit(file: Path, problems: list[str]) -> Audit | None:
    before = len(problems)
    found = _read(Audit, file, problems)
    begun = found.so_far and not found.alarms  # says nothing yet
    return found if file.exists() and len(problems) == before and not begun else None


def _all(kind: type[R], folder: Path, problems: list[str], kept: type[str] = Unread) -> Iterator[R]:
    """Every record in a folder and those in it."""
    for file in sorted(folder.rglob("*.json")) if folder.is_dir() else ():
        try:
            yield kind.read(file)
        except ValueError as error:
            name = str(file.relative_to(folder.parent))
            problems.append(kept(str(error).replace(str(file), name)))


def _results(run: Path, problems: list[str]) -> Iterator[EvalResult]:
    """The evals of the models that are there; those of others are named."""
    models = model_fingerprints(run)
    for result in _all(EvalResult, run / EVAL_FOLDER, problems):
        if is_outdated(result, models):
            problems.append(outdated(result))
        else:
            yield result


def _recipe(path: Path, problems: list[str]) -> tuple[str, dict[str, Any]]:
    if not path.exists():
        problems.append(Unread("recipe.yaml is missing: the report cannot show it"))
        return "", {}
    text = ""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        return text, read_recipe(path)
    except (OSError, ValueError) as error:
        problems.append(Unread(str(error).replace(str(path), "recipe.yaml")))
        return text, {}


def _not_of_the_run(
    recipe: Mapping[str, Any], manifest: Manifest, stages: Sequence[StageView]
) -> Iterator[Unread]:
    """What says that a recipe which could be read is not the one that the run was made by: part of
    it may be gone, and what was trained on with it."""
    if not recipe:
        return
    listed = recipe.get("stages")
    specs = listed if isinstance(listed, list) else []
    named = {str(spec.get("name")) for spec in specs if isinstance(spec, Mapping)}
    lost = [stage.name for stage in stages if stage.name not in named]
    if lost:
        yield Unread(f"recipe.yaml lacks {', '.join(lost)}, which the run has: part of it is gone")
        return
    older = {"dtype" if key == "precision" else key: value for key, value in recipe.items()}
    digests = {plain_hash(recipe), plain_hash(older)}
    if manifest.recipe_kept and manifest.recipe_sha256 not in digests:
        yield Unread(
            f"recipe.yaml is not what {MANIFEST} says the run was made by (another SHA-256): part "
            "of it is gone, or it was changed; put it back, or resume with the run's recipe"
        )


def _is_stage(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _stage_order(path: Path) -> tuple[int, str]:
    number = re.match(r"\d+", path.name)
    return (int(number.group()) if number else 10**9, path.name)


def _short(path: Path) -> str:
    """The path from ``stages/`` on, or the file's name, for messages."""
    parts = path.parts
    return "/".join(parts[parts.index("stages") :]) if "stages" in parts else path.name


def own_stage(run: RunView, source: str) -> str | None:
    """The stage of this run whose model folder ``source`` is; None for another model, be it of a
    stage of the same name in another run."""
    place = PurePath(source)
    stage, stages = place.parent, place.parent.parent
    if place.name != "model" or stages.name != "stages":
        return None
    if stages.parent.name not in ("", run.name, run.manifest.name):  # it may have been moved
        return None
    name = stage.name.partition("-")[2]
    return name if name in {view.name for view in run.stages} else None
