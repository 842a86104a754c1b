"""Unit tests as a reward: the program in a response is run in a sandbox against its prompt's tests.

Four kinds of tests, recognised by the fields of ``Prompt.meta``:

    test, entry_point     HumanEval's form: code that defines check(candidate)
    test_list             MBPP's form: a list of assert statements (and test_setup_code)
    tests                 a list of {input, output}: run as a script, stdin to stdout
    tests                 a list of {function, args, kwargs, expected}: calls of plain values

In the last two, expected outputs and values stay outside the sandbox. In the first two they are in
another process than the program (see gnomon.sandbox).
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeGuard

from gnomon.errors import ConfigError
from gnomon.judges.programs import extract_code, futures_of
from gnomon.judges.protocol import Sample, SampleJudge, Score, place_of, samples_of
from gnomon.records import Group, Judgement, Prompt
from gnomon.sandbox import BadTestsError, CallTest, InputTest, Limits, Result, Sandbox, SandboxError
from gnomon.sandbox.run import provided


def complete_program(prefix: str, code: str, entry_point: str | None) -> str:
    """``code`` put after the prompt's own code, whether it continues that or starts again.

    Code that defines the entry point goes below the prompt's (it may need its imports and helpers),
    its imports from the future above both. Anything else continues the prompt's last line.
    """
    if entry_point is None or not _defines(code, entry_point):
        return prefix + _indented(code, prefix)
    if not _parses(prefix):
        return code
    futures, rest = futures_of(code)
    return "".join(f"{line}\n" for line in futures) + f"{prefix.rstrip()}\n\n{rest}"


def _indented(code: str, prefix: str) -> str:
    """``code`` as deep as the body that it continues, if it returns outside of any function."""
    returns = re.search(r"^[ \t]*return\b", code, re.MULTILINE)
    begins = re.match(r"(?:[ \t]*\n)*\S", code)
    if not (returns and begins) or re.search(r"^[ \t]*(?:async\s+)?def\b", code, re.MULTILINE):
        return code
    last = prefix.rstrip().rpartition("\n")[2]
    depth = last[: len(last) - len(last.lstrip())]
    return textwrap.indent(code, depth + "    " * last.endswith(":"))


class CodeReward(SampleJudge):
    """Runs each response's program against its prompt's tests.

    A program that fails, hangs, or breaks a limit is worth 0; tests that cannot be run, or a
    sandbox that does not start, are the sample's error, never a zero.

    Args:
        score: all (1 if every test passed, else 0) or share (of the tests that passed).
        backend, allow_unsafe, python_path, workers: see :class:`gnomon.sandbox.Sandbox`.
        rel_tol: how far floats may be off where values are compared outside.
        limits: the rest, as in :class:`gnomon.sandbox.Limits`.

    Raises:
        ConfigError: a wrong option, or no sandbox on this machine.
    """

    def __init__(
        self,
        score: Literal["all", "share"] = "all",
        *,
        backend: str = "auto",
        allow_unsafe: bool = False,
        python_path: Sequence[str] = (),
        workers: int | None = None,
        rel_tol: float = 1e-6,
        **limits: Any,
    ) -> None:
        if score not in ("all", "share"):
            raise ConfigError(f"code reward: score is all or share, not {score!r}")
        self.name = "code"
        self.score = score
        self.rel_tol = rel_tol
        try:
            self.sandbox = Sandbox(
                backend,
                allow_unsafe=allow_unsafe,
                limits=Limits(**limits),
                python_path=python_path,
                workers=workers,
            )
        except (SandboxError, ValueError) as error:
            raise ConfigError(f"code reward: {error}") from error

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        results = self.sandbox.map([partial(self.result, s) for s in samples])
        return [self._score(result) for result in results]

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """Also says why programs failed, each by its response's number."""
        if type(self).__call__ is not CodeReward.__call__:  # a heir's, which scores in its own way
            return super().judge(groups)
        samples = [sample for group in groups for sample in samples_of(group)]
        results = iter(self.sandbox.map([partial(self.result, s) for s in samples]))
        found = []
        for group in groups:
            own = [next(results) for _ in group.responses]
            why = [
                f"{i}: {result.detail or result.ending}" for i, result in enumerate(own, start=1)
                if isinstance(result, Result) and not result.all_passed
            ]  # fmt: skip
            scores = tuple(self._score(result) for result in own)
            found.append(
                Judgement(self.name, scores, version=self.version, reason="\n".join(why) or None)
            )
        return found

    def result(self, sample: Sample) -> Result:
        """Run one sample's program.

        Raises:
            BadTestsError: the prompt has no tests, or they cannot be run.
            SandboxError: the sandbox did not come up.
        """
        run = self._plan(sample.prompt)
        return run(extract_code(sample.text, _called(sample.prompt.meta)))

    def _score(self, result: Any) -> Score:
        if isinstance(result, Exception):
            return Score(None, error=f"{type(result).__name__}: {result}")
        parts = {
            "passed": result.share,
            "timeout": float(result.ending == "timeout"),
            "killed": float(result.ending in ("output", "scratch", "died")),
        }
        return Score(float(result.all_passed) if self.score == "all" else result.share, parts)

    def _plan(self, prompt: Prompt) -> Callable[[str], Result]:
        meta = prompt.meta
        if meta.get("test") and meta.get("entry_point"):
            return partial(self._humaneval, str(meta.get("prompt") or ""), meta)
        if meta.get("test_list"):
            parts, setup = meta["test_list"], str(meta.get("test_setup_code") or "")
            if not _list(parts) or not all(isinstance(part, str) for part in parts):
                kind = "text" if isinstance(parts, str) else _shown(parts)
                raise BadTestsError(
                    f"{place_of(prompt)}: test_list is {kind}, not a list of asserts"
                )
            return partial(self.sandbox.run_asserts, parts=list(parts), setup=setup)
        tests = meta.get("tests")
        if _list(tests) and tests:
            return self._listed(tests, prompt)
        found = ", ".join(sorted(map(str, meta))) or "nothing"
        raise BadTestsError(
            f"{place_of(prompt)}: no tests in its fields ({found}), so no program can pass: the "
            "code reward needs test + entry_point (HumanEval), test_list (MBPP), or tests, a list "
            "of {input, output} or {function, args, expected}"
        )

    def _humaneval(self, prefix: str, meta: Mapping[str, Any], code: str) -> Result:
        entry = str(meta["entry_point"])
        return self.sandbox.run_asserts(
            complete_program(prefix, code, entry),
            [f"{meta['test']}\ncheck({entry})\n"],
            setup=prefix,
            functions=[entry],
        )

    def _listed(self, tests: Sequence[Any], prompt: Prompt) -> Callable[[str], Result]:
        try:
            # columnar files fill fields up with None
            if all(t.get("input") is not None and t.get("output") is not None for t in tests):
                inputs = [InputTest(_text(t["input"]), _text(t["output"])) for t in tests]
                return partial(
                    self.sandbox.run_inputs, tests=inputs, stop_early=self.score == "all"
                )
            calls = [
                CallTest(
                    str(t.get("function") or prompt.meta.get("entry_point") or ""),
                    _arguments(t["args"]),
                    t["expected"],
                    _keywords(t.get("kwargs")),
                )
                for t in tests
            ]
            if all(call.function for call in calls):
                return partial(self.sandbox.run_calls, tests=calls, rel_tol=self.rel_tol)
        except _BadFieldError as error:
            raise BadTestsError(f"{place_of(prompt)}: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise BadTestsError(
                f"{place_of(prompt)}: a test is neither input and output nor function, args and "
                f"expected ({type(error).__name__}: {error})"
            ) from error
        raise BadTestsError(f"{place_of(prompt)}: tests of calls name a function (or entry_point)")


