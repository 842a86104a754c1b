"""``--dry-run``: everything that can be checked before the first step, and the plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table

from gnomon.algorithms.collect_settings import COLLECT
from gnomon.algorithms.offline_settings import ReferenceSettings
from gnomon.algorithms.reference import check_reference
from gnomon.algorithms.registry import find_algorithm
from gnomon.data.encode import Encoder, How
from gnomon.errors import ConfigError, DataError, GnomonError
from gnomon.models.load import fetch, load_tokenizer, read_config
from gnomon.models.memory import parameter_count
from gnomon.pipeline.check import check_compare, check_stage
from gnomon.pipeline.memory import stage_memory
from gnomon.pipeline.resolve import DATA_KIND, resolve_start, stage_settings
from gnomon.pipeline.rundir import RunFolder
from gnomon.pipeline.sources import DataReport, context_of, read_specs, recipe_encoder
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.train.optim import default_lr

TRIED = 256
"""Rows of each source that the plan tokenises."""
_HOW: Mapping[str, How] = {"demonstrations": "demonstrations", "prompts": "prompts"}


@dataclass(frozen=True)
class StagePlan:
    """What one stage will do; counts that hang on an earlier stage's output are None."""

    stage: StageSpec
    start: str
    rows: int | None
    skipped: int
    iterations: int | None
    lr: float | None
    roles: tuple[str, ...]


def make_plan(recipe: Recipe, base: Path) -> list[StagePlan]:
    """Check a recipe against the world: settings, models, data, rewards, references to stages.

    Raises:
        GnomonError: everything that is wrong, one problem a line.
    """
    run = RunFolder(recipe)
    plans: list[StagePlan] = []
    problems: list[str] = []
    for stage in recipe.stages:
        try:
            plans.append(_plan_stage(recipe, stage, run, base))
        except GnomonError as error:
            problems.append(f"stage {stage.name!r}: {error}")
    try:
        check_compare(recipe, run, base)
    except GnomonError as error:
        problems.append(f"compare: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return plans


def _plan_stage(recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path) -> StagePlan:
    settings = stage_settings(stage)
    start = resolve_start(recipe, stage, run)
    check_stage(recipe, stage, run, base)
    collecting = stage.algorithm == COLLECT
    algorithm = None if collecting else find_algorithm(stage.algorithm)
    kind = "prompts" if algorithm is None else DATA_KIND[algorithm.data]
    rows, skipped = _count(recipe, stage, run, base, kind)
    iterations = stage.train.steps
    if collecting:
        iterations = rows
    elif iterations is None and rows is not None:
        visits = (stage.train.epochs or 1) * rows * (1 - stage.holdout)
        iterations = max(1, math.ceil(visits / stage.train.batch_size))
    lr = None
    if isinstance(settings, ReferenceSettings):
        check_reference(settings, stage.lora is not None, iterations)
    if algorithm is not None:
        parameters = parameter_count(read_config(fetch(recipe.model)))
        auto = default_lr(algorithm.name, parameters, stage.lora is not None)
        lr = auto if stage.train.lr == "auto" else stage.train.lr
    roles = ("policy",) if algorithm is None else algorithm.roles_for(settings)
    return StagePlan(stage, start, rows, skipped, iterations, lr, roles)


def _count(
    recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path, kind: str
) -> tuple[int | None, int]:
    """(usable rows or None when an earlier stage still has to write them, rows skipped)."""
    pending = any(spec.path.startswith("stage:") for spec in stage.data)
    report = DataReport()
    rows = 0
    room = stage.response_tokens if kind == "prompts" else 0
    encoder = plan_encoder(recipe, room)
    sources = [(spec, kind, _HOW.get(kind, "groups")) for spec in [*stage.data, *stage.eval_data]]
    sources += [(spec, "text", "text") for spec in stage.pretraining]
    sources += [(spec, "demonstrations", "demonstrations") for spec in stage.normalise_on]
    for spec, wanted, how in sources:
        if spec.path.startswith("stage:"):
            continue
        found = read_specs(
            [spec],
            base=base,
            stage_groups=lambda name: run.stage(name).groups,
            kind=wanted,
            report=report,
        )
        if not found:
            raise DataError(f"{spec.path}: no usable rows")
        encoder.encode_all(found[:TRIED], how)  # template and window, on the first rows
        rows += len(found) if any(spec is s for s in stage.data) else 0
    return (None if pending else rows), len(report.skipped)


def plan_encoder(recipe: Recipe, new_tokens: int) -> Encoder:
    """The encoder of a stage that has not loaded its model yet."""
    folder = fetch(recipe.model)
    return recipe_encoder(
        recipe,
        load_tokenizer(folder),
        context=context_of(read_config(folder)),
        new_tokens=new_tokens,
    )


def render_plan(recipe: Recipe, base: Path) -> RenderableType:
    """The plan as a table, with an estimate of the memory of every stage."""
    plans = make_plan(recipe, base)
    table = Table(title=f"{recipe.name}: {len(plans)} stages, nothing trained yet")
    for column in ("stage", "algorithm", "starts from", "rows", "iterations", "lr"):
        table.add_column(column, overflow="fold", no_wrap=column in ("stage", "algorithm"))
    for plan in plans:
        rows = "from an earlier stage" if plan.rows is None else f"{plan.rows:,}"
        if plan.skipped:
            rows += f" ({plan.skipped} skipped)"
        table.add_row(
            plan.stage.name,
            plan.stage.algorithm,
            _short(plan.start, recipe),
            rows,
            "?" if plan.iterations is None else f"{plan.iterations:,}",
            "" if plan.lr is None else f"{plan.lr:.2g}",
        )
    tables = [
        stage_memory(recipe, plan.stage).table(_memory_title(plan))
        for plan in plans
        if plan.stage.algorithm != COLLECT
    ]
    return Lines(table, *tables)


def _memory_title(plan: StagePlan) -> str:
    chosen = "shared trunk (LoRA)" if plan.stage.lora else "separate (full)"
    return f"{plan.stage.name}: {', '.join(plan.roles)}; runs as {chosen}"


def _short(start: str, recipe: Recipe) -> str:
    prefix = str(RunFolder(recipe).path / "stages") + "/"
    return start.removeprefix(prefix).removesuffix("/model") if start.startswith(prefix) else start
