"""A recipe as a Python object: the same typed specs as in YAML, and the same errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import PrivateAttr

from gnomon.files import write_text
from gnomon.recipe import schema
from gnomon.recipe.load import load_recipe, parse_recipe


class Recipe(schema.Recipe):
    """A whole run: ``Recipe(name=..., model=..., stages=[{...}])``, with a recipe's keys.

    Raises:
        ConfigError: all that is wrong with it, one line each.
    """

    _base: Path | None = PrivateAttr(None)

    def __init__(self, **values: Any) -> None:
        parse_recipe(values)  # whose errors are words
        super().__init__(**values)

    @classmethod
    def from_yaml(cls, path: str | Path, *overrides: str) -> Self:
        """The recipe in a file; its relative paths start from the file's folder.

        Args:
            overrides: ``key=value``, as on the command line.

        Raises:
            ConfigError: it cannot be read, or is no recipe.
        """
        path = Path(path)
        return cls.of(load_recipe(path, overrides), path.absolute().parent)

    @classmethod
    def of(cls, recipe: schema.Recipe, base: Path | None = None) -> Self:
        """The same recipe as this class; ``base`` is where its relative paths start from."""
        made = cls(**recipe.model_dump(mode="json", by_alias=True, exclude_unset=True))
        made._base = base if base is not None else getattr(recipe, "_base", None)
        return made

    @property
    def base(self) -> Path:
        """The folder that relative paths start from: the file's, or else the current one."""
        return self._base or Path.cwd()

    def to_yaml(self, path: str | Path | None = None) -> str:
        """The recipe as YAML, without what was left to its default; written to ``path`` if given.

        Relative paths are as they were; in a file elsewhere they start from there.
        """
        plain = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
        if path is not None:
            write_text(Path(path), text)
        return text
