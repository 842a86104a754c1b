"""Where the work of a step is done: what one process, or many, do with gradients and counts.

Every process holds all groups of a step; only forward and backward passes are shared. So
normalisers are counted by each over the whole step, losses divided by them, and gradients and
metrics added up, never averaged: a step is the same however many processes there are.

single   one process
ddp      a whole copy of the weights in each; gradients are added up once a step
fsdp2    weights, gradients and optimizer state spread over all; gathered layer by layer

What only one may do (sampling, judging, files) the first process does :meth:`~Strategy.alone`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from gnomon.algorithms.metric import MetricSums
from gnomon.losses.reduce import Totals
from gnomon.models.fixed_order import backward_pass
from gnomon.models.hollow import fill, is_hollow
from gnomon.models.ranks import Ranks
from gnomon.models.roles import Role, Trunk
from gnomon.models.sharded import is_spread, this_device
from gnomon.runs.checkpoint import CheckpointStore

T = TypeVar("T")
Server = Callable[[Any], Any]
"""Does this process's part of what the first one asks for while it works alone."""
_DONE = "done"


class Strategy(Protocol):
    """What the loop asks of the devices it runs on.

    Attributes:
        ranks: the processes.
    """

    ranks: Ranks

    def total(self, counted: Totals) -> Totals:
        """The step's normalisers over all processes."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradient to the parameters'."""
        ...

    def add_up(self, parameters: Sequence[Tensor]) -> None:
        """Make the parameters' gradients those of all processes; once a step."""
        ...

    def sum(self, value: float) -> float:
        """The sum over all processes."""
        ...

    def figures(self, metrics: MetricSums) -> dict[str, float]:
        """Metrics over all processes, as numbers."""
        ...

    def agree(self, problem: str | None) -> str | None:
        """The first problem that any process has: all stop together."""
        ...

    def stopping(self, signal: int | None) -> int | None:
        """The signal that asked any process to stop."""
        ...

    def alone(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the first process, which alone does it, with all weights."""
        ...

    def checkpoints(self, folder: Path, keep: int, every: int) -> CheckpointStore:
        """The checkpoints of a stage."""
        ...


class OneDevice:
    """Everything on this device."""

    def __init__(self) -> None:
        self.ranks = Ranks()

    def total(self, counted: Totals) -> Totals:
        return counted

    def backward(self, loss: Tensor) -> None:
        with backward_pass():
            loss.backward()  # type: ignore[no-untyped-call]

    def add_up(self, parameters: Sequence[Tensor]) -> None:
        """The gradients are all there are."""

    def sum(self, value: float) -> float:
        return value

    def figures(self, metrics: MetricSums) -> dict[str, float]:
        return metrics.values()

    def agree(self, problem: str | None) -> str | None:
        return problem

    def stopping(self, signal: int | None) -> int | None:
        return signal

    def alone(self, work: Callable[[], T]) -> T:
        return work()

    def checkpoints(self, folder: Path, keep: int, every: int) -> CheckpointStore:
        return CheckpointStore(folder, keep, every)


class ManyDevices:
    """The same work shared by several processes.

    Args:
        ranks: the processes.
        mesh: spreads the weights over them (FSDP2); without it each has a whole copy (DDP).

    Attributes:
        servers: what the first process may :meth:`ask` for while it works alone, by name.
    """

    def __init__(self, ranks: Ranks, mesh: DeviceMesh | None = None) -> None:
        self.ranks = ranks
        self.mesh = mesh
        self.servers: dict[str, Server] = {}
        self._trunks: list[Trunk] = []

    def prepare(self, roles: Mapping[str, Role]) -> None:
        """Spread the roles' weights, before anything reads or trains them. Where some processes
        have models without memory, all get theirs from the first, which may hold them whole."""
        self._trunks = list(dict.fromkeys(role.trunk for role in roles.values()))
        if self.mesh is None:
            return
        self.ranks.in_step = True
        filled = any(self.ranks.gather(any(is_hollow(t.model) for t in self._trunks)))
        for trunk in self._trunks:
            trunk.shard(self.mesh, self.ranks, filled)
        for role in roles.values():
            if filled and role.head is not None:
                fill(role.head, this_device(self.mesh))

    def total(self, counted: Totals) -> Totals:
        return counted  # each process has counted all groups

    def backward(self, loss: Tensor) -> None:
        with backward_pass():
            loss.backward()  # type: ignore[no-untyped-call]

    def add_up(self, parameters: Sequence[Tensor]) -> None:
        self.ranks.gather(None)  # whoever failed says so before tensors are waited for
        self.ranks.sum_gradients([p for p in parameters if not is_spread(p)])

    def sum(self, value: float) -> float:
        return self.ranks.sum(value)

    def figures(self, metrics: MetricSums) -> dict[str, float]:
        together = MetricSums()
        for found in self.ranks.gather(metrics):
            together.merge(found)
        return together.values()

    def agree(self, problem: str | None) -> str | None:
        return next((p for p in self.ranks.gather(problem) if p is not None), None)

    def stopping(self, signal: int | None) -> int | None:
        return next((s for s in self.ranks.gather(signal) if s is not None), None)

    def alone(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the first process; the others serve what it asks them for."""
        first = self.ranks.rank == 0
        with self._whole(first or bool(self.servers)), self.ranks.together():
            if first:
                with self.ranks.solo():
                    value = work()
                return self.ranks.told((_DONE, value))[1]
            while True:
                order: tuple[str, Any] = self.ranks.told(None)
                what, asked = order
                if what == _DONE:
                    return asked  # type: ignore[no-any-return]
                self._answer(what, asked)

    def ask(self, what: str, question: object) -> list[Any]:
        """Everybody's answer to a question of the first process, which works alone."""
        with self.ranks.solo(False):
            self.ranks.told((what, question))
            return self._answer(what, question)

    def _answer(self, what: str, question: object) -> list[Any]:
        """Do this process's part, and exchange it for the others'."""
        with self.ranks.together():
            with self.ranks.solo():
                mine = self.servers[what](question)
            return self.ranks.gather(mine)

    def checkpoints(self, folder: Path, keep: int, every: int) -> CheckpointStore:
        return CheckpointStore(folder, keep, every, self.ranks, self.mesh)

    def _whole(self, keep: bool) -> AbstractContextManager[object]:
        if self.mesh is None:
            return nullcontext()
        stack = ExitStack()
        for trunk in self._trunks:
            if trunk.sharding is not None:
                stack.enter_context(trunk.sharding.whole(keep))
        return stack
