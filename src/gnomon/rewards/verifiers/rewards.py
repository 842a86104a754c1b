"""The verifiers as rewards with options, as recipes name them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from gnomon.errors import ConfigError
from gnomon.rewards.failure import called
from gnomon.rewards.function import load_function
from gnomon.rewards.verifiers.adapter import VerifierReward
from gnomon.rewards.verifiers.extract import check_methods
from gnomon.rewards.verifiers.maths import maths_verifier
from gnomon.rewards.verifiers.text import exact_verifier, json_verifier, regex_verifier

_HERE = "gnomon.rewards.verifiers"
MathsEngine = Literal["own", "math-verify", "auto"]


def maths(
    field: str = "answer",
    *,
    extract: Sequence[str] = ("boxed", "hash", "phrase", "number"),
    engine: MathsEngine = "auto",
    rel_tol: float = 0.0,
    unfinished: float | None = 0.0,
    timeout_s: float = 5.0,
    workers: int = 2,
) -> VerifierReward:
    """1 where the final answer is the right one, else 0; part ``answered``: an answer was found.

    Args:
        field: the field of ``Prompt.meta`` with the truth (GSM8K's solutions with ``####`` too).
        extract: where the answer is looked for, in this order: boxed, hash (``####``), phrase
            ("the answer is"), number (the last one), all (the whole response).
        engine: own (strict, see :mod:`gnomon.rewards.verifiers.maths`), math-verify, or auto: own,
            and where it says no, math-verify too if that is installed.
        rel_tol: relative error allowed between numbers.
        unfinished: the value of a response that was cut off; None judges it like any other.
        timeout_s, workers: of the processes math-verify runs in.

    Raises:
        ConfigError: an unknown way to extract or engine; math-verify asked for but not installed.
    """
    methods = check_methods([extract] if isinstance(extract, str) else extract)
    installed = importlib.util.find_spec("math_verify") is not None
    if engine not in ("own", "math-verify", "auto"):
        raise ConfigError(f"maths reward: engine is own, math-verify or auto, not {engine!r}")
    if engine == "math-verify" and not installed:
        raise ConfigError(
            "maths reward: math-verify is not installed; pip install gnomon-rlhf[eval]"
        )
    options = {"extract": list(methods), "engine": engine, "rel_tol": rel_tol}
    if engine == "own" or not installed:
        verify = maths_verifier(methods, "own", rel_tol)
        return VerifierReward(verify, "maths", field=field, unfinished=unfinished)
    return VerifierReward(
        None,
        "maths",
        field=field,
        unfinished=unfinished,
        reference=f"{_HERE}.maths:maths_verifier",
        options=options,
        timeout_s=timeout_s,
        workers=workers,
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
) -> VerifierReward:
    """1 where the response is JSON that obeys a schema (``schema``, or each prompt's own)."""
    name = None if schema is not None else field
    return VerifierReward(json_verifier(schema), "json", field=name, unfinished=unfinished)


def verifier(
    function: str,
    *,
    field: str | None = "answer",
    options: Mapping[str, Any] | None = None,
    unfinished: float | None = None,
    timeout_s: float = 10.0,
    workers: int = 2,
) -> VerifierReward:
    """A user's own ``verify(text, answer)``, called sample by sample in killable processes.

    Args:
        function: ``package.module:name`` or ``path/file.py:name``.
        field: the field of ``Prompt.meta`` passed as the answer; null passes all of it.
        options: further keyword arguments of the function.

    Raises:
        ConfigError: it cannot be imported.
    """
    where, colon, name = function.rpartition(":")
    if where.endswith(".py"):
        function = f"{Path(where).resolve()}{colon}{name}"
    load_function(function, Path.cwd())
    return VerifierReward(
        None,
        "verifier",
        field=field,
        unfinished=unfinished,
        reference=f"{_HERE}.rewards:user_verifier",
        options={"function": function, "options": dict(options or {})},
        timeout_s=timeout_s,
        workers=workers,
    )


def user_verifier(function: str, options: Mapping[str, Any]) -> Callable[[str, Any], Any]:
    """The user's function with its options filled in (made in the worker)."""
    found = load_function(function, Path.cwd())

    def verify(text: str, answer: Any) -> Any:
        return called(found, text, answer, **options)

    return verify
