"""One worst-case step of a stage, run and measured: memory by instant, seconds by phase.

It is the stage itself on its own data, with its longest rows; answers that the policy samples are
as long as they may be. What earlier stages would have made is replaced by what has its shape.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from gnomon.algorithms.base import Algorithm
from gnomon.algorithms.rollouts import EncodedPrompt
from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError
from gnomon.files import make_folder
from gnomon.models.heads import ScalarHead
from gnomon.models.load import LoadedModel, load_causal_lm
from gnomon.models.roles import Role, Trunk
from gnomon.models.save import save_reward_model
from gnomon.plan.job import Lengths
from gnomon.plan.memory import memory
from gnomon.plan.probe import PROBE, ProbeRecord
from gnomon.recipe.load import load_recipe
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.rollout.protocol import Completion, Engine
from gnomon.runs.folder import RunFolder
from gnomon.runs.records import now
from gnomon.stages.check import check_stage
from gnomon.stages.machine_checks import check_machine
from gnomon.stages.names import KINDS, origin_of
from gnomon.stages.roles import RoleBuilder, lora_settings
from gnomon.stages.sizing import stage_job
from gnomon.stages.stage import recipe_precision, run_stage
from gnomon.stages.train import Train
from gnomon.stages.usable import lengths_of
from gnomon.training.callbacks import Callback, StepDone
from gnomon.training.learner import Learner, Source
from gnomon.training.loop import Loop
from gnomon.training.progress import Progress
from gnomon.training.sampled import SampledSource
from gnomon.training.strategy import Strategy
from gnomon.training.watch import CLEAR, STATUS

STEPS = 2
"""Optimizer's moments are there from the second step on."""
Result = TypeVar("Result")


def probe(
    recipe: Recipe | Path, out: Path, stage: str | None = None, base: Path | None = None
) -> ProbeRecord:
    """Run one worst-case step of a recipe's stage here and measure it.

    The record is written to ``out``; the run that it is of is removed.

    Args:
        recipe: or its file.
        stage: which; the trained one that takes most memory if not given.
        base: the folder that relative paths start from; the recipe file's own.

    Raises:
        ConfigError: no such stage, or one that reads what an earlier one still has to write.
        GnomonError: whatever stops the stage.
    """
    if isinstance(recipe, Path):
        base, recipe = base or recipe.parent, load_recipe(recipe)
    base = base or Path()
    check_machine(recipe)
    spec = _chosen(recipe, stage, base)
    make_folder(out)
    work = out / "probing"
    shutil.rmtree(work, ignore_errors=True)
    try:
        single = alone(recipe, spec, work, base)
        run = RunFolder(single)
        worst = WorstStep(single, single.stages[0], run, base)
        check_stage(worst)
        run.open(False)
        worst.meter = meter = Meter(worst.device)
        run_stage(worst, False, callbacks=[meter])
        meter.switch("end")
        record = _record(worst, spec, meter)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    record.write(out / PROBE)
    return record


def _chosen(recipe: Recipe, name: str | None, base: Path) -> StageSpec:
    """The stage to probe.

    Raises:
        ConfigError: there is none such, or it trains nothing.
    """
    trained = [spec for spec in recipe.stages if spec.algorithm not in KINDS]
    if name is not None:
        trained = [spec for spec in trained if spec.name == name]
    if not trained:
        known = ", ".join(s.name for s in recipe.stages if s.algorithm not in KINDS) or "none"
        what = f"stage {name!r} does not train" if name else "no stage trains"
        raise ConfigError(f"{what}, so there is no step to probe; stages that train: {known}")
    run = RunFolder(recipe)

    def size(spec: StageSpec) -> float:
        job = Train(recipe, spec, run, base).job()
        return 0.0 if job is None else memory(job).peak

    return max(trained, key=size)


def alone(recipe: Recipe, spec: StageSpec, work: Path, base: Path) -> Recipe:
    """The recipe with this stage alone, for two steps, from the model that its weights come from.

    Raises:
        ConfigError: it reads what an earlier stage still has to write.
    """
    for data in spec.data:
        if data.path.startswith("stage:"):
            raise ConfigError(
                f"stage {spec.name!r} reads what {data.path[6:]!r} writes, which cannot be probed "
                "before that has run; probe another stage, or give it the written file as data"
            )
    make_folder(work)
    origin = origin_of(recipe, spec, base)
    spec = _with_rewards(recipe, spec, work, base)
    train = spec.train.model_copy(
        update={
            "steps": STEPS,
            "epochs": None,
            "eval_every": 0,
            "evals": [],
            "stop_at_peak": None,
            "checkpoint_every": 1,
            "keep_checkpoints": 1,
            "average_checkpoints": 1,
            "average_with_reference": 0.0,
            "warmup": 0.0,
        }
    )
    rollout = spec.rollout.model_copy(update={"stop": []})
    nothing: dict[str, Any] = {"eval_data": [], "holdout": 0, "gates": [], "probes": 0}
    spec = spec.model_copy(
        update={**nothing, "train": train, "rollout": rollout, "from_": None}, deep=True
    )
    return recipe.model_copy(
        update={
            "name": "probe",
            "model": origin,
            "output": str(work),
            "stages": [spec],
            "gates": [],
            "compare": None,
            "callbacks": [],
            "sinks": [],
        }
    )


