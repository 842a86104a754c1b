"""The first process in the sandbox: starts the program apart from its tests and reports.

    grader  --job, then tests-->  runner  --arguments-->  program (own process, own user)
            <----- verdicts ----          <-- plain values --

The program is forked off before the tests have been read, so its memory does not hold them; it has
no descriptor on which a verdict could be written; and what it answers is decoded into plain values.
"""

from __future__ import annotations

import builtins
import gc
import io
import os
import sys
import time

from . import confine, program, wire

TYPE_CHECKING = False  # typing itself takes longer to import than a program takes to run
if TYPE_CHECKING:
    from typing import Any

JOB, REPORT = 0, 1
MAX_DETAIL = 500
SIGKILL = 9


class BrokenTestError(BaseException):
    """A test that cannot be run; not an Exception, so that tests cannot swallow it."""


class ProgramDiedError(BaseException):
    """The program ended while it was asked; not an Exception, so that tests cannot swallow it."""


def main() -> None:
    """Read a job from stdin, run it, write frames to stdout. Never returns."""
    job = wire.receive(JOB, limit=64 * wire.MAX_FRAME)
    sys.path.extend(job["python_path"])
    try:
        confine.confine_all(job)
    except Exception as error:
        wire.send(REPORT, {"refused": f"{type(error).__name__}: {error}"})
        os._exit(3)
    modes = {"io": _run_io, "calls": _run_calls, "asserts": _run_asserts}
    try:
        try:
            modes[job["mode"]](job)
        except confine.ConfineError as error:
            wire.send(REPORT, {"refused": str(error)})
            os._exit(3)
        wire.send(REPORT, {"done": True})
    except wire.ClosedError:
        os._exit(4)
    os._exit(0)


# -- programs that are asked by calls --------------------------------------------------------------


class Program:
    """The program in its own process, as the tests see it."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.calls = 0
        self.held: dict[int, wire.Held] = {}
        to_program, self.requests = os.pipe()
        self.answers, from_program = os.pipe()
        self.pid = _fork_confined(job, {to_program: 3, from_program: 4}, null_output=True)
        if self.pid == 0:
            program.settle(job)
            program.serve(job["source"], 3, 4, hold=job["mode"] == "asserts")
        os.close(to_program)
        os.close(from_program)
        confine.confine_tests(job)
        wire.send(REPORT, {"ready": True})
        wire.send(self.requests, {"go": True})

    def load(self) -> str | None:
        """Wait until the source has been executed; what went wrong, or None."""
        try:
            answer = wire.receive(self.answers)
        except wire.ClosedError:
            return self._death()
        return None if isinstance(answer, dict) and "ok" in answer else _error_text(answer)

    def ask(self, name: str, arguments: Any, keywords: Any, *, maker: bool = False) -> Any:
        """The raw frame that answers one call of encoded arguments.

        Args:
            maker: what it returns is only handed back to the program.

        Raises:
            ProgramDiedError: the program is gone.
        """
        self.calls += 1
        try:
            wire.send(self.requests, {"f": name, "a": arguments, "k": keywords, "m": maker})
            return wire.receive(self.answers)
        except wire.ClosedError:
            raise ProgramDiedError(self._death()) from None

    def _take(self, number: int) -> wire.Held:
        return self.held.setdefault(number, wire.Held(number))

    def function(self, name: str, *, maker: bool = False) -> Any:
        """A stand-in for the program's function ``name``."""

        def stand_in(*arguments: Any, **keywords: Any) -> Any:
            try:
                sent = [wire.encode(x, wire.ARGUMENTS) for x in (list(arguments), keywords)]
            except wire.UnsupportedError as error:
                raise BrokenTestError(f"a test passes {error}") from error
            answer = self.ask(name, *sent, maker=maker)
            if not isinstance(answer, dict) or "ok" not in answer:
                raise _as_exception(answer)
            try:
                return wire.decode(answer["ok"], take=self._take)
            except wire.UnsupportedError as error:
                raise AnswerError(str(error)) from error

        stand_in.__name__ = name
        return stand_in

    def _death(self) -> str:
        """Hang up (a program that is still writing gives up then) and say how it ended."""
        os.close(self.requests)
        os.close(self.answers)
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            return "the program ended"
        if os.WIFSIGNALED(status):
            return f"the program was killed by signal {os.WTERMSIG(status)}"
        return f"the program ended with status {os.WEXITSTATUS(status)}"


