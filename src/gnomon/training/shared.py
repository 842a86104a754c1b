"""Sampling where several processes train: the first draws and judges, all of them write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from gnomon.algorithms.base import Credit, Evaluation, ReferenceStore, Step
from gnomon.errors import EngineError
from gnomon.models.ranks import shares
from gnomon.records import TokenGroup
from gnomon.rollout.protocol import (
    Completion,
    Engine,
    Progress,
    Request,
    SamplingParams,
)
from gnomon.training.learner import Drawn, Source
from gnomon.training.strategy import ManyDevices

GENERATE, FORGET, REFERENCE = "generate", "forget", "reference"
Compute = Callable[[Sequence[TokenGroup]], Tensor]


class SharedSource:
    """A source that samples, whose groups and evaluations the first process gives to all.

    So a judge is asked once, and an environment played once; what it drew is everybody's.
    """

    def __init__(self, inner: Source, strategy: ManyDevices) -> None:
        self.inner = inner
        self.strategy = strategy

    def step(self, iteration: int) -> Step:
        return self.inner.step(iteration)

    def draw(self, step: Step) -> Drawn:
        return self.strategy.alone(lambda: self.inner.draw(step))

    def split(self, credit: Credit, step: Step) -> list[tuple[int, Sequence[TokenGroup]]]:
        return self.inner.split(credit, step)

    def evaluate(self) -> Evaluation:
        return self.strategy.alone(self.inner.evaluate)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict() if self.strategy.ranks.rank == 0 else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.strategy.ranks.rank == 0:
            self.inner.load_state_dict(state)

    def close(self) -> None:
        self.inner.close()


class SharedEngine(Engine):
    """The trainer's own engine in every process, each of which writes its share of the requests.

    What a request gets depends on its prompt and seed, not on who writes it. Made in all processes;
    the first one's is used, while it works alone.

    Args:
        inner: this process's engine; it samples from the weights that are trained.
    """

    shares_weights = True

    def __init__(self, inner: Engine, strategy: ManyDevices) -> None:
        self.inner = inner
        self.strategy = strategy
        self.world = strategy.ranks.world
        self._progress: Progress | None = None
        self._owners: dict[str, int] | None = None  # who holds what serves a prompt's next turn
        self._held = ExitStack()  # of a process that is asked, while the first one is keeping
        strategy.servers |= {GENERATE: self._serve, FORGET: self._forget}

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Draft ``request.n`` completions of each request, in the order of the requests."""
        parts = self._shares(requests)
        shared = [[requests[i] for i in part] for part in parts]
        self._progress = progress
        try:
            found = self.strategy.ask(GENERATE, (shared, params, self._owners is not None))
        finally:
            self._progress = None
        out: list[list[Completion]] = [[] for _ in requests]
        for share, written in zip(parts, found, strict=True):
            for i, completions in zip(share, written, strict=True):
                out[i] = completions
        return out

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """All processes keep what they wrote, and a prompt stays with the one that began it."""
        if self._owners is not None:
            yield
            return
        self._owners = {}
        try:
            yield
            self.strategy.ask(FORGET, None)
        finally:
            self._owners = None
            self._held.close()

    def sync_weights(self) -> None:
        self.inner.sync_weights()

    def rest(self) -> None:
        self.inner.rest()

    def close(self) -> None:
        self.inner.close()

    def _shares(self, requests: Sequence[Request]) -> list[list[int]]:
        """Which requests each process writes."""
        if self._owners is None:
            return shares([r.n for r in requests], self.world)
        sizes: Counter[str] = Counter()
        for request in requests:
            if request.id not in self._owners:
                sizes[request.id] += request.n
        new = list(sizes)
        for rank, share in enumerate(shares([sizes[name] for name in new], self.world)):
            self._owners |= {new[i]: rank for i in share}
        owners = [self._owners[request.id] for request in requests]
        return [[i for i, owner in enumerate(owners) if owner == r] for r in range(self.world)]

    def _serve(self, question: Any) -> list[list[Completion]]:
        shared, params, keep = question
        if keep:
            self._held.enter_context(self.inner.keeping())
        else:
            self._held.close()
        own = shared[self.strategy.ranks.rank]
        return self.inner.generate(own, params, self._progress) if own else []

    def _forget(self, _: Any) -> None:
        self._held.close()


class NoEngine(Engine):
    """Where another process samples."""

    shares_weights = True

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        raise EngineError("the first process samples")


def share_engine(engine: Engine | None, strategy: ManyDevices) -> Engine | None:
    """The engine with its requests shared, where it samples from the weights that are trained."""
    if engine is None or not engine.shares_weights:
        return engine
    return SharedEngine(engine, strategy)


class SharedStore:
    """A store of the reference's log-probs that only the first process opens; what it lacks all of
    them compute, each its share of the groups.

    Args:
        inner: the store, in the first process.
    """

    def __init__(self, inner: ReferenceStore, strategy: ManyDevices) -> None:
        self.inner = inner
        self.strategy = strategy
        self.world = strategy.ranks.world

    def fetch(self, groups: Sequence[TokenGroup], per_token: bool, compute: Compute) -> Tensor:
        """[S] sums over counted tokens, or [R] values; see ``ReferenceStore``."""

        def mine(asked: Sequence[TokenGroup]) -> Tensor:
            own = [asked[i] for i in self._shares(asked)[self.strategy.ranks.rank]]
            return compute(own) if own else torch.empty(0)

        def everybodys(asked: Sequence[TokenGroup]) -> Tensor:
            parts: dict[int, Tensor] = {}
            for share, found in zip(
                self._shares(asked), self.strategy.ask(REFERENCE, list(asked)), strict=True
            ):
                sizes = [sum(len(r.ids) for r in asked[i].responses) for i in share]
                parts.update(zip(share, torch.split(found, sizes), strict=True))
            return torch.cat([parts[i] for i in range(len(asked))])

        self.strategy.servers[REFERENCE] = mine
        try:
            return self.strategy.alone(lambda: self.inner.fetch(groups, per_token, everybodys))
        finally:
            del self.strategy.servers[REFERENCE]

    def _shares(self, groups: Sequence[TokenGroup]) -> list[list[int]]:
        return shares([g.num_tokens() for g in groups], self.world)
