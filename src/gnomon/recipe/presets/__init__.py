"""Recipes that come with the package."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from gnomon.errors import ConfigError
from gnomon.recipe.load import load_recipe
from gnomon.recipe.schema import Recipe


def preset_names() -> list[str]:
    """The presets there are."""
    names = [file.name for file in resources.files(__package__).iterdir()]
    return sorted(n.removesuffix(".yaml") for n in names if n.endswith(".yaml"))


def load_preset(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A built-in recipe with ``key=value`` overrides.

    Raises:
        ConfigError: unknown preset or a bad override.
    """
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        raise ConfigError(f"no preset {name!r}; {hint}")
    with resources.as_file(resources.files(__package__) / f"{name}.yaml") as file:
        return load_recipe(Path(file), overrides)
