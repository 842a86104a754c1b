"""``--dry-run``: everything that can be checked before the first step, and the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich import box
from rich.table import Table
from rich.text import Text

from gnomon.algorithms.offline_settings import ReferenceSettings
from gnomon.algorithms.reference import check_reference
from gnomon.data.values import Skipped, summarise_skipped
from gnomon.errors import ConfigError, GateClosed, GnomonError
from gnomon.judges.build import AI
from gnomon.models.load import fetch, read_config
from gnomon.models.memory import parameter_count
from gnomon.plan.allocator import ADVICE, PROCESS, keeps_freed
from gnomon.plan.cost import Speed
from gnomon.plan.job import Job
from gnomon.plan.memory_table import memory_table
from gnomon.plan.ranges import KEYS, check_ranges
from gnomon.plan.shapes import NoShapeError
from gnomon.plugins import is_own
from gnomon.recipe.gates import NoAlarm, parse_gate
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.runs.folder import RunFolder
from gnomon.stages.check import check_compare, check_stage, stage_encoder
from gnomon.stages.clock import SPREAD, measure, stage_seconds
from gnomon.stages.gate_names import check_gates
from gnomon.stages.machine_checks import check_machine, check_tools
from gnomon.stages.own_code import own_code
from gnomon.stages.probes import FOREIGN_P, foreign_prompts
from gnomon.stages.processes import Place
from gnomon.stages.sampler import gpu_bytes_of, share_line
from gnomon.stages.sizing import stage_job
from gnomon.stages.stage import (
    SEPARATE,
    SHARED,
    Stage,
    memory_ways,
    open_stage,
    pick_device,
    recipe_precision,
)
from gnomon.stages.usable import Usable, check_judging, usable_rows


@dataclass(frozen=True)
class StagePlan:
    """What one stage will do; counts that depend on an earlier stage's output are None.

    Attributes:
        rows: that can be trained on, of ``read``; ``held_out``: that can be evaluated on.
        skipped: rows that cannot be used; ``left_out`` says which and why.
        seconds: a rough estimate, good to a factor of ``clock.SPREAD``.
        warnings: settings outside the field's ranges, and needless words about them.
        job: what its memory is worked out from; None where nothing is trained.
    """

    stage: Stage
    start: str
    rows: int | None
    skipped: int
    iterations: int | None
    lr: float | None
    roles: tuple[str, ...]
    read: int = 0
    held_out: int = 0
    estimated: bool = False
    left_out: Sequence[Skipped] = field(default_factory=list)
    seconds: float | None = None
    warnings: Sequence[str] = ()
    job: Job | None = None


def make_plan(recipe: Recipe, base: Path, code: bool = True) -> list[StagePlan]:
    """Check a recipe against the world: settings, models, data, rewards, references to stages.

    Every row is tokenised, so that what the plan counts is what a run will train on.

    Args:
        base: the folder that the recipe's relative paths start from.
        code: whether to import the Python that the recipe names; without it, rewards and
            environments of the recipe's own go unchecked, and methods are refused.

    Raises:
        GnomonError: everything that is wrong, one problem a line.
    """
    hidden = [stage for stage in recipe.stages if is_own(stage.algorithm)]
    if hidden and not code:
        listed = ", ".join(f"{stage.name!r} ({stage.algorithm})" for stage in hidden)
        raise ConfigError(
            f"--no-code: the methods of {listed} are the recipe's own code, and without them there "
            "is nothing to plan. Read those files, then leave --no-code out"
        )
    run = RunFolder(recipe)
    plans: list[StagePlan] = []
    problems: list[str] = []
    try:
        check_machine(recipe)
        check_tools(recipe, base, code)
        planner = _Planner(recipe, run, base, code)
    except GnomonError as error:
        raise ConfigError(str(error)) from error
    for stage in recipe.stages:
        try:
            plans.append(planner.plan(stage))
        except GnomonError as error:
            problems.append(f"stage {stage.name!r}: {error}")
    try:
        check_compare(recipe, run, base, code)
    except GnomonError as error:
        problems.append(f"compare: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    check_gates(recipe, run, base)
    return plans


class _Planner:
    """Plans the stages of a recipe, one after the other."""

    def __init__(self, recipe: Recipe, run: RunFolder, base: Path, code: bool) -> None:
        self.recipe, self.run, self.base, self.code = recipe, run, base, code
        self._speed: Speed | None = None

    def plan(self, spec: StageSpec) -> StagePlan:
        stage = open_stage(self.recipe, spec, self.run, self.base)
        check_stage(stage, self.code)
        if not stage.reads_data:
            roles = tuple(need.name for need in stage.needs())
            return StagePlan(
                *(stage, stage.start_model(), 0, 0, stage.iterations(0), None, roles),
                warnings=out_of_range(stage, None, 0),
            )
        usable = usable_rows(stage, stage_encoder(stage), self.code)
        check_judging(spec, usable.prompts, self.base, self.code, self.recipe.ray is not None)
        known = usable.rows is not None or (stage.trains and spec.train.steps is not None)
        iterations = stage.iterations(usable.rows or 0) if known else None
        if isinstance(stage.settings, ReferenceSettings):
            check_reference(stage.settings, spec.lora is not None, iterations)
        config = read_config(fetch(stage.origin))
        parameters = parameter_count(config)
        job = self._job(stage, usable)
        seconds = None
        if iterations is not None and usable.rows is not None and job is not None:
            seconds = stage_seconds(stage, job, usable, iterations, self._measured(config))
        rate = stage.learning_rate(parameters)
        return StagePlan(
            stage,
            stage.start_model(),
            usable.rows,
            len(usable.skipped),
            iterations,
            rate,
            tuple(need.name for need in stage.needs()),
            read=usable.read,
            held_out=usable.held_out,
            estimated=usable.estimated,
            left_out=usable.skipped,
            seconds=seconds,
            warnings=out_of_range(stage, rate, parameters),
            job=job if stage.trains else None,
        )

    def _job(self, stage: Stage, usable: Usable) -> Job | None:
        """The stage in numbers; None where its model has no shape."""
        try:
            return stage_job(stage, usable.lengths)
        except NoShapeError:
            return None

    def _measured(self, config: object) -> Speed:
        if self._speed is None:
            dtype = recipe_precision(self.recipe).frozen
            self._speed = measure(config, dtype, pick_device(self.recipe.device))
        return self._speed


def out_of_range(stage: Stage, lr: float | None, parameters: int) -> list[str]:
    """What a stage sets outside the field's ranges, and what it declares needlessly.

    Args:
        lr: its learning rate, worked out.
    """
    spec, settings = stage.spec, stage.settings.model_dump()
    if settings.get("kl_in") == "none":
        settings["beta"] = 0.0
    given = {
        "settings": settings,
        "train": spec.train.model_dump() | {"lr": lr},
        "rollout": spec.rollout.model_dump(),
    }
    values = {key: given[key.partition(".")[0]].get(key.partition(".")[2]) for key in KEYS}
    return check_ranges(
        spec.algorithm,
        {key: value for key, value in values.items() if value is not None},
        parameters=parameters,
        lora=spec.lora is not None,
        learned=any(reward.model is not None or reward.builtin == AI for reward in spec.reward),
        on_purpose=spec.on_purpose,
    ).lines


# -- showing --------------------------------------------------------------------------------------


def plan_parts(recipe: Recipe, base: Path, code: bool = True) -> Iterator[Table | Text]:
    """The plan: a table of the stages, what is left out and why, whose code runs, the memory of
    every stage.

    Raises:
        GnomonError: see :func:`make_plan`.
    """
    plans = make_plan(recipe, base, code)
    yield _stage_table(recipe, plans)
    yield Text(_total(plans))
    yield Text(_how(recipe))
    for plan in plans:
        if plan.left_out:
            yield Text(f"{plan.stage.name}: {summarise_skipped(plan.left_out)}")
    for plan in plans:
        for warning in plan.warnings:
            yield Text(f"{plan.stage.name}: {warning}", style="yellow")
    yield from _foreign_note(recipe, base)
    yield from _gates_note(recipe)
    yield from _code_note(recipe, code)
    for plan in plans:
        if plan.job is not None:
            yield memory_table(memory_ways(plan.job), _memory_title(plan))
            rollout, room = plan.stage.spec.rollout, gpu_bytes_of(plan.stage.device)
            if (line := share_line(rollout, plan.job, room)) is not None:
                yield Text(f"{plan.stage.name}: {line}")
        elif plan.stage.trains:
            yield Text(
                f"{plan.stage.name}: its memory is not estimated: {plan.stage.origin} is no model "
                "of layers with attention and an MLP"
            )
    yield from _process_note(plans)


def _process_note(plans: Sequence[StagePlan]) -> Iterator[Text]:
    """What a process on a CPU takes beside the tables' figures, and how it could hold less."""
    if any(plan.job is not None and plan.job.device == "cpu" for plan in plans):
        own = f"{PROCESS / 1e6:.0f} MB"
        yield Text(f"the process itself (Python and torch) takes about {own} beside that")
        if keeps_freed():
            yield Text(ADVICE)


