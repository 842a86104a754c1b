"""A user's own Python function as a reward."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError
from gnomon.rewards.protocol import Reward, Sample, Score


class FunctionReward:
    """Wraps ``function(samples) -> list``: floats, None, Scores, or (value, parts) pairs.

    The function gets the whole batch of :class:`Sample` and answers with one item per sample, in
    order. What it raises, and every None or NaN, is kept as the error of the sample it belongs to.
    """

    def __init__(self, function: Callable[..., Any], name: str, options: Mapping[str, Any]) -> None:
        self.function = function
        self.name = name
        self.options = dict(options)

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        result = self.function(samples, **self.options)
        if not isinstance(result, Sequence) or isinstance(result, str):
            raise TypeError(
                f"returned {type(result).__name__}, expected a list with one reward per sample"
            )
        return [_as_score(item) for item in result]


def _as_score(item: Any) -> Score:
    if isinstance(item, Score):
        return item
    if item is None:
        return Score(None, error="the function returned None for this sample")
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Mapping):
        return Score(float(item[0]), {str(k): float(v) for k, v in item[1].items()})
    return Score(float(item))


def load_function(reference: str, base: Path) -> Callable[..., Any]:
    """The object that ``package.module:name`` or ``file.py:name`` refers to.

    Args:
        reference: as written in the recipe.
        base: the folder that a relative file is looked up in.

    Raises:
        ConfigError: no such module, file or name, with the reason.
    """
    where, colon, name = reference.rpartition(":")
    if not colon or not where or not name:
        raise ConfigError(f"reward function {reference!r}: write module:name or path/file.py:name")
    try:
        module = (
            _load_file(base / where) if where.endswith(".py") else importlib.import_module(where)
        )
    except (ImportError, SyntaxError, OSError) as error:
        raise ConfigError(
            f"reward function {reference!r}: cannot import {where}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
        raise ConfigError(
            f"reward function {reference!r}: {where} has no function {name!r}; it has "
            f"{', '.join(known) or 'none'}"
        )
    return found  # type: ignore[no-any-return]


def function_reward(reference: str, base: Path, options: Mapping[str, Any], name: str) -> Reward:
    """The reward behind a recipe's ``function`` key: a function of samples, or a Reward class."""
    found = load_function(reference, base)
    if isinstance(found, type):
        reward: Reward = found(**options)
        return reward
    return FunctionReward(found, name, options)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(f"gnomon_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
