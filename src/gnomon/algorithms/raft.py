"""Rejection sampling: fine-tune on the best of the policy's own responses.

RAFT (Dong et al. 2023, "Reward ranked fine-tuning", arXiv:2304.06767), the rejection sampling of
Llama 2 (arXiv:2307.09288, section 3.2.3), and expert iteration or STaR where the reward verifies:

    L = - sum_{kept y} log pi(y | x) / (tokens of all kept y of the step)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from gnomon.algorithms.base import LossOutput, Settings, Totals, mean_metric, token_weight
from gnomon.algorithms.on_policy import Annotated, OnPolicy
from gnomon.algorithms.on_policy_settings import RAFTSettings
from gnomon.algorithms.rollouts import Rollout, spread_metrics, token_group
from gnomon.data.batch import Batch
from gnomon.losses.sft import negative_log_likelihood
from gnomon.records import TokenGroup, TokenResponse


class RAFT(OnPolicy):
    """RAFT: sample K responses, keep the best, imitate them."""

    name: ClassVar[str] = "raft"
    Settings: ClassVar[type[Settings]] = RAFTSettings
    needs: ClassVar[tuple[str, ...]] = ("policy",)
    min_samples: ClassVar[int] = 2

    @classmethod
    def stale_problem(cls, settings: Any) -> str | None:
        return None  # a good response is good to imitate, whoever wrote it

    def learnable(self, rollouts: Sequence[Rollout], iteration: int) -> Annotated:
        made = (token_group(r, f"{iteration}:{i}") for i, r in enumerate(rollouts))
        kept = [(g, self._kept(g)) for g in made if g is not None]
        groups = [replace(g, responses=r) for g, r in kept if r]
        responses = [r for g in groups for r in g.responses]
        metrics = spread_metrics(rollouts) | {
            "kept": float(len(responses)),
            "prompts_used": len(groups) / len(rollouts),
        }
        if responses:
            rewards = [r.scalar["reward"] for r in responses]
            metrics["reward_kept"] = sum(rewards) / len(rewards)
        return Annotated(groups, metrics)

    def _kept(self, group: TokenGroup) -> tuple[TokenResponse, ...]:
        """What is imitated, each text once; of equals the first."""
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

    def annotate(self, groups: Sequence[TokenGroup], temperature: float) -> Annotated:
        return Annotated(groups, {})

    def loss(self, batch: Batch, totals: Totals) -> LossOutput:
        nll = negative_log_likelihood(self.roles["policy"].logprobs(batch).logprobs)
        weight = token_weight(batch)
        return LossOutput((nll * weight).sum() / totals.tokens, {"nll": mean_metric(nll, weight)})
