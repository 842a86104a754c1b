"""The algorithms by name: one line each."""

from __future__ import annotations

import difflib

from gnomon.algorithms.base import Algorithm
from gnomon.algorithms.dpo import DPO
from gnomon.algorithms.grpo import FAMILY
from gnomon.algorithms.kto import KTO
from gnomon.algorithms.online_dpo import OnlineDPO
from gnomon.algorithms.ppo import PPO
from gnomon.algorithms.raft import RAFT
from gnomon.algorithms.reference_free import CPO, ORPO, SimPO
from gnomon.algorithms.reward_model import RewardModel
from gnomon.algorithms.sft import SFT
from gnomon.errors import ConfigError

ALGORITHMS: dict[str, type[Algorithm]] = {
    a.name: a for a in (SFT, RewardModel, PPO, DPO, KTO, SimPO, ORPO, CPO, OnlineDPO, RAFT, *FAMILY)
}


def find_algorithm(name: str) -> type[Algorithm]:
    """The algorithm called ``name``.

    Raises:
        ConfigError: unknown name, with the nearest known one.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    near = difflib.get_close_matches(name, list(ALGORITHMS), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(ALGORITHMS))}"
    raise ConfigError(f"unknown algorithm {name!r}; {hint}")
