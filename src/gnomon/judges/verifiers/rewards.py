"""The verifiers as rewards with options, as recipes name them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError
from gnomon.judges.verifiers.adapter import VerifierReward
from gnomon.judges.verifiers.extract import check_methods
from gnomon.judges.verifiers.text import exact_verifier, json_verifier, regex_verifier
from gnomon.plugins import load_own
from gnomon.usercode import called

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
        ConfigError: an unknown way to extract, or an engine that never was.
    """
    methods = check_methods([extract] if isinstance(extract, str) else extract)
    if engine is not None:
        if engine not in _OLD_ENGINES:
            raise ConfigError(
                f"maths reward: there is no engine {engine!r}, nor any to choose: remove it"
            )
        warnings.warn(
            f"maths reward: engine: {engine} changes nothing any more; one engine (math-verify "
            "under strict rules) grades everywhere alike: remove the option",
            stacklevel=2,
        )
    if not 0 <= rel_tol < 1:
        raise ConfigError(f"maths reward: rel_tol is from 0 to below 1, not {rel_tol}")
    return VerifierReward(
        None,
        "maths",
        field=field,
        unfinished=unfinished,
        reference=f"{_HERE}.maths:maths_verifier",
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
        None,
        "regex",
        field=field,
        unfinished=unfinished,
        reference=f"{_HERE}.text:regex_verifier",
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
        None,
        "json",
        field=None if schema is not None else field,
        unfinished=unfinished,
        reference=f"{_HERE}.text:json_verifier",
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
    load_own(function, Path.cwd(), "verifier")
    return VerifierReward(
        None,
        "verifier",
        field=field,
        unfinished=unfinished,
        reference=f"{_HERE}.rewards:user_verifier",
        options={"function": function, "options": dict(options or {})},
        timeout_s=timeout_s,
        timed_out=timed_out,
        workers=workers,
    )


def user_verifier(function: str, options: Mapping[str, Any]) -> Callable[[str, Any], Any]:
    """The user's function with its options filled in (made in the worker)."""
    found = load_own(function, Path.cwd(), "verifier")

    def verify(text: str, answer: Any) -> Any:
        return called(found, text, answer, **options)

    return verify
