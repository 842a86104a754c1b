"""``--dry-run``: everything that can be checked before the first step, and the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table

from gnomon.algorithms.base import Settings
from gnomon.algorithms.registry import find_algorithm
from gnomon.errors import ConfigError, DataError, GnomonError
from gnomon.models.load import fetch, read_config
from gnomon.models.memory import MemoryEstimate, RoleNeed, estimate, parameter_count
from gnomon.models.roles import LoraSettings
from gnomon.models.save import load_reward_model
from gnomon.pipeline.collect import COLLECT
from gnomon.pipeline.resolve import DATA_KIND, resolve_start, reward_folder, stage_settings
from gnomon.pipeline.rewards import one_reward
from gnomon.pipeline.roles import lora_settings
from gnomon.pipeline.rundir import RunFolder
from gnomon.pipeline.sources import DataReport, read_specs
from gnomon.recipe.schema import Recipe, RewardSpec, StageSpec
from gnomon.rewards.function import load_function
from gnomon.train.optim import default_lr


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
    if recipe.compare is not None:
        try:
            _check_rewards(recipe.compare.rewards, recipe, len(recipe.stages), run, base)
        except GnomonError as error:
            problems.append(f"compare: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return plans


def _plan_stage(recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path) -> StagePlan:
    settings = stage_settings(stage)
    start = resolve_start(recipe, stage, run)
    position = [s.name for s in recipe.stages].index(stage.name)
    _check_start(recipe, stage, run)
    _check_rewards([*stage.reward, *stage.observe], recipe, position, run, base)
    collecting = stage.algorithm == COLLECT
    algorithm = None if collecting else find_algorithm(stage.algorithm)
    kind = "prompts" if algorithm is None else DATA_KIND[algorithm.data]
    judged = bool(getattr(settings, "labellers", None) or stage.reward)
    if kind == "prompts" and not judged:
        raise ConfigError("it samples its own responses and needs a reward (or labellers)")
    rows, skipped = _count(recipe, stage, run, base, kind)
    iterations = stage.train.steps
    if collecting:
        iterations = rows
    elif iterations is None and rows is not None:
        visits = (stage.train.epochs or 1) * rows * (1 - stage.holdout)
        iterations = max(1, math.ceil(visits / stage.train.batch_size))
    lr = None
    if algorithm is not None:
        parameters = parameter_count(read_config(fetch(recipe.model)))
        auto = default_lr(algorithm.name, parameters, stage.lora is not None)
        lr = auto if stage.train.lr == "auto" else stage.train.lr
    roles = ("policy",) if algorithm is None else algorithm.roles_for(settings)
    return StagePlan(stage, start, rows, skipped, iterations, lr, roles)


def _check_start(recipe: Recipe, stage: StageSpec, run: RunFolder) -> None:
    start = resolve_start(recipe, stage, run)
    if not any(start == str(run.stage(s.name).model) for s in recipe.stages):
        fetch(start)


def _check_rewards(
    rewards: list[RewardSpec], recipe: Recipe, position: int, run: RunFolder, base: Path
) -> None:
    """Every reward exists: a file that imports, a folder, or an earlier reward-model stage."""
    for reward in rewards:
        if reward.function is not None:
            load_function(reward.function, base)
        if reward.builtin is not None:
            one_reward(reward, base=base, load=load_reward_model)
        if reward.model is None:
            continue
        earlier = {s.name: s.algorithm for s in recipe.stages[:position]}
        if reward.model in earlier:
            if earlier[reward.model] != "reward_model":
                raise ConfigError(
                    f"reward {reward.model!r} is a stage that trains no reward model "
                    f"(it is {earlier[reward.model]})"
                )
        elif reward.model in {s.name for s in recipe.stages}:
            raise ConfigError(f"reward {reward.model!r} is a stage that comes later")
        else:
            reward_folder(recipe, run, base, reward.model)


def _count(
    recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path, kind: str
) -> tuple[int | None, int]:
    """(usable rows or None when an earlier stage still has to write them, rows skipped)."""
    if not stage.data:
        raise ConfigError("it has no data: give data: [path: ...]")
    pending = [spec for spec in stage.data if spec.path.startswith("stage:")]
    for spec in pending:
        name = spec.path.removeprefix("stage:")
        if name not in [s.name for s in recipe.stages if s.algorithm == COLLECT]:
            raise ConfigError(f"data {spec.path!r}: there is no collect stage {name!r}")
    report = DataReport()
    rows = 0
    everything = [*stage.data, *stage.eval_data, *stage.pretraining, *stage.normalise_on]
    ready = [spec for spec in everything if not spec.path.startswith("stage:")]
    for spec in ready:
        wanted = kind if spec in [*stage.data, *stage.eval_data] else "auto"
        found = read_specs(
            [spec],
            base=base,
            stage_groups=lambda name: run.stage(name).groups,
            kind=wanted,
            report=report,
        )
        if not found:
            raise DataError(f"{spec.path}: no usable rows")
        rows += len(found) if any(spec is s for s in stage.data) else 0
    return (None if pending else rows), len(report.skipped)


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


def stage_memory(recipe: Recipe, stage: StageSpec) -> MemoryEstimate:
    """What a training stage needs, with its roles on one shared trunk and on separate copies."""
    algorithm = find_algorithm(stage.algorithm)
    settings = stage_settings(stage)
    needs = [_role_need(name, settings) for name in algorithm.roles_for(settings)]
    if any(reward.model for reward in stage.reward):
        needs.append(RoleNeed("reward_model", outputs=1))
    rollout = stage.rollout.max_rows * stage.rollout.max_new_tokens
    return estimate(
        read_config(fetch(recipe.model)),
        roles=needs,
        tokens_per_microbatch=stage.train.tokens_per_microbatch,
        lora=lora_settings(stage) or LoraSettings(),
        dtype=recipe.dtype,
        gradient_checkpointing=stage.train.gradient_checkpointing,
        rollout_tokens=rollout if algorithm.data == "prompts" else 0,
    )


def _memory_title(plan: StagePlan) -> str:
    chosen = "shared trunk (LoRA)" if plan.stage.lora else "separate (full)"
    return f"{plan.stage.name}: {', '.join(plan.roles)}; runs as {chosen}"


def _role_need(name: str, settings: Settings) -> RoleNeed:
    outputs = {"value_model": 1, "reward_model": int(getattr(settings, "members", 1))}
    return RoleNeed(name, trainable=name != "reference", outputs=outputs.get(name, 0))


def _short(start: str, recipe: Recipe) -> str:
    prefix = str(RunFolder(recipe).path / "stages") + "/"
    return start.removeprefix(prefix).removesuffix("/model") if start.startswith(prefix) else start
