"""From a recipe's reward entries to one judge, and what can be named there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.errors import ConfigError
from gnomon.judges.function import function_reward
from gnomon.judges.protocol import Reward, Sample, Score, score_safely
from gnomon.plugins import did_you_mean, load_builtin
from gnomon.recipe.schema import RewardSpec

if TYPE_CHECKING:
    from gnomon.models.save import LoadedReward

HUMAN = "human_queue"
"""The builtin that asks people."""
BUILTIN: Mapping[str, str] = {
    "gold": "gnomon.tasks.tunnel.gold:GoldReward",
    "correct": "gnomon.tasks.tunnel.gold:CorrectReward",
    "leaky": "gnomon.tasks.tunnel.gold:LeakyReward",
    HUMAN: "gnomon.judges.human:HumanQueue",
    "maths": "gnomon.judges.verifiers.rewards:maths",
    "exact": "gnomon.judges.verifiers.rewards:exact",
    "regex": "gnomon.judges.verifiers.rewards:regex",
    "json": "gnomon.judges.verifiers.rewards:json_schema",
    "verifier": "gnomon.judges.verifiers.rewards:verifier",
    "instructions": "gnomon.judges.verifiers.instructions.reward:InstructionReward",
    "code": "gnomon.judges.code:CodeReward",
    "length": "gnomon.judges.verifiers.shaping:LengthReward",
    "format": "gnomon.judges.verifiers.shaping:FormatReward",
    "reasoning_gym": "gnomon.judges.verifiers.reasoning_gym:reasoning_gym",
    "repetition": "gnomon.judges.verifiers.shaping:RepetitionReward",
}
"""Names of builtin rewards and where each is made; only what a recipe names is imported."""


def check_builtin(name: str) -> None:
    """See that there is such a builtin reward.

    Raises:
        ConfigError: there is not, with the nearest one.
    """
    if name not in BUILTIN:
        raise ConfigError(f"no builtin reward {name!r}; {did_you_mean(name, BUILTIN)}")


def build_reward(
    specs: Sequence[RewardSpec],
    *,
    base: Path,
    load: Callable[[str], LoadedReward],
    tokenizer: Any = None,
) -> Reward:
    """One reward, or the weighted sum of several (each logged under its own name).

    Args:
        base: the folder that files are looked up in (the recipe's own).
        load: reads the reward model that a spec names.
        tokenizer: the policy's; a reward model with another one reads the text anew.
    """
    parts = [
        (one_reward(spec, base=base, load=load, tokenizer=tokenizer), spec.weight) for spec in specs
    ]
    if len(parts) == 1 and parts[0][1] == 1.0:
        return parts[0][0]
    return Mixture(parts)


def one_reward(
    spec: RewardSpec,
    *,
    base: Path,
    load: Callable[[str], LoadedReward],
    tokenizer: Any = None,
) -> Reward:
    """The reward behind one entry.

    Raises:
        ConfigError: an unknown builtin, a function that cannot be imported, a wrong option.
    """
    if spec.model is not None:
        from gnomon.judges.learned import LearnedReward, own_encoding  # needs torch

        loaded = load(spec.model)
        return LearnedReward(
            loaded.members,
            loaded.normaliser,
            name=spec.label,
            ensemble=spec.ensemble,
            std_coef=spec.std_coef,
            encode=None if tokenizer is None else own_encoding(loaded, tokenizer),
        )
    if spec.function is not None:
        return function_reward(spec.function, base, spec.options, spec.label)
    reward = _builtin(str(spec.builtin), spec.options)
    reward.name = spec.label
    return reward


def _builtin(name: str, options: Mapping[str, Any]) -> Reward:
    check_builtin(name)
    try:
        reward: Reward = load_builtin(BUILTIN[name])(**options)
        return reward
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"reward {name!r}: its options {dict(options)}: {error}") from error


class Mixture:
    """sum_i weight_i * reward_i; where any part fails the sample is an error, not a partial sum.

    Raises:
        ConfigError: no part, or a weight that is no finite number.
    """

    name = "mixture"

    def __init__(self, parts: Sequence[tuple[Reward, float]]) -> None:
        self.parts = list(parts)
        if not self.parts:
            raise ConfigError("a mixture of rewards needs at least one")
        for reward, weight in self.parts:
            if not isinstance(weight, int | float) or not math.isfinite(weight):
                raise ConfigError(f"reward {reward.name!r}: its weight is {weight!r}, not a number")

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        columns = [(r.name, w, score_safely(r, samples)) for r, w in self.parts]
        out: list[Score] = []
        for i in range(len(samples)):
            row = [(name, weight, scores[i]) for name, weight, scores in columns]
            errors = [score.error for _, _, score in row if score.error is not None]
            values = {name: score.value for name, _, score in row if score.value is not None}
            for name, _, score in row:
                values |= {f"{name}/{part}": value for part, value in score.parts.items()}
            if errors:
                out.append(Score(None, values, "; ".join(errors)))
            else:
                total = sum(w * s.value for _, w, s in row if s.value is not None)
                out.append(Score(total, values))
        return out
