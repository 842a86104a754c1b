"""Preference optimisation without a reference: SimPO, ORPO and CPO.

One model and one pass; what the methods lack in a tether they must make up in a careful learning
rate. The equations stand in ``gnomon.losses.reference_free``.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gnomon.algorithms.base import Settings
from gnomon.algorithms.offline_settings import CPOSettings, ORPOSettings, SimPOSettings
from gnomon.algorithms.preference_pairs import PairMethod, Seen
from gnomon.losses import reference_free as losses


class SimPO(PairMethod):
    """SimPO (Meng et al. 2024, arXiv:2405.14734): average log-probs as rewards, and a margin."""

    name: ClassVar[str] = "simpo"
    Settings: ClassVar[type[Settings]] = SimPOSettings

    def pair_loss(self, seen: Seen) -> Tensor:
        s = self.settings
        return losses.simpo(*seen.sides(seen.logprob), *seen.lengths, beta=s.beta, gamma=s.gamma)

    def rewards(self, seen: Seen) -> Tensor:
        return float(self.settings.beta) * average(seen)


class ORPO(PairMethod):
    """ORPO (Hong et al. 2024, arXiv:2403.07691): SFT on the chosen and an odds-ratio term.

    Its implicit reward is the log-odds of a response's mean token probability.
    """

    name: ClassVar[str] = "orpo"
    Settings: ClassVar[type[Settings]] = ORPOSettings

    def pair_loss(self, seen: Seen) -> Tensor:
        return losses.orpo(*seen.sides(seen.logprob), *seen.lengths, beta=self.settings.beta)

    def rewards(self, seen: Seen) -> Tensor:
        return losses.log_odds(average(seen))


class CPO(PairMethod):
    """CPO (Xu et al. 2024, arXiv:2401.08417): uniform-reference DPO and SFT on the chosen."""

    name: ClassVar[str] = "cpo"
    Settings: ClassVar[type[Settings]] = CPOSettings

    def pair_loss(self, seen: Seen) -> Tensor:
        s = self.settings
        return losses.cpo(
            *seen.sides(seen.logprob),
            seen.lengths[0],
            beta=s.beta,
            nll_weight=s.nll_coef,
            label_smoothing=s.label_smoothing,
        )

    def rewards(self, seen: Seen) -> Tensor:
        return float(self.settings.beta) * seen.logprob


def average(seen: Seen) -> Tensor:
    """[S] nats per counted token."""
    return seen.logprob / seen.batch.lengths.clamp(min=1)
