"""What a stage is: a kind of work that a recipe can ask for, and one run of it.

A kind of stage (training, collecting) is one file with a class that derives from :class:`Stage`. It
says what it needs and does the work; what all stages share (seeds, data, engines, the folder, what
is noted when it ends or fails) is here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import Any, ClassVar, cast

import torch
from rich.console import Console

from gnomon.algorithms.offline_settings import Settings
from gnomon.algorithms.rollouts import EncodedPrompt
from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError, Pending, RunStopped
from gnomon.files import Fingerprints, make_folder
from gnomon.judges.build import build_judge, one_judge
from gnomon.judges.protocol import Judge
from gnomon.judges.workers import Workplace
from gnomon.models.instants import LOADING, instant
from gnomon.models.load import LoadedModel, load_causal_lm, whole_fingerprint
from gnomon.models.memory import RoleNeed
from gnomon.models.precision import Precision, pick_precision
from gnomon.models.roles import Role
from gnomon.models.save import LoadedReward
from gnomon.plan.job import Job, Lengths, other_way
from gnomon.plan.memory import Memory, memory
from gnomon.plan.memory_table import human
from gnomon.plugins import load_builtin
from gnomon.recipe.load import validate_as
from gnomon.recipe.schema import Kind, Recipe, RewardSpec, StageSpec
from gnomon.rollout.protocol import Engine
from gnomon.runs.folder import RunFolder, StageFolder
from gnomon.runs.joins import JOINS
from gnomon.runs.labels import BELIEVED
from gnomon.runs.records import Skipped, StageInfo
from gnomon.stages.constitutions import keep_constitutions
from gnomon.stages.encoder import context_of, recipe_encoder
from gnomon.stages.energy import EnergyMeter
from gnomon.stages.engines import make_engine
from gnomon.stages.exhausted import explained
from gnomon.stages.inputs import check_inputs, stage_inputs
from gnomon.stages.names import (
    KINDS,
    TRAIN,
    origin_of,
    resolve_start,
    reward_folder,
    stage_seed,
)
from gnomon.stages.processes import Processes
from gnomon.stages.roles import RoleBuilder
from gnomon.stages.sampler import gpu_bytes_of, gpu_share
from gnomon.stages.sources import StageData
from gnomon.training.callbacks import Callback
from gnomon.training.progress import Progress
from gnomon.training.watch import Stop

ANSWERS = "answers"
"""The folder in which AI judges' answers are kept, in a stage's and in the run's."""


