"""The builtin rewards by name; nothing heavy is imported before one is made."""

from __future__ import annotations

from collections.abc import Mapping

from gnomon.errors import ConfigError
from gnomon.judges.verifiers import BUILTINS as VERIFIERS
from gnomon.plugins import did_you_mean

HUMAN = "human_queue"
"""The builtin that asks people."""
BUILTIN: Mapping[str, str] = {
    "gold": "gnomon.tasks.tunnel.gold:GoldReward",
    "correct": "gnomon.tasks.tunnel.gold:CorrectReward",
    "leaky": "gnomon.tasks.tunnel.gold:LeakyReward",
    HUMAN: "gnomon.judges.human:HumanQueue",
    **VERIFIERS,
}
"""Names of builtin rewards and where each is made; only what a recipe names is imported."""


def check_builtin(name: str) -> None:
    """See that there is such a builtin reward.

    Raises:
        ConfigError: there is not, with the nearest one.
    """
    if name not in BUILTIN:
        raise ConfigError(f"no builtin reward {name!r}; {did_you_mean(name, BUILTIN)}")
