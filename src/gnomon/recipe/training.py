"""How long and how fast a stage trains, and what is measured meanwhile."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gnomon.recipe.spec import Spec, listed_by

MAX_LR = 10.0


class LoraSpec(Spec):
    """Train low-rank adapters instead of the whole model."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"


class EvalSpec(Spec):
    """A suite of questions that a policy is measured with; [evals.md](evals.md) lists them."""

    suite: str = Field(description="which suite, or one of your own: file.py:Name")
    options: dict[str, Any] = Field(
        default_factory=dict, description="the suite's own: data, judge, against, limit, ..."
    )


class ScheduledEvalSpec(EvalSpec):
    """A suite that a policy is measured with while it is trained: before the first iteration, every
    so many, and at the end."""

    every: int = Field(50, ge=1, description="iterations between two measurements")


EvalSpecs = Annotated[list[EvalSpec], listed_by("suite")]
ScheduledEvalSpecs = Annotated[list[ScheduledEvalSpec], listed_by("suite")]


class CallbackSpec(Spec):
    """What is told how training goes; see [callbacks.md](callbacks.md)."""

    callback: str = Field(description="your own class: file.py:Name or package.module:Name")
    options: dict[str, Any] = Field(default_factory=dict, description="its keyword arguments")


class MonitorSpec(Spec):
    """What is looked at while a policy trains; see [monitors.md](monitors.md)."""

    every: int = Field(5, ge=0, description="iterations between looks with a model; 0: none")
    samples: int = Field(16, ge=1, description="responses of such a look")
    reference: bool | Literal["auto"] = Field(
        "auto",
        description="look at responses with the start model where the method holds no reference: "
        "true, false, or auto: where it costs no memory (LoRA) or at most 1 GB",
    )
    texts: int = Field(64, ge=0, description="responses read in each iteration; 0: none")


class PeakSpec(Spec):
    """Stop where a held-out judge's mean on the held-out prompts is highest."""

    judge: str = Field(description="an observed reward, by its name")
    patience: int = Field(3, ge=1, description="evaluations in a row without a new best")


class TrainSpec(Spec):
    """How long and how fast to train; counts are of groups (a prompt with its responses).

    The optimizer is AdamW; [defaults.md](defaults.md) compares these defaults with TRL's.
    """

    steps: int | None = Field(None, ge=1, description="iterations; or give epochs")
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(16, ge=1, description="groups (prompts) per iteration")
    lr: float | Literal["auto"] = "auto"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    min_lr_ratio: float = Field(
        0.0, ge=0, le=1, description="the share of `lr` that cosine and linear fall to"
    )
    warmup: float = Field(0.05, ge=0, description="share of the steps (< 1) or a number of steps")
    betas: tuple[float, float] = Field(
        (0.9, 0.95),
        description="AdamW's: the share that the means of gradient and square keep in a step",
    )
    eps: float = Field(
        1e-8, gt=0, le=1, description="AdamW's: added to the root of the gradient's mean square"
    )
    weight_decay: float = Field(0.0, ge=0, le=10)
    head_weight_decay: float = Field(
        0.0, ge=0, le=10, description="the same on scalar heads: of rewards and of values"
    )
    max_grad_norm: float | None = Field(1.0, gt=0)
    tokens_per_microbatch: int = Field(4096, ge=64)
    gradient_checkpointing: bool = False
    compile: bool = Field(
        False,
        description="run the layers through torch.compile: minutes at first, then faster steps; "
        "see [long-sequences.md](long-sequences.md)",
    )
    eval_every: int = Field(0, ge=0, description="iterations between evaluations; 0: only the end")
    eval_size: int = Field(256, ge=1, description="held-out groups scored at each evaluation")
    evals: ScheduledEvalSpecs = Field(
        default_factory=list,
        description="suites that the policy is measured with on the way; a bare string is one",
    )
    checkpoint_every: int = Field(50, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    sample_every: int = Field(10, ge=1, description="iterations between rows in samples.parquet")
    monitor: MonitorSpec = MonitorSpec()
    stop_at_peak: PeakSpec | None = Field(
        None, description="keep the weights of the best evaluation by a held-out judge"
    )
    average_checkpoints: int = Field(
        1,
        ge=1,
        description="the saved policy is the mean of the last so many checkpoints (LoRA exactly: "
        "the adapter's rank grows as many times); figures of the stage are of the policy before "
        "that",
    )
    average_with_reference: float = Field(
        0.0,
        ge=0,
        le=1,
        description="the start model's share in the saved policy's weights, which are averaged "
        "after training (WiSE-FT); figures of the stage are of the policy before that",
    )

    @field_validator("lr", mode="before")
    @classmethod
    def _rate(cls, value: Any) -> Any:
        try:
            fits = not isinstance(value, bool) and 0 <= float(value) <= MAX_LR
        except (TypeError, ValueError):
            return value  # auto, or no number at all
        if not fits:
            raise ValueError(
                f"the learning rate is a number from 0 to {MAX_LR:g} (AdamW moves a weight by "
                "about lr a step; 1e-6 to 1e-3 is usual), or auto"
            )
        return value

    @field_validator("betas", mode="before")
    @classmethod
    def _decays(cls, value: Any) -> Any:
        with contextlib.suppress(TypeError, ValueError):
            if len(value) == 2 and all(0 <= float(beta) < 1 for beta in value):
                return value
        raise ValueError(
            f"betas are two numbers from 0 to below 1, as in [0.9, 0.999], not {value}"
        )

    @model_validator(mode="after")
    def _one_length(self) -> TrainSpec:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give either steps or epochs, not both")
        if self.average_checkpoints > self.keep_checkpoints:
            raise ValueError(
                f"average_checkpoints is {self.average_checkpoints}, and only the last "
                f"{self.keep_checkpoints} are kept: set keep_checkpoints as high"
            )
        if self.average_checkpoints > 1 and self.stop_at_peak is not None:
            raise ValueError(
                "average_checkpoints and stop_at_peak both say which weights are saved: leave one "
                "of them out"
            )
        if self.schedule == "constant" and self.min_lr_ratio:
            raise ValueError("min_lr_ratio has no effect with schedule constant: leave one out")
        return self
