"""On-policy distillation: the student's own samples, and at each token what its teacher would do.

    loss sampled   A_t = log T(y_t) - log pi_old(y_t),   PPO's clipped surrogate
    loss full      D( T(.|y_<t), pi(.|y_<t) ),           KL or GKD's Jensen-Shannon divergence

Both have, on policy and with the reverse KL, the same gradient on average; the second has no noise
from sampling the token, and needs the teacher's whole distribution. Agarwal et al. 2024 ("On-policy
distillation of language models", GKD, arXiv:2306.13649; all samples are the student's, its
lambda = 1); Thinking Machines 2025 ("On-policy distillation").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from gnomon.algorithms.base import (
    POLICY,
    SUPERVISED_LR,
    Algorithm,
    Credit,
    LossOutput,
    Settings,
    Step,
    Workbench,
    with_tokens,
)
from gnomon.algorithms.metric import Metric, MetricSums, mean, ratio
from gnomon.algorithms.on_policy_settings import DistillSettings
from gnomon.algorithms.rollouts import Rollout, as_response
from gnomon.data.batch import Batch
from gnomon.losses.distill import generalised_jsd, reverse_kl_advantages
from gnomon.losses.kl import kl_estimate
from gnomon.losses.policy_gradient import importance_weights, is_clipped, ppo_clip
from gnomon.losses.reduce import masked_sum
from gnomon.models.divergence import token_divergence
from gnomon.models.memory import RoleNeed
from gnomon.models.remote import RemoteModel
from gnomon.records import TokenGroup


class Distill(Algorithm):
    """Distillation by the teacher's opinion of what the student writes."""

    Settings: ClassVar[type[Settings]] = DistillSettings
    data: ClassVar = "prompts"
    base_lr: ClassVar[float | None] = SUPERVISED_LR
    metrics: ClassVar[tuple[str, ...]] = (
        *("divergence", "teacher_kl", "teacher_logprob", "entropy", "mismatch"),
        *("clip_fraction", "update_kl"),
    )
    dropout: ClassVar[bool] = False
    rewarded: ClassVar[bool] = False

    def __init__(self, settings: DistillSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.remote: RemoteModel | None = None
        if settings.url is not None:
            self.remote = RemoteModel(
                settings.teacher,
                settings.url,
                bench.roles["policy"].trunk.tokenizer,
                settings.api_key_env,
                settings.concurrency,
                settings.timeout_s,
            )

    @classmethod
    def needs(cls, settings: Any) -> tuple[RoleNeed, ...]:
        if settings.url is not None:
            return (POLICY,)
        return (POLICY, RoleNeed("teacher", model=settings.teacher))

    @classmethod
    def refuses_older_weights(cls, settings: Any) -> str | None:
        return None  # weighted where the token was sampled for its gradient; else only its prefix

    @classmethod
    def only_temperature(cls, settings: Any) -> tuple[float, str] | None:
        if settings.url is None:
            return None
        return 1.0, f"the teacher behind {settings.url} gives log-probs at temperature 1"

    @torch.no_grad()
    def credit(self, groups: Sequence[Rollout], step: Step) -> Credit:
        """The samples; with ``loss: sampled`` with both models' log-probs and the advantages."""
        written = [_group(rollout, f"{step.iteration}:{i}") for i, rollout in enumerate(groups)]
        kept = [group for group in written if group is not None]
        if self.settings.whole or not kept:
            return Credit(kept)
        if self.remote is not None:
            remote, asked = self.remote, kept
            told = self.bench.ranks.first(lambda: remote.logprobs(asked))
            kept = with_tokens(kept, {"teacher_logprobs": told})
        sums = MetricSums()

        def forward(batch: Batch) -> Mapping[str, Tensor]:
            old = self._logprobs("policy", batch, step)
            theirs = batch.token.get("teacher_logprobs")
            if theirs is None:
                theirs = self._logprobs("teacher", batch, step)
            sampler = batch.token["sampler_logprobs"]
            cap = self.settings.importance_cap
            weights = importance_weights(old, sampler, correction="truncate", cap=cap)
            advantages = reverse_kl_advantages(old, theirs)
            mine = {"old_logprobs": old, "importance": weights, "advantages": advantages}
            return mine | {"teacher_logprobs": theirs}

        def distances(batch: Batch, columns: Mapping[str, Tensor]) -> Mapping[str, Metric]:
            return self._distances(batch, columns["old_logprobs"], columns["teacher_logprobs"])

        columns = self.bench.columns(kept, forward, distances, sums)
        del columns["teacher_logprobs"]
        return Credit(with_tokens(kept, columns), sums.values())

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        compute = self._whole if self.settings.whole else self._sampled
        per_token, metrics = compute(batch, step)
        mask = batch.response_mask
        return LossOutput(masked_sum(per_token, mask) / step.totals.tokens, metrics)

    def _sampled(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Metric]]:
        s, mask, old = self.settings, batch.response_mask, batch.token["old_logprobs"]
        out = self.roles["policy"].logprobs(
            batch, temperature=step.temperature, entropy=True, entropy_grad=False
        )
        assert out.entropy is not None
        advantages = batch.token["advantages"]
        per_token = ppo_clip(out.logprobs, old, advantages, eps_low=s.clip_eps)
        clipped = is_clipped((out.logprobs - old).exp(), advantages, eps_low=s.clip_eps)
        return batch.token["importance"] * per_token, {
            "divergence": mean(-advantages, mask),
            "entropy": mean(out.entropy, mask),
            "clip_fraction": mean(clipped.float(), mask),
            "update_kl": mean(kl_estimate(old, out.logprobs, "k3"), mask),
        }

    def _whole(self, batch: Batch, step: Step) -> tuple[Tensor, dict[str, Metric]]:
        found = token_divergence(
            self.roles["policy"],
            self.roles["teacher"],
            batch,
            partial(generalised_jsd, beta=self.settings.jsd_beta),
            temperature=step.temperature,
        )
        mask = batch.response_mask
        return found.values, {
            "divergence": mean(found.values, mask),
            "entropy": mean(found.entropy, mask),
            **self._distances(batch, found.logprobs, found.other_logprobs),
        }

    def _logprobs(self, role: str, batch: Batch, step: Step) -> Tensor:
        return self.roles[role].logprobs(batch, temperature=step.temperature).logprobs

    def _distances(self, batch: Batch, own: Tensor, theirs: Tensor) -> dict[str, Metric]:
        """``teacher_kl``: log(student / teacher) summed over a response, k1; ``teacher_logprob``:
        the teacher's mean log-prob of a token; ``mismatch``: with the sampler, per token (nats)."""
        mask = batch.response_mask
        nats = masked_sum(kl_estimate(own, theirs, "k1"), mask)
        return {
            "teacher_kl": ratio(nats, batch.num_responses),
            "teacher_logprob": mean(theirs, mask),
            "mismatch": mean((own - batch.token["sampler_logprobs"]).abs(), mask),
        }


def _group(rollout: Rollout, group_id: str) -> TokenGroup | None:
    """What was written to a prompt, whatever its reward; None where nothing was."""
    written = tuple(as_response(c) for c in rollout.completions if len(c.ids))
    if not written:
        return None
    prompt = rollout.prompt
    source, category = prompt.prompt.source, prompt.prompt.category
    return TokenGroup(group_id, prompt.ids, written, source=source, category=category)
