"""Whether this machine can do what a recipe asks for at all: found out before any work."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from gnomon.errors import ConfigError
from gnomon.recipe.schema import Recipe
from gnomon.stages.resolve import pick_device


def check_machine(recipe: Recipe) -> None:
    """Check the device and the place of the run's folder.

    Raises:
        ConfigError: either cannot be had, with the cure; both are said, one a line.
    """
    problems: list[str] = []
    try:
        pick_device(recipe.device)
    except ConfigError as error:
        problems.append(str(error))
    problem = _place_problem(Path(recipe.output) / recipe.name)
    if problem is not None:
        problems.append(f"output: {problem}; choose another place (output=FOLDER)")
    if problems:
        raise ConfigError("\n".join(problems))


def _place_problem(folder: Path) -> str | None:
    try:
        places = (folder, *folder.absolute().parents)
        place = next(p for p in places if p.exists() or p.is_symlink())
    except OSError as error:  # a name that is too long, say
        return f"{folder} cannot be made ({error.strerror})"
    if not place.is_dir():
        return f"{place} is no folder"
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".gnomon-", dir=place))
    except OSError as error:
        return f"{place} cannot be written to ({error.strerror})"
    return None