def _with_rewards(recipe: Recipe, spec: StageSpec, work: Path, base: Path) -> StageSpec:
    """Reward models of stages that have not run are replaced by untrained ones of their shape."""
    run, stages = RunFolder(recipe), {s.name: s for s in recipe.stages}
    rewards = list(spec.reward)
    for i, reward in enumerate(rewards):
        if reward.model is None or reward.model not in stages:
            continue
        folder = run.stage(reward.model).model
        if not (folder / "config.json").is_file():
            folder = work / f"reward-{i}"
            _save_untrained(recipe, stages[reward.model], folder, base)
        name = reward.name or reward.model
        rewards[i] = reward.model_copy(update={"model": str(folder.absolute()), "name": name})
    return spec.model_copy(update={"reward": rewards, "observe": []})


def _save_untrained(recipe: Recipe, spec: StageSpec, folder: Path, base: Path) -> None:
    loaded = load_causal_lm(origin_of(recipe, spec, base), dtype=recipe_precision(recipe).trained)
    trunk, lora = Trunk.from_loaded(loaded), lora_settings(spec)
    head = ScalarHead(trunk.hidden_size)
    if lora is not None:
        trunk.add_adapter("reward_model", lora)
    adapter = None if lora is None else "reward_model"
    save_reward_model(folder, Role("reward_model", trunk, adapter=adapter, head=head))


