"""The settings of the policy-gradient family; the defaults are GRPO's.

Each setting is one decision of a paper and can be changed alone; a method's name in a recipe is a
preset of all of them (``policy_gradient_presets``).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gnomon.algorithms.on_policy_settings import NO_K3, BaseMixSettings
from gnomon.losses.names import Aggregation, Estimator

Baseline = Literal["none", "group", "leave_one_out", "batch", "ema"]
Scale = Literal["none", "group", "batch", "group_mean"]
Ratio = Literal["none", "token", "sequence", "cispo", "gmpo", "dppo_tv", "dppo_kl"]
KLPlace = Literal["none", "reward", "reward_to_go", "loss"]
GROUP_BASELINES = ("group", "leave_one_out")


class PolicyGradientSettings(BaseMixSettings):
    """Settings of the policy-gradient family; the defaults are GRPO's (Shao et al. 2024)."""

    baseline: Baseline = Field(
        "group",
        description="what a reward is measured against: the mean of its group, of the others in "
        "its group, of the iteration (batch), or of earlier iterations (ema)",
    )
    advantage_scale: Scale = Field(
        "group",
        description="advantages are divided by the rewards' std in the group or the iteration, or "
        "(group_mean, MaxRL) by the group's mean reward",
    )
    ema_decay: float = Field(
        0.9, ge=0, lt=1, description="baseline ema: the share that it keeps in each iteration"
    )
    ratio: Ratio = Field(
        "token",
        description="importance ratio to the policy that sampled: per token (PPO's), per sequence "
        "(GSPO), a clipped weight (CISPO), a geometric mean (GMPO), none (REINFORCE), or per token "
        "within a bound on the divergence from the sampler (DPPO: total variation or KL)",
    )
    aggregation: Aggregation = Field(
        "sequence",
        description="token: each token of a step weighs the same; sequence: each response; "
        "constant: the sum over tokens / (responses x constant_length)",
    )
    constant_length: int | None = Field(
        None, ge=1, description="the length in aggregation constant; null: rollout.max_new_tokens"
    )
    clip_low: float = Field(
        0.2,
        gt=0,
        description="no more gradient below 1 - this (gmpo: below e^-this; dppo: beyond this "
        "divergence where the token's probability fell)",
    )
    clip_high: float | None = Field(
        None,
        gt=0,
        description="the same above 1 + this (gmpo: above e^this; dppo: where it rose); null: "
        "clip_low",
    )
    dual_clip: float | None = Field(
        None, gt=1, description="ratio token: bounds the loss of a bad token at this x |advantage|"
    )
    beta: float = Field(0.04, ge=0, description="KL coefficient; at 0 no reference is loaded")
    kl_in: KLPlace = Field(
        "loss",
        description="reward: a response's summed KL is taken off its reward; reward_to_go: off "
        "each token only the KL from it on; none: no penalty",
    )
    kl_estimator: Estimator = Field(
        "k3", description="estimator of the penalty; k1 in the loss has no gradient on average"
    )
    log_kl: bool = Field(
        False, description="load the reference to log the KL, penalty or not (one forward pass)"
    )
    sync_reference_every: int = Field(
        0, ge=0, description="iterations after which the reference becomes the policy; 0: never"
    )
    sync_reference_alpha: float = Field(
        1.0,
        gt=0,
        le=1,
        description="the policy's share in that move: below 1 the reference is a moving average of "
        "the policy (WARP's anchor); without lora",
    )
    truncated: Literal["keep", "mask", "penalise"] = Field(
        "keep",
        description="cut-off responses: keep trains on them like any other; mask counts them "
        "in the baseline alone; penalise takes truncated_penalty off their reward",
    )
    truncated_penalty: float = Field(1.0, ge=0, description="for truncated: penalise")
    overlong_buffer: float = Field(
        0.0,
        ge=0,
        le=1,
        description="DAPO's soft penalty: last share of max_new_tokens over which the reward falls",
    )
    overlong_penalty: float = Field(1.0, ge=0, description="how far it falls by max_new_tokens")
    zero_spread: Literal["drop", "resample", "keep"] = Field(
        "drop",
        description="groups without signal: drop costs nothing and changes no other gradient; "
        "resample draws other prompts instead; keep trains on their KL and entropy",
    )
    max_resamples: int = Field(
        3, ge=1, description="further rounds of prompts that zero_spread: resample may draw"
    )
    importance_correction: Literal["off", "truncate", "mask"] = Field(
        "truncate",
        description="for a sampler whose log-probs differ: weights pi_old / pi_sampler, capped "
        "(TIS), or tokens outside [1 / importance_cap, importance_cap] left out",
    )
    importance_cap: float = Field(2.0, gt=1, description="of importance_correction")
    entropy_coef: float = Field(0.0, ge=0, description="weight of the entropy bonus")

    @model_validator(mode="after")
    def _combinations(self) -> PolicyGradientSettings:
        given = self.model_fields_set
        self.refuse_idle(
            ("ema_decay", self.baseline == "ema", "baseline: ema"),
            ("clip_low", self.ratio != "none", "a ratio"),
            ("clip_high", self.ratio != "none", "a ratio"),
            ("truncated_penalty", self.truncated == "penalise", "truncated: penalise"),
            ("overlong_penalty", self.overlong_buffer > 0, "overlong_buffer above 0"),
            ("max_resamples", self.zero_spread == "resample", "zero_spread: resample"),
            (
                "importance_cap",
                self.importance_correction != "off",
                "importance_correction: truncate or mask",
            ),
        )
        by_group = self.advantage_scale in ("group", "group_mean")
        if by_group and self.baseline not in GROUP_BASELINES:
            raise ValueError(
                f"advantage_scale {self.advantage_scale} needs baseline group or leave_one_out, "
                f"not {self.baseline}: a group whose rewards are nearly equal would get boundless "
                "advantages"
            )
        if self.ratio == "none" and self.steps_per_iteration > 1:
            raise ValueError(
                "ratio none is right on the first step only: set epochs and minibatches to 1, or "
                "ratio to token"
            )
        if self.ratio in ("token", "sequence") and self.clip_low >= 1:
            raise ValueError(f"clip_low must be below 1 with ratio {self.ratio}")
        if self.advantage_scale == "group_mean" and self.lowers_rewards:
            raise ValueError(
                "advantage_scale group_mean divides by the mean reward, which must not fall below "
                "0: leave out truncated: penalise, overlong_buffer and a KL in the reward"
            )
        if self.anchored and self.importance_correction != "off":
            raise ValueError(
                f"ratio {self.ratio} is already to the sampler's own probabilities: set "
                "importance_correction to off"
            )
        if self.dual_clip is not None and self.ratio != "token":
            raise ValueError(f"dual_clip goes with ratio token, not {self.ratio}")
        if self.kl_in == "none" and self.beta and "beta" in given:
            raise ValueError("beta has no effect with kl_in none: leave one of them out")
        if self.sync_reference_every and not self.needs_reference:
            raise ValueError("sync_reference_every is given, but nothing uses a reference")
        if self.sync_reference_alpha < 1 and not self.sync_reference_every:
            raise ValueError("sync_reference_alpha has no effect without sync_reference_every")
        if self.base_share and not self.needs_reference:
            raise ValueError("base_share is given, but nothing uses a reference: set beta above 0")
        if self.base_mix == "geometric" and self.penalised and self.kl_estimator == "k3":
            raise ValueError(NO_K3)
        if self.constant_length is not None and self.aggregation != "constant":
            raise ValueError(f"constant_length has no effect with aggregation {self.aggregation}")
        return self

    @property
    def penalised(self) -> bool:
        """Whether a KL penalty enters anywhere."""
        return self.beta > 0 and self.kl_in != "none"

    @property
    def lowers_rewards(self) -> bool:
        """Whether something is taken off a reward."""
        return self.truncated == "penalise" or self.overlong_buffer > 0 or self.kl_in_reward

    @property
    def anchored(self) -> bool:
        """Whether the ratio is to the sampler's log-probs, not to the trainer's own old ones."""
        return self.ratio in ("dppo_tv", "dppo_kl")

    @property
    def kl_in_reward(self) -> bool:
        return self.penalised and self.kl_in in ("reward", "reward_to_go")

    @property
    def needs_reference(self) -> bool:
        return self.penalised or self.log_kl

    @property
    def steps_per_iteration(self) -> int:
        return self.epochs * self.minibatches