class Stage:
    """One stage of a recipe, from its specification to its folder: a protocol with defaults.

    Class attributes:
        trains: whether it moves weights, so that training settings mean something.
        reads_data: whether it has rows of its own, in ``data``.
        reads_model: whether it starts from a language model.

    Attributes:
        settings: its own settings, validated.
        data: what was read, once it was.
        closing: engines and the like, to be closed when the stage ends, however it ends.
        stop: asked now and then whether to stop.
        callbacks: told how training goes.
        processes: those that train with this one, if there are any.

    Args:
        recipe, spec: what was asked.
        run: the run's folder.
        base: the recipe's own folder, from which relative paths start.

    Raises:
        ConfigError: unknown settings.
    """

    trains: ClassVar[bool] = False
    reads_data: ClassVar[bool] = True
    reads_model: ClassVar[bool] = True

    def __init__(self, recipe: Recipe, spec: StageSpec, run: RunFolder, base: Path) -> None:
        self.recipe = recipe
        self.spec = spec
        self.run = run
        self.base = base
        self.folder = run.stage(spec.name)
        where = f"stage {spec.name!r}, settings"
        self.settings: Any = validate_as(self.settings_class(), spec.settings, where)
        self.seed = stage_seed(recipe, spec.name)
        self.closing = ExitStack()
        self.stop = Stop()
        self.callbacks: Sequence[Callback] = ()
        self.processes: Processes | None = None
        self.data = StageData(spec, base, lambda name: run.stage(name).groups, self.seed)

    # -- what a kind of stage says ----------------------------------------------------------------

    def settings_class(self) -> type[Settings]:
        """The class of its own settings."""
        return KINDS[self.spec.algorithm].settings

    @property
    def data_kind(self) -> Kind:
        """What its rows must be."""
        raise NotImplementedError

    @property
    def samples(self) -> bool:
        """Whether it learns from, or keeps, what a policy writes."""
        return self.data_kind == "prompts"

    @property
    def judged(self) -> bool:
        """Whether something judges what it samples."""
        return bool(self.spec.reward or self.spec.environment)

    def metrics(self) -> tuple[str, ...]:
        """Names of what it logs, which no observed reward may take."""
        return ()

    def check(self) -> None:
        """Refuse what this kind of stage would silently leave unused.

        Raises:
            ConfigError: something would be unused.
        """

    def needs(self) -> tuple[RoleNeed, ...]:
        """The models that take part."""
        return (RoleNeed("policy"),)

    def prepare(
        self, encoder: Encoder, groups: Sequence[Any], training: bool
    ) -> tuple[list[Any], list[Any]]:
        """The rows that it can use, as tokens, and those it leaves out; of given data."""
        raise NotImplementedError

    def iterations(self, rows: int) -> int:
        """How many iterations it runs on so many rows."""
        raise NotImplementedError

    @property
    def passes(self) -> int:
        """How many texts it samples for each answer, the answer among them."""
        return 1

    def job(self, lengths: Lengths | None = None) -> Job | None:
        """What the planner is asked about; None where nothing is trained, or the model is none that
        it can size.

        Args:
            lengths: of its data; without them rows are as long as the recipe allows.
        """
        return None

    def learning_rate(self, parameters: int) -> float | None:
        """``lr: auto`` worked out for a model of this size; None where nothing is trained."""
        return None

    def perform(self, info: StageInfo, resume: bool) -> None:
        """Load the start model and do the work; what came of it is noted in ``info``."""
        loaded = load_causal_lm(self.start_model(), dtype=self.dtype, device=self.device)
        info.note(start={"from": loaded.source, "sha256": loaded.fingerprint})
        self.stop.check("before its first iteration: there was nothing to save")
        info.note(**self.work(loaded, resume))

    def work(self, loaded: LoadedModel, resume: bool) -> dict[str, Any]:
        """Do the work, and return the stage's own part of stage.json."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return self.spec.name

    # -- what all of them use ---------------------------------------------------------------------

    @cached_property
    def device(self) -> torch.device:
        return pick_device(self.recipe.device)

    @cached_property
    def precision(self) -> Precision:
        return recipe_precision(self.recipe)

    @property
    def dtype(self) -> str:
        """Of the start model's weights."""
        return self.precision.frozen

    def start_model(self) -> str:
        """Where the stage's weights come from: a stage's folder, or a model's name."""
        return resolve_start(self.recipe, self.spec, self.run, self.base)

    @cached_property
    def origin(self) -> str:
        """The model that its weights come from in the end: it has their shape and tokens."""
        return origin_of(self.recipe, self.spec, self.base)

    def encoder(self, loaded: LoadedModel) -> Encoder:
        """From conversations to tokens, with room for a response where it samples."""
        return recipe_encoder(
            self.recipe,
            loaded.tokenizer,
            context=context_of(loaded.model.config),
            new_tokens=self.spec.response_tokens if self.samples else 0,
        )

    def prompts(self, encoder: Encoder, groups: Sequence[Any]) -> list[EncodedPrompt]:
        """Tokens of the groups' prompts; those that do not fit are listed as left out."""
        return self.data.prompts(encoder, groups)

    def engine(self, policy: Role, encoder: Encoder) -> Engine:
        """What samples; given back when the stage ends."""
        folder = self.folder.path / "rollout-weights"
        rollout, room = self.spec.rollout, gpu_bytes_of(self.device)
        share = gpu_share(rollout, self.job(), room) if room else None
        return make_engine(rollout, policy, encoder, folder, self.closing, share, self.recipe.ray)

    def judge(self, builder: RoleBuilder, prompts: Sequence[EncodedPrompt]) -> Judge:
        """What judges the stage's samples, of these prompts.

        Raises:
            ConfigError: there is none, or the prompts lack what it needs.
        """
        if not self.spec.reward:
            raise ConfigError(
                f"stage {self.spec.name!r} samples its own responses and needs a reward: "
                "reward: [{model: STAGE}], [{function: file.py:name}] or [{builtin: gold}]"
            )
        made = build_judge(
            self.spec.reward,
            base=self.base,
            load=lambda name: self.load_reward(builder, name),
            tokenizer=builder.trunk.tokenizer,
            queue=self.folder.path / "queue",
            answers=self.folder.path / ANSWERS,
            place=self.workplace(),
        )
        made.check_prompts([prompt.prompt for prompt in prompts])
        return made

    def observer(
        self, builder: RoleBuilder, spec: RewardSpec, prompts: Sequence[EncodedPrompt]
    ) -> Judge:
        """A judge whose figures are logged only."""
        made = one_judge(
            spec,
            base=self.base,
            load=lambda name: self.load_reward(builder, name),
            tokenizer=builder.trunk.tokenizer,
            answers=self.folder.path / ANSWERS,
            place=self.workplace(),
        )
        made.check_prompts([prompt.prompt for prompt in prompts])
        return made

    def workplace(self) -> Workplace:
        """Where workers judge, until the stage ends."""
        return Workplace(
            self.closing,
            partial(reward_folder, self.recipe, self.run, self.base),
            self.precision.frozen,
            str(self.device),
            self.recipe.ray,
        )

    def load_reward(self, builder: RoleBuilder, name: str) -> LoadedReward:
        """A reward model: an earlier stage's, or a folder's."""
        return builder.reward(reward_folder(self.recipe, self.run, self.base, name))

    def progress(self, total: int) -> Progress:
        """Shows how far the stage is; the first process does."""
        title = f"{self.spec.name} ({self.spec.algorithm})"
        if self.processes is None or self.processes.first:
            return Progress(title, total)
        return Progress(title, total, False, console=Console(quiet=True))

    def watched(self, progress: Progress, phase: str) -> Callable[[int, int], None]:
        """Shows how far a phase is, and stops in it when that is asked for."""
        return self.stop.watching(lambda done, total: progress.phase(phase, done, total))


