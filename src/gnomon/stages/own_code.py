"""The Python of a recipe's author that the recipe runs."""

from __future__ import annotations

from gnomon.plugins import is_own
from gnomon.recipe.schema import Recipe, RewardSpec
from gnomon.stages.names import every_reward, stage_evals


def own_code(recipe: Recipe) -> list[str]:
    """The author's Python that a recipe runs: methods, reward functions, verifiers, suites,
    environments and callbacks."""
    named = [s.algorithm for s in recipe.stages if is_own(s.algorithm)]
    named += [function for r in every_reward(recipe) if (function := own_function(r)) is not None]
    suites = [e.suite for s in recipe.stages for e in stage_evals(s)]
    named += [suite for suite in suites if is_own(suite)]
    played = [s.environment for s in recipe.stages]
    played += [recipe.compare.environment] if recipe.compare is not None else []
    places = [place.name for place in played if place is not None]
    named += [spec.callback for spec in recipe.callbacks]
    return list(dict.fromkeys([*named, *(name for name in places if ":" in name)]))


def own_function(reward: RewardSpec) -> str | None:
    """The function of the recipe's author that a reward runs, in this process or a verifier's."""
    if reward.builtin == "verifier":
        return str(reward.options.get("function", "")) or None
    return reward.function
