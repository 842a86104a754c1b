"""PPO with a critic under a KL penalty to the frozen reference.

Schulman et al. 2017 (arXiv 1707.06347) for the clipped objective, Ziegler et al. 2019 (1909.08593)
for the penalty in the reward and its adaptive coefficient, Ouyang et al. 2022 (2203.02155) for the
pretraining mix. One token is one action; an episode is a response, scored at its last token:

    r_t = -beta * (log pi(a_t) - log pi_ref(a_t)) + [t = T] * score

In an environment each turn's reward lies on its last token, and T gets the rest of the score. What
the model was told is no action: it has no reward, advantage, return or loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from gnomon.algorithms.base import Ingredients, LossOutput, Settings, Totals, mean_metric
from gnomon.algorithms.episodes import remaining_reward
from gnomon.algorithms.on_policy import Annotated, OnPolicy
from gnomon.algorithms.on_policy_settings import PPOSettings
from gnomon.algorithms.token_columns import annotate_tokens, per_response_sum, with_tokens
from gnomon.data.batch import Batch
from gnomon.errors import ConfigError
from gnomon.losses.advantages import gae, whiten
from gnomon.losses.kl import adaptive_beta, kl_estimate
from gnomon.losses.policy_gradient import is_clipped, ppo_clip
from gnomon.losses.value import explained_variance, value_loss
from gnomon.records import TokenGroup


class PPO(OnPolicy):
    """Proximal policy optimisation: policy, reference, value model and any reward."""

    name: ClassVar[str] = "ppo"
    Settings: ClassVar[type[Settings]] = PPOSettings
    needs: ClassVar[tuple[str, ...]] = ("policy", "reference", "value_model")

    def __init__(self, ingredients: Ingredients, settings: PPOSettings) -> None:
        super().__init__(ingredients, settings)
        self.beta = settings.beta
        self.iteration = 0
        if settings.target_kl is not None and self._responses > 4 * settings.kl_horizon:
            raise ConfigError(
                f"kl_horizon is {settings.kl_horizon}, but each iteration samples "
                f"{self._responses} responses: beta would jump. Set kl_horizon to at least "
                f"{-(-self._responses // 4)}, better to ten times the responses of an iteration"
            )

    @classmethod
    def stale_problem(cls, settings: Any) -> str | None:
        return "ppo does not correct for responses of older weights; grpo and its relatives do"

    def experience(self, iteration: int) -> Any:
        self.iteration = iteration
        return super().experience(iteration)

    @torch.no_grad()
    def annotate(self, groups: Sequence[TokenGroup], temperature: float) -> Annotated:
        self.sampling_temperature = temperature
        columns = annotate_tokens(
            groups, self._forward, self.ingredients.tokens_per_microbatch, self.ingredients.device
        )
        responses = [r for g in groups for r in g.responses]
        chosen = torch.tensor([bool(m) for r in responses for m in r.mask], dtype=torch.bool)
        if self.settings.whiten_advantages:
            columns["advantages"] = whiten(columns["advantages"], chosen)
        sampler = torch.cat([r.token["sampler_logprobs"] for r in responses])[chosen]
        old, ref = columns["old_logprobs"][chosen], columns["ref_logprobs"][chosen]
        metrics = {
            "kl": float((old - ref).sum()) / len(responses),
            "kl_k3": float(kl_estimate(old, ref, "k3").mean()),
            "mismatch": float((old - sampler).abs().mean()),
            "explained_variance": float(
                explained_variance(columns["old_values"], columns["returns"], chosen)
            ),
            "beta": self.beta,
        }
        keep = {k: v for k, v in columns.items() if k != "ref_logprobs" or self._kl_in_loss}
        return Annotated(with_tokens(groups, keep), metrics)

    @property
    def _responses(self) -> int:
        return self.ingredients.batch_size * self.ingredients.sampling.samples

    @property
    def _kl_in_loss(self) -> bool:
        return bool(self.settings.kl_in == "loss")

    def _forward(self, batch: Batch) -> Mapping[str, Tensor]:
        """Log-probs, values, rewards and advantages of freshly sampled responses, each [R]."""
        s = self.settings
        old = self.roles["policy"].logprobs(batch, temperature=self.sampling_temperature).logprobs
        ref = (
            self.roles["reference"].logprobs(batch, temperature=self.sampling_temperature).logprobs
        )
        critic = self.roles["value_model"]
        hidden = critic.hidden(batch)
        values = critic.values(batch, hidden=hidden).float()
        finished = batch.scalar["finished"]
        score = batch.scalar["reward"] - s.no_eos_penalty * (1 - finished)
        if s.reward_clip is not None:
            score = score.clamp(-s.reward_clip, s.reward_clip)
        mask = batch.response_mask
        last = batch.response_start[1:] - 1
        rewards = torch.zeros_like(old) if self._kl_in_loss else -self.beta * (old - ref) * mask
        turns = batch.token.get("turn_rewards")
        if turns is not None:
            rewards = rewards + turns
            score = remaining_reward(score, turns, batch.response_of)
        rewards = rewards.index_add(0, last, score.to(rewards.dtype))
        bootstrap = None
        if s.bootstrap_truncated:  # the value of the state that the last token leads to
            bootstrap = critic.scores(batch, hidden=hidden).float() * (1 - finished)
        advantages, returns = gae(
            rewards,
            values,
            batch.response_start,
            gamma=s.gamma,
            lam=s.lam,
            bootstrap=bootstrap,
            response_mask=None if bool(mask.all()) else mask,
        )
        return {
            "old_logprobs": old,
            "ref_logprobs": ref,
            "old_values": values,
            "advantages": advantages,
            "returns": returns,
        }

    def text_for(self, step: int) -> list[TokenGroup]:
        """None while the critic warms up: the text would train the policy."""
        return [] if self.iteration < self.settings.value_warmup else super().text_for(step)

    def loss(self, batch: Batch, totals: Totals) -> LossOutput:
        s = self.settings
        out = self.roles["policy"].logprobs(
            batch, temperature=self.sampling_temperature, entropy=True
        )
        assert out.entropy is not None
        entropy = out.entropy
        values = self.roles["value_model"].values(batch).float()
        old = batch.token["old_logprobs"]
        advantages = batch.token["advantages"]
        policy_loss = ppo_clip(out.logprobs, old, advantages, eps_low=s.clip_eps)
        clipped = is_clipped((out.logprobs - old).exp(), advantages, eps_low=s.clip_eps)
        critic_loss = value_loss(
            values, batch.token["returns"], batch.token["old_values"], clip_eps=s.value_clip_eps
        )
        per_token = s.value_coef * critic_loss
        if self.iteration >= s.value_warmup:
            per_token = per_token + policy_loss - s.entropy_coef * entropy
            if self._kl_in_loss:
                kl = kl_estimate(out.logprobs, batch.token["ref_logprobs"], s.kl_estimator)
                per_token = per_token + self.beta * kl
        mask = batch.response_mask
        metrics = {
            "policy_loss": mean_metric(policy_loss, mask),
            "value_loss": mean_metric(critic_loss, mask),
            "entropy": mean_metric(entropy, mask),
            "clip_fraction": mean_metric(clipped.float(), mask),
            "update_kl": mean_metric(kl_estimate(old, out.logprobs, "k3"), mask),
            "tokens_per_response": mean_metric(per_response_sum(mask.float(), batch)),
        }
        return LossOutput((per_token * mask).sum() / totals.tokens, metrics)

    def end_iteration(self, metrics: Mapping[str, float]) -> None:
        warming = self.iteration < self.settings.value_warmup  # the policy cannot move yet
        if self.settings.target_kl is not None and not warming:
            self.beta = adaptive_beta(
                self.beta,
                metrics["kl"],
                self.settings.target_kl,
                steps=self._responses,
                horizon=self.settings.kl_horizon,
            )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "beta": self.beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.beta = float(state["beta"])
