"""What a rollout server grants whoever connects: bytes, seconds and connections."""

from __future__ import annotations

import threading
from dataclasses import dataclass

_MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """The bounds of a server. The defaults suit a trainer on the same network.

    Attributes:
        connections: open at once; further ones are told to come back later.
        backlog: connections that the system may hold before they are accepted.
        tasks: waiting for the host at once.
        header_bytes: of a request's first line and headers together.
        header_seconds: until they must be complete.
        idle_seconds: without a byte of a body, or without the client taking any of its answer.
        grace_seconds: that a body may take whatever its size.
        slowest: bytes a second that it must reach beyond those.
        job_bytes: of one job.
        jobs_bytes: of all jobs that are being received or wait, together.
        weights_bytes: of one file of weights; None: 8 bytes a number of the model, and a header.
        uploads: files of weights that may be on disk at once.
        linger_seconds: for which a refused body is still read, so that the refusal arrives.
        alive_seconds: between signs of life while the host works.
        stop_seconds: that open answers get to end when the server is stopped.
    """

    connections: int = 64
    backlog: int = 64
    tasks: int = 16
    header_bytes: int = 16 * 1024
    header_seconds: float = 10.0
    idle_seconds: float = 30.0
    grace_seconds: float = 60.0
    slowest: float = 256 * 1024.0
    job_bytes: int = 64 * _MIB
    jobs_bytes: int = 128 * _MIB
    weights_bytes: int | None = None
    uploads: int = 2
    linger_seconds: float = 2.0
    alive_seconds: float = 5.0
    stop_seconds: int = 2


class Budget:
    """A number of bytes that all bodies on their way share; safe to use from several threads."""

    def __init__(self, total: int) -> None:
        self._left = total
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Whether ``size`` more bytes could be had; they are then taken."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._lock:
            self._left += size


class Lease:
    """One body's share of a budget; :meth:`end` gives all of it back, once."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    def grow(self, size: int) -> bool:
        """Whether ``size`` more bytes were granted."""
        granted = self._budget.take(size)
        self._held += size if granted else 0
        return granted

    def end(self) -> None:
        held, self._held = self._held, 0
        self._budget.give(held)
