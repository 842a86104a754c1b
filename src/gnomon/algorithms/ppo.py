"""PPO with a critic under a KL penalty to the frozen reference.

Schulman et al. 2017 (arXiv 1707.06347) for the clipped objective, Ziegler et al. 2019 (1909.08593)
for the penalty in the reward and its adaptive coefficient, Ouyang et al. 2022 (2203.02155) for the
pretraining mix. One token is one action; an episode is a response, scored at its last token:

    r_t = -beta * (log pi(a_t) - log pi_ref(a_t)) + [t = T] * score

In an environment each turn's reward lies on its last token, and T gets the rest of the score. The
environment's messages are not actions: they have no reward, advantage, return or loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from gnomon.algorithms.base import (
    POLICY,
    REINFORCEMENT_LR,
    Algorithm,
    Credit,
    LossOutput,
    Settings,
    Step,
    Workbench,
    per_response_sum,
    with_tokens,
)
from gnomon.algorithms.metric import mean
from gnomon.algorithms.on_policy_settings import PPOSettings
from gnomon.algorithms.reference import base_needs, sampled_reference
from gnomon.algorithms.rollouts import Rollout, kl_price, reward_spread, token_groups
from gnomon.data.batch import Batch, pack
from gnomon.errors import ConfigError
from gnomon.losses.gae import gae, whiten
from gnomon.losses.kl import adaptive_beta, kl_estimate
from gnomon.losses.policy_gradient import is_clipped, ppo_clip
from gnomon.losses.value import explained_variance, value_loss
from gnomon.models.memory import RoleNeed

AFTER_LAST = "after_last"
"""The value of the state after a response's last token, at each of its tokens."""


