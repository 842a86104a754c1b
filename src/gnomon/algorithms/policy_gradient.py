"""The policy-gradient family without a critic: GRPO and its relatives, one class.

    reward   r_i   of the i-th response to a prompt, shaped (cut-off and overlong penalties)
    A_i,t    = (r_i - baseline) / scale                        ``policy_objective.token_advantages``
    L_i,t    = w_i,t loss(pi / pi_old, A_i,t) + beta KL_i,t    ``policy_objective.token_loss``
    loss     = sum over the step's tokens of L_i,t / normaliser

w corrects for a sampler that is not the trainer. The normaliser is that of the whole optimiser
step, worked out before it is split, groups without signal included. What each method of the family
sets is in ``grpo.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gnomon.algorithms.base import (
    EncodedPrompt,
    Ingredients,
    LossOutput,
    Minibatch,
    Settings,
    Totals,
    mean_metric,
)
from gnomon.algorithms.group_metrics import group_metrics
from gnomon.algorithms.on_policy import Annotated, OnPolicy
from gnomon.algorithms.policy_gradient_settings import GROUP_BASELINES, PolicyGradientSettings
from gnomon.algorithms.policy_objective import (
    Layout,
    sampler_weights,
    token_advantages,
    token_loss,
)
from gnomon.algorithms.reference import trained_weights
from gnomon.algorithms.rollouts import Rollout, token_group
from gnomon.algorithms.token_columns import annotate_tokens, with_tokens
from gnomon.data.batch import Batch, Sampler
from gnomon.errors import ConfigError
from gnomon.losses.advantages import zero_spread
from gnomon.losses.kl import kl_estimate
from gnomon.losses.policy_gradient import soft_overlong_penalty
from gnomon.losses.reduce import masked_sum, step_denominator
from gnomon.records import TokenGroup

Pairs = dict[str, tuple[float, float]]
"""Metrics as (sum, weight)."""


class PolicyGradient(OnPolicy):
    """Base of the family; a member is a name and a preset of the settings."""

    Settings: ClassVar[type[Settings]] = PolicyGradientSettings
    needs: ClassVar[tuple[str, ...]] = ("policy", "reference")

    @classmethod
    def roles_for(cls, settings: Any) -> tuple[str, ...]:
        return ("policy", "reference") if settings.needs_reference else ("policy",)

    def __init__(self, ingredients: Ingredients, settings: PolicyGradientSettings) -> None:
        super().__init__(ingredients, settings)
        s, samples = settings, ingredients.sampling.samples
        if s.baseline in GROUP_BASELINES and samples < 2:
            raise ConfigError(
                f"{self.name} measures a response against others to the same prompt: set "
                f"rollout.samples to at least 2 (it is {samples}), or baseline to batch or ema"
            )
        if s.sync_reference_every >= ingredients.iterations:
            raise ConfigError(
                f"sync_reference_every is {s.sync_reference_every}, but the stage has only "
                f"{ingredients.iterations} iterations: the reference would never move"
            )
        self.more_prompts = Sampler(
            len(ingredients.prompts), ingredients.batch_size, ingredients.seed + 2
        )
        self.iteration = 0
        self.ema: float | None = None
        self._mean_reward = 0.0
        self._weight_max = RunningMax("importance_max")

    @property
    def compares_within_groups(self) -> bool:
        return self.settings.baseline in GROUP_BASELINES

    @classmethod
    def stale_problem(cls, settings: Any) -> str | None:
        if settings.importance_correction == "off":
            return (
                "older weights write the responses, and importance_correction is off: set it to "
                "truncate or mask"
            )
        return None

    # -- rollouts ---------------------------------------------------------------------------------

    def experience(self, iteration: int) -> Any:
        self.iteration = iteration
        self._weight_max = RunningMax("importance_max")
        return super().experience(iteration)

    def sampled(
        self, prompts: Sequence[EncodedPrompt], temperature: float, iteration: int
    ) -> list[Rollout]:
        """The prompts' rollouts; with ``resample`` those of other prompts for each without spread
        (DAPO's dynamic sampling, Yu et al. 2025, sec. 3.2), in at most ``max_resamples`` rounds."""
        rollouts = super().sampled(prompts, temperature, iteration)
        if self.settings.zero_spread != "resample":
            return rollouts
        rounds = self.settings.max_resamples
        missing = sum(not self._has_spread(r) for r in rollouts)
        for k in range(rounds):
            if not missing:
                break
            places = self.more_prompts.batch(iteration * rounds + k)[:missing]
            more = [self.ingredients.prompts[i] for i in places]
            seed = self.ingredients.seed * 1_000_003 + iteration + (k + 1) * 2**32
            fresh = self.rollout(more, temperature, seed, self.ingredients.sampling.samples)
            missing -= sum(self._has_spread(r) for r in fresh)
            rollouts = [*rollouts, *fresh]
        return rollouts

    def _has_spread(self, rollout: Rollout) -> bool:
        group = token_group(rollout, "spread")
        if group is None:
            return False
        rewards = self.shaped([group])
        return bool(rewards.max() > rewards.min())

    def learnable(self, rollouts: Sequence[Rollout], iteration: int) -> Annotated:
        extra = {"prompts_sampled": float(len(rollouts)), **group_metrics(rollouts)}
        return Annotated(super().learnable(rollouts, iteration).groups, extra)

    def shaped(self, groups: Sequence[TokenGroup]) -> Tensor:
        """[S] rewards with what cut-off and overlong responses lose."""
        s = self.settings
        scalars = [r.scalar for g in groups for r in g.responses]
        rewards = torch.tensor([v["reward"] for v in scalars])
        if s.truncated == "penalise":
            cut = torch.tensor([1.0 - v["finished"] for v in scalars])
            rewards = rewards - s.truncated_penalty * cut
        if s.overlong_buffer:
            longest = self.longest_response
            lengths = torch.tensor([len(r.ids) for g in groups for r in g.responses])
            buffer = round(s.overlong_buffer * longest)
            fall = soft_overlong_penalty(lengths, max_length=longest, buffer=buffer)
            rewards = rewards + s.overlong_penalty * fall
        return rewards

    # -- advantages -------------------------------------------------------------------------------

    @torch.no_grad()
    def annotate(self, groups: Sequence[TokenGroup], temperature: float) -> Annotated:
        self.sampling_temperature = temperature
        s = self.settings
        if not groups:
            return Annotated([], {"zero_spread": 1.0, "groups_trained": 0.0})
        rewards, layout = self.shaped(groups), Layout.of(groups)
        flat = zero_spread(rewards, layout.group_of)
        metrics = {"zero_spread": float(flat.float().mean())}
        if s.truncated == "penalise" or s.overlong_buffer:
            metrics["shaped_reward"] = float(rewards.mean())
        kl = None
        if s.kl_in_reward:  # the penalty is needed before anything can be left out
            groups, seen = self._observed(groups)
            metrics |= seen
            columns = [_column(groups, name) for name in ("old_logprobs", "ref_logprobs")]
            kl = kl_estimate(columns[0], columns[1], s.kl_estimator)
        advantages = token_advantages(rewards, layout, s, kl=kl, ema=self.ema)
        self._mean_reward = float(rewards.mean())
        groups = [
            trained
            for g, without in zip(
                with_tokens(groups, {"advantages": advantages}), flat.tolist(), strict=True
            )
            if (trained := self._trained_part(g, without)) is not None
        ]
        learned = [g for g in groups if self._has_signal(g)]
        if learned and not s.kl_in_reward:
            learned, seen = self._observed(learned)
            metrics |= seen
        metrics["groups_trained"] = float(len(learned))
        by_id = {g.id: g for g in learned}
        return Annotated([by_id.get(g.id, g) for g in groups], metrics)

    @property
    def needs_reference(self) -> bool:
        return bool(self.settings.needs_reference)

    def _trained_part(self, group: TokenGroup, without_spread: bool) -> TokenGroup | None:
        """The group less its masked responses; None where it must not count at all."""
        s = self.settings
        if s.zero_spread == "resample" and without_spread:
            return None
        if s.truncated == "mask":
            finished = tuple(r for r in group.responses if r.scalar["finished"])
            group = replace(group, responses=finished)
        return group if group.responses else None

    def _has_signal(self, group: TokenGroup) -> bool:
        """Whether its tokens have any advantage (or are kept for their KL and entropy)."""
        return self.settings.zero_spread == "keep" or any(
            bool(r.token["advantages"].any()) for r in group.responses
        )

    # -- log-probs of the policy that sampled, and of the reference -------------------------------

    @property
    def _needs_old(self) -> bool:
        """Whether pi_old takes a forward pass; on the only step of an iteration it is pi itself."""
        return bool(self.settings.kl_in_reward or self.settings.steps_per_iteration > 1)

    def _observed(self, groups: Sequence[TokenGroup]) -> tuple[list[TokenGroup], dict[str, float]]:
        """The groups with log-probs where the loss needs them beforehand, and what they say."""
        if not (self._needs_old or self.needs_reference):
            return list(groups), {}
        sums: Pairs = {}

        def forward(batch: Batch) -> Mapping[str, Tensor]:
            columns: dict[str, Tensor] = {}
            if self.needs_reference:
                columns["ref_logprobs"] = self._logprobs("reference", batch)
            if self._needs_old:
                old = columns["old_logprobs"] = self._logprobs("policy", batch)
                weights = columns["importance"] = sampler_weights(old, batch, self.settings)
                for name, (total, weight) in self._seen(
                    batch, old, weights, columns.get("ref_logprobs")
                ).items():
                    before = sums.get(name, (0.0, 0.0))
                    sums[name] = (before[0] + total, before[1] + weight)
            return columns

        columns = annotate_tokens(
            groups, forward, self.ingredients.tokens_per_microbatch, self.ingredients.device
        )
        metrics = {name: total / weight for name, (total, weight) in sums.items() if weight}
        return with_tokens(groups, columns), metrics

    def _logprobs(self, role: str, batch: Batch) -> Tensor:
        return self.roles[role].logprobs(batch, temperature=self.sampling_temperature).logprobs

    def _seen(self, batch: Batch, old: Tensor, weights: Tensor, ref: Tensor | None) -> Pairs:
        """Mismatch with the sampler and distance from the reference, before the iteration's steps.

        ``mismatch`` is the mean |log pi_old - log pi_sampler| of a token, in nats; ``importance``
        the mean weight, ``importance_max`` the largest, ``importance_cut`` the share that the
        correction capped or left out; ``kl`` is k1 summed over a response, ``kl_k3`` per token.
        """
        mask, cap = batch.response_mask, self.settings.importance_cap
        gap = old - batch.token["sampler_logprobs"]
        pairs = {"mismatch": mean_metric(gap.abs(), mask)}
        if self.settings.importance_correction != "off":
            cut = (weights >= cap) | (weights == 0)
            pairs["importance"] = mean_metric(weights, mask)
            pairs["importance_cut"] = mean_metric(cut.float(), mask)
            pairs |= self._weight_max.add(weights[mask])
        if ref is not None:
            nats = float(masked_sum(kl_estimate(old, ref, "k1"), mask))
            pairs["kl"] = (nats, float(batch.num_responses))
            pairs["kl_k3"] = mean_metric(kl_estimate(old, ref, "k3"), mask)
        return pairs

    # -- the loss ---------------------------------------------------------------------------------

    def _minibatches(self, groups: Sequence[TokenGroup], iteration: int) -> list[Minibatch]:
        """The steps, each with its normaliser; groups without signal count in it and are left out.

        A step that nothing is left of stays, empty, so that steps are numbered the same way.
        """
        steps = super()._minibatches(groups, iteration) or [Minibatch([])]
        return [replace(step, groups=self._weighted(step.groups)) for step in steps]

    def _weighted(self, groups: Sequence[TokenGroup]) -> list[TokenGroup]:
        """The groups with signal; ``loss_weight`` is what a token's loss counts in its step."""
        s = self.settings
        lengths = Layout.of(groups).lengths
        whole = float(
            step_denominator(
                lengths,
                mode=s.aggregation,
                max_length=s.constant_length or self.longest_response,
            )
        )
        out: list[TokenGroup] = []
        for group in groups:
            if not self._has_signal(group):
                continue
            responses = []
            for r in group.responses:
                own = max(1, sum(map(bool, r.mask))) if s.aggregation == "sequence" else 1
                scalar = {**r.scalar, "loss_weight": 1.0 / (whole * own)}
                responses.append(replace(r, scalar=scalar))
            out.append(replace(group, responses=tuple(responses)))
        return out

    def loss(self, batch: Batch, totals: Totals) -> LossOutput:
        s, mask = self.settings, batch.response_mask
        out = self.roles["policy"].logprobs(
            batch, temperature=self.sampling_temperature, entropy=True
        )
        assert out.entropy is not None
        ref, metrics = batch.token.get("ref_logprobs"), Pairs()
        if self._needs_old:
            old, weights = batch.token["old_logprobs"], batch.token["importance"]
        else:
            old = out.logprobs.detach()
            weights = sampler_weights(old, batch, s)
            metrics |= self._seen(batch, old, weights, ref)
        policy = token_loss(out.logprobs, old, batch.token["advantages"], batch, s)
        per_token = weights * policy.loss
        if s.penalised and s.kl_in == "loss":
            assert ref is not None
            per_token = per_token + s.beta * kl_estimate(out.logprobs, ref, s.kl_estimator)
        if s.entropy_coef:
            per_token = per_token - s.entropy_coef * out.entropy
        metrics |= {
            "policy_loss": mean_metric(policy.loss, mask),
            "entropy": mean_metric(out.entropy, mask),
            "clip_low": mean_metric(policy.low.float(), mask),
            "clip_high": mean_metric(policy.high.float(), mask),
            "update_kl": mean_metric(kl_estimate(old, out.logprobs, "k3"), mask),
        }
        share = batch.scalar["loss_weight"][batch.response_of]
        return LossOutput(masked_sum(per_token * share, mask), metrics)

    # -- between iterations -----------------------------------------------------------------------

    @torch.no_grad()
    def end_iteration(self, metrics: Mapping[str, float]) -> None:
        s = self.settings
        if s.baseline == "ema":
            kept = s.ema_decay if self.ema is not None else 0.0
            self.ema = kept * (self.ema or 0.0) + (1 - kept) * self._mean_reward
        every = s.sync_reference_every
        if every and (self.iteration + 1) % every == 0:
            policy = trained_weights(self.roles["policy"])
            for name, weight in trained_weights(self.roles["reference"]).items():
                weight.copy_(policy[name])

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {**super().state_dict(), "ema": self.ema}
        if self.settings.reference_moves:
            weights = trained_weights(self.roles["reference"])
            state["reference"] = {k: w.detach().clone() for k, w in weights.items()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.ema = state["ema"]
        if self.settings.reference_moves:
            for name, weight in trained_weights(self.roles["reference"]).items():
                weight.copy_(state["reference"][name])


class RunningMax:
    """A maximum over micro-batches, told as (sum, weight) pairs whose sum stays the maximum."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.value: float | None = None

    def add(self, values: Tensor) -> Pairs:
        """The pair to be added for one more micro-batch; its weight is 1 only the first time."""
        if not values.numel():
            return {}
        before = self.value
        self.value = max(float(values.max()), float("-inf") if before is None else before)
        first = before is None
        return {self.name: (self.value - (before or 0.0), float(first))}


def _column(groups: Sequence[TokenGroup], name: str) -> Tensor:
    """[R] a per-token value of all responses in order."""
    return torch.cat([r.token[name] for g in groups for r in g.responses])
