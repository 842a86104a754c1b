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
    Evaluation,
    Ingredients,
    LossOutput,
    Offline,
    Settings,
    Totals,
    mean_metric,
)
from gnomon.algorithms.offline_settings import RewardModelSettings
from gnomon.data.batch import Batch
from gnomon.losses.length_bias import fit_length_coefficient, fit_length_slope
from gnomon.losses.preference import bradley_terry, group_balanced_weight, plackett_luce
from gnomon.models.heads import RewardNormaliser
from gnomon.models.roles import Role
from gnomon.records import TokenGroup
from gnomon.stats.reward_model import evaluate_comparisons

LENGTH_UNIT = 100.0
"""Length counts in hundreds of tokens, so that its coefficient is of the order of one."""


class RewardModel(Offline):
    """Train a scalar head, and the trunk beneath it, to order responses as people did."""

    name: ClassVar[str] = "reward_model"
    Settings: ClassVar[type[Settings]] = RewardModelSettings
    data: ClassVar = "comparisons"
    needs: ClassVar[tuple[str, ...]] = ("reward_model",)
    produces: ClassVar = "reward_model"

    def __init__(self, ingredients: Ingredients, settings: RewardModelSettings) -> None:
        super().__init__(ingredients, settings)
        self.members: list[Role] = [
            role for name, role in sorted(self.roles.items()) if name.startswith("reward_model")
        ]
        self.length_offset = (
            _length_offset(ingredients.groups) if settings.length_debias == "offset" else 0.0
        )

    def scores(self, batch: Batch) -> Tensor:
        """[S, n] raw scores, one column per ensemble member."""
        columns = [role.scores(batch) for role in self.members]
        return torch.cat([c if c.dim() == 2 else c[:, None] for c in columns], dim=1)

    def loss(self, batch: Batch, totals: Totals) -> LossOutput:
        scores = self.scores(batch)
        trained = scores + (self.length_offset / LENGTH_UNIT) * batch.lengths[:, None]
        seen = self._seen(batch, scores.shape[1])
        if self.settings.loss == "plackett_luce":
            per_group = torch.stack(
                [
                    plackett_luce(column, batch.scalar["rank"], batch.group_of, batch.num_groups)
                    for column in trained.unbind(1)
                ],
                dim=1,
            )
            weighted = per_group * (batch.group_weight[:, None] * seen)
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
            weighted = per_pair * (weight[:, None] * seen[batch.pair_group])
        loss = weighted.sum() / (totals.groups * self.settings.member_share(scores.shape[1]))
        if self.settings.score_penalty:
            weight = batch.group_weight[batch.group_of]
            loss = loss + self.settings.score_penalty * (scores.square().mean(1) * weight).sum() / (
                totals.responses
            )
        return LossOutput(loss, self._metrics(batch, scores.detach().mean(1)))

    def _seen(self, batch: Batch, members: int) -> Tensor:
        """[G, n] 1 where a member trains on a group: a fixed random subset of prompts for each."""
        if members == 1:
            return torch.ones(batch.num_groups, 1, device=batch.lengths.device)
        seed, fraction = self.ingredients.seed, self.settings.member_fraction
        rows = [
            [float(_hash(seed, member, group) < fraction) for member in range(members)]
            for group in batch.group_ids
        ]
        return torch.tensor(rows, device=batch.lengths.device)

    def _metrics(self, batch: Batch, scores: Tensor) -> dict[str, tuple[float, float]]:
        better, worse = batch.pairs.unbind(1)
        margin = (scores[better] - scores[worse])[~batch.pair_tie]
        return {
            "accuracy": mean_metric((margin > 0).float() + 0.5 * (margin == 0).float()),
            "margin": mean_metric(margin),
            "score": mean_metric(scores),
        }

    @torch.no_grad()
    def evaluate(self, iteration: int, final: bool) -> Evaluation:
        groups = self.ingredients.eval_groups
        if not groups:
            return Evaluation()
        columns: dict[str, list[Any]] = {
            k: [] for k in ("better", "worse", "tie", "weight", "lb", "lw")
        }
        categories: list[str | None] = []
        prompts: list[tuple[int, ...]] = []  # pairs of one prompt are alike
        by_id = {g.id: (g.category, tuple(g.prompt_ids)) for g in groups}
        for batch in self.batches(groups):
            scores = self.scores(batch).mean(1)
            better, worse = batch.pairs.unbind(1)
            for key, value in (
                ("better", scores[better]),
                ("worse", scores[worse]),
                ("tie", batch.pair_tie),
                ("weight", batch.pair_weight),
                ("lb", batch.lengths[better]),
                ("lw", batch.lengths[worse]),
            ):
                columns[key].extend(value.tolist())
            about = [batch.group_ids[g] for g in batch.pair_group.tolist()]
            categories.extend(by_id[group_id][0] for group_id in about)
            prompts.extend(by_id[group_id][1] for group_id in about)
        report = evaluate_comparisons(
            columns["better"],
            columns["worse"],
            category=categories,
            ties=columns["tie"],
            weights=columns["weight"],
            lengths=(columns["lb"], columns["lw"]),
            prompts=prompts,
        )
        accuracy = report.accuracy
        return Evaluation(
            {
                "eval/accuracy": accuracy.value,
                "eval/accuracy_low": accuracy.low,
                "eval/accuracy_high": accuracy.high,
                "eval/accuracy_n": accuracy.n,
                "eval/ece": report.ece,
            },
            {"held-out comparisons": report.to_dict()},
        )

    @torch.no_grad()
    def normaliser(self) -> RewardNormaliser:
        """What is taken off raw scores: a slope on length if asked for, and the mean reward of
        demonstrations (of the best responses, where no demonstrations were given)."""
        slopes = self._length_slopes() if self.settings.length_debias == "slope" else None
        groups = self.ingredients.normalisation_groups or [
            _best_only(g) for g in self.ingredients.groups[:512]
        ]
        parts: list[Tensor] = []
        for batch in self.batches(groups):
            scores = self.scores(batch)
            if slopes is not None:
                scores = scores - slopes * batch.lengths[:, None]
            parts.append(scores)
        mean = torch.cat(parts).mean(0)
        return RewardNormaliser(
            mean=tuple(mean.tolist()) if self.settings.normalise else 0.0,
            length_coef=tuple(slopes.tolist()) if slopes is not None else 0.0,
        )

    def finish(self) -> dict[str, Any]:
        return {"length_offset": self.length_offset / LENGTH_UNIT}

    def _length_slopes(self) -> Tensor:
        """[n] each member's reward per token, fitted within prompts (held-out ones if given)."""
        groups = self.ingredients.eval_groups or self.ingredients.groups[:512]
        scores, lengths, group_of, seen = [], [], [], 0
        for batch in self.batches(groups):
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
        (sum(g.responses[c.better].mask), sum(g.responses[c.worse].mask), g.weight * c.weight)
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
