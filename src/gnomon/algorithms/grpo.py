"""GRPO and its relatives: the policy-gradient family without a critic, one class.

    reward   r_i   of the i-th response to a prompt, shaped (cut-off and overlong penalties)
    A_i,t    = (r_i - baseline) / spread                       ``losses.advantages``
    L_i,t    = w_i,t loss(pi / pi_old, A_i,t) + beta KL_i,t    ``losses.policy_gradient``
    loss     = sum over the step's tokens of L_i,t / normaliser

w corrects for a sampler that is not the trainer. The normaliser is that of the whole optimizer
step, groups without signal included. Each method of the family is a preset of the settings
(``policy_gradient_presets``): GRPO (Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300, eq. 3) is
their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    responses_of,
    with_tokens,
)
from gnomon.algorithms.metric import Metric, MetricSums, largest, mean, ratio
from gnomon.algorithms.policy_gradient_settings import GROUP_BASELINES, PolicyGradientSettings
from gnomon.algorithms.reference import (
    MovingReference,
    base_needs,
    check_it_moves,
    sampled_reference,
)
from gnomon.algorithms.rollouts import (
    GROUP_METRICS,
    Rollout,
    group_metrics,
    kl_price,
    observed_right,
    reward_spread,
    token_group,
    token_groups,
)
from gnomon.data.batch import Batch
from gnomon.errors import RunError
from gnomon.losses import policy_gradient as pg
from gnomon.losses import policy_variants as variants
from gnomon.losses.advantages import token_advantages, zero_spread
from gnomon.losses.kl import kl_estimate
from gnomon.losses.names import BinaryDivergence
from gnomon.losses.reduce import aggregate, masked_sum
from gnomon.models.memory import RoleNeed
from gnomon.records import TokenGroup


class PolicyGradient(Algorithm):
    """Policy gradients with a baseline from the responses themselves."""

    Settings: ClassVar[type[Settings]] = PolicyGradientSettings
    data: ClassVar = "prompts"
    base_lr: ClassVar[float | None] = REINFORCEMENT_LR
    metrics: ClassVar[tuple[str, ...]] = (
        *("policy_loss", "entropy", "clip_low", "clip_high", "clip_fraction", "update_kl"),
        *("mismatch", "kl", "kl_k3", "ref_logprob", "advantage_std", "kl_price"),
        *("importance", "importance_cut", "importance_max", "zero_spread", "groups_trained"),
        *("prompts_sampled", "shaped_reward", *GROUP_METRICS),
    )
    dropout: ClassVar[bool] = False  # old and new log-probs must differ by the update alone

    def __init__(self, settings: PolicyGradientSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        check_it_moves(settings.sync_reference_every, bench.iterations - 1, "sync_reference_every")
        self.moving = MovingReference(
            bench, settings.sync_reference_every, settings.sync_reference_alpha
        )
        self.ema: float | None = None
        self.right_is_observed = False  # in some iterations, where it is asked sparingly

    @classmethod
    def needs(cls, settings: Any) -> tuple[RoleNeed, ...]:
        if not settings.needs_reference:
            return (POLICY,)
        moves, averaged = settings.sync_reference_every > 0, settings.sync_reference_alpha < 1
        reference = RoleNeed("reference", moves=moves, averaged=averaged)
        return (POLICY, reference, *base_needs(settings))

    @classmethod
    def least_samples(cls, settings: Any) -> int:
        return 2 if settings.baseline in GROUP_BASELINES else 1

    @classmethod
    def refuses_older_weights(cls, settings: Any) -> str | None:
        if settings.importance_correction == "off" and not settings.anchored:
            return (
                "older weights write the responses, and importance_correction is off: set it to "
                "truncate or mask"
            )
        return None

    def spare_rounds(self) -> int:
        """DAPO's dynamic sampling (Yu et al. 2025, sec. 3.2)."""
        return self.settings.max_resamples if self.settings.zero_spread == "resample" else 0

    def is_wasted(self, group: Rollout) -> bool:
        tokens = token_group(group, "spread")
        if tokens is None:
            return True
        rewards = self.shaped([tokens])
        return not bool(rewards.max() > rewards.min())

    # -- the objective ----------------------------------------------------------------------------

    @torch.no_grad()
    def credit(self, groups: Sequence[Rollout], step: Step) -> Credit:
        """Advantages of all tokens, and the log-probs that the loss needs beforehand."""
        s, judged = self.settings, token_groups(groups, step)
        self.right_is_observed |= observed_right(groups)
        metrics = {
            "prompts_sampled": float(len(groups)),
            **group_metrics(groups, by_reward=not self.right_is_observed),
        }
        if not judged:
            return Credit([], metrics | {"zero_spread": 1.0, "groups_trained": 0.0})
        rewards = self.shaped(judged)
        responses = responses_of(judged)
        of = torch.arange(len(judged))
        group_of = of.repeat_interleave(torch.tensor([len(g.responses) for g in judged]))
        response_of = torch.arange(len(responses)).repeat_interleave(
            torch.tensor([len(r.ids) for r in responses])
        )
        flat = zero_spread(rewards, group_of)
        metrics["zero_spread"] = float(flat.float().mean())
        if s.advantage_scale == "group_mean" and bool((rewards < 0).any()):
            raise RunError(
                f"{self.bench.method}: a reward is {float(rewards.min()):g}, and advantage_scale "
                "group_mean divides by the mean reward of a group: it needs rewards of 0 and above "
                "(0 for wrong, 1 for right). Take another reward, or advantage_scale group"
            )
        if s.truncated == "penalise" or s.overlong_buffer:
            metrics["shaped_reward"] = float(rewards.mean())
        kl = None
        if s.kl_in_reward:  # the penalty is needed before anything can be left out
            judged, seen = self._with_logprobs(judged, step)
            metrics |= seen
            old, ref = (_column(judged, name) for name in ("old_logprobs", "ref_logprobs"))
            kl = kl_estimate(old, ref, s.kl_estimator)
        counted = torch.tensor([bool(m) for r in responses for m in r.mask], dtype=torch.bool)
        advantages = token_advantages(
            rewards,
            counted,
            response_of,
            group_of,
            baseline=s.baseline,
            scale=s.advantage_scale,
            ema=self.ema,
            kl=kl,
            beta=s.beta,
            to_go=s.kl_in == "reward_to_go",
        )
        if bool(counted.any()):
            metrics["advantage_std"] = float(advantages[counted].double().std(correction=0))
        credited = with_tokens(judged, {"advantages": advantages})
        kept = self._trained_parts(credited, flat.tolist())
        learned = [g for g in kept if g.trained]
        metrics |= self._kl_price(rewards, judged, learned)
        if learned and not s.kl_in_reward:
            learned, seen = self._with_logprobs(learned, step)
            metrics |= seen
        metrics["groups_trained"] = float(len(learned))
        by_id = {g.id: g for g in learned}
        every = [by_id.get(g.id, g) for g in kept]
        return Credit(every, metrics, carried=float(rewards.mean()))

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        s, mask = self.settings, batch.response_mask
        out = self.roles["policy"].logprobs(
            batch,
            temperature=step.temperature,
            entropy=True,
            entropy_grad=bool(s.entropy_coef),
        )
        assert out.entropy is not None
        ref, metrics = batch.token.get("ref_logprobs"), dict[str, Metric]()
        if self._needs_old:
            old, weights = batch.token["old_logprobs"], batch.token["importance"]
        else:  # on the only step of an iteration pi_old is pi itself
            old = out.logprobs.detach()
            weights = sampler_weights(old, batch, s)
            metrics |= self._distances(batch, old, weights, ref)
        advantages = batch.token["advantages"]
        policy_loss, low, high = token_loss(out.logprobs, old, advantages, batch, s)
        per_token = weights * policy_loss
        if s.penalised and s.kl_in == "loss":
            assert ref is not None
            per_token = per_token + s.beta * kl_estimate(out.logprobs, ref, s.kl_estimator)
        if s.entropy_coef:
            per_token = per_token - s.entropy_coef * out.entropy
        metrics |= {
            "policy_loss": mean(policy_loss, mask),
            "entropy": mean(out.entropy, mask),
            "clip_low": mean(low.float(), mask),
            "clip_high": mean(high.float(), mask),
            "clip_fraction": mean((low | high).float(), mask),
            "update_kl": mean(kl_estimate(old, out.logprobs, "k3"), mask),
        }
        longest = s.constant_length or self.bench.longest_response
        loss = aggregate(
            per_token,
            mask,
            batch.response_of,
            batch.lengths,
            mode=s.aggregation,
            denominator=step.totals.denominator(s.aggregation, longest),
        )
        return LossOutput(loss, metrics)

    def end_iteration(self, step: Step, metrics: Mapping[str, float], carried: Any) -> None:
        if self.settings.baseline == "ema" and carried is not None:
            kept = self.settings.ema_decay if self.ema is not None else 0.0
            self.ema = kept * (self.ema or 0.0) + (1 - kept) * carried
        self.moving.after(step)

    # -- its parts --------------------------------------------------------------------------------

    def shaped(self, groups: Sequence[TokenGroup]) -> Tensor:
        """[S] rewards less the penalties of cut-off and overlong responses."""
        s, responses = self.settings, responses_of(groups)
        rewards = torch.tensor([r.scalar["reward"] for r in responses])
        if s.truncated == "penalise":
            cut = torch.tensor([1.0 - r.scalar["finished"] for r in responses])
            rewards = rewards - s.truncated_penalty * cut
        if s.overlong_buffer:
            longest = self.bench.longest_response
            lengths = torch.tensor([len(r.ids) for r in responses])
            buffer = round(s.overlong_buffer * longest)
            fall = variants.soft_overlong_penalty(lengths, max_length=longest, buffer=buffer)
            rewards = rewards + s.overlong_penalty * fall
        return rewards

    def _kl_price(
        self, rewards: Tensor, judged: Sequence[TokenGroup], learned: Sequence[TokenGroup]
    ) -> dict[str, float]:
        """What the KL penalty is weighed against: the rewards, or the advantages of the tokens that
        it is paid for."""
        s = self.settings
        if not s.penalised or (s.kl_in == "loss" and s.kl_estimator == "k1"):  # no gradient there
            return kl_price(0.0, 0.0)
        if s.sync_reference_every:  # it is the price of the last steps alone
            return {}
        if s.kl_in_reward:
            return kl_price(s.beta, reward_spread(rewards, [len(g.responses) for g in judged]))
        paid = [
            r.token["advantages"][torch.tensor(r.mask, dtype=torch.bool)]
            for g in learned
            for r in g.responses
        ]
        spread = float(torch.cat(paid).double().std(correction=0)) if paid else 0.0
        return kl_price(s.beta, spread)

    def _trained_parts(
        self, groups: Sequence[TokenGroup], without_spread: Sequence[bool]
    ) -> list[TokenGroup]:
        """The groups less their masked responses, those without signal marked; a group that must
        not even count in normalisers is left out."""
        s, out = self.settings, []
        for group, flat in zip(groups, without_spread, strict=True):
            if s.zero_spread == "resample" and flat:
                continue
            if s.truncated == "mask":
                finished = tuple(r for r in group.responses if r.scalar["finished"])
                group = replace(group, responses=finished)
            signal = s.zero_spread == "keep" or any(
                bool(r.token["advantages"].any()) for r in group.responses
            )
            if group.responses:
                out.append(replace(group, trained=signal))
        return out

    @property
    def _needs_old(self) -> bool:
        """Whether pi_old takes a forward pass of its own."""
        return bool(self.settings.kl_in_reward or self.settings.steps_per_iteration > 1)

    def _with_logprobs(
        self, groups: Sequence[TokenGroup], step: Step
    ) -> tuple[list[TokenGroup], dict[str, float]]:
        """The groups with log-probs where the loss needs them beforehand, and metrics of those."""
        reference = self.settings.needs_reference
        if not (self._needs_old or reference):
            return list(groups), {}
        sums = MetricSums()

        def forward(batch: Batch) -> Mapping[str, Tensor]:
            columns: dict[str, Tensor] = {}
            if reference:
                columns["ref_logprobs"] = sampled_reference(
                    self.bench, self.settings, batch, step.temperature
                )
            if self._needs_old:
                out = self.roles["policy"].logprobs(batch, temperature=step.temperature)
                old = columns["old_logprobs"] = out.logprobs
                columns["importance"] = sampler_weights(old, batch, self.settings)
            return columns

        def distances(batch: Batch, columns: Mapping[str, Tensor]) -> Mapping[str, Metric]:
            if not self._needs_old:
                return {}
            old, weights = columns["old_logprobs"], columns["importance"]
            return self._distances(batch, old, weights, columns.get("ref_logprobs"))

        columns = self.bench.columns(groups, forward, distances, sums)
        return with_tokens(groups, columns), sums.values()

    def _distances(
        self, batch: Batch, old: Tensor, weights: Tensor, ref: Tensor | None
    ) -> dict[str, Metric]:
        """Mismatch with the sampler and distance from the reference, before the iteration's steps.

        ``mismatch`` is the mean |log pi_old - log pi_sampler| of a token, in nats; ``importance``
        the mean weight, ``importance_max`` the largest, ``importance_cut`` the share that the
        correction capped or left out; ``kl`` is k1 summed over a response, ``kl_k3`` per token;
        ``ref_logprob`` the reference's mean log-prob of a token.
        """
        mask, cap = batch.response_mask, self.settings.importance_cap
        metrics = {"mismatch": mean((old - batch.token["sampler_logprobs"]).abs(), mask)}
        if self.settings.importance_correction != "off":
            cut = (weights >= cap) | (weights == 0)
            metrics["importance"] = mean(weights, mask)
            metrics["importance_cut"] = mean(cut.float(), mask)
            metrics["importance_max"] = largest(weights, mask)
        if ref is not None:
            nats = masked_sum(kl_estimate(old, ref, "k1"), mask)
            metrics["kl"] = ratio(nats, batch.num_responses)
            if self.settings.base_mix != "geometric":  # which is no distribution (NO_K3)
                metrics["kl_k3"] = mean(kl_estimate(old, ref, "k3"), mask)
            metrics["ref_logprob"] = mean(ref, mask)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {
            "ema": self.ema,
            "right_is_observed": self.right_is_observed,
            "reference": self.moving.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.ema = state["ema"]
        self.right_is_observed = state.get("right_is_observed", False)  # not in older checkpoints
        self.moving.load_state_dict(state["reference"])


def token_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, batch: Batch, s: PolicyGradientSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """The policy loss [R] with the ratio that the settings name, and the tokens [R] whose gradient,
    or weight, was clipped below and above."""
    low, high = s.clip_low, s.clip_low if s.clip_high is None else s.clip_high
    layout = (batch.response_mask, batch.response_of, batch.lengths)
    three = (logprobs, old, advantages)
    if s.ratio == "none":
        none = torch.zeros_like(batch.response_mask)
        return pg.reinforce(logprobs, advantages), none, none
    if s.anchored:
        sampler = batch.token["sampler_logprobs"]
        kind: BinaryDivergence = "tv" if s.ratio == "dppo_tv" else "kl"
        fallen, risen = variants.outside_trust_region(
            logprobs, sampler, kind, eps_low=low, eps_high=high
        )
        below, above = fallen & (advantages < 0), risen & (advantages > 0)
        return variants.dppo(logprobs, sampler, advantages, below | above), below, above
    pi_ratio = pg.importance_ratio(logprobs.detach(), old)
    if s.ratio == "cispo":
        loss = variants.cispo(*three, eps_low=low, eps_high=high)
        return loss, pi_ratio < 1 - low, pi_ratio > 1 + high
    below, above = pi_ratio < 1 - low, pi_ratio > 1 + high
    if s.ratio == "gmpo":
        loss = variants.gmpo(*three, *layout, eps_low=low, eps_high=high)
        below, above = pi_ratio.log() < -low, pi_ratio.log() > high
    elif s.ratio == "sequence":
        loss = variants.gspo(*three, *layout, eps_low=low, eps_high=high)
        pi_ratio = variants.sequence_ratio(logprobs.detach(), old, *layout)[batch.response_of]
        below, above = pi_ratio < 1 - low, pi_ratio > 1 + high
    else:
        loss = pg.ppo_clip(*three, eps_low=low, eps_high=high, dual_clip=s.dual_clip)
    return loss, below & (advantages < 0), above & (advantages > 0)


@torch.no_grad()
def sampler_weights(old: Tensor, batch: Batch, s: PolicyGradientSettings) -> Tensor:
    """[R] importance weights against the sampler; of a whole response where the ratio is one: the
    geometric mean of its tokens', as its ratio is."""
    sampler = batch.token["sampler_logprobs"]
    if s.ratio in ("sequence", "gmpo") and s.importance_correction != "off":
        layout = (batch.response_mask, batch.response_of, batch.lengths)
        sampler = old - variants.sequence_ratio(old, sampler, *layout).log()[batch.response_of]
    return pg.importance_weights(
        old, sampler, correction=s.importance_correction, cap=s.importance_cap
    )


def _column(groups: Sequence[TokenGroup], name: str) -> Tensor:
    """[R] a per-token value of all responses in order."""
    return torch.cat([r.token[name] for r in responses_of(groups)])
