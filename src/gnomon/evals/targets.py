"""What a user means by MODEL_OR_RUN: a run's stage, a model, or a file of answers; and where the
results are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError
from gnomon.evals.subject import Model, Subject, open_subject
from gnomon.files import read_object
from gnomon.plugins import did_you_mean
from gnomon.runs.evals import BASE, RECIPE
from gnomon.runs.records import STAGE, StageInfo, read_recipe

JUDGE = "judge"
"""What is written in place of a model where the judge itself is measured."""
STAGES, MODEL = "stages", "model"


class JudgeAlone(Subject):
    """No model: the judge is what is measured."""

    name, sha256 = JUDGE, ""


@dataclass(frozen=True)
class Target:
    """What is measured.

    Attributes:
        subject: see :class:`~gnomon.evals.subject.Subject`.
        run: the folder in which ``evals/`` is: the run's, or the one that was asked for.
        base: the folder that relative paths start from.
    """

    subject: Subject
    run: Path
    base: Path


def open_target(
    target: str, stage: str | None = None, out: Path | None = None, **how: Any
) -> Target:
    """What ``target`` means; no weights are loaded.

    Args:
        target: a run's folder, a stage's, a model's, a hub id, a file of answers, or
            ``judge``.
        stage: of a run: a stage's name, or ``base``; by default the last that trained a policy.
        out: where results are kept in place of the run's folder (or of this one).
        how: device, dtype and template, see :class:`~gnomon.evals.subject.Model`.

    Raises:
        ConfigError: there is no such stage, or it has no model yet.
    """
    here = Path()
    if target == JUDGE:
        return Target(JudgeAlone(), out or here, here)
    how = {key: value for key, value in how.items() if value is not None}
    folder = Path(target).expanduser()
    if is_run(folder):
        return _of_run(folder, stage, out, how)
    inside = _run_around(folder)
    if inside is not None and stage is None:
        run, name = inside
        return _of_run(run, name, out, how)
    if stage is not None:
        raise ConfigError(f"{target} is not a run's folder, so it has no stage {stage!r}")
    return Target(open_subject(target, here, **how), out or here, here)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return (folder / RECIPE).is_file() and (folder / STAGES).is_dir()


def _run_around(folder: Path) -> tuple[Path, str] | None:
    """The run and the stage's name of a stage's folder, or of its model's."""
    place = folder.parent if folder.name == MODEL else folder
    if not (place / STAGE).is_file() or place.parent.name != STAGES:
        return None
    name = StageInfo.read_or_empty(place / STAGE).name or place.name.partition("-")[2]
    return place.parents[1], name


def stage_models(run: Path) -> dict[str, Path]:
    """The model folder of each stage of a run that has one, by the stage's name, in order."""
    found = {}
    for place in sorted((run / STAGES).iterdir()):
        model = place / MODEL
        if model.is_dir():
            name = StageInfo.read_or_empty(place / STAGE).name or place.name.partition("-")[2]
            found[name] = model
    return found


def _kind(model: Path) -> str:
    try:
        return str(read_object(model / "gnomon.json").get("kind", ""))
    except ValueError:
        return ""


def _dtype(precision: str, device: str) -> str:
    """Of a model of a run with such a ``precision``; nothing is trained, so that there are no
    float32 masters."""
    if precision in ("float32", "bfloat16"):
        return precision
    if device == "cpu":
        return "float32"
    import torch

    from gnomon.models.precision import pick_precision

    return pick_precision("auto", torch.device(device)).frozen


def _of_run(run: Path, stage: str | None, out: Path | None, how: Mapping[str, Any]) -> Target:
    try:
        recipe = read_recipe(run / RECIPE)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    models = stage_models(run)
    policies = [name for name, model in models.items() if _kind(model) == "policy"]
    if stage is None:
        if not policies:
            raise ConfigError(
                f"{run} has no trained policy yet; --stage {BASE} is the model that it starts from"
            )
        stage = policies[-1]
    known = {name: str(model.resolve()) for name, model in models.items()}
    known[BASE] = str(recipe.get("model", ""))
    if stage not in known:
        raise ConfigError(f"{run} has no model of a stage {stage!r}; {did_you_mean(stage, known)}")
    own = {"template": recipe["template"]} if recipe.get("template") else {}
    if recipe.get("precision"):
        own["dtype"] = _dtype(recipe["precision"], str(how.get("device", "cpu")))
    subject = Model(known[stage], stage, siblings=known, **{**own, **how})
    return Target(subject, out or run, Path())
