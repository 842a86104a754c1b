"""Rewards, methods and environments that are Python objects, as a recipe names them.

A function that a module or a file holds is named by that, and any process finds it again. One that
is in no file (of a notebook's cell, a lambda, a closure) is named ``python:NAME``: it is there in
the process that it was passed in, and has to be passed again in another.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError
from gnomon.judges.build import BUILTIN
from gnomon.judges.columns import lacking, missing_columns, takes_columns
from gnomon.plugins import PASSED, did_you_mean
from gnomon.recipe.schema import RewardSpec

_A_REWARD = (
    "a function, a reward model's folder, the name of a builtin reward, or a dict with one of "
    "these and a weight"
)


class Passed:
    """Python objects by the name that the recipe has for each (``objects``)."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}

    def name(self, found: Any, name: str | None = None) -> str:
        """How the recipe names ``found``.

        Raises:
            ConfigError: another object has that name already.
        """
        reference = reference_of(found, name)
        if self.objects.setdefault(reference, found) is not found:
            raise ConfigError(
                f"two different objects are called {reference!r}: give one another name, as in "
                '{"function": f, "name": "other"}'
            )
        return reference

    def rewards(self, given: Any, key: str = "rewards") -> list[dict[str, Any]]:
        """The entries of a recipe's ``reward`` for what was given: one or several of: functions,
        names, folders, dicts, pairs (reward, weight).

        Raises:
            ConfigError: it is none of these.
        """
        if given is None:
            return []
        one = not isinstance(given, list | tuple) or _is_pair(given)
        return [self._reward(item, key) for item in ([given] if one else given)]

    def _reward(self, item: Any, key: str) -> dict[str, Any]:
        if isinstance(item, RewardSpec):
            return item.model_dump(mode="json", exclude_unset=True)
        if _is_pair(item):
            return {**self._reward(item[0], key), "weight": item[1]}
        if isinstance(item, Mapping):
            entry = dict(item)
            function = entry.get("function")
            if function is not None and not isinstance(function, str):
                entry["function"] = self.name(function, entry.get("name"))
            return entry
        if isinstance(item, os.PathLike):
            return {"model": str(item)}
        if isinstance(item, str):
            return _named(item, key)
        if hasattr(item, "save_pretrained"):
            raise ConfigError(
                f"{key}: a {type(item).__name__} in memory: save it and its tokenizer into a "
                "folder (save_pretrained) and give the folder"
            )
        if callable(item) or hasattr(item, "judge"):
            return {"function": self.name(item)}
        raise ConfigError(f"{key}: {item!r:.80} is no reward; it is {_A_REWARD}")

    def check_columns(self, columns: set[str] | None) -> None:
        """Check that the data has what the rewards cannot do without.

        Args:
            columns: of the rows in memory; None where they are not known yet.

        Raises:
            ConfigError: it has not.
        """
        for reference, found in self.objects.items():
            if columns is None or not takes_columns(found):
                continue
            there = {*columns, "id", "category", "reference", "environments"}
            missing = missing_columns(found, list(there))
            if missing:
                name = reference.rpartition(":")[-1]
                raise ConfigError(lacking(name, missing, sorted(columns)))


def by_name(passed: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Objects by the names that a recipe may have for each: its place now, and ``python:NAME``."""
    if isinstance(passed, Mapping):
        return {f"{PASSED}:{name}": found for name, found in passed.items()}
    names = {f"{PASSED}:{_own_name(found)}": found for found in passed}
    return names | {reference_of(found): found for found in passed}


def _is_pair(item: Any) -> bool:
    return (
        isinstance(item, tuple)
        and len(item) == 2
        and isinstance(item[1], int | float)
        and not isinstance(item[0], int | float)
    )


def _named(name: str, key: str) -> dict[str, Any]:
    """A builtin, a function as a recipe names it, or a folder."""
    if ":" in name and not Path(name).exists():
        return {"function": name}
    if name not in BUILTIN and Path(name).is_dir():
        return {"model": name}
    if name not in BUILTIN:
        raise ConfigError(
            f"{key}: {name!r} is neither a builtin reward nor a folder; "
            f"{did_you_mean(name, BUILTIN, 'builtin are')}"
        )
    return {"builtin": name}


def reference_of(found: Any, name: str | None = None) -> str:
    """``file.py:NAME`` or ``package.module:NAME`` where ``found`` is that, else ``python:NAME``.

    Args:
        name: of what is in no file, where its own name would not do.
    """
    own = _own_name(found)
    module = sys.modules.get(getattr(found, "__module__", None) or "")
    if module is None or module.__name__ == "__main__" or getattr(module, own, None) is not found:
        return f"{PASSED}:{_plain_name(name) if name else own}"
    file = getattr(module, "__file__", None) or ""
    if "." not in module.__name__ and file.endswith(".py"):
        return f"{Path(file).resolve()}:{own}"
    return f"{module.__name__}:{own}"


def _own_name(found: Any) -> str:
    inner = found.func if isinstance(found, partial) else found
    return _plain_name(str(getattr(inner, "__name__", type(inner).__name__)))


def _plain_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "reward"
