"""Verifiers in processes of their own, so that one that hangs can be killed."""

from __future__ import annotations

import importlib
import json
import os
import queue
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

_START_S = 120.0
_BOOT = "from gnomon.rewards.verifiers.workers import main; main()"


class VerifierError(Exception):
    """What a verifier raised, or that it hung or died, in words."""


class WorkerPool:
    """Worker processes that share a verifier's work; started when first needed.

    Args:
        reference, options: ``module:factory``, and the options it is called with, in each worker.
        timeout_s: seconds per question.
        count: processes.
    """

    def __init__(
        self, reference: str, options: Mapping[str, Any], timeout_s: float, count: int
    ) -> None:
        self.timeout_s = timeout_s
        self._free: queue.Queue[_Worker] = queue.Queue()
        for _ in range(count):
            self._free.put(_Worker(reference, options))

    def ask(self, text: str, answer: Any) -> Any:
        """What the verifier says of one response; called from any thread.

        Raises:
            VerifierError: it raised, took longer than ``timeout_s`` (and was killed), or died.
        """
        worker = self._free.get()
        try:
            return worker.ask(text, answer, self.timeout_s)
        finally:
            self._free.put(worker)


class _Worker:
    def __init__(self, reference: str, options: Mapping[str, Any]) -> None:
        self.job = json.dumps({"reference": reference, "options": options})
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, text: str, answer: Any, timeout_s: float) -> Any:
        if self.process is None or self.process.poll() is not None:
            self._start()
        line = json.dumps({"text": text, "answer": answer})
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
        deadline = time.monotonic() + seconds
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
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self._kill()
                    raise VerifierError(f"the verifier {complaint} and was killed")
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


def main() -> None:
    """A worker: the verifier's name on the first line of stdin, then a question on each."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a verifier prints is no reply
    try:
        job = json.loads(sys.stdin.readline())
        module, _, name = job["reference"].partition(":")
        verify = getattr(importlib.import_module(module), name)(**job["options"])
        _reply(replies, {"result": None})
    except Exception as error:
        _reply(replies, {"error": f"{type(error).__name__}: {error}"})
        return
    for line in sys.stdin:
        question = json.loads(line)
        try:
            result = verify(question["text"], question["answer"])
            result = result.item() if hasattr(result, "item") else result
            reply = json.dumps({"result": result})
        except Exception as error:
            reply = json.dumps({"error": f"{type(error).__name__}: {error}"})
        replies.write(reply + "\n")
        replies.flush()


def _reply(replies: Any, message: Mapping[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()
