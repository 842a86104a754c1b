"""The reward model: Bradley-Terry on comparisons, or Plackett-Luce on rankings.

All K(K-1)/2 comparisons of a prompt sit in one group, so K responses cost K forward passes over a
prompt computed once, and every prompt weighs the same (Ouyang et al. 2022, "Training language
models to follow instructions with human feedback", eq. 1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from gnomon.algorithms.base import (
    SUPERVISED_LR,
    Algorithm,
    Evaluation,
    LossOutput,
    Settings,
    Step,
    Trained,
    Workbench,
)
from gnomon.algorithms.metric import Metric, mean
from gnomon.algorithms.offline_settings import RewardModelSettings
from gnomon.algorithms.pairs import accuracy_metrics, held_out_report, judged_weight
from gnomon.data.batch import Batch, to_device
from gnomon.losses.length_bias import fit_length_coefficient, fit_length_slope
from gnomon.losses.preference import bradley_terry, plackett_luce
from gnomon.losses.reduce import group_balanced_weight
from gnomon.models.heads import RewardNormaliser
from gnomon.models.memory import RoleNeed
from gnomon.models.roles import Role
from gnomon.records import TokenGroup

LENGTH_UNIT = 100.0
"""Length counts in hundreds of tokens, so that its coefficient is of the order of one."""


class RewardModel(Algorithm):
    """Train a scalar head, and the trunk beneath it, to order responses as people did."""

    Settings: ClassVar[type[Settings]] = RewardModelSettings
    data: ClassVar = "rankings"
    produces: ClassVar = "reward_model"
    base_lr: ClassVar[float | None] = SUPERVISED_LR
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "margin", "score")

    def __init__(self, settings: RewardModelSettings, bench: Workbench) -> None:
        super().__init__(settings, bench)
        self.members: list[Role] = [role for _, role in sorted(bench.roles.items())]
        self.length_offset = 0.0
        self._training: Sequence[TokenGroup] = ()
        self._held_out: Sequence[TokenGroup] = ()

    @classmethod
    def needs(cls, settings: Any) -> tuple[RoleNeed, ...]:
        """One model with a head for each member, or a whole model each."""
        members = settings.members
        if members == 1 or settings.share_trunk:
            return (RoleNeed("reward_model", trainable=True, outputs=members),)
        return tuple(
            RoleNeed(f"reward_model_{m}", trainable=True, outputs=1) for m in range(members)
        )

    def begin(self, groups: Sequence[TokenGroup], training: bool) -> Sequence[TokenGroup]:
        if not training:
            self._held_out = groups
            return groups
        self._training = groups
        if self.settings.length_debias == "offset":
            self.length_offset = _length_offset(groups)
        return groups

    def scores(self, batch: Batch) -> Tensor:
        """[S, n] raw scores, one column per ensemble member."""
        columns = [role.scores(batch) for role in self.members]
        return torch.cat([c if c.dim() == 2 else c[:, None] for c in columns], dim=1)

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        scores = self.scores(batch)
        trained = scores + (self.length_offset / LENGTH_UNIT) * batch.lengths[:, None]
        drawn = self._drawn(batch, scores.shape[1])
        if self.settings.loss == "plackett_luce":
            per_group = torch.stack(
                [
                    plackett_luce(column, batch.scalar["rank"], batch.group_of, batch.num_groups)
                    for column in trained.unbind(1)
                ],
                dim=1,
            )
            weight = batch.ranking_weight * batch.group_weight
            weighted = per_group * (weight[:, None] * drawn)
        else:
            better, worse = batch.pairs.unbind(1)
            per_pair = torch.stack(
                [
                    bradley_terry(
                        column[better],
                        column[worse],
                        margin=batch.pair_margin,
                        label_smoothing=self.settings.label_smoothing,
                        tie=batch.pair_tie,
                    )
                    for column in trained.unbind(1)
                ],
                dim=1,
            )
            share = group_balanced_weight(batch.pair_group, batch.pair_weight, batch.num_groups)
            weight = share * batch.group_weight[batch.pair_group]
            weighted = per_pair * (weight[:, None] * drawn[batch.pair_group])
        loss = weighted.sum() / (step.totals.groups * self.settings.member_share(scores.shape[1]))
        if self.settings.score_penalty:
            weight = batch.group_weight[batch.group_of]
            loss = loss + self.settings.score_penalty * (scores.square().mean(1) * weight).sum() / (
                step.totals.responses
            )
        return LossOutput(loss, self._metrics(batch, scores.detach().mean(1)))

    def _drawn(self, batch: Batch, members: int) -> Tensor:
        """[G, n] 1 where a member trains on a group: a fixed random subset of prompts for each."""
        if members == 1:
            return torch.ones(batch.num_groups, 1, device=batch.lengths.device)
        seed, fraction = self.bench.seed, self.settings.member_fraction
        rows = [
            [float(_hash(seed, member, group) < fraction) for member in range(members)]
            for group in batch.group_ids
        ]
        return to_device(torch.tensor(rows), batch.lengths.device)

    def _metrics(self, batch: Batch, scores: Tensor) -> dict[str, Metric]:
        better, worse = batch.pairs.unbind(1)
        margin = scores[better] - scores[worse]
        weight = judged_weight(batch).masked_fill(batch.pair_tie, 0.0)
        return {
            "accuracy": mean((margin > 0).float() + 0.5 * (margin == 0).float(), weight),
            "margin": mean(margin, weight),
            "score": mean(scores, batch.group_weight[batch.group_of]),
        }

    def evaluate(self, groups: Sequence[TokenGroup]) -> Evaluation:
        if not groups:
            return Evaluation()
        report = held_out_report(self.bench, groups, lambda batch: self.scores(batch).mean(1))
        metrics = accuracy_metrics(report.accuracy) | {"eval/ece": report.ece}
        return Evaluation(metrics, {"held-out comparisons": report.to_dict()})

    @torch.no_grad()
    def normaliser(self) -> RewardNormaliser:
        """What is taken off raw scores: a slope on length if asked for, and the mean reward of
        demonstrations (of the best responses, where no demonstrations were given)."""
        slopes = self._length_slopes() if self.settings.length_debias == "slope" else None
        groups = self.bench.normalise_on or [_best_only(g) for g in self._training[:512]]
        parts: list[Tensor] = []
        for batch in self.bench.batches(groups):
            scores = self.scores(batch)
            if slopes is not None:
                scores = scores - slopes * batch.lengths[:, None]
            parts.append(scores)
        mean = torch.cat(parts).mean(0)
        return RewardNormaliser(
            mean=tuple(mean.tolist()) if self.settings.normalise else 0.0,
            length_coef=tuple(slopes.tolist()) if slopes is not None else 0.0,
        )

    def result(self) -> Trained:
        facts = {"length_offset": self.length_offset / LENGTH_UNIT}
        return Trained(self.members, self.normaliser(), facts)

    def _length_slopes(self) -> Tensor:
        """[n] each member's reward per token, fitted within prompts (held-out ones if given)."""
        groups = self._held_out or self._training[:512]
        scores, lengths, group_of, seen = [], [], [], 0
        for batch in self.bench.batches(groups):
            scores.append(self.scores(batch))
            lengths.append(batch.lengths)
            group_of.append(batch.group_of + seen)
            seen += batch.num_groups
        of, length = torch.cat(group_of), torch.cat(lengths).float()
        columns = torch.cat(scores).unbind(1)
        return torch.tensor([fit_length_slope(c, length, of) for c in columns], device=of.device)


def _best_only(group: TokenGroup) -> TokenGroup:
    """The group with only its best-ranked response."""
    wins = [0.0] * len(group.responses)
    for comparison in group.comparisons:
        wins[comparison.better] += 0.0 if comparison.tie else 1.0
    best = max(range(len(wins)), key=lambda i: wins[i])
    return TokenGroup(group.id, group.prompt_ids, (group.responses[best],))


def _length_offset(groups: Sequence[TokenGroup]) -> float:
    """What length alone explains of the labels, in reward per LENGTH_UNIT tokens."""
    rows = [
        (sum(g.responses[c.better].mask), sum(g.responses[c.worse].mask), g.weight * c.strength)
        for g in groups
        for c in g.comparisons
        if not c.tie
    ]
    better, worse, weight = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3).unbind(1)
    return fit_length_coefficient(better, worse, weight, scale=LENGTH_UNIT)


def _hash(seed: int, member: int, group_id: str) -> float:
    """A number in [0, 1) fixed by seed, member and group."""
    digest = hashlib.sha256(f"{seed}/{member}/{group_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
