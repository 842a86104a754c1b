"""A trained reward model as a reward; a prompt is computed once for all its samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from gnomon.data.batch import microbatches, pack
from gnomon.errors import ConfigError
from gnomon.judges.protocol import Sample, Score
from gnomon.models.heads import RewardNormaliser
from gnomon.models.roles import Role
from gnomon.records import TokenGroup, TokenResponse

Encode = Callable[[Sample], tuple[Sequence[int], Sequence[int]]]


class LearnedReward:
    """Scores with a reward model, or with an ensemble of them.

    Args:
        members: roles with scalar heads; a head with n outputs counts as n members.
        normaliser: puts raw scores on the scale where demonstrations average zero.
        ensemble: how members become one number: their mean, their minimum (Coste et al. 2023,
            "Reward model ensembles help mitigate overoptimization", worst-case optimisation), or
            mean - std_coef * std over the members (uncertainty-weighted; the population std).
        encode: turns a sample into (prompt ids, response ids) for a reward model whose tokenizer is
            not the policy's; by default the very tokens the policy saw and wrote are scored.

    Raises:
        ConfigError: no members, an unknown ensemble, or a std_coef that is not finite.
    """

    def __init__(
        self,
        members: Sequence[Role],
        normaliser: RewardNormaliser,
        *,
        name: str = "reward_model",
        ensemble: Literal["mean", "min", "mean-std"] = "mean",
        std_coef: float = 1.0,
        tokens_per_microbatch: int = 8192,
        encode: Encode | None = None,
    ) -> None:
        if not members:
            raise ConfigError(f"{name}: a learned reward needs a reward model")
        if ensemble not in ("mean", "min", "mean-std"):
            raise ConfigError(f"{name}: ensemble is mean, min or mean-std, not {ensemble!r}")
        if not math.isfinite(std_coef):
            raise ConfigError(f"{name}: std_coef is {std_coef}, not a number")
        self.members = list(members)
        self.normaliser = normaliser
        self.name = name
        self.ensemble = ensemble
        self.std_coef = std_coef
        self.tokens_per_microbatch = tokens_per_microbatch
        self.encode = encode or (lambda sample: (sample.prompt_ids, sample.response_ids))

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        scores = self.member_scores(samples)
        mean, spread = scores.mean(1), scores.std(1, correction=0)
        if self.ensemble == "min":
            value = scores.min(1).values
        elif self.ensemble == "mean-std":
            value = mean - self.std_coef * spread
        else:
            value = mean
        several = scores.shape[1] > 1
        return [
            Score(v, {"mean": m, "std": s} if several else {})
            for v, m, s in zip(value.tolist(), mean.tolist(), spread.tolist(), strict=True)
        ]

    @torch.no_grad()
    def member_scores(self, samples: Sequence[Sample]) -> Tensor:
        """[len(samples), members] normalised scores, on the CPU in float32."""
        encoded = [self.encode(sample) for sample in samples]
        groups: list[TokenGroup] = []
        for prompt_ids, items in groupby(encoded, key=lambda item: tuple(item[0])):
            responses = tuple(TokenResponse(ids, [True] * len(ids)) for _, ids in items)
            groups.append(TokenGroup(f"sample {len(groups)}", prompt_ids, responses))
        device = self.members[0].trunk.model.device
        parts: list[Tensor] = []
        for part in microbatches(groups, self.tokens_per_microbatch):
            batch = pack(part).to(device)
            columns = [role.scores(batch) for role in self.members]
            scores = torch.cat([c if c.dim() == 2 else c[:, None] for c in columns], dim=1)
            parts.append(self.normaliser.apply(scores, batch.lengths).float().cpu())
        return torch.cat(parts)
