"""The processes of one run: what they tell each other, and how they fail together.

Every process runs the same code on the same groups. Two process groups connect them: one for
tensors (NCCL on CUDA, gloo on CPU) and a gloo one for small objects. Objects are pickled between
processes of the same job, which trust each other as torchrun's own do; nothing pickled is written.

Each exchange of objects begins with everybody's state, so that one that fails is heard by all at
their next exchange, and all raise its error.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gnomon import errors
from gnomon.errors import GnomonError, MemoryExhaustedError, RunError

T = TypeVar("T")
_LOST = re.compile(r"gloo|nccl|process ?group|connection (closed|reset|refused)|broken pipe", re.I)

TIMEOUT = timedelta(minutes=30)
"""The longest that a process waits for the others' tensors."""
PATIENCE = timedelta(days=365)
"""The longest that it waits for an order: the first process may sample or judge for days."""
BUCKET = 2**25
"""Elements of gradients that are added up over processes at once."""


class PeerLostError(RunError):
    """Another process ended or does not answer. Nothing saved is lost."""


@dataclass(frozen=True)
class _Failure:
    """An error on its way to other processes, with what it knows in numbers and words."""

    rank: int
    kind: str
    text: str
    known: Mapping[str, Any]

    @classmethod
    def of(cls, rank: int, error: BaseException) -> _Failure:
        own = isinstance(error, GnomonError | KeyboardInterrupt)
        text = str(error) if own else f"{type(error).__name__}: {error}"
        known = {k: v for k, v in vars(error).items() if isinstance(v, int | float | str)}
        return cls(rank, type(error).__name__, text, known if own else {})

    def error(self) -> BaseException:
        """The same error as another process raises it."""
        if self.kind == "KeyboardInterrupt":
            return heard(KeyboardInterrupt())
        text = f"process {self.rank}: {self.text}" if self.rank else self.text
        if self.kind == "RunStopped":
            return heard(errors.RunStopped(text, self.known.get("signal") or 15))
        if self.kind == "RewardsFailedError":
            return heard(errors.RewardsFailedError(text, []))
        if self.kind == "MemoryExhaustedError":  # whose constructor writes the text
            exhausted = MemoryExhaustedError.__new__(MemoryExhaustedError, text)
            vars(exhausted).update(self.known)
            return heard(exhausted)
        kind = getattr(errors, self.kind, RunError)
        return heard(kind(text))