class Meter(Callback):
    """What each phase takes: seconds, and on this process or GPU the most memory at once.

    Attributes:
        base: bytes that were taken before the model was loaded.
        peaks: bytes above them, by instant.
        seconds, tokens: of the last step, by phase.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.base = self._now()
        self.peaks: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.tokens: dict[str, int] = {}
        self._spent: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._phase, self._began = "loading", time.perf_counter()
        self._reset()

    def switch(self, phase: str) -> str:
        """Begin another phase; returns the one before.

        A GPU is waited for, so that what it still computes counts to the phase that asked for it.
        """
        if self.cuda:
            torch.cuda.synchronize()
        before, moment = self._phase, time.perf_counter()
        self.note()
        self._spent[before] += moment - self._began  # type: ignore[assignment]
        self._reset()
        self._phase, self._began = phase, time.perf_counter()
        return before

    def note(self) -> None:
        """Keep the peak so far, before somebody else resets the mark."""
        peak = self._highest() - self.base
        self.peaks[self._phase] = max(self.peaks.get(self._phase, 0.0), peak)

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """Count what the block takes to a phase."""
        before = self.switch(phase)
        try:
            yield
        finally:
            self.switch(before)

    def wrap(
        self, phase: str, function: Callable[..., Result], count: Callable[..., int] | None = None
    ) -> Callable[..., Result]:
        """The function, whose calls count to a phase, and the tokens that it computed."""

        def call(*args: Any, **more: Any) -> Result:
            with self.within(phase):
                found = function(*args, **more)
            if count is not None:
                self._seen[phase] += count(found, *args)
            return found

        return call

    def on_step(self, event: StepDone) -> None:
        """A step is over: its figures replace those of the one before."""
        self.switch(self._phase)
        self.seconds = {k: float(v) for k, v in self._spent.items() if k in PHASES}
        self.tokens = dict(self._seen)
        self._spent.clear()
        self._seen.clear()

    def _now(self) -> float:
        if self.cuda:
            return float(torch.cuda.memory_allocated())
        return float(psutil.Process().memory_info().rss)

    def _highest(self) -> float:
        if self.cuda:
            return float(torch.cuda.max_memory_allocated())
        with contextlib.suppress(OSError):
            for line in STATUS.read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024.0
        return self._now()  # not on Linux: as it is at the end of a phase

    def _reset(self) -> None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError):
            CLEAR.write_text("5")  # proc(5)


SAMPLING, REFERENCE, REWARD, TRAINING = PHASES = ("sampling", "reference", "reward", "training")


class WorstStep(Train):
    """A stage that trains on its longest rows, and whose policy never ends an answer early."""

    meter: Meter
    longest: Lengths | None = None

    def work(self, loaded: LoadedModel, resume: bool) -> dict[str, Any]:
        for weight in loaded.model.parameters():
            weight.sum()  # weights that are read from a file when they are needed count from here
        return super().work(loaded, resume)

    def _rows(self, builder: RoleBuilder, encoder: Encoder) -> tuple[Sequence[Any], Sequence[Any]]:
        rows, _ = super()._rows(builder, encoder)
        size = self.spec.train.batch_size
        ordered = sorted(rows, key=_tokens, reverse=True)
        if self.samples:
            worst = [ordered[i % min(size, len(rows))] for i in range(size)]
        else:  # with one of another prompt, without which KTO has no baseline
            worst = ordered[:size]
            others = (row for row in ordered if row.prompt_ids != worst[0].prompt_ids)
            if all(row.prompt_ids == worst[0].prompt_ids for row in worst):
                worst += [row for row in [next(others, None)] if row is not None]
        self.longest = lengths_of(worst, self.spec)
        return worst, []

    def engine(self, policy: Role, encoder: Encoder) -> Engine:
        made = super().engine(policy, encoder)
        if hasattr(made, "_eos"):  # ours; others end answers where the policy does
            made._eos = frozenset()
        return made

    def _source(
        self,
        algorithm: Algorithm,
        rows: tuple[Sequence[Any], Sequence[Any]],
        builder: RoleBuilder,
        engine: Engine | None,
        progress: Progress,
    ) -> Source:
        meter = self.meter
        meter.switch("between")
        credit, begin = algorithm.credit, algorithm.begin
        _put(algorithm, "credit", meter.wrap(REFERENCE, credit, _credited))
        _put(algorithm, "begin", meter.wrap(REFERENCE, begin, _credited))
        source = super()._source(algorithm, rows, builder, engine, progress)
        if isinstance(source, SampledSource):
            sampler, judge = source.played.engine, source.played.judge
            _put(sampler, "generate", meter.wrap(SAMPLING, sampler.generate, _written))
            if judge is not None:
                _put(judge, "judge", meter.wrap(REWARD, judge.judge, _judged))
        return source

    def _loop(
        self, learner: Learner, loaded: LoadedModel, progress: Progress, strategy: Strategy
    ) -> Loop:
        meter = self.meter
        meter.note()  # the loop resets the mark
        loop = super()._loop(learner, loaded, progress, strategy)
        _put(loop.updater, "step", meter.wrap(TRAINING, loop.updater.step, _trained))
        _put(loop.checkpoints, "save", meter.wrap("checkpoint", loop.checkpoints.save))
        run = loop.run

        def then_save(resume: bool = False) -> dict[str, float]:
            last = run(resume)
            meter.switch("checkpoint")  # the model is written when training has ended
            return last

        _put(loop, "run", then_save)
        return loop


def _put(where: object, name: str, function: Callable[..., Any]) -> None:
    """Put a measured function in the place of an object's own."""
    object.__setattr__(where, name, function)


def _tokens(row: Any) -> int:
    return len(row.ids) if isinstance(row, EncodedPrompt) else int(row.num_tokens())


def _written(found: Sequence[Sequence[Completion]], *_: object) -> int:
    return sum(len(completion.ids) for row in found for completion in row)


def _judged(found: Sequence[Any], *_: object) -> int:
    return sum(int(judgement.cost.tokens or 0) for judgement in found)


def _credited(found: Any, groups: Sequence[Any], *_: object, **__: object) -> int:
    rows = getattr(found, "groups", found)
    return sum(group.num_tokens() for group in rows)


def _trained(_: float, experience: Any, minibatch: Any, *__: object) -> int:
    return sum(group.num_tokens() for group in (*minibatch.trained, *minibatch.text))


def _record(stage: WorstStep, spec: StageSpec, meter: Meter) -> ProbeRecord:
    """What was measured beside what was predicted."""
    job = stage_job(stage, stage.longest)
    predicted = memory(job)
    rest = {name: size for name, size in meter.peaks.items() if name != "end"}
    return ProbeRecord(
        stage=spec.name,
        method=spec.algorithm,
        model=stage.recipe.model,
        precision=job.precision,
        lora=job.lora,
        group=job.group,
        microbatch=job.microbatch,
        device=torch.cuda.get_device_name() if meter.cuda else "cpu",
        peak_bytes=max(rest.values()),
        predicted_bytes=predicted.peak,
        instants=rest,
        predicted_instants=_totals(predicted.persistent, predicted.instants),
        seconds=meter.seconds,
        tokens=meter.tokens,
        created=now(),
    )


def _totals(always: float, instants: Mapping[str, float]) -> dict[str, float]:
    return {name: always + size for name, size in instants.items()}
