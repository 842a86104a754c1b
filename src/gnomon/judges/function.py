"""A user's own Python function as a reward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError
from gnomon.judges.protocol import Reward, Sample, Score, number
from gnomon.plugins import import_problem, load_own
from gnomon.usercode import FailedError, all_settled, is_interrupt, settled


class FunctionReward:
    """Wraps ``function(samples) -> list``: floats, None, Scores, or (value, parts) pairs.

    The function gets the whole batch of :class:`Sample` and answers with one item per sample, in
    order; an array, tensor or nested list of shape [n] or [n, 1] will do, and so will an iterator.
    It may be a coroutine function, or answer with one awaitable per sample. What it raises, and
    every item that is no number, is kept as the error of the sample it belongs to.
    """

    def __init__(self, function: Callable[..., Any], name: str, options: Mapping[str, Any]) -> None:
        self.function = function
        self.name = name
        self.options = dict(options)

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        result = _listed(settled(self.function(samples, **self.options)))
        if not isinstance(result, Sequence) or isinstance(result, str | bytes):
            raise TypeError(
                f"returned {type(result).__name__}, expected a list with one reward per sample"
            )
        return [_as_score(item) for item in all_settled(result)]


def _listed(result: Any) -> Any:
    """Arrays, tensors, columns of data frames and iterators as lists, nested columns ([[1.0], ...])
    flat; the rest as it is."""
    if hasattr(result, "to_numpy") and not hasattr(result, "tolist"):  # a data frame
        result = result.to_numpy()
    shape: Sequence[int] = getattr(result, "shape", ())
    if hasattr(result, "tolist"):
        column = len(shape) == 2 and shape[1] == 1
        return (result.reshape(-1) if column else result).tolist()
    if isinstance(result, list) and all(isinstance(row, list) and len(row) == 1 for row in result):
        return [row[0] for row in result]
    return list(result) if isinstance(result, Iterator) else result


def _as_score(item: Any) -> Score:
    if isinstance(item, Score):
        return item
    if isinstance(item, FailedError):
        return Score(None, error=str(item))
    if item is None:
        return Score(None, error="the function returned None for this sample")
    value: Any = item
    parts: Mapping[Any, Any] = {}
    if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], Mapping):
        value, parts = item
    try:
        return Score(number(value), {str(k): number(v) for k, v in parts.items()})
    except (TypeError, ValueError, OverflowError):
        return Score(None, error=f"the function returned {_short(item)} for this sample")


def _short(item: Any) -> str:
    text = repr(item)
    return text if len(text) <= 80 else text[:77] + "..."


def function_reward(reference: str, base: Path, options: Mapping[str, Any], name: str) -> Reward:
    """The reward behind a recipe's ``function`` key: a function of samples, or a Reward class."""
    found = load_own(reference, base, "reward function")
    arguments = () if isinstance(found, type) else ((),)
    try:
        inspect.signature(found).bind(*arguments, **options)
    except TypeError as error:
        raise ConfigError(f"reward function {reference!r}: its options: {error}") from error
    except ValueError:  # no signature to be had, of a builtin, say
        pass
    if not isinstance(found, type):
        return FunctionReward(found, name, options)
    try:
        reward: Reward = found(**options)
        reward.name = name
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise ConfigError(
            f"reward class {reference!r} could not be made: {import_problem(error)}"
        ) from error
    if not callable(reward):
        raise ConfigError(
            f"reward class {reference!r}: its objects cannot be called; give it "
            "__call__(self, samples)"
        )
    return reward