def _is_lost(error: BaseException) -> bool:
    """Whether torch says that it could not reach another process."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and bool(_LOST.search(str(error)))
    )


E = TypeVar("E", bound=BaseException)


def heard(error: E) -> E:
    """The error, marked as one that every process knows of: only the first one shows it."""
    error.__dict__["heard"] = True
    return error


def is_heard(error: BaseException) -> bool:
    """Whether every process knows of the error."""
    return bool(error.__dict__.get("heard"))


class Ranks:
    """The processes of a run, seen from one of them; alone, it is all of them.

    Attributes:
        rank: this process's number, from 0.
        in_step: whether every process has to run as many forward passes as the others, because
            weights are gathered in them.
        control: the process group of objects.
    """

    def __init__(self, rank: int = 0, world: int = 1, control: Any = None) -> None:
        self.rank = rank
        self.in_step = False
        self.control = control
        self._all = world
        self._solo = False

    @property
    def world(self) -> int:
        """How many processes take part in what is done now."""
        return 1 if self._solo else self._all

    @contextmanager
    def solo(self, solo: bool = True) -> Iterator[None]:
        """Within it this process works by itself, as if there were no others."""
        before, self._solo = self._solo, solo
        try:
            yield
        finally:
            self._solo = before

    @classmethod
    def join(cls) -> Ranks:
        """All processes of the initialised default process group."""
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size(), control)

    # -- objects ----------------------------------------------------------------------------------

    def gather(self, value: T) -> list[T]:
        """Everybody's value, in the order of the processes.

        Raises:
            GnomonError: another process failed.
            PeerLostError: another process is gone.
        """
        if self.world == 1:
            return [value]
        return self._exchange(value)

    def told(self, value: T | None) -> T:
        """The first process's value."""
        if self.world == 1:
            return value  # type: ignore[return-value]
        told = [pickle.dumps(value) if self.rank == 0 else b""]  # before anybody waits for it
        self._exchange(None)
        with self._listening():
            dist.broadcast_object_list(told, src=0, group=self.control)
        return value if self.rank == 0 else pickle.loads(told[0])  # type: ignore[return-value]

    def first(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the first process, which alone does it; so is an error."""
        if self.world == 1:
            return work()
        with self.together():
            value = work() if self.rank == 0 else None
            return self.told(value)

    @contextmanager
    def together(self, leave: bool = False) -> Iterator[None]:
        """Within it, what one process raises reaches all at their next exchange; leaving it is an
        exchange.

        Args:
            leave: where processes run :attr:`in_step`, others may be waiting for this one's tensors
                when it fails: it goes without a word to them, and they notice that it is gone.
        """
        try:
            yield
            self.gather(None)
        except (Exception, KeyboardInterrupt) as error:
            if self.world > 1 and type(error).__module__ != errors.__name__ and _is_lost(error):
                raise self.lost(error) from error
            alone = self.world == 1 or is_heard(error) or isinstance(error, PeerLostError)
            leaves = (leave and self.in_step) or error.__dict__.get("waited_for")
            if not alone and leaves:
                self._sign(error)
            elif not alone:
                with suppress(PeerLostError):
                    self._send(_Failure.of(self.rank, error))
                    heard(error)
            raise

    def _sign(self, error: BaseException) -> None:
        """Say in the error whose it is, once: this process shows it itself."""
        if self.rank and isinstance(error, GnomonError) and not error.__dict__.get("signed"):
            error.args = (f"process {self.rank}: {error}",)
            error.__dict__["signed"] = True

    def _exchange(self, value: T) -> list[T]:
        found = self._send(value)
        for failure in found:
            if isinstance(failure, _Failure):
                raise failure.error()
        return found

    def _send(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.world
        with self._listening():
            dist.all_gather_object(found, value, group=self.control)
        return found

    @contextmanager
    def _listening(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self.lost(error) from error

    def lost(self, error: BaseException) -> PeerLostError:
        """What is said where an exchange fails."""
        reason = str(error).strip() or type(error).__name__
        reason = re.sub(r"\[/\S*\] *", "", reason.splitlines()[0]).partition(". This is")[0]
        return PeerLostError(
            f"process {self.rank} of {self.world} lost touch with the others ({reason[:120]}): one "
            "of them ended (killed, out of memory, its machine gone; what it said is above), or "
            f"kept the others waiting for more than {TIMEOUT.seconds // 60} minutes. What is saved "
            "is whole: resume with --resume, with as many processes or others"
        )

    # -- numbers ----------------------------------------------------------------------------------

    def sum(self, value: float) -> float:
        """The sum of everybody's values, added up in the order of the processes."""
        return value if self.world == 1 else float(sum(self.gather(value)))

    @torch.no_grad()
    def sum_gradients(self, tensors: Sequence[Tensor]) -> None:
        """Add the gradients of tensors up over processes, in place; one that no process has a
        gradient of keeps none, and one that only others have is taken for zeros here."""
        if self.world == 1:
            return
        try:
            self._sum_gradients(tensors)
        except Exception as error:  # out of memory, say: the others are waiting for tensors
            error.__dict__["waited_for"] = True
            raise

    def _sum_gradients(self, tensors: Sequence[Tensor]) -> None:
        present = torch.tensor([t.grad is not None for t in tensors], dtype=torch.int32)
        with self._listening():
            dist.all_reduce(present, op=dist.ReduceOp.MAX, group=self.control)
        wanted = [t for t, there in zip(tensors, present.tolist(), strict=True) if there]
        for tensor in wanted:
            if tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
        for bucket in _buckets([t.grad for t in wanted if t.grad is not None]):
            flat = torch.cat([g.reshape(-1) for g in bucket])
            with self._listening():
                dist.all_reduce(flat, op=dist.ReduceOp.SUM)
            parts = torch.split(flat, [g.numel() for g in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type, as many as fill a bucket."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(g.numel() for g in bucket) >= BUCKET
        if bucket and (full or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def shares(sizes: Sequence[int], world: int) -> list[list[int]]:
    """Which items each of ``world`` processes takes, so that their sizes are balanced: the largest
    first, each to whoever has least (Graham 1969). It depends on the arguments alone; a share is in
    the items' order."""
    loads = [(0, rank) for rank in range(world)]
    out: list[list[int]] = [[] for _ in range(world)]
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        load, rank = min(loads)
        loads[rank] = (load + sizes[item], rank)
        out[rank].append(item)
    return [sorted(items) for items in out]
