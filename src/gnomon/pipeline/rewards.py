"""From a recipe's reward entries to one Reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError
from gnomon.models.save import LoadedReward
from gnomon.recipe.schema import RewardSpec
from gnomon.rewards.function import function_reward
from gnomon.rewards.learned import LearnedReward
from gnomon.rewards.mixture import Mixture
from gnomon.rewards.protocol import Reward
from gnomon.tunnel.gold import CorrectReward, GoldReward

BUILTIN: Mapping[str, Callable[..., Reward]] = {"gold": GoldReward, "correct": CorrectReward}


def build_reward(
    specs: Sequence[RewardSpec], *, base: Path, load: Callable[[str], LoadedReward]
) -> Reward:
    """One reward, or the weighted sum of several (each logged under its own name).

    Args:
        base: the folder that files are looked up in (the recipe's own).
        load: reads the reward model that a spec names.
    """
    parts = [(one_reward(spec, base=base, load=load), spec.weight) for spec in specs]
    if len(parts) == 1 and parts[0][1] == 1.0:
        return parts[0][0]
    return Mixture(parts)


def one_reward(spec: RewardSpec, *, base: Path, load: Callable[[str], LoadedReward]) -> Reward:
    """The reward behind one entry.

    Raises:
        ConfigError: an unknown builtin, a function that cannot be imported, a wrong option.
    """
    if spec.model is not None:
        loaded = load(spec.model)
        return LearnedReward(
            loaded.members,
            loaded.normaliser,
            name=spec.label,
            ensemble=spec.ensemble,
            std_coef=spec.std_coef,
        )
    if spec.function is not None:
        return function_reward(spec.function, base, spec.options, spec.label)
    reward = _builtin(str(spec.builtin), spec.options)
    reward.name = spec.label
    return reward


def _builtin(name: str, options: Mapping[str, Any]) -> Reward:
    if name not in BUILTIN:
        raise ConfigError(f"reward {name!r}: builtin rewards are {', '.join(BUILTIN)}")
    try:
        return BUILTIN[name](**options)
    except TypeError as error:
        raise ConfigError(f"reward {name!r}: {error}") from error
