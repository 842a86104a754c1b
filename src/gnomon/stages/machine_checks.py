"""Check the machine that a recipe runs on: device, place of the run, packages, what Ray places."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from gnomon.errors import ConfigError
from gnomon.recipe.schema import Recipe
from gnomon.runs.folder import RunFolder
from gnomon.stages.names import every_reward
from gnomon.stages.stage import pick_device, recipe_precision
from gnomon.training.callbacks import callback_maker
from gnomon.training.sinks import check_sinks


def check_machine(recipe: Recipe) -> None:
    """Check the device and the place of the run's folder.

    Raises:
        ConfigError: either cannot be used, with the cure; both are listed, one a line.
    """
    problems: list[str] = []
    try:
        recipe_precision(recipe)
    except ConfigError as error:
        problems.append(str(error))
    problem = RunFolder(recipe).place_problem()
    if problem is not None:
        problems.append(f"output: {problem}; choose another place (output=FOLDER)")
    if problems:
        raise ConfigError("\n".join(problems))


def check_tools(recipe: Recipe, base: Path, code: bool = True) -> None:
    """Check that the device is available, the packages of the sinks are installed and the callbacks
    are there.

    Args:
        code: whether the Python that the recipe names may be imported.

    Raises:
        ConfigError: one is not.
    """
    recipe_precision(recipe)
    check_order(recipe, pick_device(recipe.device))
    check_placement(recipe)
    for spec in recipe.callbacks if code else ():
        callback_maker(spec.callback, spec.options, base)
    if recipe.sinks:
        check_sinks(recipe.sinks)


def check_order(recipe: Recipe, device: torch.device) -> None:
    """Check that nothing uses the GPU beside a backward pass that adds up in a fixed order.

    Raises:
        ConfigError: a stage samples in a thread of its own meanwhile.
    """
    ahead = [stage.name for stage in recipe.stages if stage.rollout.max_staleness]
    if recipe.deterministic and ahead and device.type == "cuda":
        raise ConfigError(
            f"deterministic: stage {ahead[0]!r} samples and judges while it trains "
            "(rollout.max_staleness), and torch's switch to fixed orders is one for the whole "
            "process: what samples would run under it now and then. Remove one of the two"
        )


def check_placement(recipe: Recipe) -> None:
    """Check that what Ray is to place is there, and Ray too.

    Raises:
        ConfigError: it is not.
    """
    if recipe.ray is None:
        return
    if not any(
        [*(s.rollout.workers for s in recipe.stages), *(r.workers for r in every_reward(recipe))]
    ):
        raise ConfigError(
            "ray (--ray) places workers, and neither a rollout nor a reward asks for any: set "
            "STAGE.rollout.workers=2, say"
        )
    if find_spec("ray") is None:
        from gnomon.workers.cluster import import_ray

        import_ray()
