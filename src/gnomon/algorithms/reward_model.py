"""The reward model: Bradley-Terry on comparisons, or Plackett-Luce on rankings.

All K(K-1)/2 comparisons of a prompt sit in one group, so K responses cost K forward passes over a
prompt computed once, and every prompt weighs the same (Ouyang et al. 2022, "Training language
models to follow instructions with human feedback", eq. 1).
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from gnomon.algorithms.base import (
    Evaluation,
    Ingredients,
    LossOutput,
    Offline,
    Settings,
    Totals,
    mean_metric,
)
from gnomon.data.batch import Batch
from gnomon.data.records import TokenGroup
from gnomon.evals.reward_model import evaluate_comparisons
from gnomon.losses.preference import bradley_terry, group_balanced_weight, plackett_luce
from gnomon.models.roles import Role

LENGTH_UNIT = 100.0
"""The length term counts hundreds of tokens, so that its coefficient is of the order of one."""


class RewardModelSettings(Settings):
    """Settings of a reward model."""

    loss: Literal["bradley_terry", "plackett_luce"] = "bradley_terry"
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    members: int = Field(1, ge=1, description="ensemble members, each on a subset of the prompts")
    share_trunk: bool = Field(True, description="members are heads on one trunk; else whole models")
    member_fraction: float = Field(0.8, gt=0, le=1, description="share of prompts a member sees")
    length_debias: bool = Field(
        False, description="fit a length term beside the score and leave it out when scoring"
    )
    normalise: bool = Field(True, description="shift scores to zero mean on demonstrations")
    score_penalty: float = Field(
        0.0, ge=0, description="weight of the mean squared score, which keeps scores near zero"
    )

    def member_share(self, members: int) -> float:
        """Expected number of members that train on a group: the loss is their average."""
        return 1.0 if members == 1 else members * self.member_fraction


class RewardModel(Offline):
    """Train a scalar head, and the trunk beneath it, to order responses as people did."""

    name: ClassVar[str] = "reward_model"
    summary: ClassVar[str] = "a scalar reward from pairs or rankings"
    Settings: ClassVar[type[Settings]] = RewardModelSettings
    data: ClassVar = "comparisons"
    needs: ClassVar[tuple[str, ...]] = ("reward_model",)
    produces: ClassVar = "reward_model"

    def __init__(self, ingredients: Ingredients, settings: RewardModelSettings) -> None:
        super().__init__(ingredients, settings)
        self.members: list[Role] = [
            role for name, role in sorted(self.roles.items()) if name.startswith("reward_model")
        ]
        self.length_coef = nn.Parameter(torch.zeros((), device=ingredients.device))

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        extra = [("length_coef", self.length_coef)] if self.settings.length_debias else []
        return super().named_parameters() + extra

    def scores(self, batch: Batch) -> Tensor:
        """[S, n] raw scores, one column per ensemble member."""
        columns = [role.scores(batch) for role in self.members]
        return torch.cat([c if c.dim() == 2 else c[:, None] for c in columns], dim=1)

    def loss(self, batch: Batch, totals: Totals) -> LossOutput:
        scores = self.scores(batch)
        trained = scores
        if self.settings.length_debias:
            trained = scores + self.length_coef * (batch.lengths / LENGTH_UNIT)[:, None]
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
            loss = loss + self.settings.score_penalty * scores.square().sum() / (
                totals.responses * scores.shape[1]
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
        metrics = {
            "accuracy": mean_metric((margin > 0).float() + 0.5 * (margin == 0).float()),
            "margin": mean_metric(margin),
            "score": mean_metric(scores),
        }
        if self.settings.length_debias:
            metrics["length_coef"] = (float(self.length_coef.detach()), 1.0)
        return metrics

    @torch.no_grad()
    def evaluate(self, iteration: int, final: bool) -> Evaluation:
        groups = self.ingredients.eval_groups
        if not groups:
            return Evaluation()
        columns: dict[str, list[Any]] = {
            k: [] for k in ("better", "worse", "tie", "weight", "lb", "lw")
        }
        categories: list[str | None] = []
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
            by_id = {g.id: g.category for g in groups}
            categories.extend(by_id[batch.group_ids[g]] for g in batch.pair_group.tolist())
        report = evaluate_comparisons(
            columns["better"],
            columns["worse"],
            category=categories,
            ties=columns["tie"],
            weights=columns["weight"],
            lengths=(columns["lb"], columns["lw"]),
        )
        accuracy = report.accuracy
        return Evaluation(
            {
                "eval/accuracy": accuracy.value,
                "eval/accuracy_low": accuracy.low,
                "eval/accuracy_high": accuracy.high,
                "eval/ece": report.ece,
            },
            {"held-out comparisons": report.to_dict()},
        )

    @torch.no_grad()
    def finish(self) -> dict[str, Any]:
        """Mean and spread of the score on demonstrations, to be taken off when scoring."""
        groups = self.ingredients.normalisation_groups or [
            _best_only(g) for g in self.ingredients.groups[:512]
        ]
        scores = torch.cat([self.scores(b) for b in self.batches(groups)])
        mean = scores.mean(0) if self.settings.normalise else torch.zeros(scores.shape[1])
        return {
            "reward": {
                "mean": mean.tolist(),
                "std_on_demonstrations": scores.std(0).tolist() if len(scores) > 1 else None,
                "length_coef_removed": float(self.length_coef) / LENGTH_UNIT,
                "members": scores.shape[1],
            }
        }


def _best_only(group: TokenGroup) -> TokenGroup:
    """The group with only its best-ranked response."""
    wins = [0.0] * len(group.responses)
    for comparison in group.comparisons:
        wins[comparison.better] += 0.0 if comparison.tie else 1.0
    best = max(range(len(wins)), key=lambda i: wins[i])
    return TokenGroup(group.id, group.prompt_ids, (group.responses[best],))


def _hash(seed: int, member: int, group_id: str) -> float:
    """A number in [0, 1) fixed by seed, member and group."""
    digest = hashlib.sha256(f"{seed}/{member}/{group_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