def open_stage(recipe: Recipe, spec: StageSpec, run: RunFolder, base: Path) -> Stage:
    """The stage that a specification asks for.

    Raises:
        ConfigError: unknown algorithm or settings.
    """
    where = KINDS[spec.algorithm].where if spec.algorithm in KINDS else TRAIN
    return cast(Stage, load_builtin(where)(recipe, spec, run, base))


SHARED, SEPARATE = "shared trunk (LoRA)", "separate (full)"
"""The two ways to run a stage: adapters on one trunk, or a model for each role."""


def memory_ways(job: Job) -> dict[str, Memory]:
    """What a stage takes with LoRA and without."""
    return {
        SHARED: memory(job if job.lora else other_way(job)),
        SEPARATE: memory(other_way(job) if job.lora else job),
    }


def memory_info(stage: Stage) -> dict[str, str]:
    """What a stage takes at most, in words, for stage.json and the terminal; nothing where it does
    not train."""
    job = stage.job()
    if job is None:
        return {}
    ways = {name: human(way.peak) for name, way in memory_ways(job).items()}
    return {"runs as": SHARED if job.lora else SEPARATE, **ways}


def run_stage(
    stage: Stage,
    resume: bool,
    memory: Mapping[str, str] | None = None,
    stop: Stop | None = None,
    callbacks: Sequence[Callback] = (),
) -> StageInfo:
    """Run a stage to its end and return its stage.json.

    Its ``files`` are fingerprints of what the stage left, which :meth:`StageFolder.damage` compares
    before a resumed run uses them.

    Args:
        memory: the estimate to note in stage.json.
        stop: asked now and then whether to stop.
        callbacks: told how training goes.
    """
    folder, spec = stage.folder, stage.spec
    stage.stop, stage.callbacks = stop or stage.stop, callbacks
    info = StageInfo(
        name=spec.name, algorithm=spec.algorithm, status="running", memory=dict(memory or {})
    )
    earlier = folder.info() if resume else StageInfo()
    info.seconds, info.cpu_seconds = earlier.seconds or 0.0, earlier.cpu_seconds or 0.0
    if earlier.joules:
        info.joules = earlier.joules
    info.inputs = stage_inputs(stage)
    check_inputs(folder, spec.name, earlier.inputs, info.inputs, done=False)
    began, cpu_began = info.seconds - time.time(), info.cpu_seconds - time.process_time()
    make_folder(folder.path)
    folder.write_info(info)
    meter = stage.closing.enter_context(EnergyMeter(earlier=earlier.joules))
    try:
        torch.manual_seed(stage.seed)
        keep_constitutions(spec, stage.base, folder.path)
        with explained(stage.job, spec.name), instant(LOADING):
            stage.perform(info, resume)
        stage.run.update_manifest(
            data={f"{spec.name}: {k}": v for k, v in stage.data.report.files.items()},
            models={spec.name: info.start},
            inputs={spec.name: info.inputs},
        )
        files = folder.fingerprints()
        info.note(files=files, model_sha256=_model_sha256(folder, files), status="done")
    except Pending as pause:
        info.note(status="paused", error=str(pause))
        raise
    except (RunStopped, KeyboardInterrupt) as stopped:
        info.note(status="stopped", error=str(stopped) or "stopped at once")
        raise
    except BaseException as error:
        info.note(status="failed", error=str(error) or type(error).__name__)
        raise
    finally:
        try:
            stage.closing.close()
        finally:  # after an impatient second Ctrl-C, say
            if joules := meter.joules():
                info.joules = joules
            info.seconds = began + time.time()
            info.cpu_seconds = cpu_began + time.process_time()
            info.skipped = Skipped(**stage.data.report.skipped_info())
            if folder.path.is_dir():  # not where someone has removed it
                stage.data.write_skipped(folder.path / "skipped.txt")
                stage.data.write_labels(folder.path / BELIEVED)
                stage.data.write_joins(folder.path / JOINS)
                folder.write_info(info)
    return info