def _run_calls(job: dict[str, Any]) -> None:
    """Pass calls to the program and its raw answers to the grader, who holds what is expected."""
    asked = Program(job)
    problem = asked.load()
    calls = wire.receive(JOB, limit=64 * wire.MAX_FRAME)
    for call in calls:
        if problem is None:
            try:
                answer = asked.ask(call["f"], call["a"], call["k"])
            except ProgramDiedError as error:
                problem = str(error)
        wire.send(REPORT, {"answer": answer if problem is None else {"error": ["died", problem]}})


def _run_asserts(job: dict[str, Any]) -> None:
    """Run trusted test code here, with stand-ins for the program's functions."""
    asked = Program(job)
    problem = asked.load()
    tests = wire.receive(JOB, limit=64 * wire.MAX_FRAME)
    if problem is not None:
        wire.send(REPORT, {"passed": [False] * len(tests["parts"]), "detail": problem})
        return
    sys.stdout = sys.stderr = io.TextIOWrapper(io.FileIO(os.devnull, "w"))
    space: dict[str, Any] = {"__name__": "tests"}
    results: list[bool] = []
    detail = ""
    try:
        exec(compile(tests["setup"], "<setup>", "exec"), space)
        parts = [compile(part, "<test>", "exec") for part in tests["parts"]]
        makers = tests["makers"]
        space.update({n: asked.function(n, maker=n in makers) for n in tests["functions"]})
    except Exception as error:
        wire.send(REPORT, {"broken": f"the tests or their set-up fail: {error!r}"[:MAX_DETAIL]})
        return
    for part in parts:
        before = asked.calls
        try:
            exec(part, space)
            results.append(asked.calls > before)
            if not results[-1]:
                detail = detail or "the test never called the program"
        except BrokenTestError as error:
            wire.send(REPORT, {"broken": str(error)[:MAX_DETAIL]})
            return
        except ProgramDiedError as error:
            results += [False] * (len(tests["parts"]) - len(results))
            detail = str(error)
            break
        except BaseException as error:
            results.append(False)
            detail = detail or f"{type(error).__name__}: {error}"
    wire.send(REPORT, {"passed": results, "detail": detail[:MAX_DETAIL]})


class AnswerError(Exception):
    """The program raised something that is not a builtin exception, or gave no plain value."""


def _as_exception(answer: Any) -> Exception:
    kind, text = _error_parts(answer)
    found = getattr(builtins, kind, None)
    if isinstance(found, type) and issubclass(found, Exception):
        try:
            return found(text)
        except Exception:
            return AnswerError(f"{kind}: {text}")
    return AnswerError(f"{kind}: {text}")


def _error_parts(answer: Any) -> tuple[str, str]:
    error = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(error, list) and len(error) == 2:
        return str(error[0])[:100], str(error[1])[:MAX_DETAIL]
    return "AnswerError", "the program answered with no value"


def _error_text(answer: Any) -> str:
    kind, text = _error_parts(answer)
    return f"{kind}: {text}"


# -- programs that read stdin and write stdout -----------------------------------------------------


def _run_io(job: dict[str, Any]) -> None:
    """Run the program once per input, each time in a fresh process; outputs go to the grader."""
    gc.freeze()  # what is here already need not be looked through when a program ends
    wire.send(REPORT, {"ready": True})
    limits = job["limits"]
    for _ in range(job["tests"]):
        text = wire.receive(JOB, limit=64 * wire.MAX_FRAME)
        wire.send(REPORT, _one_run(job, text.encode("utf-8", "surrogateescape"), limits))


