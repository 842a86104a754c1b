"""Rejection sampling: fine-tune on the best of the policy's own responses.

RAFT (Dong et al. 2023, "Reward ranked fine-tuning", arXiv:2304.06767), the rejection sampling of
Llama 2 (arXiv:2307.09288, section 3.2.3), and expert iteration or STaR where the reward verifies:

    L = - sum_{kept y} log pi(y | x) / (tokens of all kept y of the step)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from gnomon.algorithms.base import (
    SUPERVISED_LR,
    Algorithm,
    Credit,
    LossOutput,
    Settings,
    Step,
    responses_of,
    token_weight,
)
from gnomon.algorithms.metric import mean
from gnomon.algorithms.on_policy_settings import RAFTSettings
from gnomon.algorithms.rollouts import Rollout, spread_metrics, token_groups
from gnomon.data.batch import Batch
from gnomon.losses.sft import negative_log_likelihood
from gnomon.records import TokenGroup, TokenResponse


class RAFT(Algorithm):
    """RAFT: sample K responses, keep the best, imitate them."""

    Settings: ClassVar[type[Settings]] = RAFTSettings
    data: ClassVar = "prompts"
    base_lr: ClassVar[float | None] = SUPERVISED_LR
    metrics: ClassVar[tuple[str, ...]] = (
        *("nll", "kept", "prompts_used", "reward_kept"),
        *("reward_best", "reward_worst", "zero_spread"),
    )
    dropout: ClassVar[bool] = False

    @classmethod
    def least_samples(cls, settings: Any) -> int:
        return 2

    @classmethod
    def refuses_older_weights(cls, settings: Any) -> str | None:
        return None  # a good response is good to imitate, whoever wrote it

    def credit(self, groups: Sequence[Rollout], step: Step) -> Credit:
        judged = [(g, self._kept(g)) for g in token_groups(groups, step)]
        kept = [replace(g, responses=r) for g, r in judged if r]
        responses = responses_of(kept)
        metrics = spread_metrics(groups) | {
            "kept": float(len(responses)),
            "prompts_used": len(kept) / len(groups),
        }
        if responses:
            rewards = [r.scalar["reward"] for r in responses]
            metrics["reward_kept"] = sum(rewards) / len(rewards)
        return Credit(kept, metrics)

    def _kept(self, group: TokenGroup) -> tuple[TokenResponse, ...]:
        """The responses to imitate, each text once (the first of equal ones)."""
        s = self.settings
        distinct: dict[tuple[int, ...], TokenResponse] = {}
        for response in group.responses:
            distinct.setdefault(tuple(response.ids), response)
        left = [
            r
            for r in distinct.values()
            if (r.scalar["finished"] or not s.drop_unfinished)
            and (s.threshold is None or r.scalar["reward"] >= s.threshold)
        ]
        if s.keep == "best" and left:
            left = [max(left, key=lambda r: r.scalar["reward"])]
        return tuple(left)

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        nll = negative_log_likelihood(self.roles["policy"].logprobs(batch).logprobs)
        weight = token_weight(batch)
        return LossOutput((nll * weight).sum() / step.totals.tokens, {"nll": mean(nll, weight)})