def _model_sha256(folder: StageFolder, files: Fingerprints) -> str:
    """The fingerprint of the language model, or reward model, that a stage left; empty of
    another."""
    place = f"{folder.model.name}/"
    known = {name.removeprefix(place): str(about["sha256"]) for name, about in files.items()
             if name.startswith(place)}  # fmt: skip
    if not any(PurePath(name).name == "config.json" for name in known):
        return ""
    return whole_fingerprint(folder.model, known)


def recipe_precision(recipe: Recipe) -> Precision:
    """The precision that a recipe asks for, on its device.

    Raises:
        ConfigError: the device, or the precision there, is not to be had.
    """
    device = pick_device(recipe.device)
    return pick_precision(recipe.precision, device, recipe.float32_head, recipe.deterministic)


def pick_device(name: str) -> torch.device:
    """The device a recipe asks for; "auto" takes CUDA where there is one, else the CPU.

    Raises:
        ConfigError: CUDA where torch sees none; Apple's GPU, which has no float64.
    """
    if name == "mps":
        raise ConfigError(
            "device: mps cannot be used: Apple's GPU has no float64, in which gnomon adds up "
            "gradient norms and draws tokens. Set device: cpu, or leave device out"
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device: cuda, but torch sees no CUDA device here (nvidia-smi lists them; torch must "
            f"be a CUDA build, this one is {torch.__version__}). Set device: cpu, or leave it out"
        )
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
