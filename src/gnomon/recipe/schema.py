"""The schema of a recipe: what a user writes, checked before anything is loaded.

A recipe is a model, a seed and stages in order. Unknown keys are errors with a suggestion; every
default is written out in the run's own ``recipe.yaml``.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)

from gnomon.recipe.card import CardSpec
from gnomon.recipe.environment import EnvironmentSpec
from gnomon.recipe.gates import Conditions, OnFail
from gnomon.recipe.placement import RaySpec
from gnomon.recipe.rollout import RolloutSpec
from gnomon.recipe.spec import Spec, listed_by
from gnomon.recipe.training import CallbackSpec, LoraSpec, TrainSpec

Kind = Literal["demonstrations", "preferences", "rankings", "unpaired", "prompts"]
"""What rows of data can be, everywhere in gnomon."""
DataKind = Literal["auto", Kind, "text"]
Verdict = Literal["a", "b", "tie"]
Truncation = Literal["skip", "left", "right"]
TrainOn = Literal["all_assistant", "last"]
Merge = Literal["system", "tool", "turns"]
"""``system``: a system turn's text opens the next user turn. ``tool``: tool output becomes the
user's. ``turns``: neighbouring turns of one role become one, a blank line between them."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LONGEST_NAME = 100
"""Of a run or stage: with what gnomon adds, it is still a file name on every file system."""


def check_name(value: str, whose: str) -> str:
    """A name that can be a folder's.

    Raises:
        ValueError: it cannot.
    """
    if not NAME.fullmatch(value):
        raise ValueError(f"a {whose}'s name is letters, digits, '-', '_' and '.'")
    if len(value) > LONGEST_NAME:
        raise ValueError(f"a {whose}'s name has at most {LONGEST_NAME} characters")
    return value


class DataSpec(Spec):
    """Where rows come from.

    ``path`` is a file, a folder or a pattern of files, or a hub id; ``stage:NAME`` takes what an
    earlier ``collect`` or ``revise`` stage of the same recipe wrote; ``tunnel:demonstrations`` and
    the like are the built-in world, and ``agents:calculator`` and the like the built-in tasks;
    ``instructions:prompts`` and ``reasoning-gym:DATASET`` make prompts that a verifier can check;
    ``verifiers:TASKSET`` gives a taskset's tasks; ``feedback:FILE`` is a store of labels
    (docs/feedback.md).
    """

    path: str
    kind: DataKind = "auto"
    format: str = "auto"
    split: str | None = None
    limit: int | None = Field(None, ge=1, description="read at most this many rows")
    sample_seed: int | None = Field(None, description="with limit: a random sample, not the first")
    columns: dict[str, str] = Field(
        default_factory=dict, description="gnomon's name: the file's name"
    )
    labels: dict[str, Verdict] = Field(
        default_factory=dict, description="what the values of a preference column mean"
    )
    as_text: bool = Field(False, description="prompts are plain text for a base model")
    good_from: float | None = Field(None, description="ratings from here on count as good")
    votes: Literal["each", "majority", "calibrated"] = Field(
        "each",
        description="several labellers' judgements of one question: each, their majority, or one "
        "probability, each weighed by how far they can be believed (see believe.md)",
    )
    max_skipped: float = Field(0.5, ge=0, le=1, description="refuse a file with more bad rows")
    max_gb: float = Field(
        1.0, gt=0, description="GB a file may hold once unpacked; one row may take 1/32 of it"
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="keyword arguments of a built-in source, or of feedback:FILE",
    )


TRUTHS = ("gold", "correct")
"""Builtin rewards that are the true preference, which nobody has outside a built-in world."""
KNOWING = (*TRUTHS, "leaky", "principles", "labeller")
"""Builtin rewards that ask the built-in world what is right, wherever they add mistakes."""


PAPER_NAMES = {"wco": "min", "uwo": "mean-var"}
"""What Coste et al. 2023 (arXiv:2310.02743) call two of the ways."""
Ensemble = Annotated[
    Literal["mean", "min", "mean-std", "mean-var"],
    BeforeValidator(
        lambda value: PAPER_NAMES.get(value, value) if isinstance(value, str) else value
    ),
]


