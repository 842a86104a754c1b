"""Rollouts sampled ahead, while the policy trains: by weights of a fixed earlier iteration.

    iteration i trains on what the weights of iteration max(0, i - k) wrote,   k = max_staleness

so that at the start of iteration i the rollouts of iteration i + k are ordered, from the weights of
that moment, and those ordered k iterations ago are taken. Which weights sample what follows from i
and k alone, never from which thread was faster. A checkpoint holds every order: what is done
already as it is; what is not with the samples that are finished (:mod:`gnomon.rollout.finished`)
and the weights that were to write it, so that the others are sampled from the same weights with the
same seeds. No order is dropped for being slow, and none is replaced. So the same seed gives the
same run, killed and resumed or not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gnomon.errors import ConfigError
from gnomon.rollout.finished import Finished, finishing
from gnomon.rollout.protocol import Engine, Snapshot
from gnomon.training.rollout_state import pack_completions, unpack_completions

T = TypeVar("T")


class StoppedError(Exception):
    """The run ends: what is still being sampled is not needed any more."""


@dataclass(frozen=True)
class Taken(Generic[T]):
    """An iteration's rollouts, the iteration whose weights wrote them, and the wait for them."""

    rollouts: T
    weights: int
    seconds: float


@dataclass
class _Order(Generic[T]):
    """An iteration's rollouts on their way; ``snapshot`` and what is ``finished`` of them are kept
    until all are there."""

    weights: int
    future: Future[T]
    snapshot: Snapshot | None = None
    finished: Finished = field(default_factory=Finished)

    def settle(self, future: Future[T]) -> None:
        """Let go of the weights, unless the rollouts have to be sampled again."""
        if not future.cancelled() and future.exception() is None:
            self.snapshot, self.finished = None, Finished()


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
        self._orders: dict[int, _Order[T]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rollouts")
        self._stopped = threading.Event()

    def take(self, iteration: int) -> Taken[T]:
        """Order what comes ``staleness`` iterations later, and wait for this iteration's rollouts.

        Call it in the order of iterations, with the weights that each starts from. What was taken
        is kept until the next iteration takes: one that fails half-way gets the same again.
        """
        self._orders = {i: order for i, order in self._orders.items() if i >= iteration}
        last = min(iteration + self._staleness, self._iterations - 1)
        wanted = [i for i in range(iteration, last + 1) if i not in self._orders]
        if wanted:
            snapshot = self._engine.capture()
            for i in wanted:
                self._order(i, iteration, snapshot)
        began = time.perf_counter()
        order = self._orders[iteration]
        return Taken(order.future.result(), order.weights, time.perf_counter() - began)

    def alone(self, work: Callable[[], T]) -> T:
        """Do ``work`` with the policy's weights of now, after what was ordered before."""
        return self._submit(self._engine.capture(), work).result()

    def state(self, pack: Callable[[T], Mapping[str, Any]]) -> dict[str, Any]:
        """What is ordered, waiting for nothing; ``pack`` makes rollouts storable.

        An order that is not done yet, or failed, is stored with the samples that are finished, and
        with the weights that are to write the others: once for each version, however many orders it
        has.
        """
        orders: dict[str, Any] = {}
        snapshots: dict[str, Any] = {}
        for i, order in sorted(self._orders.items()):
            # in this order: settle() may be called
            snapshot, finished, future = order.snapshot, order.finished, order.future
            done = future.done() and future.exception() is None
            orders[str(i)] = {
                "weights": order.weights,
                "rollouts": pack(future.result()) if done else None,
            }
            if not done:
                assert snapshot is not None
                parts = finished.parts().items()
                orders[str(i)]["finished"] = {k: pack_completions(rows) for k, rows in parts}
                snapshots.setdefault(str(order.weights), snapshot.state_dict())
        return {"orders": orders, "snapshots": snapshots}

    def restore(self, state: Mapping[str, Any], unpack: Callable[[Mapping[str, Any]], T]) -> None:
        """Take over what :meth:`state` gave, and sample what is missing."""
        orders = state.get("orders", state)  # earlier versions had them alone
        snapshots = {j: self._engine.restored(s) for j, s in state.get("snapshots", {}).items()}
        for i, saved in sorted(orders.items(), key=lambda item: int(item[0])):
            if saved["rollouts"] is None:
                weights, parts = saved["weights"], saved.get("finished", {})
                finished = Finished({k: unpack_completions(part) for k, part in parts.items()})
                self._order(int(i), int(weights), snapshots[str(weights)], finished)
                continue
            future: Future[T] = Future()
            future.set_result(unpack(saved["rollouts"]))
            self._orders[int(i)] = _Order(int(saved["weights"]), future)

    def close(self) -> None:
        """Drop what is ordered, and wait until the thread has let go of the engine."""
        self._stopped.set()
        self._orders.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _order(
        self, iteration: int, weights: int, snapshot: Snapshot, finished: Finished | None = None
    ) -> None:
        """Have an iteration sampled from ``snapshot``, the weights of iteration ``weights``, but
        for what is ``finished``."""
        finished = finished or Finished()

        def work() -> T:
            with finishing(finished):
                return self._sample(iteration)

        future = self._submit(snapshot, work)
        order = _Order(weights, future, snapshot, finished)
        self._orders[iteration] = order
        future.add_done_callback(order.settle)

    def _submit(self, snapshot: Snapshot, work: Callable[[], T]) -> Future[T]:
        def run() -> T:
            self._check()
            with self._engine.pinned(snapshot, lambda done, total: self._check()):
                return work()

        return self._thread.submit(run)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise StoppedError
