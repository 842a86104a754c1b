"""Settings of the methods that sample the policy, except the policy-gradient family's.

Nothing here needs torch, so that a misspelt setting is answered before it is loaded.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gnomon.algorithms.offline_settings import DPOLossSettings, TextMixSettings


class OnPolicySettings(TextMixSettings):
    """Settings that every on-line method has."""

    epochs: int = Field(1, ge=1, description="passes over an iteration's rollouts")
    minibatches: int = Field(1, ge=1, description="optimiser steps per pass")


class PPOSettings(OnPolicySettings):
    """Settings of PPO; the defaults are the field's."""

    epochs: int = Field(2, ge=1, description="passes over an iteration's rollouts")
    minibatches: int = Field(2, ge=1, description="optimiser steps per pass")
    beta: float = Field(0.02, ge=0, description="KL coefficient")
    kl_in: Literal["reward", "loss"] = Field(
        "reward", description="where the KL penalty enters; see docs/ppo.md"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = Field(
        "k3", description="estimator of the KL in the loss (the reward always uses k1)"
    )
    target_kl: float | None = Field(
        None, gt=0, description="nats per response; given, beta adapts to hold the KL there"
    )
    kl_horizon: int = Field(2000, gt=0, description="responses over which beta adapts")
    clip_eps: float = Field(0.2, gt=0, description="ratios outside 1 ± this get no more gradient")
    value_clip_eps: float = Field(0.2, gt=0, description="the same for values, in units of reward")
    value_coef: float = Field(0.5, ge=0, description="weight of the critic's loss")
    entropy_coef: float = Field(0.01, ge=0, description="weight of the entropy bonus")
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    lam: float = Field(0.95, ge=0, le=1, description="GAE's λ")
    whiten_advantages: bool = Field(
        True, description="over the iteration's tokens: mean 0, variance 1"
    )
    no_eos_penalty: float = Field(
        0.0, ge=0, description="taken off the score of a cut-off response"
    )
    bootstrap_truncated: bool = Field(
        False, description="a cut-off response's return continues with the value at its end"
    )
    reward_clip: float | None = Field(None, gt=0, description="scores are clipped to +- this")
    value_init: Literal["policy", "reward_model"] = Field(
        "reward_model", description="whose trunk the value model starts from"
    )
    value_warmup: int = Field(0, ge=0, description="first iterations that train the critic alone")

    @model_validator(mode="after")
    def _adaptive(self) -> PPOSettings:
        if self.target_kl is not None and self.beta == 0:
            raise ValueError("target_kl scales beta up and down, so beta must start above 0")
        return self


class OnlineDPOSettings(DPOLossSettings, OnPolicySettings):
    """Settings of on-line and iterative DPO; the loss's are DPO's."""

    pairs: Literal["best_worst", "all"] = Field(
        "best_worst", description="of each prompt the best against the worst, or every pair"
    )
    tie_margin: float = Field(
        0.0, ge=0, description="pairs whose rewards differ by no more are left out"
    )
    no_eos_penalty: float = Field(
        0.0, ge=0, description="taken off the reward of a cut-off response"
    )
    refresh_reference: int = Field(
        0,
        ge=0,
        description="rounds after which the policy becomes the reference; 0: never, 1: each round",
    )
    replay: float = Field(
        0.0, ge=0, lt=1, description="share of a round's groups that comes from earlier rounds"
    )
    replay_rounds: int = Field(1, ge=1, description="how many rounds back replay reaches")

    @model_validator(mode="after")
    def _whole_rankings(self) -> OnlineDPOSettings:
        if self.loss == "plackett_luce" and self.pairs != "all":
            raise ValueError("plackett_luce learns whole rankings: set pairs: all")
        if self.replay_rounds > 1 and not self.replay:
            raise ValueError("replay_rounds is given but nothing is replayed: set replay above 0")
        return self


class RAFTSettings(OnPolicySettings):
    """Settings of rejection sampling."""

    keep: Literal["best", "above"] = Field(
        "best", description="each prompt's best response, or all from the threshold on"
    )
    threshold: float | None = Field(
        None, description="the lowest reward that is learned from; with keep: best as well"
    )
    drop_unfinished: bool = Field(True, description="never learn from a cut-off response")

    @model_validator(mode="after")
    def _threshold_given(self) -> RAFTSettings:
        if self.keep == "above" and self.threshold is None:
            raise ValueError("keep: above needs a threshold")
        return self