class RewardSpec(Spec):
    """One reward: exactly one of ``model``, ``function`` or ``builtin``.

    ``model`` is a reward-model stage of this recipe or a folder; ``function`` is
    ``package.module:name`` or ``path/to/file.py:name``; ``builtin`` is a name such as ``gold``.
    """

    model: str | None = None
    function: str | None = None
    builtin: str | None = None
    name: str | None = None
    weight: float = 1.0
    ensemble: Ensemble = Field(
        "mean",
        description="how an ensemble's members become one number: their mean; min, the worst case "
        "(WCO); mean-std; mean-var, the mean less std_coef variances (UWO). `wco` and `uwo` are "
        "read as min and mean-var",
    )
    std_coef: float = Field(
        1.0, ge=0, description="how many std, or variances, below the mean: mean-std and mean-var"
    )
    every: int = Field(
        1, ge=1, description="observed only: iterations between askings; evaluations always ask"
    )
    samples: int | None = Field(
        None, ge=1, description="observed only: responses asked about each time, whole prompts"
    )
    options: dict[str, Any] = Field(default_factory=dict)
    workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="judge in so many processes: of this machine, or wherever `ray` finds room; "
        "see [workers.md](workers.md)",
    )
    truth: bool = Field(
        False,
        description="it knows a simulation's true preference: the audit never reads it where it is "
        "only observed or compared; `gold` and `correct` need no such word",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> RewardSpec:
        if sum(x is not None for x in (self.model, self.function, self.builtin)) != 1:
            raise ValueError("give exactly one of model, function, builtin")
        return self

    @property
    def is_truth(self) -> bool:
        """Whether it knows the true preference."""
        return self.truth or self.builtin in KNOWING

    @property
    def sparing(self) -> bool:
        """Whether it is asked about some of the responses only."""
        return self.every > 1 or self.samples is not None

    @property
    def label(self) -> str:
        raw = self.name or self.builtin or self.model or (self.function or "").split(":")[-1]
        return re.sub(r"[^A-Za-z0-9_]+", "_", raw).strip("_")


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


RESERVED_NAMES = {
    "model": "that is what the recipe starts from",
    "base": "that is the start model's row in the comparison",
    "stages": "an override with it would mean the recipe's own key",
    "compare": "an override with it would mean the recipe's own key",
}


DataSpecs = Annotated[list[DataSpec], listed_by("path")]
Keys = Annotated[
    list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]
"""One or several keys."""
RewardSpecs = Annotated[list[RewardSpec], listed_by("builtin")]


def asked_always(rewards: list[RewardSpec]) -> list[RewardSpec]:
    """The rewards, none of which may be asked only now and then.

    Raises:
        ValueError: one is.
    """
    for reward in rewards:
        if reward.sparing:
            raise ValueError(
                f"{reward.label}: every and samples are for observed rewards (observe); one that "
                "is trained on or compared is asked about every response"
            )
    return rewards


class StageSpec(Spec):
    """One stage: an algorithm, the model it starts from, its data and its settings."""

    name: str
    algorithm: str
    from_: str | None = Field(
        None, alias="from", description="stage or model to start from; default: the last policy"
    )
    data: DataSpecs = Field(default_factory=list)
    eval_data: DataSpecs = Field(default_factory=list)
    holdout: float = Field(0.0, ge=0, lt=1, description="share of prompts kept for evaluation")
    pretraining: DataSpecs = Field(default_factory=list, description="text or answers mixed in")
    normalise_on: DataSpecs = Field(
        default_factory=list, description="demonstrations that a reward model scores 0 on average"
    )
    lora: LoraSpec | None = None
    train: TrainSpec = TrainSpec()
    rollout: RolloutSpec = RolloutSpec()
    reward: RewardSpecs = Field(default_factory=list)
    environment: EnvironmentSpec | None = Field(
        None, description="episodes of several turns; their return is added to any reward"
    )
    observe: RewardSpecs = Field(
        default_factory=list, description="rewards that are logged but never trained on"
    )
    max_reward_errors: float = Field(
        0.05,
        ge=0,
        le=1,
        description="stop when a larger share of the rewards fails",
    )
    probes: int | None = Field(
        None,
        ge=0,
        description="at the end, ask the reward again about edits of so many sampled answers, see "
        "[probes.md](probes.md); null is 64 where asking costs no money; 0: none",
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="the algorithm's own")
    gates: Conditions = Field(
        default_factory=list, description="conditions to hold after it; see [gates.md](gates.md)"
    )
    on_fail: OnFail | None = Field(
        None,
        description="where a gate does not open: `stop`, or let later stages go on from the model "
        "before this stage; null: the recipe's",
    )
    on_purpose: Keys = Field(
        default_factory=list,
        description="settings that are meant to be outside the field's usual ranges, so that the "
        "dry run does not warn of them: `[rollout.samples, settings.beta]`; see "
        "[plan.md](plan.md#ranges)",
    )

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if value in RESERVED_NAMES:
            raise ValueError(f"a stage cannot be called {value!r}: {RESERVED_NAMES[value]}")
        return check_name(value, "stage")

    _environment = field_validator("environment", mode="before")(_by_name)

    @field_validator("reward")
    @classmethod
    def _asked_always(cls, value: list[RewardSpec]) -> list[RewardSpec]:
        return asked_always(value)

    @property
    def sources(self) -> list[DataSpec]:
        """All the data that it reads."""
        return [*self.data, *self.eval_data, *self.pretraining, *self.normalise_on]

    @property
    def response_tokens(self) -> int:
        """The most tokens that a response adds to its prompt."""
        if self.environment is not None:
            return self.environment.max_episode_tokens
        return self.rollout.max_new_tokens


class CompareSpec(Spec):
    """After the last stage: every policy answers the same held-out prompts, side by side."""

    prompts: DataSpecs
    rewards: RewardSpecs = Field(default_factory=list, description="one column each")
    environment: EnvironmentSpec | None = Field(
        None, description="play episodes of it, the same for every policy; a column with the return"
    )
    rollout: RolloutSpec = RolloutSpec()
    reference: str | None = Field(
        None, description="stage that KL is measured against; default: the last stage's start"
    )
    size: int = Field(256, ge=1, description="how many prompts")
    show: int = Field(4, ge=0, description="samples shown side by side")

    _environment = field_validator("environment", mode="before")(_by_name)

    @field_validator("rewards")
    @classmethod
    def _asked_always(cls, value: list[RewardSpec]) -> list[RewardSpec]:
        return asked_always(value)

    @property
    def response_tokens(self) -> int:
        """The most tokens that an answer or an episode adds to its prompt."""
        place = self.environment
        return self.rollout.max_new_tokens if place is None else place.max_episode_tokens

    @property
    def columns(self) -> list[str]:
        """The labels of what is compared: the rewards, and the environment's return."""
        place = [] if self.environment is None else [self.environment.label]
        return [*(reward.label for reward in self.rewards), *place]


class Recipe(Spec):
    """A whole run."""

    name: str
    model: str = Field(
        description="'tunnel', 'smollm2-135m', a folder of safetensors, a hub id, or 'none' "
        "(control stages)"
    )
    seed: int = Field(
        0, ge=0, le=1_000_000_000, description="fixes initial weights, order, sampling and noise"
    )
    output: str = Field("runs", description="folder that holds the run's folder")
    template: str | None = Field(
        None,
        description="chat template in place of the model's own: a name, a .jinja file, or Jinja "
        "itself",
    )
    max_length: int | None = Field(
        None,
        ge=8,
        description="tokens of a prompt with one response; null is 1024, or what the model takes "
        "if that is less",
    )
    max_prompt_length: int | None = Field(None, ge=1, description="tokens of a prompt alone")
    truncation: Truncation = Field(
        "skip", description="rows too long: left out, or cut at the prompt's start or the end"
    )
    train_on: TrainOn = Field(
        "all_assistant", description="of several answers in a conversation: all, or the last alone"
    )
    merge: list[Merge] = Field(
        default_factory=list,
        description="turns to join for templates without a system or tool role, or with strict "
        "alternation; see [data.md](data.md#templates)",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    strategy: Literal["auto", "single", "ddp", "fsdp2"] = Field(
        "auto",
        description="how the processes that torchrun starts share training: ddp, a whole copy of "
        "the weights in each; fsdp2, weights spread over all; auto, ddp where a copy fits; see "
        "[many.md](many.md)",
    )
    precision: Literal["auto", "mixed", "float32", "bfloat16"] = Field(
        "auto",
        description="of weights and arithmetic; mixed trains float32 weights and multiplies in "
        "bfloat16, bfloat16 keeps trained weights in it too; auto is mixed on a GPU with bfloat16 "
        "units, else float32; see [gpu.md](gpu.md)",
    )
    float32_head: bool = Field(
        False, description="compute logits in float32 where the rest is in bfloat16"
    )
    deterministic: bool = Field(
        False,
        description="on a GPU, add attention's gradients up in a fixed order, so that runs with "
        "long rows repeat to the last bit too; slower, with more memory, and not with "
        "`max_staleness`; of no effect on a CPU; see [runs.md](runs.md#reproducibility)",
    )
    ray: RaySpec | None = Field(
        None,
        description="place workers, of rollouts and of rewards, by Ray (`--ray` is `ray: {}`)",
    )
    sinks: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default_factory=list)
    callbacks: Annotated[list[CallbackSpec], listed_by("callback")] = Field(
        default_factory=list,
        description="what is told how training goes: `file.py:Name`; a bare string is one; see "
        "[callbacks.md](callbacks.md)",
    )
    stages: list[StageSpec] = Field(min_length=1)
    compare: CompareSpec | None = None
    gates: Conditions = Field(
        default_factory=list,
        description="conditions on the last policy, asked after the comparison; see "
        "[gates.md](gates.md)",
    )
    on_fail: OnFail = Field("stop", description="of stages that do not say it themselves")
    card: CardSpec | None = Field(
        None, description="what the model card states that no record holds; see [card.md](card.md)"
    )

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        return check_name(value, "run")

    @model_validator(mode="after")
    def _card_of_these_sources(self) -> Recipe:
        paths = list(dict.fromkeys(spec.path for stage in self.stages for spec in stage.sources))
        for name in self.card.data if self.card else ():
            if name not in paths:
                near = difflib.get_close_matches(name, paths, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"card.data: no stage reads {name!r}{hint}")
        return self

    @model_validator(mode="after")
    def _stage_names(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two stages are called {name!r}")
        return self

    def on_fail_of(self, stage: StageSpec) -> OnFail:
        """What a gate of ``stage`` that stays closed does."""
        return stage.on_fail or self.on_fail

    def stage_folder(self, name: str) -> str:
        """The folder of a stage under ``stages/``: its place in the recipe and its name."""
        index = [stage.name for stage in self.stages].index(name)
        return f"{index + 1:02d}-{name}"
