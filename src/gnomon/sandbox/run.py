"""Programs and their tests, judged outside the sandbox wherever the answer can be kept outside."""

from __future__ import annotations

import ast
import builtins
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnomon.sandbox import backends, supervise
from gnomon.sandbox.backends import Limits
from gnomon.sandbox.compare import same_value, shown
from gnomon.sandbox.inside import wire
from gnomon.sandbox.names import called, makers
from gnomon.sandbox.supervise import Outcome

_ENV = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"} | {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")
}
_ROOM, _ROOM_FACTOR = 2**16, 16
"""An answer may have so many bytes, and so many times those of the one expected; none that is right
has more, and reading a longer one would only cost the grader."""


@dataclass(frozen=True)
class InputTest:
    """A program run as a script: ``input`` on stdin, and the stdout that is expected."""

    input: str
    output: str


@dataclass(frozen=True)
class CallTest:
    """A call of the program's function with plain values, and the plain value expected back."""

    function: str
    args: Sequence[Any]
    expected: Any
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """How a program did on its tests.

    Attributes:
        passed: per test (with ``stop_early`` those after the first failure are False, not run).
        ending: ran, timeout, output, scratch or died (see Outcome).
        detail: the first failure in words, for the samples file; written in part by the program.
        seconds: wall time.
    """

    passed: Sequence[bool]
    ending: str
    detail: str
    seconds: float

    @property
    def all_passed(self) -> bool:
        """True if there were tests and every one passed."""
        return bool(self.passed) and all(self.passed)

    @property
    def share(self) -> float:
        """Share of the tests that passed, 0 if there were none."""
        return sum(self.passed) / len(self.passed) if self.passed else 0.0


class BadTestsError(Exception):
    """The tests themselves cannot be run: the data set's fault, not the program's."""