def _stage_table(recipe: Recipe, plans: Sequence[StagePlan]) -> Table:
    title = f"{recipe.name}: {len(plans)} stages, nothing trained yet"
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("stage", no_wrap=True)
    table.add_column("algorithm", no_wrap=True)
    table.add_column("starts from", overflow="fold", min_width=8)
    table.add_column("rows", overflow="fold", min_width=10)
    for column in ("held\nout", "iter.", "lr", "time"):
        table.add_column(column, no_wrap=True, justify="right")
    for plan in plans:
        table.add_row(
            plan.stage.name,
            plan.stage.spec.algorithm,
            _short(plan.start, recipe),
            _rows(plan),
            f"{plan.held_out:,}" if plan.held_out else "",
            "?" if plan.iterations is None else f"{plan.iterations:,}",
            "" if plan.lr is None else f"{plan.lr:.2g}",
            "?" if plan.seconds is None else _about(plan.seconds),
        )
    return table


def _rows(plan: StagePlan) -> str:
    if plan.rows is None:
        return "from an earlier stage"
    if not plan.stage.reads_data:
        return ""
    about = "about " if plan.estimated else ""
    usable = f"{about}{plan.rows:,}"
    return f"{usable} of {plan.read:,}" if plan.skipped else usable


def _total(plans: Sequence[StagePlan]) -> str:
    known = [plan.seconds for plan in plans if plan.seconds is not None]
    if not known:
        return "time: not known before earlier stages have written their data"
    low, high = _about(sum(known) / SPREAD), _about(sum(known) * SPREAD)
    missing = len(plans) - len(known)
    more = ", not counting what is marked ?" if missing else ""
    return (
        f"time: a rough estimate, between {low} and {high} on this machine{more}: arithmetic "
        "counted, not run; slow rewards and the comparison are left out"
    )


