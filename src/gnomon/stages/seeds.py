"""One recipe on several seeds: a run for each, so that all of them can be compared."""

from __future__ import annotations

from pathlib import Path

from gnomon.errors import ConfigError, GateClosed
from gnomon.recipe.schema import Recipe
from gnomon.runs.folder import RunFolder
from gnomon.stages.run import Announce, run_recipe


def parse_seeds(text: str) -> list[int]:
    """``0,1,2`` as numbers.

    Raises:
        ConfigError: something that is not a number, the same seed twice, or only one.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--seeds {text!r}: give whole numbers with commas, as in 0,1,2"
        ) from None
    if len(set(seeds)) != len(seeds) or len(seeds) < 2:
        raise ConfigError(f"--seeds {text!r}: give two or more different seeds, as in 0,1,2")
    return seeds


def seeded_recipes(recipe: Recipe, seeds: str) -> list[Recipe]:
    """The recipe once for each seed, named after it.

    Raises:
        ConfigError: seeds that cannot be understood, or a recipe that compares nothing.
    """
    numbers = parse_seeds(seeds)
    if recipe.compare is None:
        raise ConfigError("several seeds are compared by the recipe's compare section: give it one")
    return [
        recipe.model_copy(update={"seed": seed, "name": f"{recipe.name}-seed{seed}"})
        for seed in numbers
    ]


def run_seeds(
    recipe: Recipe, seeds: str, *, base: Path, resume: bool, announce: Announce
) -> tuple[list[Path], list[str]]:
    """Run the recipe for each seed, one after the other.

    Returns:
        The runs' folders; and what gates that did not open said, each run's after its seed. Such a
        run ends no other seed's.

    Raises:
        ConfigError: see :func:`seeded_recipes`; or a seed's folder holds a run that cannot be
            resumed, which is said before the first run starts.
        GnomonError: what a run raises; ``resume`` continues the run that it stopped in.
    """
    recipes = seeded_recipes(recipe, seeds)
    for one in recipes:
        RunFolder(one).check(resume)
    folders: list[Path] = []
    closed: list[str] = []
    for one in recipes:
        announce(f"seed {one.seed}: {one.name}")
        folders.append(RunFolder(one).path)
        try:
            run_recipe(one, base=base, resume=resume, announce=announce)
        except GateClosed as gate:
            closed.append(f"seed {one.seed}: {gate}")
            announce(closed[-1])
    return folders, closed
