"""An engine that samples from a copy of the policy: weights are kept aside, loaded, and checked.

    capture()  the policy's weights as they are now, with a version that names them
    load()     the replica takes them over, in place
    sample()   refuses to serve any other version

A :class:`Replica` is the copy: in this process (``torch_replica``), or in vLLM, here or behind a
URL (``host``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from gnomon.errors import EngineError
from gnomon.rollout.protocol import Completion, Request, SamplingParams

Progress = Callable[[int, int], None]
_LOADS = 3  # per call of generate: the first one, and two after the server lost the weights


class Snapshot(Protocol):
    """Weights kept aside until they are no longer needed."""

    @property
    def version(self) -> str:
        """Names the weights: equal versions are equal weights."""
        ...


class StaleWeightsError(Exception):
    """The replica serves other weights than those asked for; loading them again may help."""


class Replica(Protocol):
    """A copy of the policy that samples."""

    def capture(self) -> Snapshot:
        """The policy's weights now. Called while nothing trains them."""
        ...

    def load(self, snapshot: Snapshot, wanted: Callable[[], None] | None = None) -> None:
        """Sample from these weights from now on.

        ``wanted`` is called now and then where that can take long, and raises when nobody waits
        for it any more.

        Raises:
            EngineError: they did not arrive whole, or do not fit.
        """
        ...

    def sample(
        self,
        version: str,
        requests: Sequence[Request],
        params: SamplingParams,
        progress: Progress | None,
    ) -> list[list[Completion]]:
        """Sample from the weights ``version``.

        Raises:
            StaleWeightsError: other weights are loaded.
            EngineError: the replica is gone.
        """
        ...

    def close(self) -> None:
        """Give back memory, files and connections."""
        ...


class ReplicaEngine:
    """The engine on top of a replica: it never samples from other weights than it was told to.

    Not for several threads at once. Under :meth:`pinned`, ``sync_weights`` means the pinned weights
    whatever the policy has become, which is how rollouts are sampled while the policy trains.
    """

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self._wanted: Snapshot | None = None
        self._loaded: str | None = None
        self._pin: Snapshot | None = None
        self._pinned_progress: Progress | None = None

    def capture(self) -> Snapshot:
        """The policy's weights now, for :meth:`pinned`."""
        return self.replica.capture()

    @contextmanager
    def pinned(self, snapshot: Snapshot, progress: Progress | None = None) -> Iterator[None]:
        """Sample from ``snapshot`` within the block, telling ``progress`` and nobody else."""
        self._pin, self._pinned_progress = snapshot, progress
        try:
            yield
        finally:
            self._pin = self._pinned_progress = self._wanted = None

    def sync_weights(self) -> None:
        """Sample from the policy's current weights (or the pinned ones) from now on."""
        self._wanted = self._pin or self.replica.capture()
        self._load(self._wanted)

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Sample ``request.n`` completions of each request, in the order of the requests.

        Raises:
            ConfigError, DataError: sampling parameters or prompts that cannot be used.
            EngineError: the replica is gone, or keeps serving other weights.
        """
        if self._wanted is None:
            self.sync_weights()
        wanted = self._wanted
        assert wanted is not None
        if self._pin is not None:
            progress = self._pinned_progress
        problem = ""
        for _ in range(_LOADS):
            self._load(wanted)
            try:
                return self.replica.sample(wanted.version, requests, params, progress)
            except StaleWeightsError as stale:
                self._loaded, problem = None, str(stale)
        raise EngineError(
            f"the weights were sent {_LOADS} times, and still {problem}. Is another run using the "
            "same server? Give each run its own, and go on with --resume."
        )

    def close(self) -> None:
        """Give back what the replica holds."""
        self._wanted = None
        self.replica.close()

    def _load(self, snapshot: Snapshot) -> None:
        if self._loaded == snapshot.version:
            return
        self._loaded = None  # whatever happens now, the old weights are no longer to be trusted
        told = self._pinned_progress
        self.replica.load(snapshot, None if told is None else lambda: told(0, 0))
        self._loaded = snapshot.version
