"""A user's own Python function as a reward."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError
from gnomon.judges.failure import FailedError, all_settled, is_interrupt, place, settled
from gnomon.judges.guard import number
from gnomon.judges.protocol import Reward, Sample, Score


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


def load_function(reference: str, base: Path, what: str = "reward function") -> Callable[..., Any]:
    """The object that ``package.module:name`` or ``file.py:name`` refers to.

    Args:
        reference: as written in the recipe.
        base: the folder that a relative file is looked up in.
        what: what it is, for the errors.

    Raises:
        ConfigError: no such module, file or name, with the reason.
    """
    where, colon, name = reference.rpartition(":")
    if not colon or not where or not name:
        raise ConfigError(f"{what} {reference!r}: write module:name or path/file.py:name")
    try:
        file = base / where if where.endswith(".py") else None
        with _importable(base if file is None else file.parent):
            module = importlib.import_module(where) if file is None else _load_file(file)
    except BaseException as error:  # a user's module may raise anything at import
        if is_interrupt(error):
            raise
        raise ConfigError(f"{what} {reference!r}: cannot import {where}: {_said(error)}") from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
        raise ConfigError(f"{what} {reference!r}: {where} has no function {name!r}; {hint}")
    return found  # type: ignore[no-any-return]


def function_reward(reference: str, base: Path, options: Mapping[str, Any], name: str) -> Reward:
    """The reward behind a recipe's ``function`` key: a function of samples, or a Reward class."""
    found = load_function(reference, base)
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
            f"reward class {reference!r} could not be made: {_said(error)}"
        ) from error
    if not callable(reward):
        raise ConfigError(
            f"reward class {reference!r}: its objects cannot be called; give it "
            "__call__(self, samples)"
        )
    return reward


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Find modules in ``folder`` too, as a script there would, and leave no bytecode in it.

    The folder stays on the path, at its end, for what the module imports later.
    """
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _said(error: BaseException) -> str:
    said = f"{error}" if isinstance(error, ImportError | SyntaxError | OSError) else repr(error)
    where = place(error)
    return (said or type(error).__name__) + (f" ({where})" if where else "")


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