class Sandbox:
    """Runs programs behind walls and tests them so that the program has no say in the result.

    Args:
        backend: auto (bubblewrap, else landlock), bubblewrap, landlock, or none.
        allow_unsafe: where no sandbox works, run programs with our own rights.
        limits: of every program.
        python_path: folders the program may import from (site-packages, say) besides the standard
            library; they become readable inside.
        workers: programs at once.

    Raises:
        SandboxError: no backend works here (set allow_unsafe to run anyway).
    """

    def __init__(
        self,
        backend: str = "auto",
        *,
        allow_unsafe: bool = False,
        limits: Limits | None = None,
        python_path: Sequence[str] = (),
        workers: int | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.backend = backends.choose(backend, allow_unsafe=allow_unsafe)
        self.python_path = [os.path.realpath(p) for p in python_path]
        self.read_paths = backends.read_paths(self.python_path)
        self.workers = workers or max(1, min(16, len(os.sched_getaffinity(0))))
        self._keep_search = self.backend.keep_search(self.read_paths)

    # -- three kinds of tests ---------------------------------------------------------------------

    def run_inputs(
        self, source: str, tests: Sequence[InputTest], *, stop_early: bool = True
    ) -> Result:
        """Run ``source`` once per test; outputs are compared here, outside.

        Trailing blanks of lines and blank lines at the end do not count.
        """
        expected = [_lines(test.output) for test in tests]
        count = 0

        def failed(frame: Any) -> bool:
            nonlocal count
            if "out" not in frame:
                return False
            count += 1
            return stop_early and not _input_passed(frame, expected[count - 1])

        parts = [wire.frame(test.input) for test in tests]
        outcome = self._run(source, "io", parts, tests=len(tests), enough=failed)
        frames = [f for f in outcome.frames if "out" in f]
        passed = [_input_passed(f, e) for f, e in zip(frames, expected, strict=False)]
        detail, ending = "", str(outcome.ending)
        for frame, good in zip(frames, passed, strict=True):
            if not good:
                ending = frame["ended"] if frame["ended"] != "end" else ending
                detail = _input_detail(frame)
                break
        return self._result(passed, len(tests), outcome, ending, detail)

    def run_calls(self, source: str, tests: Sequence[CallTest], *, rel_tol: float = 0.0) -> Result:
        """Load ``source``, make the calls, compare the values here, outside.

        Args:
            rel_tol: how far floats may be off, relatively; 0 asks for equal values.

        Raises:
            BadTestsError: arguments or expected values that are not plain data.
        """
        try:
            calls = [
                {
                    "f": t.function,
                    "a": wire.encode(list(t.args), wire.ARGUMENTS),
                    "k": wire.encode(dict(t.kwargs), wire.ARGUMENTS),
                }
                for t in tests
            ]
            coded = [wire.encode(t.expected) for t in tests]
            expected = [wire.decode(value) for value in coded]
        except wire.UnsupportedError as error:
            raise BadTestsError(f"a test's values: {error}") from error
        rooms = [_ROOM + _ROOM_FACTOR * len(wire.frame(value)) for value in coded]
        rooms.append(_ROOM)  # of the runner's farewell
        verdicts: list[tuple[bool, str]] = []

        def judged(data: bytes) -> Any:
            message = supervise.parsed(data) if len(data) <= rooms[len(verdicts)] else None
            if message is not None and "answer" not in message:
                return message
            if message is None:
                verdicts.append((False, f"the answer is too long: {len(data):,} bytes"))
            else:
                want = expected[len(verdicts)]
                verdicts.append(_call_passed(message["answer"], want, rel_tol))
            return {"judged": len(verdicts)}

        outcome = self._run(source, "calls", [wire.frame(calls)], read=judged)
        detail = next((text for good, text in verdicts if not good), "")
        passed = [good for good, _ in verdicts]
        return self._result(passed, len(tests), outcome, str(outcome.ending), detail)

    def run_asserts(
        self,
        source: str,
        parts: Sequence[str],
        *,
        setup: str = "",
        functions: Sequence[str] | None = None,
    ) -> Result:
        """Run trusted test code against the program's functions.

        The test code runs in a process of its own inside the sandbox, where the functions are
        stand-ins that send plain arguments to the program's process and get plain values back. A
        part passes if it ends without an exception and called the program at least once. An object
        that the program returns stays there; the tests can pass it back, and nothing else.

        Args:
            source: the program.
            parts: test code; each part is judged by itself, in one shared namespace.
            setup: trusted code that runs first (imports, helpers).
            functions: the names the program provides; by default those the parts use and neither
                they, the set-up nor Python define, or else the one builtin that they call.

        Raises:
            BadTestsError: the set-up fails, or a test passes what is not plain data.
        """
        names = list(functions) if functions is not None else provided(setup, parts)
        tests = {"setup": setup, "parts": list(parts), "functions": names}
        tests["makers"] = makers(parts, names)
        outcome = self._run(source, "asserts", [wire.frame(tests)])
        frame = outcome.frames[0] if outcome.frames else {}
        if "broken" in frame:
            raise BadTestsError(frame["broken"])
        passed = [bool(x) for x in frame.get("passed", [])] if outcome.complete else []
        return self._result(
            passed, len(parts), outcome, str(outcome.ending), str(frame.get("detail", ""))
        )

    def map(self, work: Sequence[Callable[[], Any]]) -> list[Any]:
        """Call each of ``work`` (which use this sandbox) on ``workers`` threads, in order.

        An exception is returned in its place.
        """

        def guarded(one: Callable[[], Any]) -> Any:
            try:
                return one()
            except Exception as error:
                return error

        if len(work) < 2:
            return [guarded(one) for one in work]
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(guarded, work))

    def _result(
        self, passed: Sequence[bool], count: int, outcome: Outcome, ending: str, detail: str
    ) -> Result:
        rest = [False] * (count - len(passed))
        if not detail and rest:
            ends = {"output": "too much output", "scratch": "too many files"}
            detail = {**ends, "timeout": "out of time"}.get(ending, "the program ended the sandbox")
        return Result([*passed, *rest], ending, detail + self._limit(detail), outcome.seconds)

    def _limit(self, detail: str) -> str:
        """Which limit of the sandbox an error speaks of, in words; empty where of none."""
        limits = self.limits
        if "start new thread" in detail:
            return (
                f" (the sandbox lets a program have {limits.threads} threads and "
                f"{limits.memory_mb} MB of memory with their stacks: options threads, memory_mb)"
            )
        if "Operation not permitted" in detail:
            return (
                f" (the sandbox lets a program have no network, and no more processes than "
                f"{limits.processes}: option processes)"
            )
        if "MemoryError" in detail:
            return f" (the sandbox lets a program have {limits.memory_mb} MB: option memory_mb)"
        return ""

    # -- one run ----------------------------------------------------------------------------------

    def _run(
        self,
        source: str,
        mode: str,
        parts: Sequence[bytes],
        *,
        tests: int = 1,
        enough: supervise.Stop | None = None,
        read: supervise.Read = supervise.parsed,
    ) -> Outcome:
        limits, uid = self.limits, self.backend.uid()
        job: dict[str, Any] = {
            "backend": self.backend.name,
            "mode": mode,
            "source": source.encode("utf-8", "replace").decode(),
            "tests": tests,
            "uid": uid,
            "keep_search": self._keep_search,
            "read_paths": self.read_paths,
            "python_path": self.python_path,
            "limits": limits.to_job() | {"tasks": self.backend.tasks(limits)},
            "scratch": backends.SCRATCH,
        }
        seconds = limits.wall_s * tests + (supervise.START_S if mode == "io" else 0.0)
        arguments: dict[str, Any] = {
            "seconds": seconds,
            "max_bytes": 2 * wire.MAX_FRAME + 8 * limits.output_kb * 1024 * tests,
            "enough": enough,
            "read": read,
        }
        command = self.backend.command(limits, self.read_paths)
        if self.backend.name == "bubblewrap":
            env = _ENV | {"HOME": backends.SCRATCH, "TMPDIR": backends.SCRATCH}
            return supervise.supervise(command, _bytes(job, parts), env=env, **arguments)
        scratch = Path(tempfile.mkdtemp(prefix="gnomon-sandbox-"))
        try:
            if uid:
                os.chown(scratch, uid, uid)
            job["scratch"] = str(scratch)
            env = _ENV | {"HOME": str(scratch), "TMPDIR": str(scratch)}

            def overfull() -> bool:
                return supervise.folder_bytes(scratch, limits.scratch_mb * 2**20)

            return supervise.supervise(
                command, _bytes(job, parts), env=env, overfull=overfull, **arguments
            )
        finally:
            supervise.remove_folder(scratch)


