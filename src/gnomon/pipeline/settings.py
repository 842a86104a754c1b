"""A stage's own settings and the references between stages: what can be checked of a recipe in a
moment, before anything that needs torch is imported."""

from __future__ import annotations

from typing import Any

from gnomon.algorithms.collect_settings import COLLECT, COLLECT_SUMMARY, CollectSettings
from gnomon.algorithms.offline_settings import Settings
from gnomon.algorithms.registry import ALGORITHMS, check_name
from gnomon.errors import ConfigError
from gnomon.recipe.explain import validate_as
from gnomon.recipe.schema import Recipe, StageSpec


def describe(name: str) -> tuple[type[Settings], str]:
    """The settings and the one-line summary of an algorithm, or of ``collect``.

    Raises:
        ConfigError: unknown name, with the nearest known one.
    """
    check_name(name, (COLLECT,))
    if name == COLLECT:
        return CollectSettings, COLLECT_SUMMARY
    return ALGORITHMS.describe(name)


def stage_settings(stage: StageSpec) -> Any:
    """The algorithm's own settings, validated.

    Raises:
        ConfigError: unknown algorithm or setting, with a suggestion.
    """
    settings, _ = describe(stage.algorithm)
    return validate_as(settings, stage.settings, f"stage {stage.name!r}, settings")


def check_names(recipe: Recipe) -> None:
    """Check every stage's algorithm and settings.

    Raises:
        ConfigError: all that is wrong, one line each.
    """
    problems = []
    for stage in recipe.stages:
        try:
            stage_settings(stage)
        except ConfigError as error:
            said = str(error)
            whole = said.startswith("stage ")
            problems.append(said if whole else f"stage {stage.name!r}: {said}")
    if problems:
        raise ConfigError("\n".join(problems))
