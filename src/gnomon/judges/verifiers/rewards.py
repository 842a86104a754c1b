"""Verifiers as judges, with options, as recipes name them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.errors import ConfigError
from gnomon.judges.function import source_version
from gnomon.judges.protocol import Sample, SampleJudge, Score, as_score, place_of
from gnomon.judges.verifiers.extract import check_methods
from gnomon.judges.verifiers.text import exact_verifier, json_verifier, regex_verifier
from gnomon.judges.verifiers.workers import VerifierError, VerifierTimeoutError, WorkerPool
from gnomon.plugins import load_own
from gnomon.usercode import called

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


class VerifierReward(SampleJudge):
    """A verifier as a judge: one call per sample, and a failure stays with its sample.

    Args:
        verify: called as ``verify(text, answer)``; or ``module:factory``, whose
            ``factory(**options)`` makes it in worker processes that can be killed: a thread cannot
            be stopped, and a regular expression that runs away stops all other threads too.
        field: the field of ``Prompt.meta`` that holds the answer; None passes all of ``meta``.
        unfinished: the value of a response that was cut off; None judges it like any other.
        timeout_s: per sample; a worker that takes longer is killed and started again.
        timed_out: the value of a response that takes longer; None makes it an error. Where the
            reference answer alone takes as long, or no response was ever judged in time, it is an
            error anyway: the data or the verifier is at fault.
        workers: worker processes.
        memory_mb: that each of them may use; None for no limit.
    """

    def __init__(
        self,
        verify: Verify | str,
        name: str,
        *,
        field: str | None = "answer",
        unfinished: float | None = None,
        options: Mapping[str, Any] | None = None,
        timeout_s: float = 10.0,
        timed_out: float | None = 0.0,
        workers: int = 2,
        memory_mb: int | None = None,
    ) -> None:
        if not 0 < timeout_s < math.inf or workers < 1:
            raise ConfigError(f"{name}: timeout_s must be above 0 and workers at least 1")
        self.name = name
        self.field = field
        self.unfinished = unfinished
        self.workers = workers
        self.timed_out = timed_out
        self._pool: WorkerPool | None = None
        if isinstance(verify, str):
            self._pool = WorkerPool(verify, dict(options or {}), timeout_s, workers, memory_mb)
            verify = self._pool.ask
        self._verify = verify
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
        prompt = sample.prompt
        answer = dict(prompt.meta) if self.field is None else answer_of(prompt, self.field)
        if answer is MISSING:
            return Score(None, error=missing_field(prompt, str(self.field)))
        try:
            return self._asked(sample.text, answer)
        except Exception as error:
            named = "" if isinstance(error, VerifierError) else f"{type(error).__name__}: "
            return Score(None, error=f"{place_of(prompt)}: {named}{error}")

    def _asked(self, text: str, answer: Any) -> Score:
        try:
            result = self._verify(text, answer)
        except VerifierTimeoutError as error:
            return self._ran_out(answer, error)
        self._judged = True
        return as_score(result)

    def _ran_out(self, answer: Any, error: VerifierTimeoutError) -> Score:
        """A response that could not be judged in time is wrong, unless the fault is elsewhere."""
        assert self._pool is not None
        try:
            self._pool.check(answer)
        except VerifierError as reason:
            raise VerifierError(f"the reference answer cannot be read: {reason}") from error
        self._unanswered += 1
        if not self._judged and self._unanswered > MAX_UNANSWERED:
            raise VerifierError(f"{error}, as all {self._unanswered} before it; raise timeout_s")
        if self.timed_out is None:
            raise error
        return Score(self.timed_out, {TIMED_OUT: 1.0})


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


_HERE = "gnomon.judges.verifiers"
_MATHS_MEMORY_MB = 2048
_OLD_ENGINES = ("own", "math-verify", "auto")


def maths(
    field: str = "answer",
    *,
    extract: Sequence[str] = ("boxed", "hash", "phrase", "number"),
    rel_tol: float = 0.0,
    unfinished: float | None = 0.0,
    timeout_s: float = 5.0,
    workers: int = 2,
    engine: str | None = None,
) -> VerifierReward:
    """1 where the final answer is the right one, else 0; part ``answered``: an answer was found.

    A response that takes longer than ``timeout_s`` to judge is wrong, and has the part
    ``timed_out``.

    Args:
        field: the field of ``Prompt.meta`` with the truth (a whole solution that ends in ``####``,
            a box or "A: 18" too; a list holds several truths, of which each will do).
        extract: where the answer is looked for, in this order: boxed, hash (``####``), phrase
            ("the answer is"), number (the last one), all (the whole response).
        rel_tol: relative error allowed between numbers.
        unfinished: the value of a response that was cut off; None judges it like any other.
        timeout_s, workers: of the processes that compare.
        engine: chose between two engines once. There is one now, the same on every machine; the
            old names still pass, with a warning.

    Raises:
        ConfigError: an unknown way to extract, or an unknown engine.
    """
    methods = check_methods([extract] if isinstance(extract, str) else extract)
    if engine is not None:
        if engine not in _OLD_ENGINES:
            raise ConfigError(
                f"maths reward: no engine {engine!r}; there is only one now: remove the option"
            )
        warnings.warn(
            f"maths reward: engine: {engine} changes nothing any more; one engine (math-verify "
            "under strict rules) grades everywhere alike: remove the option",
            stacklevel=2,
        )
    if not 0 <= rel_tol < 1:
        raise ConfigError(f"maths reward: rel_tol is from 0 to below 1, not {rel_tol}")
    return VerifierReward(
        f"{_HERE}.maths:maths_verifier",
        "maths",
        field=field,
        unfinished=unfinished,
        options={"extract": list(methods), "rel_tol": rel_tol},
        timeout_s=timeout_s,
        workers=workers,
        memory_mb=_MATHS_MEMORY_MB,
    )


def exact(
    field: str = "answer",
    *,
    extract: Sequence[str] = ("all",),
    case: bool = False,
    punctuation: bool = False,
    unfinished: float | None = 0.0,
) -> VerifierReward:
    """1 where the response (or the answer extracted from it) is the truth; see exact_verifier."""
    verify = exact_verifier(extract, case, punctuation)
    return VerifierReward(verify, "exact", field=field, unfinished=unfinished)


def regex(
    pattern: str | None = None,
    *,
    field: str | None = None,
    full: bool = False,
    ignore_case: bool = False,
    unfinished: float | None = None,
    timeout_s: float = 5.0,
    workers: int = 2,
) -> VerifierReward:
    """1 where a pattern is found; it runs in processes that are killed after ``timeout_s``.

    Args:
        pattern: for all prompts; or
        field: the field of ``Prompt.meta`` that holds each prompt's own.

    Raises:
        ConfigError: not exactly one of the two, or a pattern that an empty response matches.
    """
    if (pattern is None) == (field is None):
        raise ConfigError("regex reward: give either pattern, or field for one per prompt")
    options = {"pattern": pattern, "full": full, "ignore_case": ignore_case}
    regex_verifier(pattern, full=full, ignore_case=ignore_case)
    return VerifierReward(
        f"{_HERE}.text:regex_verifier",
        "regex",
        field=field,
        unfinished=unfinished,
        options=options,
        timeout_s=timeout_s,
        workers=workers,
    )


def json_schema(
    schema: Mapping[str, Any] | None = None,
    *,
    field: str = "schema",
    unfinished: float | None = 0.0,
    timeout_s: float = 5.0,
    workers: int = 2,
) -> VerifierReward:
    """1 where the response is JSON that obeys a schema (``schema``, or each prompt's own).

    It runs in processes that are killed after ``timeout_s``: a schema's ``pattern`` can run away.

    Raises:
        ConfigError: a schema with what is not checked (see :mod:`.schema`).
    """
    json_verifier(schema)
    return VerifierReward(
        f"{_HERE}.text:json_verifier",
        "json",
        field=None if schema is not None else field,
        unfinished=unfinished,
        options={"schema": None if schema is None else dict(schema)},
        timeout_s=timeout_s,
        workers=workers,
    )


def verifier(
    function: str,
    *,
    field: str | None = "answer",
    options: Mapping[str, Any] | None = None,
    unfinished: float | None = None,
    timeout_s: float = 10.0,
    timed_out: float | None = 0.0,
    workers: int = 2,
) -> VerifierReward:
    """A user's own ``verify(text, answer)``, called sample by sample in killable processes.

    Args:
        function: ``package.module:name`` or ``path/file.py:name``.
        field: the field of ``Prompt.meta`` passed as the answer; null passes all of it.
        options: further keyword arguments of the function.
        timeout_s: per call; a process that takes longer is killed.
        timed_out: the value of a response whose call took longer; None makes it an error.

    Raises:
        ConfigError: it cannot be imported.
    """
    where, colon, name = function.rpartition(":")
    if where.endswith(".py"):
        function = f"{Path(where).resolve()}{colon}{name}"
    found = load_own(function, Path.cwd(), "verifier")
    reward = VerifierReward(
        f"{_HERE}.rewards:user_verifier",
        "verifier",
        field=field,
        unfinished=unfinished,
        options={"function": function, "options": dict(options or {})},
        timeout_s=timeout_s,
        timed_out=timed_out,
        workers=workers,
    )
    reward.version = source_version(found)
    return reward


def user_verifier(function: str, options: Mapping[str, Any]) -> Callable[[str, Any], Any]:
    """The user's function with its options filled in (made in the worker)."""
    return partial(called, load_own(function, Path.cwd(), "verifier"), **options)
