"""Settings of the methods that sample the policy, except the policy-gradient family's.

Nothing here needs torch, so that a misspelt setting is answered before it is loaded.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gnomon.algorithms.offline_settings import DPOLossSettings, TextMixSettings
from gnomon.losses.names import BaseMix

NO_K3 = (
    "base_mix geometric is no distribution, and k3 is no KL to it: set kl_estimator to k1 or k2, "
    "or base_mix to arithmetic"
)


class OnPolicySettings(TextMixSettings):
    """Settings that every on-line method has."""

    epochs: int = Field(1, ge=1, description="passes over an iteration's rollouts")
    minibatches: int = Field(1, ge=1, description="optimiser steps per pass")


class BaseMixSettings(OnPolicySettings):
    """Settings of the methods whose KL can be to a mixture of the reference and a base model."""

    base_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of a base model in the reference that the KL is to, against the "
        "alignment tax; above 0 that model is loaded too",
    )
    base_model: str = Field(
        "model",
        description="the base model: `model` (what the recipe starts from), a stage, a folder or "
        "a name",
    )
    base_mix: BaseMix = Field(
        "arithmetic",
        description="mean of the probabilities, or of their logarithms (with k1 the weighted sum "
        "of both KLs)",
    )

    @model_validator(mode="after")
    def _mixed(self) -> BaseMixSettings:
        unused = sorted({"base_model", "base_mix"} & self.model_fields_set)
        if unused and not self.base_share:
            raise ValueError(f"{', '.join(unused)}: no effect without base_share above 0")
        return self


class PPOSettings(BaseMixSettings):
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
        self.refuse_idle(
            (
                "kl_estimator",
                self.kl_in == "loss" or self.kl_estimator == "k1",
                "kl_in: loss (in the reward it is always k1)",
            ),
            ("kl_horizon", self.target_kl is not None, "target_kl"),
        )
        if self.target_kl is not None and self.beta == 0:
            raise ValueError("target_kl scales beta up and down, so beta must start above 0")
        if self.base_mix == "geometric" and self.kl_in == "loss" and self.kl_estimator == "k3":
            raise ValueError(NO_K3)
        return self


class OnlineDPOSettings(DPOLossSettings, BaseMixSettings):
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


class DistillSettings(OnPolicySettings):
    """Settings of on-policy distillation."""

    teacher: str = Field(
        description="a stage, a folder or a model's name; with `url`, its name there. It has to "
        "have the policy's tokenizer"
    )
    url: str | None = Field(
        None,
        description="of an OpenAI-compatible API that gives a prompt's log-probs (vLLM), as in "
        "http://host:8000/v1: the teacher is asked there",
    )
    api_key_env: str | None = Field(
        None, description="with url: the environment variable with its key"
    )
    concurrency: int = Field(8, ge=1, le=256, description="with url: requests at the same time")
    timeout_s: float = Field(120.0, gt=0, description="with url: seconds for one request")
    loss: Literal["auto", "sampled", "full"] = Field(
        "auto",
        description="sampled: a policy gradient with each token's log-ratio as its reward; full: "
        "the divergence of whole distributions; auto: full, with url sampled",
    )
    jsd_beta: float = Field(
        1.0,
        ge=0,
        le=1,
        description="loss full: 1 the reverse KL, 0 the forward KL, between them GKD's "
        "Jensen-Shannon divergence",
    )
    clip_eps: float = Field(
        0.2, gt=0, description="loss sampled: ratios outside 1 ± this get no more gradient"
    )
    importance_cap: float = Field(
        2.0, gt=0, description="loss sampled: largest weight against a sampler that differs"
    )

    @model_validator(mode="after")
    def _one_teacher(self) -> DistillSettings:
        given = self.model_fields_set
        if self.url is not None and self.loss == "full":
            raise ValueError(
                "loss full needs whole distributions, and a teacher behind a url gives log-probs "
                "of the sampled tokens only: set loss to sampled, or give a folder as teacher"
            )
        beside = sorted({"api_key_env", "concurrency", "timeout_s"} & given)
        if beside and self.url is None:
            raise ValueError(f"{', '.join(beside)}: only for a teacher behind a url")
        unused = {"clip_eps", "importance_cap"} if self.whole else {"jsd_beta"}
        if wrong := sorted(unused & given):
            loss = "full" if self.whole else "sampled"
            raise ValueError(f"{', '.join(wrong)} has no effect with loss {loss}: leave it out")
        return self

    @property
    def whole(self) -> bool:
        """Whether whole distributions are compared."""
        return self.loss == "full" or (self.loss == "auto" and self.url is None)
