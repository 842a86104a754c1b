"""Direct preference optimisation against a reference (Rafailov et al. 2023, arXiv:2305.18290).

One class for the whole family, since its members differ in one function of the margin h: cDPO,
robust DPO, IPO, hinge, f-DPO, R-DPO, LD-DPO, the RPO / Llama 3 likelihood term, and Plackett-Luce
on rankings. The equations stand in ``gnomon.losses.dpo``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from gnomon.algorithms.base import Ingredients, Settings, Totals
from gnomon.algorithms.offline_settings import DPOSettings
from gnomon.algorithms.preference_pairs import PairLoss, ReferencedPairMethod, Seen, usable_pairs
from gnomon.data.values import Skipped
from gnomon.losses import dpo as losses
from gnomon.records import TokenGroup

Sides = tuple[Tensor, Tensor, Tensor, Tensor]
"""Log-probs [C] of chosen, rejected, ref_chosen and ref_rejected."""


class DPOLoss(PairLoss):
    """The loss of DPO and its variants; see :class:`DPO` and ``online_dpo.OnlineDPO``."""

    def rewards(self, seen: Seen) -> Tensor:
        return losses.implicit_reward(seen.logprob, seen.reference, self.settings.beta)

    def objective(self, seen: Seen, totals: Totals) -> Tensor:
        if self.settings.loss != "plackett_luce":
            return super().objective(seen, totals)
        batch = seen.batch
        per_group = losses.plackett_luce_dpo(
            seen.logprob,
            seen.reference,
            batch.scalar["rank"],
            batch.group_of,
            batch.num_groups,
            beta=self.settings.beta,
        )
        return (per_group * batch.group_weight).sum() / totals.groups

    def pair_loss(self, seen: Seen) -> Tensor:
        s = self.settings
        loss = self._preference(seen, self._logprobs(seen))
        if s.nll_coef:
            chosen, _ = seen.sides(seen.logprob)
            loss = loss + s.nll_coef * losses.nll_term(chosen, seen.lengths[0])
        return loss

    def _preference(self, seen: Seen, logprobs: Sides) -> Tensor:
        """[C] the preference part of the loss."""
        s = self.settings
        if s.loss == "ipo":
            lengths = seen.lengths if s.ipo_average else (None, None)
            return losses.ipo(
                *logprobs, beta=s.beta, chosen_length=lengths[0], rejected_length=lengths[1]
            )
        if s.loss == "hinge":
            return losses.hinge(*logprobs, beta=s.beta)
        if s.loss == "robust":
            return losses.robust_dpo(*logprobs, beta=s.beta, label_smoothing=s.label_smoothing)
        if s.length_regularisation:
            return losses.length_regularised_dpo(
                *logprobs,
                *seen.lengths,
                beta=s.beta,
                length_coef=s.length_regularisation,
            )
        return losses.dpo(
            *logprobs,
            beta=s.beta,
            label_smoothing=s.label_smoothing,
            divergence=s.divergence,
            alpha=s.alpha,
        )

    def _logprobs(self, seen: Seen) -> Sides:
        """What the loss compares, surplus tokens discounted where that is asked for."""
        alpha = self.settings.length_desensitise
        if alpha == 1:
            return (*seen.sides(seen.logprob), *seen.sides(seen.reference))
        assert seen.ref_tokens is not None
        batch = seen.batch
        layout = (batch.response_mask, batch.response_of, batch.lengths, batch.pairs)
        policy = losses.length_desensitised_logprobs(seen.tokens, *layout, alpha=alpha)
        reference = losses.length_desensitised_logprobs(seen.ref_tokens, *layout, alpha=alpha)
        return (*policy, *reference)


class DPO(DPOLoss, ReferencedPairMethod):
    """DPO: raise the chosen above the rejected, as far from the reference as beta allows."""

    name: ClassVar[str] = "dpo"
    Settings: ClassVar[type[Settings]] = DPOSettings

    def __init__(self, ingredients: Ingredients, settings: DPOSettings) -> None:
        super().__init__(ingredients, settings, per_token=settings.length_desensitise < 1)

    @classmethod
    def prepare(
        cls, groups: Sequence[TokenGroup], settings: Any, training: bool = True
    ) -> tuple[list[TokenGroup], list[Skipped]]:
        whole = training and settings.loss == "plackett_luce"
        return usable_pairs(groups, whole=whole, needed=training)
