"""A method of one's own in one file: reward-weighted imitation of the policy's own answers.

    python examples/own_method.py                                # trains in the built-in world
    python examples/own_method.py rwr.settings.tau=0.1 rwr.train.steps=100

    w_i  = K exp(r_i / tau) / sum_j exp(r_j / tau)     of the K answers to a prompt
    loss = - sum over tokens of w_i log pi(y_i,t)

Better answers weigh more, and none is pushed down (reward-weighted regression: Peters & Schaal
2007, "Reinforcement learning by reward-weighted regression", here within the answers to one
prompt). As tau falls, only the best answer is left: best-of-K imitation. A recipe names the class
by its file, as below; nothing is registered anywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gnomon.algorithms.base import Algorithm, Credit, LossOutput, Settings, Step, token_weight
from gnomon.algorithms.metric import mean
from gnomon.algorithms.on_policy_settings import OnPolicySettings
from gnomon.algorithms.rollouts import Rollout, token_groups
from gnomon.data.batch import Batch
from gnomon.recipe.load import apply_override, parse_recipe
from gnomon.stages.run import run_recipe


def weights(rewards: Tensor, tau: float) -> Tensor:
    """[K] weights of the K answers to a prompt, from their rewards [K]; their mean is 1."""
    return torch.softmax(rewards / tau, dim=0) * len(rewards)


class RewardWeightedSettings(OnPolicySettings):
    """Settings of reward-weighted imitation."""

    tau: float = Field(0.2, gt=0, description="temperature of the weights, in units of reward")


class RewardWeighted(Algorithm):
    """Imitate the policy's answers, the better ones more."""

    Settings: ClassVar[type[Settings]] = RewardWeightedSettings
    data: ClassVar = "prompts"  # so the policy is sampled, and what it writes is judged
    base_lr: ClassVar[float | None] = 1e-6
    metrics: ClassVar[tuple[str, ...]] = ("token_loss", "best_weight")

    @classmethod
    def least_samples(cls, settings: Any) -> int:
        return 2  # a single answer is compared with nothing

    def credit(self, groups: Sequence[Rollout], step: Step) -> Credit:
        """Give each answer its weight. Answers whose reward failed are left out already."""
        credited = []
        for group in token_groups(groups, step):
            rewards = torch.tensor([r.scalar["reward"] for r in group.responses])
            pairs = zip(group.responses, weights(rewards, self.settings.tau).tolist(), strict=True)
            responses = tuple(replace(r, scalar={**r.scalar, "weight": w}) for r, w in pairs)
            credited.append(replace(group, responses=responses))
        return Credit(credited)

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        """The micro-batch's share: divided by the tokens of the whole step, not of this batch."""
        out = self.roles["policy"].logprobs(batch, temperature=step.temperature)
        weight_S = batch.scalar["weight"]
        loss_R = -weight_S[batch.response_of] * out.logprobs
        counted_R = token_weight(batch)
        loss = (loss_R * counted_R).sum() / step.totals.tokens
        best = mean(weight_S / weight_S.new_tensor(float(self.bench.samples)))
        return LossOutput(loss, {"token_loss": mean(loss_R, counted_R), "best_weight": best})


RECIPE: Mapping[str, Any] = {
    "name": "own-method",
    "model": "tunnel",
    "max_length": 128,
    "stages": [
        {
            "name": "sft",
            "algorithm": "sft",
            "data": {"path": "tunnel:demonstrations", "options": {"n": 2000, "seed": 1}},
            "train": {"steps": 100, "batch_size": 32, "lr": 1e-3},
        },
        {
            "name": "rwr",
            "algorithm": "own_method.py:RewardWeighted",
            "data": {
                "path": "tunnel:prompts",
                "options": {"n": 4000, "seed": 4, "families": ["arithmetic"]},
            },
            "holdout": 0.02,
            "reward": "correct",
            "rollout": {"samples": 8, "max_new_tokens": 32},
            "train": {"steps": 40, "batch_size": 48, "lr": 4e-4, "eval_every": 10},
            "settings": {"tau": 0.2},
        },
    ],
}


def main(overrides: Sequence[str] = ()) -> Path:
    """Run the recipe, with ``key=value`` changes, and return the run's folder."""
    raw = deepcopy(dict(RECIPE))
    for override in overrides:
        apply_override(raw, override)
    return run_recipe(parse_recipe(raw), base=Path(__file__).parent)


if __name__ == "__main__":
    main(sys.argv[1:])
