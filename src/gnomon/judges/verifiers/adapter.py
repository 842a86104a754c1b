"""From ``verify(text, answer)`` to a Reward: look the answer up, call, keep what goes wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gnomon.errors import ConfigError
from gnomon.judges.protocol import Sample, Score
from gnomon.judges.verifiers.workers import VerifierError, VerifierTimeoutError, WorkerPool

if TYPE_CHECKING:
    from gnomon.records import Prompt

Verify = Callable[[str, Any], Any]
"""(response, reference answer) -> bool, float, or (value, named parts)."""

MISSING = object()
TIMED_OUT = "timed_out"
"""The part that says which responses took too long to judge."""
MAX_UNANSWERED = 8
"""Questions in a row that may run out of time before the first is answered; then it is not the
responses that are at fault."""


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
        timed_out: the value of a response that takes longer; None makes it an error. Where the
            reference answer alone takes as long, or no response was ever judged in time, it is an
            error anyway: the data or the verifier is at fault.
        workers: worker processes.
        memory_mb: that each of them may use; None for no limit.
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
        timed_out: float | None = 0.0,
        workers: int = 2,
        memory_mb: int | None = None,
    ) -> None:
        if (verify is None) == (reference is None):
            raise ConfigError(f"{name}: give either a verifier or a reference to one")
        if not 0 < timeout_s < math.inf or workers < 1:
            raise ConfigError(f"{name}: timeout_s must be above 0 and workers at least 1")
        self.name = name
        self.field = field
        self.unfinished = unfinished
        self.workers = workers
        self.timed_out = timed_out
        self._verify = verify
        self._pool = (
            None
            if reference is None
            else WorkerPool(reference, dict(options or {}), timeout_s, workers, memory_mb)
        )
        self._judged = False
        self._unanswered = 0

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        if self._pool is None or len(samples) < 2:
            return [self.score(sample) for sample in samples]
        with ThreadPoolExecutor(self.workers) as threads:
            scores = list(threads.map(self.score, samples))
        if any(TIMED_OUT in score.parts for score in scores):  # its mean is then their share
            return [replace(s, parts={TIMED_OUT: 0.0, **s.parts}) for s in scores]
        return scores

    def score(self, sample: Sample) -> Score:
        """The score of one sample; whatever goes wrong is its error."""
        if self.unfinished is not None and not sample.finished:
            return Score(self.unfinished)
        answer = sample.prompt.meta if self.field is None else answer_of(sample.prompt, self.field)
        if answer is MISSING:
            return Score(None, error=missing_field(sample.prompt, str(self.field)))
        try:
            if self._pool is None:
                assert self._verify is not None
                return as_score(self._verify(sample.text, answer))
            return self._asked(self._pool, sample, _jsonable(answer))
        except Exception as error:
            said = str(error) if isinstance(error, VerifierError) else _named(error)
            return Score(None, error=f"{place_of(sample.prompt)}: {said}")

    def _asked(self, pool: WorkerPool, sample: Sample, answer: Any) -> Score:
        try:
            result = pool.ask(sample.text, answer)
        except VerifierTimeoutError as error:
            return self._ran_out(pool, answer, error)
        self._judged = True
        return as_score(result)

    def _ran_out(self, pool: WorkerPool, answer: Any, error: VerifierTimeoutError) -> Score:
        """A response that could not be judged in time is wrong, unless the fault is elsewhere."""
        try:
            pool.check(answer)
        except VerifierError as reason:
            raise VerifierError(f"the reference answer cannot be read: {reason}") from error
        self._unanswered += 1
        if not self._judged and self._unanswered > MAX_UNANSWERED:
            raise VerifierError(f"{error}, as all {self._unanswered} before it; raise timeout_s")
        if self.timed_out is None:
            raise error
        return Score(self.timed_out, {TIMED_OUT: 1.0})


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def place_of(prompt: Prompt) -> str:
    """Which prompt, and from which row of which file."""
    return f"prompt {prompt.id}" + (f" ({prompt.source})" if prompt.source else "")


def answer_of(prompt: Prompt, field: str) -> Any:
    """The reference answer of a prompt; MISSING where there is none, or an empty one."""
    value = prompt.meta.get(field)
    empty = value is None or (isinstance(value, str) and not value.strip()) or value == []
    return MISSING if empty else value


def missing_field(prompt: Prompt, field: str) -> str:
    """What to say about a prompt without its reference answer, and what to do about it."""
    there = ", ".join(sorted(map(str, prompt.meta))) or "none"
    return (
        f"{place_of(prompt)}: no reference answer in meta[{field!r}] (fields there: {there}); "
        "add it to the data, or name another with the reward's option field"
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


def _jsonable(answer: Any) -> Any:
    return json.loads(json.dumps(dict(answer) if isinstance(answer, Mapping) else answer))