def _called(meta: Mapping[str, Any]) -> list[str] | None:
    """The functions that the tests of a prompt call, which :meth:`CodeReward._plan` could read;
    None where they run a script."""
    if meta.get("test") and meta.get("entry_point"):
        return [str(meta["entry_point"])]
    if meta.get("test_list"):
        return provided(str(meta.get("test_setup_code") or ""), meta["test_list"])
    names = [str(t.get("function") or meta.get("entry_point") or "") for t in meta["tests"]]
    scripts = all(t.get("input") is not None and t.get("output") is not None for t in meta["tests"])
    return None if scripts else list(dict.fromkeys(names))


class _BadFieldError(Exception):
    """A field of a test is of a kind that means nothing."""


def _list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _text(value: Any) -> str:
    """What goes in or comes out: text, a number, or a list of lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if _list(value) and all(isinstance(line, str) for line in value):
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in value)
    raise _BadFieldError(
        f"a test's input or output is {_shown(value)}, neither text nor a number nor a list of "
        "lines of text"
    )


def _arguments(value: Any) -> list[Any]:
    if value is not None and not _list(value):
        raise _BadFieldError(f"a test's args are {_shown(value)}, not a list")
    return list(value or ())


def _keywords(value: Any) -> Mapping[str, Any]:
    if value is not None and not (isinstance(value, Mapping) and all(map(_is_text, value))):
        raise _BadFieldError(f"a test's kwargs are {_shown(value)}, not named values")
    return value or {}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _shown(value: Any) -> str:
    return repr(value)[:80]


def _parses(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError):
        return False
    return True


def _defines(code: str, name: str) -> bool:
    """Whether an unindented line defines ``name`` (by pattern: model code is not parsed here)."""
    pattern = rf"^(?:(?:async\s+)?def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*="
    return re.search(pattern, code, re.MULTILINE) is not None
