"""Preference optimisation without a reference: SimPO, ORPO and CPO.

One model and one pass; without a reference to hold them back, these methods need a careful learning
rate. The equations are in ``gnomon.losses.reference_free``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from gnomon.algorithms.base import PREFERENCE_LR, Algorithm, Evaluation, LossOutput, Settings, Step
from gnomon.algorithms.offline_settings import CPOSettings, ORPOSettings, SimPOSettings
from gnomon.algorithms.pairs import (
    PAIR_METRICS,
    ScoredBatch,
    evaluate_pairs,
    pair_output,
    prepare_pairs,
)
from gnomon.data.batch import Batch
from gnomon.losses import reference_free as losses
from gnomon.records import TokenGroup


class SimPO(Algorithm):
    """SimPO (Meng et al. 2024, arXiv:2405.14734): average log-probs as rewards, and a margin."""

    Settings: ClassVar[type[Settings]] = SimPOSettings
    data: ClassVar = "rankings"
    base_lr: ClassVar[float | None] = PREFERENCE_LR
    metrics: ClassVar[tuple[str, ...]] = PAIR_METRICS
    dropout: ClassVar[bool] = False
    prepare: ClassVar[Any] = classmethod(prepare_pairs)

    def rewards(self, scored: ScoredBatch) -> Tensor:
        """[S] implicit rewards: beta times the average log-prob."""
        return float(self.settings.beta) * scored.average

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        s, scored = self.settings, ScoredBatch.of(self.bench, batch)
        sides = scored.sides(scored.logprob)
        per_pair = losses.simpo(*sides, *scored.lengths, beta=s.beta, gamma=s.gamma)
        return pair_output(scored, per_pair, self.rewards(scored), step)

    def evaluate(self, groups: Sequence[TokenGroup]) -> Evaluation:
        return evaluate_pairs(self.bench, groups, self.rewards)


class ORPO(Algorithm):
    """ORPO (Hong et al. 2024, arXiv:2403.07691): SFT on the chosen and an odds-ratio term."""

    Settings: ClassVar[type[Settings]] = ORPOSettings
    data: ClassVar = "rankings"
    base_lr: ClassVar[float | None] = PREFERENCE_LR
    metrics: ClassVar[tuple[str, ...]] = PAIR_METRICS
    dropout: ClassVar[bool] = False
    prepare: ClassVar[Any] = classmethod(prepare_pairs)

    def rewards(self, scored: ScoredBatch) -> Tensor:
        """[S] implicit rewards: the log-odds of a response's mean token probability."""
        return losses.log_odds(scored.average)

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        scored = ScoredBatch.of(self.bench, batch)
        sides = scored.sides(scored.logprob)
        per_pair = losses.orpo(*sides, *scored.lengths, beta=self.settings.beta)
        return pair_output(scored, per_pair, self.rewards(scored), step)

    def evaluate(self, groups: Sequence[TokenGroup]) -> Evaluation:
        return evaluate_pairs(self.bench, groups, self.rewards)


class CPO(Algorithm):
    """CPO (Xu et al. 2024, arXiv:2401.08417): uniform-reference DPO and SFT on the chosen."""

    Settings: ClassVar[type[Settings]] = CPOSettings
    data: ClassVar = "rankings"
    base_lr: ClassVar[float | None] = PREFERENCE_LR
    metrics: ClassVar[tuple[str, ...]] = PAIR_METRICS
    dropout: ClassVar[bool] = False
    prepare: ClassVar[Any] = classmethod(prepare_pairs)

    def rewards(self, scored: ScoredBatch) -> Tensor:
        """[S] implicit rewards: beta times the log-prob."""
        return float(self.settings.beta) * scored.logprob

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        s, scored = self.settings, ScoredBatch.of(self.bench, batch)
        per_pair = losses.cpo(
            *scored.sides(scored.logprob),
            scored.lengths[0],
            beta=s.beta,
            nll_weight=s.nll_coef,
            label_smoothing=s.label_smoothing,
        )
        return pair_output(scored, per_pair, self.rewards(scored), step)

    def evaluate(self, groups: Sequence[TokenGroup]) -> Evaluation:
        return evaluate_pairs(self.bench, groups, self.rewards)
