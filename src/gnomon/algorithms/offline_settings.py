"""Settings of the methods whose data is given, and the base of all settings.

Nothing here needs torch, so that a misspelt setting is answered before it is loaded.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gnomon.losses.names import Divergence
from gnomon.recipe.spec import Checked


class Settings(Checked):
    """Base of an algorithm's own settings: unknown keys are refused."""

    def refuse_idle(self, *rules: tuple[str, bool, str]) -> None:
        """Refuse settings that were given where another one leaves them without effect.

        Args:
            rules: (name, whether it has an effect, what it takes to have one).

        Raises:
            ValueError: one was given and has none.
        """
        for name, used, needs in rules:
            if name in self.model_fields_set and not used:
                raise ValueError(
                    f"{name} has no effect without {needs}: give that, or leave it out"
                )


class TextMixSettings(Settings):
    """Settings of every method that can mix text or demonstrations in (replay, PPO-ptx)."""

    pretraining_coef: float = Field(
        0.0, ge=0, description="weight of the loss on mixed-in text or answers (ptx)"
    )
    pretraining_batch: int = Field(8, ge=1, description="texts or demonstrations mixed into a step")


class SFTSettings(TextMixSettings):
    """Settings of supervised fine-tuning."""


class RewardModelSettings(Settings):
    """Settings of a reward model."""

    loss: Literal["bradley_terry", "plackett_luce"] = Field(
        "bradley_terry", description="pairs, or the whole ranking at once"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of labels assumed to be wrong (bradley_terry)"
    )
    members: int = Field(1, ge=1, description="ensemble members, each on a subset of the prompts")
    share_trunk: bool = Field(True, description="members are heads on one trunk; else whole models")
    member_fraction: float = Field(0.8, gt=0, le=1, description="share of prompts a member sees")
    length_debias: Literal["none", "offset", "slope"] = Field(
        "none",
        description="offset: what length alone explains of the labels is fitted first and left out "
        "of the score; slope: the score's slope on length is taken off after training",
    )
    normalise: bool = Field(True, description="shift scores to zero mean on demonstrations")
    score_penalty: float = Field(
        0.0, ge=0, description="weight of the mean squared score, which keeps scores near zero"
    )

    @model_validator(mode="after")
    def _combinations(self) -> RewardModelSettings:
        if self.loss == "plackett_luce" and self.label_smoothing:
            raise ValueError("label_smoothing goes with bradley_terry, not with plackett_luce")
        return self

    def member_share(self, members: int) -> float:
        """Expected number of members that train on a group: the loss is their average."""
        return 1.0 if members == 1 else members * self.member_fraction


class ReferenceSettings(Settings):
    """Settings of every method that has a reference."""

    reference: Literal["cached", "adapter_off", "live", "synced"] = Field(
        "cached",
        description="cached: one pass before training; adapter_off: LoRA switched off; live: a "
        "second model in memory; synced: a second model that follows the policy (TR-DPO)",
    )
    sync_every: int = Field(64, ge=1, description="steps between two syncs (TR-DPO's tau)")
    sync_alpha: float = Field(
        0.6, gt=0, le=1, description="share of the policy in a sync (TR-DPO's alpha; 1: a copy)"
    )

    @model_validator(mode="after")
    def _synced(self) -> ReferenceSettings:
        synced = self.reference == "synced"
        self.refuse_idle(*((n, synced, "reference: synced") for n in ("sync_every", "sync_alpha")))
        return self


class DPOLossSettings(Settings):
    """Settings of the loss of DPO and its variants, wherever the pairs come from."""

    beta: float = Field(0.1, gt=0, description="strength of the tie to the reference")
    loss: Literal["sigmoid", "robust", "ipo", "hinge", "plackett_luce"] = Field(
        "sigmoid", description="the function of the margin"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of labels assumed to be flipped (cDPO, robust DPO)"
    )
    ipo_average: bool = Field(
        True, description="IPO: log-ratios per token, as the field does; else the paper's sums"
    )
    divergence: Divergence = Field("reverse_kl", description="from the reference (f-DPO)")
    alpha: float = Field(0.5, gt=0, le=1, description="of the alpha divergence")
    length_regularisation: float = Field(
        0.0, ge=0, description="R-DPO: reward taken off for each token (0.001 to 0.05)"
    )
    length_desensitise: float = Field(
        1.0, ge=0, le=1, description="LD-DPO: weight of tokens beyond the shorter answer's length"
    )
    nll_coef: float = Field(
        0.0, ge=0, description="weight of the chosen answer's NLL per token (RPO 1, Llama 3 0.2)"
    )

    @model_validator(mode="after")
    def _combinations(self) -> DPOLossSettings:
        self.refuse_idle(
            ("ipo_average", self.loss == "ipo", "loss: ipo"),
            ("alpha", self.divergence == "alpha", "divergence: alpha"),
        )
        sigmoid = self.loss == "sigmoid"
        if self.label_smoothing and self.loss not in ("sigmoid", "robust"):
            raise ValueError(f"label_smoothing has no meaning with loss {self.loss}")
        if self.divergence != "reverse_kl" and not sigmoid:
            raise ValueError(f"divergence {self.divergence} goes with loss sigmoid only")
        plain = sigmoid and not self.label_smoothing and self.divergence == "reverse_kl"
        if self.length_regularisation and not plain:
            raise ValueError(
                "length_regularisation goes with loss sigmoid, reverse_kl, no label_smoothing"
            )
        if self.length_desensitise < 1 and self.loss not in ("sigmoid", "robust", "hinge"):
            raise ValueError(f"length_desensitise does not go with loss {self.loss}")
        if self.nll_coef and self.loss == "plackett_luce":
            raise ValueError("nll_coef goes with pairs, not with plackett_luce")
        return self


class DPOSettings(DPOLossSettings, ReferenceSettings):
    """Settings of DPO and its variants."""


class KTOSettings(ReferenceSettings):
    """Settings of KTO."""

    beta: float = Field(0.1, gt=0, description="strength of the tie to the reference")
    desirable_weight: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        1.0, description="weight of good answers; auto: both classes weigh the same in total"
    )
    undesirable_weight: float = Field(1.0, gt=0, description="weight of bad answers")


class SimPOSettings(Settings):
    """Settings of SimPO; the paper's ranges are beta 2 to 10, gamma 0.3 beta to 0.8 beta."""

    beta: float = Field(2.0, gt=0, description="scale of the average log-prob")
    gamma: float = Field(1.0, ge=0, description="margin to reach, in units of reward")


class ORPOSettings(Settings):
    """Settings of ORPO."""

    beta: float = Field(0.1, gt=0, description="weight of the odds-ratio term (the paper's lambda)")


class CPOSettings(Settings):
    """Settings of CPO."""

    beta: float = Field(0.1, gt=0, description="scale of the log-prob difference")
    nll_coef: float = Field(1.0, ge=0, description="weight of the chosen answer's NLL per token")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of labels assumed to be flipped"
    )