def _one_run(job: dict[str, Any], text: bytes, limits: dict[str, Any]) -> dict[str, Any]:
    stdin_read, stdin_write = os.pipe()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    pid = _fork_confined(job, {stdin_read: 0, out_write: 1, err_write: 2}, null_output=False)
    if pid == 0:
        program.settle(job)
        program.run_main(job["source"])
    for fd in (stdin_read, out_write, err_write):
        os.close(fd)
    reads = {out_read: bytearray(), err_read: bytearray()}
    os.set_blocking(stdin_write, False)
    with open(stdin_write, "wb", buffering=0) as stdin:
        ended = _pump(stdin, text, reads, limits["output_bytes"], limits["wall_s"])
    if ended != "end":
        os.kill(pid, SIGKILL)
    deadline = time.monotonic() + limits["wall_s"]
    status = _wait(pid, deadline)
    for fd in reads:
        os.close(fd)
    return {
        "out": bytes(reads[out_read]).decode("utf-8", "replace"),
        "err": bytes(reads[err_read])[-2000:].decode("utf-8", "replace"),
        "status": status,
        "ended": ended,
    }


def _pump(
    stdin: io.FileIO, text: bytes, reads: dict[int, bytearray], limit: int, seconds: float
) -> str:
    """Feed stdin and drain the outputs; says how it ended: end, timeout, or output."""
    import selectors

    left = memoryview(text)
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(stdin, selectors.EVENT_WRITE)
        for fd in reads:
            selector.register(fd, selectors.EVENT_READ)
        open_reads = len(reads)
        while open_reads:
            wait = deadline - time.monotonic()
            if wait <= 0:
                return "timeout"
            for key, _ in selector.select(wait):
                if key.fileobj is stdin:
                    left = _feed(stdin, left)
                    if not left:
                        selector.unregister(stdin)
                        stdin.close()
                    continue
                part = os.read(key.fd, 65536)
                reads[key.fd] += part
                if not part:
                    selector.unregister(key.fd)
                    open_reads -= 1
                if sum(map(len, reads.values())) > limit:
                    return "output"
    return "end"


def _feed(stdin: io.FileIO, left: memoryview) -> memoryview:
    try:
        return left[stdin.write(left[:65536]) or 0 :] if left else left
    except OSError:  # the program does not read its input
        return left[:0]


def _wait(pid: int, deadline: float) -> int:
    """The exit status (negative: the signal); a program that closed its outputs is waited for."""
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, SIGKILL)
        time.sleep(0.001)


# -- the program's side of the fork ----------------------------------------------------------------


def _fork_confined(job: dict[str, Any], keep: dict[int, int], *, null_output: bool) -> int:
    """Fork the program's process: 0 in the child once it is confined, its number in the parent.

    Raises:
        confine.ConfineError: the child could not be confined (and is gone).
    """
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            confine.confine_program(job)
            os.write(sender, b"1")
            _isolate(keep, null_output=null_output)
        except BaseException as error:
            os.write(sender, str(error).encode()[:200])
            os._exit(3)
        return 0
    os.close(sender)
    reply = os.read(receiver, 200)
    os.close(receiver)
    if reply != b"1":
        raise confine.ConfineError(f"the program could not be confined: {reply.decode()}")
    return pid


def _isolate(keep: dict[int, int], *, null_output: bool) -> None:
    """Leave the program the descriptors ``keep`` (old: new) and null devices, nothing else."""
    high = {os.dup2(old, 40 + new): new for old, new in keep.items()}
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2) if null_output else ():
        os.dup2(null, fd)
    for old, new in high.items():
        os.dup2(old, new)
    top = 1 + max([2, *keep.values()])
    os.closerange(top, 1024)
