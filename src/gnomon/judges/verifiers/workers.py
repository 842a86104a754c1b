"""Verifiers in processes of their own, so that one that hangs can be killed.

A worker is a fresh interpreter (never a fork), kept from question to question, killed when it takes
too long and started again for the next one. A worker also ends itself: when its parent is gone, and
some time after the parent should have killed it.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import queue
import resource
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

_START_S = 120.0
_GRACE_S = 10.0
"""Seconds past its limit after which a worker that nobody killed ends itself."""
_MOST_WAIT = 5
"""How many times its limit a worker may take that has to wait for a busy processor."""
_BOOT = "from gnomon.judges.verifiers.workers import main; main()"


class VerifierError(Exception):
    """What a verifier raised, or that it hung or died, in words."""


class VerifierTimeoutError(VerifierError):
    """It took longer than allowed, and was killed."""


class WorkerPool:
    """Worker processes that share a verifier's work; started when first needed.

    Args:
        reference, options: ``module:factory``, and the options it is called with, in each worker.
        timeout_s: seconds per question. On a busy machine, where a worker has had the processor for
            less than that, it gets the rest, up to five times as long on the wall: an answer is
            not wrong because others compute.
        count: processes.
        memory_mb: of address space that each may use; None for no limit.
    """

    def __init__(
        self,
        reference: str,
        options: Mapping[str, Any],
        timeout_s: float,
        count: int,
        memory_mb: int | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        job = {
            "reference": reference,
            "options": options,
            "limit_s": _MOST_WAIT * timeout_s + _GRACE_S,
            "memory_mb": memory_mb,
        }
        self._free: queue.Queue[_Worker] = queue.Queue()
        for _ in range(count):
            self._free.put(_Worker(job))

    def ask(self, text: str, answer: Any) -> Any:
        """The verifier's answer for one response; may be called from any thread.

        Raises:
            VerifierTimeoutError: it took longer than ``timeout_s`` and was killed.
            VerifierError: it raised, died, or cannot be made.
        """
        return self._asked({"text": text, "answer": answer})

    def check(self, answer: Any) -> None:
        """Let the verifier read a reference answer alone, if it can (``verify.check(answer)``).

        Raises:
            VerifierError: as :meth:`ask`.
        """
        self._asked({"check": answer})

    def _asked(self, question: Mapping[str, Any]) -> Any:
        worker = self._free.get()
        try:
            return worker.ask(question, self.timeout_s)
        finally:
            self._free.put(worker)


class _Worker:
    def __init__(self, job: Mapping[str, Any]) -> None:
        self.job = json.dumps(job)
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, question: Mapping[str, Any], timeout_s: float) -> Any:
        if self.process is None or self.process.poll() is not None:
            self._start()
        line = json.dumps(question)
        reply = json.loads(self._exchange(line, timeout_s, f"took longer than {timeout_s:g} s"))
        if "error" in reply:
            raise VerifierError(reply["error"])
        return reply["result"]

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is for the run, which stops when it can
        )
        reply = json.loads(self._exchange(self.job, _START_S, "did not start"))
        if "error" in reply:
            self._kill()
            raise VerifierError(f"the verifier cannot be made: {reply['error']}")

    def _exchange(self, line: str, seconds: float, complaint: str) -> bytes:
        """Send a line and read one back; a worker that does not answer in time is killed."""
        process = self.process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        began, used = time.monotonic(), _processor_seconds(process.pid)[0]
        wait = seconds
        try:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            self._kill()
            raise VerifierError(f"the verifier's process died: {error}") from error
        received = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                if not selector.select(max(0.0, began + wait - time.monotonic())):
                    now, busy = _processor_seconds(process.pid)
                    missing = seconds - (now - used)
                    if busy and missing > 0 and wait < _MOST_WAIT * seconds:
                        wait = min(wait + max(missing, 0.01), _MOST_WAIT * seconds)
                        continue
                    if selector.select(0):  # it has answered since: that is why it sleeps
                        continue
                    self._kill()
                    raise VerifierTimeoutError(f"the verifier {complaint} and was killed")
                part = os.read(process.stdout.fileno(), 65536)
                if not part:
                    self._kill()
                    raise VerifierError("the verifier's process died")
                received += part
        return received

    def _kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    try:
                        stream.close()
                    except OSError:
                        continue
            self.process.wait()
            self.process = None

    def __del__(self) -> None:
        self._kill()


def _processor_seconds(pid: int) -> tuple[float, bool]:
    """The processor time of a process so far, and whether it wants more (it does not sleep).

    (0, False) where the system does not say.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return 0.0, False
    seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds, fields[0] in ("R", "D")


def main() -> None:
    """Run a worker: the verifier's name is the first line of stdin, each further one a question."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a verifier prints is not a reply
    try:
        job = json.loads(sys.stdin.readline())
        module, _, name = job["reference"].partition(":")
        verify = getattr(importlib.import_module(module), name)(**job["options"])
        if job["memory_mb"] is not None:
            _limit_memory(job["memory_mb"])
        _reply(replies, {"result": None})
    except (Exception, SystemExit) as error:  # the module may be a user's
        _reply(replies, {"error": f"{type(error).__name__}: {error}"})
        return
    with open(os.devnull, "w") as nowhere:
        for line in sys.stdin:
            faulthandler.dump_traceback_later(job["limit_s"], exit=True, file=nowhere)
            _reply(replies, _answered(verify, json.loads(line)))
            faulthandler.cancel_dump_traceback_later()


def _answered(verify: Any, question: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        if "check" in question:
            check = getattr(verify, "check", None)
            result: Any = None if check is None else check(question["check"])
        else:
            result = verify(question["text"], question["answer"])
        result = result.item() if hasattr(result, "item") else result
        json.dumps(result)
    except (Exception, SystemExit) as error:  # whatever a verifier raises belongs to its sample
        return {"error": f"{type(error).__name__}: {error}"}
    return {"result": result}


def _limit_memory(memory_mb: int) -> None:
    """Let no computation take more address space than this beyond what the worker has now."""
    try:
        with open("/proc/self/statm") as sizes:
            used = int(sizes.read().split()[0]) * resource.getpagesize()
    except OSError:  # no Linux: the clock alone must do
        return
    soft = used + memory_mb * 2**20
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _reply(replies: Any, message: Mapping[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()
