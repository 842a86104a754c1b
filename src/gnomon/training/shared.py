"""Sampling where several processes train: the first draws and judges, all of them write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

from gnomon.algorithms.base import Credit, Evaluation, Step
from gnomon.models.ranks import shares
from gnomon.records import TokenGroup
from gnomon.rollout.protocol import (
    Completion,
    Engine,
    Progress,
    Request,
    SamplingParams,
    Snapshot,
)
from gnomon.training.learner import Drawn, Source
from gnomon.training.strategy import ManyDevices

Generate = Callable[
    [Sequence[Request], SamplingParams, Progress | None], list[list[Completion]]
]


class SharedSource:
    """A source that samples, whose groups and evaluations the first process gives to all.

    So a judge is asked once, and an environment played once; what it drew is everybody's.
    """

    def __init__(self, inner: Source, strategy: ManyDevices) -> None:
        self.inner = inner
        self.strategy = strategy
        self._again = strategy.ranks.told(inner.can_draw_again())

    def step(self, iteration: int) -> Step:
        return self.inner.step(iteration)

    def draw(self, step: Step) -> Drawn:
        return self.strategy.alone(lambda: self.inner.draw(step))

    def split(self, credit: Credit, step: Step) -> list[tuple[int, Sequence[TokenGroup]]]:
        return self.inner.split(credit, step)

    def evaluate(self) -> Evaluation:
        return self.strategy.alone(self.inner.evaluate)

    def can_draw_again(self) -> bool:
        return self._again

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
        self._progress: Progress | None = None
        strategy.serve = self._serve

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Draft ``request.n`` completions of each request, in the order of the requests."""
        self._progress = progress
        try:
            found = self.strategy.ask((list(requests), params))
        finally:
            self._progress = None
        out: list[list[Completion]] = [[] for _ in requests]
        for share, written in zip(self._shares(requests), found, strict=True):
            for i, completions in zip(share, cast(list[list[Completion]], written), strict=True):
                out[i] = completions
        return out

    def sync_weights(self) -> None:
        self.inner.sync_weights()

    def capture(self) -> Snapshot:
        return self.inner.capture()

    def pinned(
        self, snapshot: Snapshot, progress: Progress | None = None
    ) -> AbstractContextManager[None]:
        return self.inner.pinned(snapshot, progress)

    def close(self) -> None:
        self.inner.close()

    def _shares(self, requests: Sequence[Request]) -> list[list[int]]:
        sizes = [len(r.prompt_ids) + 64 * r.n for r in requests]
        return shares(sizes, self.strategy.ranks.world)

    def _serve(self, question: object) -> list[list[Completion]]:
        requests, params = cast(tuple[list[Request], SamplingParams], question)
        own = [requests[i] for i in self._shares(requests)[self.strategy.ranks.rank]]
        return self.inner.generate(own, params, self._progress) if own else []
