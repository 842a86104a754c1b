"""Call environments so that one that raises or hangs takes nothing else down with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from gnomon.errors import RunError
from gnomon.usercode import explain, is_interrupt, settled

T = TypeVar("T")


class StepError(Exception):
    """What went wrong in an environment, in words; ``hung`` if its call never returned."""

    def __init__(self, message: str, hung: bool = False) -> None:
        super().__init__(message)
        self.hung = hung


def guarded(
    jobs: Sequence[Callable[[], T]], timeout_s: float | None, workers: int = 1
) -> list[T | StepError]:
    """The result of each job in order, or the StepError that took its place.

    Args:
        timeout_s: seconds per job. A job that takes longer is left behind in its thread (threads
            cannot be killed) and counts as failed; the others continue. None runs all jobs here,
            one after another, without a limit.
        workers: jobs that run at the same time.

    A job may return an awaitable, which is awaited.

    Raises:
        RunError, KeyboardInterrupt: a job says that the run must stop.
    """
    if timeout_s is None:
        return [_call(job) for job in jobs]
    board = _Jobs(jobs, timeout_s)
    for _ in range(min(workers, len(jobs))):
        board.hire()
    return board.wait()


def _call(job: Callable[[], T]) -> T | StepError:
    try:
        result: T = settled(job())
        return result
    except BaseException as error:
        if isinstance(error, RunError) or is_interrupt(error):
            raise
        return StepError(explain(error))


class _Jobs:
    """The jobs, which worker is on which and since when, and the results."""

    def __init__(self, jobs: Sequence[Callable[[], Any]], timeout_s: float) -> None:
        self.jobs = jobs
        self.timeout_s = timeout_s
        self.results: dict[int, Any] = {}
        self.running: dict[int, float] = {}
        self.next = 0
        self.stop: BaseException | None = None
        self.changed = threading.Condition()

    def hire(self) -> None:
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self.changed:
                if self.next >= len(self.jobs) or self.stop is not None:
                    return
                mine = self.next
                self.next += 1
                self.running[mine] = time.monotonic()
            result: Any
            stop: BaseException | None = None
            try:
                result = _call(self.jobs[mine])
            except BaseException as error:  # the run must stop: raised where it is waited for
                result, stop = StepError(explain(error)), error
            with self.changed:
                if mine in self.results:
                    return  # given up on, and replaced
                self.results[mine] = result
                self.running.pop(mine, None)
                self.stop = self.stop or stop
                self.changed.notify()

    def wait(self) -> list[Any]:
        with self.changed:
            while len(self.results) < len(self.jobs) and self.stop is None:
                oldest = min(self.running.values(), default=None)
                now = time.monotonic()
                left = self.timeout_s if oldest is None else oldest + self.timeout_s - now
                if left > 0:
                    self.changed.wait(left)
                    continue
                late = [j for j, t in self.running.items() if t + self.timeout_s <= now]
                for job in late:
                    del self.running[job]
                    message = f"took longer than {self.timeout_s:g} s (step_timeout_s)"
                    self.results[job] = StepError(message, hung=True)
                    self.hire()
        if self.stop is not None:
            raise self.stop
        return [self.results[i] for i in range(len(self.jobs))]
