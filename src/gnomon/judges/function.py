"""A user's own Python as a judge: a function of samples, or a class."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError, RunError
from gnomon.judges.columns import ColumnReward, takes_columns
from gnomon.judges.protocol import Judge, Sample, SampleJudge, Score, as_score
from gnomon.plugins import import_problem, load_own
from gnomon.records import Group, Judgement
from gnomon.usercode import FailedError, all_settled, explain, is_interrupt, settled


class FunctionReward(SampleJudge):
    """Wraps ``function(samples) -> list``: floats, None, Scores, or (value, parts) pairs.

    The function gets the whole batch of :class:`Sample` and answers with one item per sample, in
    order; an array, tensor or nested list of shape [n] or [n, 1] also works, and so does an
    iterator. It may be a coroutine function, or answer with one awaitable per sample. What it
    raises, and every item that is not a number, is the error of its sample.
    """

    def __init__(self, function: Callable[[Any], Any], name: str, version: str = "") -> None:
        self.function = function
        self.name = name
        self.version = version

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return _scores(settled(self.function(samples)), "sample")


class GroupReward(Judge):
    """Wraps a user's object with ``judge(groups) -> list``, which sees whole groups.

    It answers with one item per group, in order: a list of what :class:`FunctionReward` takes, one
    item per response, or a :class:`Judgement`. It may be a coroutine, or answer with awaitables.
    Where it has ``begin(round)`` or ``in_rounds``, they are a judge's (see :class:`Judge`). What it
    raises is the error of its group; what ``begin`` raises ends the run.
    """

    groupwise = True

    def __init__(self, own: Any, name: str, version: str = "") -> None:
        self.own = own
        self.name = name
        self.version = version
        self.in_rounds = bool(getattr(own, "in_rounds", False))

    def begin(self, round: int) -> None:
        if not hasattr(self.own, "begin"):
            return
        try:
            settled(self.own.begin(round))
        except BaseException as error:
            if isinstance(error, RunError) or is_interrupt(error):
                raise
            raise RunError(f"reward {self.name!r}: begin({round}): {explain(error)}") from error

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        return [self._judgement(item) for item in _items(settled(self.own.judge(groups)), "group")]

    def _judgement(self, item: Any) -> Judgement:
        if isinstance(item, Judgement):
            return replace(item, version=item.version or self.version)
        if isinstance(item, FailedError):
            return Judgement(self.name, error=str(item))
        return Judgement(self.name, tuple(_scores(item, "response")), version=self.version)


def _scores(result: Any, what: str) -> list[Score]:
    """A score for each of the items; those of a nested column ([[1.0], ...]) are flat numbers.

    Raises:
        TypeError: they are not a list.
    """
    items = _items(result, what)
    if all(isinstance(item, list) and len(item) == 1 for item in items):
        items = [item[0] for item in items]
    return [
        Score(None, error=str(item)) if isinstance(item, FailedError) else as_score(item)
        for item in items
    ]


def _items(result: Any, what: str) -> list[Any]:
    """The items of what a user's code returned, one for each ``what``, awaited where need be:
    arrays, tensors, columns of data frames and iterators are lists too.

    Raises:
        TypeError: it is not a list of any kind.
    """
    if hasattr(result, "to_numpy") and not hasattr(result, "tolist"):  # a data frame
        result = result.to_numpy()
    if hasattr(result, "tolist"):
        result = result.tolist()
    if isinstance(result, Iterator):
        result = list(result)
    if not isinstance(result, Sequence) or isinstance(result, str | bytes):
        raise TypeError(
            f"returned {type(result).__name__}, expected a list with one reward per {what}"
        )
    return all_settled(result)


def function_reward(reference: str, base: Path, options: Mapping[str, Any], name: str) -> Judge:
    """The judge behind a recipe's ``function`` key: a function of samples or of columns (see
    :mod:`gnomon.judges.columns`), or a class whose objects have ``judge(groups)`` or are called
    with samples.

    Raises:
        ConfigError: it cannot be found, made or called, or does not take the options.
    """
    found = load_own(reference, base, "reward function")
    made = not isinstance(found, type)
    version = source_version(found if not made or hasattr(found, "__name__") else type(found))
    if made and hasattr(found, "judge") and not isinstance(found, SampleJudge):
        return GroupReward(found, name, version)
    _check_signature(found, reference, options)
    if takes_columns(found):
        return ColumnReward(found, name, options, version)
    if made:
        return FunctionReward(partial(found, **options), name, version)
    try:
        own = found(**options)
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise ConfigError(
            f"reward class {reference!r} could not be made: {import_problem(error)}"
        ) from error
    if hasattr(own, "judge") and not isinstance(own, SampleJudge):
        return GroupReward(own, name, version)
    if not callable(own):
        raise ConfigError(
            f"reward class {reference!r}: its objects cannot judge; give it "
            "__call__(self, samples) or judge(self, groups)"
        )
    return FunctionReward(own, name, version)


def _check_signature(found: Any, reference: str, options: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(found)
        if takes_columns(found):
            signature.bind_partial(**options)
        else:
            signature.bind(*(() if isinstance(found, type) else ((),)), **options)
    except TypeError as error:
        if options or isinstance(found, type):
            raise ConfigError(f"reward function {reference!r}: its options: {error}") from error
        raise ConfigError(
            f"reward function {reference!r} cannot be called ({error}): it takes a list of samples "
            "and nothing else that has no default, or, as TRL's do, completions and any of "
            "prompts and the data's columns by name"
        ) from error
    except ValueError:  # a builtin, say, has no signature
        pass


def source_version(found: Any) -> str:
    """The SHA-256 of the file that a function or class is written in; empty where it has none."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(found))
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    except (TypeError, OSError):
        return ""
