"""Rollouts sampled ahead, while the policy trains: by weights of a fixed earlier iteration.

    iteration i trains on what the weights of iteration max(0, i - k) wrote,   k = max_staleness

so that at the start of iteration i the rollouts of iteration i + k are ordered, from the weights of
that moment, and those ordered k iterations ago are taken. Which weights sample what follows from i
and k alone, never from which thread was faster; and what is under way at a checkpoint is waited for
and saved with it. So the same seed gives the same run, killed and resumed or not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from gnomon.errors import ConfigError
from gnomon.rollout.protocol import Engine, Snapshot

T = TypeVar("T")


class StoppedError(Exception):
    """The run ends: what is still being sampled is not needed any more."""


@dataclass(frozen=True)
class Taken(Generic[T]):
    """An iteration's rollouts, the iteration whose weights wrote them, and the wait for them."""

    rollouts: T
    weights: int
    seconds: float


@dataclass(frozen=True)
class _Ordered(Generic[T]):
    weights: int
    future: Future[T]


class Prefetch(Generic[T]):
    """Samples (and scores) iterations in a thread of its own, one after the other.

    Args:
        engine: samples; must hold a copy of the weights.
        sample: gives an iteration's rollouts; it runs in the thread, with the engine pinned.
        staleness: k, how many iterations ahead; 1 or more.
        iterations: of the stage; nothing is sampled beyond the last one.

    Raises:
        ConfigError: an engine that shares the trainer's weights.
    """

    def __init__(
        self, engine: Engine | None, sample: Callable[[int], T], staleness: int, iterations: int
    ) -> None:
        assert engine is not None
        if engine.shares_weights:
            raise ConfigError(
                f"max_staleness is {staleness}, but a {type(engine).__name__} samples from the "
                "very weights that are trained: it cannot run ahead of them"
            )
        self._engine = engine
        self._sample = sample
        self._staleness = staleness
        self._iterations = iterations
        self._jobs: dict[int, _Ordered[T]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rollouts")
        self._stopped = threading.Event()

    def take(self, iteration: int) -> Taken[T]:
        """Order what comes ``staleness`` iterations later, and wait for this iteration's rollouts.

        Call it once per iteration, in order, with the weights that the iteration starts from.
        """
        last = min(iteration + self._staleness, self._iterations - 1)
        wanted = [i for i in range(iteration, last + 1) if i not in self._jobs]
        if wanted:
            snapshot = self._engine.capture()
            for i in wanted:
                self._jobs[i] = _Ordered(
                    iteration, self._submit(snapshot, partial(self._sample, i))
                )
        began = time.perf_counter()
        job = self._jobs.pop(iteration)
        return Taken(job.future.result(), job.weights, time.perf_counter() - began)

    def alone(self, work: Callable[[], T]) -> T:
        """Do ``work`` with the policy's weights of now, after what was ordered before."""
        return self._submit(self._engine.capture(), work).result()

    def state(self, pack: Callable[[T], Mapping[str, Any]]) -> dict[str, Any]:
        """What is ordered and not yet taken, waited for; ``pack`` makes it storable."""
        return {
            str(i): {"weights": job.weights, "rollouts": pack(job.future.result())}
            for i, job in sorted(self._jobs.items())
        }

    def restore(self, state: Mapping[str, Any], unpack: Callable[[Mapping[str, Any]], T]) -> None:
        """Take over what :meth:`state` gave."""
        for i, saved in state.items():
            future: Future[T] = Future()
            future.set_result(unpack(saved["rollouts"]))
            self._jobs[int(i)] = _Ordered(int(saved["weights"]), future)

    def close(self) -> None:
        """Drop what is ordered, and wait until the thread has let go of the engine."""
        self._stopped.set()
        self._jobs.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _submit(self, snapshot: Snapshot, work: Callable[[], T]) -> Future[T]:
        def run() -> T:
            self._check()
            with self._engine.pinned(snapshot, lambda done, total: self._check()):
                return work()

        return self._thread.submit(run)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise StoppedError