def free_names(parts: Sequence[str]) -> list[str]:
    """Names that trusted code uses but neither defines nor gets from Python.

    Raises:
        BadTestsError: the code does not parse.
    """
    return _free(parts, dir(builtins))


def _trees(parts: Sequence[str]) -> list[ast.Module]:
    try:
        return [ast.parse(part) for part in parts]
    except (SyntaxError, ValueError) as error:
        raise BadTestsError(f"test code does not parse: {error}") from error


def provided(setup: str, parts: Sequence[str]) -> list[str]:
    """The names that the program provides to tests; a task may be to write ``sum``.

    Raises:
        BadTestsError: the tests do not parse, or call nothing that a program could provide.
    """
    names = free_names([setup, *parts])
    if not names:
        names = sorted(called(_trees(parts)).intersection(_free([setup, *parts], ())))
        if len(names) != 1:
            raise BadTestsError("the tests call no function that a program could provide")
    return names


def _free(parts: Sequence[str], given: Sequence[str]) -> list[str]:
    used: dict[str, None] = {}
    known = set(given)
    for tree in _trees(parts):
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                if isinstance(node.ctx, ast.Load):
                    used.setdefault(node.id)
                else:
                    known.add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                known.add(node.name)
            elif isinstance(node, ast.arg):
                known.add(node.arg)
            elif isinstance(node, ast.alias):
                known.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, ast.ExceptHandler) and node.name:
                known.add(node.name)
    return [name for name in used if name not in known]


def _bytes(job: Mapping[str, Any], parts: Sequence[bytes]) -> bytes:
    return b"".join([wire.frame(job), *parts])


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _input_passed(frame: Mapping[str, Any], expected: Sequence[str]) -> bool:
    ended_well = frame["ended"] == "end" and frame["status"] == 0
    return ended_well and _lines(frame["out"]) == list(expected)


def _input_detail(frame: Mapping[str, Any]) -> str:
    if frame["ended"] != "end":
        return f"stopped: {frame['ended']}"
    if frame["status"]:
        return f"status {frame['status']}: {frame['err'].strip()[-300:]}"
    return f"wrote {frame['out'][:200]!r}"


def _call_passed(answer: Any, want: Any, rel_tol: float) -> tuple[bool, str]:
    """Whether a call's answer is the one expected; if not, what it was, in words."""
    if not isinstance(answer, dict) or "ok" not in answer:
        error = answer.get("error") if isinstance(answer, dict) else None
        if not isinstance(error, list) or not all(isinstance(part, str) for part in error):
            return False, "no answer"
        return False, ": ".join(part[:500] for part in error)[:500]
    good = same_value(answer["ok"], want, rel_tol)
    return good, "" if good else f"gave {shown(answer['ok'], 500)}"[:500]