def _how(recipe: Recipe) -> str:
    """The device, the precision, the processes and the compiled layers of a run of this command."""
    device, precision = pick_device(recipe.device), recipe_precision(recipe)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    words = {"mixed": "mixed precision (float32 weights, bfloat16 products)"}
    said = f"runs on {name} in {words.get(precision.name, precision.name)}"
    said += " with logits in float32" * precision.float32_head
    if precision.deterministic and device.type == "cuda":
        said += ", attention's gradients added up in a fixed order"
    place, asked = Place.here(), recipe.strategy
    if place is not None:
        said += f", as {place.world} processes (strategy: {asked})"
    elif asked in ("ddp", "fsdp2"):
        said += f"; strategy: {asked} needs processes (torchrun --nproc-per-node N -m gnomon run)"
    else:
        said += ", as one process"
    compiled = [stage.name for stage in recipe.stages if stage.train.compile]
    return said + (f"; layers are compiled in {', '.join(compiled)}" if compiled else "")


def _about(seconds: float) -> str:
    """A duration as roughly as it is known."""
    if seconds < 90:
        return f"~ {max(seconds, 1):.0f} s"
    return f"~ {seconds / 60:.0f} min" if seconds < 5400 else f"~ {seconds / 3600:.1f} h"


def _gates_note(recipe: Recipe) -> Iterator[Text]:
    """The gates, and what each decides by."""
    for stage in recipe.stages:
        fails = recipe.on_fail_of(stage)
        does = "the run stops" if fails == "stop" else "later stages go on from the model before"
        for condition in stage.gates:
            yield Text(f"{stage.name}: gate {_explained(condition)}; else {does}")
    for condition in recipe.gates:
        code = GateClosed.code
        yield Text(f"at the end: gate {_explained(condition)}; else the exit code is {code}")


def _explained(condition: str) -> str:
    gate = parse_gate(condition)
    if isinstance(gate, NoAlarm):
        return condition
    side = "the value" if gate.side == "value" else f"the {gate.side} end of the interval"
    return f"{condition.partition(' (')[0]}, by {side}"


def _code_note(recipe: Recipe, code: bool) -> Iterator[Text]:
    files = own_code(recipe)
    if files:
        how = (
            "was imported just now (--no-code leaves it out)"
            if code
            else "was not imported (--no-code) and is not checked; a run will import it"
        )
        yield Text(f"this recipe runs its author's code, which {how}: {', '.join(files)}")


def _foreign_note(recipe: Recipe, base: Path) -> Iterator[Text]:
    """Where a reward model is asked about prompts that it does not know."""
    run = RunFolder(recipe)
    for spec in recipe.stages:
        for found in foreign_prompts(recipe, spec, run, base)[0]:
            auc, p = found.auc, found.p
            if auc is None or p is None or p > FOREIGN_P:
                continue
            shown = "; ".join(repr(text[:80]) for text in found.foreign[:3])
            yield Text(
                f"{spec.name}: its prompts are not such as {found.reward_model} is trained on: a "
                f"classifier tells them apart with an AUC of {auc.value:.2f} [{auc.low:.2f}, "
                f"{auc.high:.2f}] (p = {p:.3f}). The most foreign: {shown}"
            )


def _memory_title(plan: StagePlan) -> str:
    assert plan.job is not None
    chosen = SHARED if plan.job.lora else SEPARATE
    roles = ", ".join(plan.roles)
    return (
        f"memory of {plan.stage.name} ({roles}): the largest instant (<) decides; runs as {chosen}"
    )


def _short(start: str, recipe: Recipe) -> str:
    prefix = str(RunFolder(recipe).path / "stages") + "/"
    return start.removeprefix(prefix).removesuffix("/model") if start.startswith(prefix) else start
