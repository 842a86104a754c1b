"""The algorithms by name: one line each. An algorithm is imported when it is asked for, so that
names, summaries and settings are known without torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gnomon.algorithms import offline_settings as offline
from gnomon.algorithms import on_policy_settings as on_policy
from gnomon.algorithms import policy_gradient_settings as pg
from gnomon.errors import ConfigError
from gnomon.plugins import did_you_mean

if TYPE_CHECKING:
    from gnomon.algorithms.base import Algorithm


@dataclass(frozen=True)
class Listed:
    """What is known of an algorithm before it is imported.

    Attributes:
        where: ``module:class``, the module in this package.
        settings: its own settings; the same as the class's ``Settings``.
        summary: one line for lists and help.
    """

    where: str
    settings: type[offline.Settings]
    summary: str

    def load(self) -> type[Algorithm]:
        """The algorithm itself."""
        module, _, name = self.where.partition(":")
        found: type[Algorithm] = getattr(
            importlib.import_module(f"gnomon.algorithms.{module}"), name
        )
        found.summary = self.summary
        return found


_LISTED = {
    "sft": Listed("sft:SFT", offline.SFTSettings, "supervised fine-tuning on demonstrations"),
    "reward_model": Listed(
        "reward_model:RewardModel",
        offline.RewardModelSettings,
        "a scalar reward from pairs or rankings",
    ),
    "ppo": Listed(
        "ppo:PPO",
        on_policy.PPOSettings,
        "PPO with a critic, under a KL penalty to the reference",
    ),
    "dpo": Listed(
        "dpo:DPO", offline.DPOSettings, "direct preference optimisation, and its variants"
    ),
    "kto": Listed("kto:KTO", offline.KTOSettings, "preferences from single good/bad labels"),
    "simpo": Listed(
        "reference_free:SimPO",
        offline.SimPOSettings,
        "preferences on average log-probs, without a reference",
    ),
    "orpo": Listed(
        "reference_free:ORPO",
        offline.ORPOSettings,
        "SFT and preferences in one, without a reference",
    ),
    "cpo": Listed(
        "reference_free:CPO",
        offline.CPOSettings,
        "DPO with a uniform reference, plus SFT on the chosen",
    ),
    "online_dpo": Listed(
        "online_dpo:OnlineDPO",
        on_policy.OnlineDPOSettings,
        "DPO in rounds on the policy's own responses (on-line, iterative)",
    ),
    "raft": Listed(
        "raft:RAFT",
        on_policy.RAFTSettings,
        "rejection sampling: SFT on the best of K own responses (RAFT)",
    ),
    "grpo": Listed("grpo:GRPO", pg.PolicyGradientSettings, "group-relative policy optimisation"),
    "dr_grpo": Listed(
        "grpo:DrGRPO", pg.DrGRPOSettings, "GRPO without its biases of length and difficulty"
    ),
    "dapo": Listed(
        "grpo:DAPO",
        pg.DAPOSettings,
        "GRPO with clip-higher, dynamic sampling and token-level loss",
    ),
    "rloo": Listed("grpo:RLOO", pg.RLOOSettings, "REINFORCE with a leave-one-out baseline"),
    "reinforce_pp": Listed(
        "grpo:ReinforcePP",
        pg.ReinforcePPSettings,
        "REINFORCE++: advantages normalised over the batch",
    ),
    "gspo": Listed("grpo:GSPO", pg.GSPOSettings, "group sequence policy optimisation"),
    "cispo": Listed(
        "grpo:CISPO", pg.CISPOSettings, "clipped importance weights, gradient for every token"
    ),
    "gmpo": Listed("grpo:GMPO", pg.GMPOSettings, "geometric-mean policy optimisation"),
    "reinforce": Listed(
        "grpo:Reinforce",
        pg.ReinforceSettings,
        "plain REINFORCE with a moving-average baseline",
    ),
}


class _Registry(MutableMapping[str, "type[Algorithm]"]):
    """Algorithms by name; a listed one is imported on first use, and a class can be added."""

    def __init__(self, listed: dict[str, Listed]) -> None:
        self._known: dict[str, Listed | type[Algorithm]] = dict(listed)

    def __getitem__(self, name: str) -> type[Algorithm]:
        known = self._known[name]
        return known.load() if isinstance(known, Listed) else known

    def __setitem__(self, name: str, algorithm: type[Algorithm]) -> None:
        self._known[name] = algorithm

    def __delitem__(self, name: str) -> None:
        del self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def describe(self, name: str) -> tuple[type[offline.Settings], str]:
        """The settings and the summary of an algorithm, imported or not."""
        known = self._known[name]
        if isinstance(known, Listed):
            return known.settings, known.summary
        return known.Settings, known.summary


ALGORITHMS = _Registry(_LISTED)


def find_algorithm(name: str) -> type[Algorithm]:
    """The algorithm called ``name``.

    Raises:
        ConfigError: unknown name, with the nearest known one.
    """
    check_name(name)
    return ALGORITHMS[name]


def check_name(name: str, more: tuple[str, ...] = ()) -> None:
    """See that there is an algorithm called ``name`` (or one of ``more``), without importing it.

    Raises:
        ConfigError: see :func:`find_algorithm`.
    """
    known = [*ALGORITHMS, *more]
    if name not in known:
        raise ConfigError(f"unknown algorithm {name!r}; {did_you_mean(name, known, 'known:')}")
