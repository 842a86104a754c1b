"""From ``verify(text, answer)`` to a Reward: look the answer up, call, keep what goes wrong."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gnomon.data.records import Prompt
from gnomon.errors import ConfigError
from gnomon.rewards.protocol import Sample, Score
from gnomon.rewards.verifiers.workers import WorkerPool

Verify = Callable[[str, Any], Any]
"""(response, reference answer) -> bool, float, or (value, named parts)."""

MISSING = object()


class VerifierReward:
    """A verifier as a Reward: one call per sample, and a failure stays with its sample.

    Args:
        verify: called as ``verify(text, answer)``. Give ``reference`` instead to have it run in
            worker processes that can be killed: a thread cannot be stopped, and a regular
            expression that runs away does not even let other threads go on.
        field: the field of ``Prompt.meta`` that holds the answer; None passes all of ``meta``.
        unfinished: the value of a response that was cut off; None judges it like any other.
        reference: ``module:factory``; ``factory(**options)`` makes the verifier in each worker.
        timeout_s: per sample; a worker that takes longer is killed and started anew.
        workers: worker processes.
    """

    def __init__(
        self,
        verify: Verify | None,
        name: str,
        *,
        field: str | None = "answer",
        unfinished: float | None = None,
        reference: str | None = None,
        options: Mapping[str, Any] | None = None,
        timeout_s: float = 10.0,
        workers: int = 2,
    ) -> None:
        if (verify is None) == (reference is None):
            raise ConfigError(f"{name}: give either a verifier or a reference to one")
        if not 0 < timeout_s < math.inf or workers < 1:
            raise ConfigError(f"{name}: timeout_s must be above 0 and workers at least 1")
        self.name = name
        self.field = field
        self.unfinished = unfinished
        self.workers = workers
        self._verify = verify
        self._pool = (
            None
            if reference is None
            else WorkerPool(reference, dict(options or {}), timeout_s, workers)
        )

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        if self._pool is None or len(samples) < 2:
            return [self.score(sample) for sample in samples]
        with ThreadPoolExecutor(self.workers) as threads:
            return list(threads.map(self.score, samples))

    def score(self, sample: Sample) -> Score:
        """The score of one sample; whatever goes wrong is its error."""
        if self.unfinished is not None and not sample.finished:
            return Score(self.unfinished)
        answer = sample.prompt.meta if self.field is None else answer_of(sample.prompt, self.field)
        if answer is MISSING:
            return Score(None, error=missing_field(sample.prompt, str(self.field)))
        try:
            if self._pool is not None:
                return as_score(self._pool.ask(sample.text, _jsonable(answer)))
            assert self._verify is not None
            return as_score(self._verify(sample.text, answer))
        except Exception as error:
            return Score(None, error=f"{type(error).__name__}: {error}")


def answer_of(prompt: Prompt, field: str) -> Any:
    """The reference answer of a prompt; MISSING where there is none, or an empty one."""
    value = prompt.meta.get(field)
    empty = value is None or (isinstance(value, str) and not value.strip()) or value == []
    return MISSING if empty else value


def missing_field(prompt: Prompt, field: str) -> str:
    """What to say about a prompt without its reference answer, and what to do about it."""
    where = f"prompt {prompt.id}" + (f" ({prompt.source})" if prompt.source else "")
    there = ", ".join(sorted(map(str, prompt.meta))) or "none"
    return (
        f"{where}: no reference answer in meta[{field!r}] (fields there: {there}); add it to the "
        "data, or name another with the reward's option field"
    )


def as_score(result: Any) -> Score:
    """What a verifier returned, as a Score; None, NaN and what is no number become an error."""
    if isinstance(result, Score):
        return result
    parts: Mapping[Any, Any] = {}
    value = result
    if isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[1], Mapping):
        value, parts = result
    if isinstance(value, str) or value is None:
        return Score(None, error=f"the verifier returned {value!r}, not a number")
    try:
        number = float(value)
        named = {str(k): float(v) for k, v in parts.items()}
    except (TypeError, ValueError):
        return Score(None, error=f"the verifier returned {str(result)[:80]}, not a number")
    if not math.isfinite(number):
        return Score(None, named, f"the verifier returned {number}")
    return Score(number, named)


def load_factory(reference: str) -> Callable[..., Any]:
    """The function that ``module:name`` refers to.

    Raises:
        ConfigError: there is none.
    """
    module, _, name = reference.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{reference!r}: {error}") from error
    return found


def _jsonable(answer: Any) -> Any:
    return json.loads(json.dumps(dict(answer) if isinstance(answer, Mapping) else answer))
