"""A stage's own settings and the references between stages: what can be checked of a recipe in a
moment, before anything that needs torch is imported."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gnomon.algorithms.collect_settings import COLLECT, COLLECT_SUMMARY, CollectSettings
from gnomon.algorithms.offline_settings import Settings
from gnomon.algorithms.registry import ALGORITHMS, check_name
from gnomon.data.rows import SUFFIXES, iter_rows
from gnomon.errors import ConfigError, GnomonError
from gnomon.judges.builtins import check_builtin
from gnomon.plugins import did_you_mean
from gnomon.recipe.load import validate_as
from gnomon.recipe.schema import DataSpec, Recipe, RewardSpec, StageSpec


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


def check_names(recipe: Recipe, base: Path) -> None:
    """Check what a recipe names: algorithms, settings, stages, builtin rewards, files.

    This is what is most often misspelt, and it is answered before torch is imported; a run and a
    dry run check the rest.

    Args:
        base: the folder that the recipe's relative paths start from.

    Raises:
        ConfigError: all that is wrong, one line each.
    """
    problems = []
    for place, stage in enumerate(recipe.stages):
        for check in (_check_settings, _check_from, _check_data, _check_rewards):
            try:
                check(recipe, place, base)
            except GnomonError as error:
                problems.append(f"stage {stage.name!r}: {error}")
    if recipe.compare is not None:
        try:
            check_specs(recipe.compare.prompts, recipe, len(recipe.stages), base)
            _check_reward_names(recipe.compare.rewards, base)
        except GnomonError as error:
            problems.append(f"compare: {error}")
    if problems:
        raise ConfigError("\n".join(problems))


def check_specs(specs: Sequence[DataSpec], recipe: Recipe, place: int, base: Path) -> None:
    """See that stages that are read from collect, and come earlier, and that data files are there.

    Raises:
        ConfigError, DataError: one does not, or is not, with what comes nearest.
    """
    collecting = [s.name for s in recipe.stages if s.algorithm == COLLECT]
    earlier = [s.name for s in recipe.stages[:place]]
    for spec in specs:
        name = spec.path.removeprefix("stage:")
        if name == spec.path:
            file = Path(name)
            if name.lower().endswith(SUFFIXES) and not (_there(base / file) or _there(file)):
                iter_rows(base / file)  # which says what is there instead
        elif name not in collecting:
            known = ", ".join(collecting) or "none"
            raise ConfigError(f"data {spec.path!r}: no such collect stage; there are: {known}")
        elif name not in earlier:
            raise ConfigError(f"data {spec.path!r}: that stage comes later")


def stage_data(stage: StageSpec) -> list[DataSpec]:
    """Every source that a stage reads."""
    return [*stage.data, *stage.eval_data, *stage.pretraining, *stage.normalise_on]


def _check_settings(recipe: Recipe, place: int, base: Path) -> None:
    stage = recipe.stages[place]
    try:
        stage_settings(stage)
    except ConfigError as error:
        said = str(error).replace(f"stage {stage.name!r}, ", "").splitlines()
        raise ConfigError("; ".join(said)) from error


def _check_from(recipe: Recipe, place: int, base: Path) -> None:
    start = recipe.stages[place].from_
    names = [stage.name for stage in recipe.stages]
    if start is None or start in (*names, "model", recipe.model) or _there(Path(start)):
        return
    near = difflib.get_close_matches(start, names, n=1, cutoff=0.6)
    if near and "/" not in start:
        raise ConfigError(f"from {start!r}: did you mean the stage {near[0]!r}?")


def _check_data(recipe: Recipe, place: int, base: Path) -> None:
    check_specs(stage_data(recipe.stages[place]), recipe, place, base)


def _there(path: Path) -> bool:
    """Whether there is such a file or folder.

    Raises:
        ConfigError: it is none that could be there (a name of 300 characters, say).
    """
    try:
        return path.expanduser().exists()
    except (OSError, RuntimeError, ValueError) as error:
        short = str(path) if len(str(path)) < 200 else f"{str(path)[:160]}..."
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"{short}: cannot be looked up: {said}") from error


def _check_rewards(recipe: Recipe, place: int, base: Path) -> None:
    stage = recipe.stages[place]
    _check_reward_names([*stage.reward, *stage.observe], base)


def _check_reward_names(rewards: Sequence[RewardSpec], base: Path) -> None:
    for reward in rewards:
        if reward.builtin is not None:
            check_builtin(reward.builtin)
        where = (reward.function or "").rpartition(":")[0]
        if where.endswith(".py") and not (base / where).is_file():
            near = did_you_mean(where, [p.name for p in base.glob("*.py")], "its folder holds")
            raise ConfigError(
                f"reward function {reward.function!r}: no file {base / where}; {near}"
            )