class PPO(Algorithm):
    """Proximal policy optimisation: policy, reference, value model and any reward."""

    Settings: ClassVar[type[Settings]] = PPOSettings
    data: ClassVar = "prompts"
    base_lr: ClassVar[float | None] = REINFORCEMENT_LR
    metrics: ClassVar[tuple[str, ...]] = (
        *("policy_loss", "value_loss", "entropy", "clip_fraction", "update_kl"),
        *("tokens_per_response", "kl", "kl_k3", "mismatch", "explained_variance", "beta"),
        *("ref_logprob", "advantage_std", "kl_price"),
    )
    dropout: ClassVar[bool] = False  # old and new log-probs must differ by the update alone

    def __init__(self, settings: PPOSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.beta = settings.beta
        self.responses = bench.batch_size * bench.samples
        if settings.target_kl is not None and self.responses > 4 * settings.kl_horizon:
            raise ConfigError(
                f"kl_horizon is {settings.kl_horizon}, but each iteration samples "
                f"{self.responses} responses: beta would jump. Set kl_horizon to at least "
                f"{-(-self.responses // 4)}, better to ten times the responses of an iteration"
            )

    @classmethod
    def needs(cls, settings: Any) -> tuple[RoleNeed, ...]:
        critic = RoleNeed(
            "value_model",
            trainable=True,
            outputs=1,
            critic=True,
            from_reward=settings.value_init == "reward_model",
        )
        return (POLICY, RoleNeed("reference"), critic, *base_needs(settings))

    @classmethod
    def refuses_older_weights(cls, settings: Any) -> str | None:
        return "ppo does not correct for responses of older weights; grpo and its relatives do"

    # -- the objective ----------------------------------------------------------------------------

    def seen(self, batch: Batch, step: Step) -> Mapping[str, Tensor]:
        """Log-probs and values of freshly sampled responses before the iteration's steps, [R]."""
        s, critic = self.settings, self.roles["value_model"]
        columns = {
            "old_logprobs": self.roles["policy"]
            .logprobs(batch, temperature=step.temperature)
            .logprobs,
            "ref_logprobs": sampled_reference(self.bench, s, batch, step.temperature),
        }
        hidden = critic.hidden(batch)
        columns["old_values"] = critic.values(batch, hidden=hidden)
        if s.bootstrap_truncated:  # the value of the state that the last token leads to
            columns[AFTER_LAST] = critic.scores(batch, hidden=hidden)[batch.response_of]
        return columns

    def returns(self, batch: Batch, columns: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Advantages and returns [R] of all responses of the iteration, from what was seen."""
        s, mask = self.settings, batch.response_mask
        old, ref = columns["old_logprobs"], columns["ref_logprobs"]
        rewards = torch.zeros_like(old) if s.kl_in == "loss" else -self.beta * (old - ref) * mask
        rewards = with_scores(rewards, batch, s)
        bootstrap = None
        if s.bootstrap_truncated:
            last = batch.response_start[1:] - 1
            bootstrap = columns[AFTER_LAST][last] * (1 - batch.scalar["finished"])
        return gae(
            rewards,
            columns["old_values"],
            batch.response_start,
            gamma=s.gamma,
            lam=s.lam,
            bootstrap=bootstrap,
            response_mask=None if bool(mask.all()) else mask,
        )

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        s, mask, old = self.settings, batch.response_mask, batch.token["old_logprobs"]
        out = self.roles["policy"].logprobs(
            batch,
            temperature=step.temperature,
            entropy=True,
            entropy_grad=bool(s.entropy_coef),
        )
        assert out.entropy is not None
        values = self.roles["value_model"].values(batch).float()
        advantages = batch.token["advantages"]
        policy_loss = ppo_clip(out.logprobs, old, advantages, eps_low=s.clip_eps)
        critic_loss = value_loss(
            values, batch.token["returns"], batch.token["old_values"], clip_eps=s.value_clip_eps
        )
        per_token = s.value_coef * critic_loss
        if self.trains_policy(step):
            per_token = per_token + policy_loss - s.entropy_coef * out.entropy
            if s.kl_in == "loss":
                kl = kl_estimate(out.logprobs, batch.token["ref_logprobs"], s.kl_estimator)
                per_token = per_token + self.beta * kl
        clipped = is_clipped((out.logprobs - old).exp(), advantages, eps_low=s.clip_eps)
        metrics = {
            "policy_loss": mean(policy_loss, mask),
            "value_loss": mean(critic_loss, mask),
            "entropy": mean(out.entropy, mask),
            "clip_fraction": mean(clipped.float(), mask),
            "update_kl": mean(kl_estimate(old, out.logprobs, "k3"), mask),
            "tokens_per_response": mean(per_response_sum(mask.float(), batch)),
        }
        return LossOutput((per_token * mask).sum() / step.totals.tokens, metrics)

    # -- around it --------------------------------------------------------------------------------

    @torch.no_grad()
    def credit(self, groups: Sequence[Rollout], step: Step) -> Credit:
        """Advantages and returns of all tokens, whitened over the iteration."""
        judged = token_groups(groups, step)
        columns = self.bench.columns(judged, lambda batch: self.seen(batch, step))
        whole = pack(judged)  # on the CPU, where the columns are
        columns["advantages"], columns["returns"] = self.returns(whole, columns)
        columns.pop(AFTER_LAST, None)
        chosen = whole.response_mask
        spread = columns["advantages"][chosen].double().std(correction=0)
        if self.settings.whiten_advantages:
            columns["advantages"] = whiten(columns["advantages"], chosen)
        sampler = whole.token["sampler_logprobs"][chosen]
        old, ref = columns["old_logprobs"][chosen], columns["ref_logprobs"][chosen]
        explained = explained_variance(columns["old_values"], columns["returns"], chosen)
        metrics = {
            "kl": float((old - ref).sum()) / whole.num_responses,
            "mismatch": float((old - sampler).abs().mean()),
            "ref_logprob": float(ref.double().mean()),
            "advantage_std": float(spread),
            "beta": self.beta,
        }
        if not explained.isnan():  # undefined where all returns are the same
            metrics["explained_variance"] = float(explained)
        if self.settings.base_mix != "geometric":  # which is no distribution (NO_K3)
            metrics["kl_k3"] = float(kl_estimate(old, ref, "k3").mean())
        if self.settings.target_kl is None:  # else the price is what holds the KL there
            metrics |= self._kl_price(whole, [len(g.responses) for g in judged], float(spread))
        if self.settings.kl_in != "loss":
            del columns["ref_logprobs"]
        return Credit(with_tokens(judged, columns), metrics)

    def _kl_price(self, batch: Batch, sizes: Sequence[int], advantages: float) -> dict[str, float]:
        """What the KL penalty is weighed against: the scores, or the advantages of this spread."""
        s = self.settings
        if s.kl_in != "loss":
            return kl_price(self.beta, reward_spread(scores(batch, s), sizes))
        if s.kl_estimator == "k1":  # which has no gradient there
            return kl_price(0.0, advantages)
        return kl_price(self.beta, 1.0 if s.whiten_advantages else advantages)

    def trains_policy(self, step: Step) -> bool:
        """False while the critic warms up."""
        return bool(step.iteration >= self.settings.value_warmup)

    def end_iteration(self, step: Step, metrics: Mapping[str, float], carried: Any) -> None:
        s = self.settings
        if s.target_kl is not None and self.trains_policy(step):
            self.beta = adaptive_beta(
                self.beta, metrics["kl"], s.target_kl, steps=self.responses, horizon=s.kl_horizon
            )

    def state_dict(self) -> dict[str, Any]:
        return {"beta": self.beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.beta = float(state["beta"])


def scores(batch: Batch, s: PPOSettings) -> Tensor:
    """[S] what each response is paid, before the KL penalty."""
    score = batch.scalar["reward"] - s.no_eos_penalty * (1 - batch.scalar["finished"])
    return score if s.reward_clip is None else score.clamp(-s.reward_clip, s.reward_clip)


def with_scores(rewards: Tensor, batch: Batch, s: PPOSettings) -> Tensor:
    """[R] per-token rewards with the score on each response's last token.

    In an environment each turn's reward lies on the turn's own last token, and the last one gets
    what is left of the score.
    """
    score = scores(batch, s)
    turns = batch.token.get("turn_rewards")
    if turns is not None:
        rewards = rewards + turns
        score = score - per_response_sum(turns.to(score.dtype), batch)
    last = batch.response_start[1:] - 1
    return rewards.index_add(0, last, score.to(rewards.dtype))
