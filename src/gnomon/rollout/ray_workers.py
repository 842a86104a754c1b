"""Rollout workers that Ray places: actors around the same hosts."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.recipe.placement import RaySpec
from gnomon.rollout.protocol import (
    About,
    Host,
    Job,
    Progress,
    RawCompletion,
    StaleWeightsError,
    WeightsFile,
    WeightsHere,
)
from gnomon.rollout.serve import make_host
from gnomon.workers.cluster import Fleet, RayWorker

MODEL = "model"
"""The folder that a worker starts from."""


class Served:
    """In an actor: a host."""

    def __init__(
        self, folders: Mapping[str, Path], engine: str, options: Mapping[str, Any]
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gnomon-ray-")
        self._host = make_host(engine, folders[MODEL], options)
        self.about, self.rest = self._host.about, self._host.rest

    def load(self, version: str, content: Any, probe: Sequence[int]) -> Sequence[float]:
        """Serve the weights in a file with this content (uint8)."""
        path = Path(self._folder.name) / "weights.safetensors"
        content.tofile(path)
        try:
            return list(self._host.load(WeightsFile(path, version), probe))
        finally:
            path.unlink(missing_ok=True)

    def sample(self, job: Job) -> Sequence[Sequence[RawCompletion]] | str:
        """The samples; or, in words, that it serves other weights."""
        try:
            return self._host.sample(job, None)
        except StaleWeightsError as stale:
            return str(stale)


class RayFleet:
    """What the workers of one pool share: the model's files and the newest weights, which are put
    into Ray's object store once and fetched from there by every worker.

    Args:
        spec: which cluster, and what a worker takes of it.
        model: a folder.
        engine, options: as for :func:`~gnomon.rollout.serve.make_host`.
    """

    def __init__(self, spec: RaySpec, model: Path, engine: str, options: Mapping[str, Any]) -> None:
        how = {"engine": engine, "options": dict(options)}
        self._fleet = Fleet(spec, f"{__name__}:{Served.__name__}", {MODEL: model}, how)
        self._lock = threading.Lock()
        self._sent: tuple[str, Any] | None = None

    def host(self) -> RayHost:
        """A new worker; see :meth:`~gnomon.workers.cluster.Fleet.worker`."""
        worker = self._fleet.worker()
        try:
            return RayHost(self, worker)
        except BaseException:
            worker.close()
            raise

    def weights(self, file: WeightsFile) -> Any:
        """A file's content in the object store, put there once."""
        with self._lock:
            if self._sent is None or self._sent[0] != file.version:
                self._sent = None  # the old ones first: two may not fit
                self._sent = (file.version, self._fleet.put(file.path))
            return self._sent[1]


class RayHost(Host):
    """A host in a Ray actor. It never comes back by itself: whoever needs it makes another.

    Attributes:
        pid: of its process, on whatever node it is.
    """

    def __init__(self, fleet: RayFleet, worker: RayWorker) -> None:
        self._fleet, self._worker = fleet, worker
        self.pid = worker.pid
        self._about: About = worker.call("about")

    def about(self) -> About:
        return self._about

    def load(
        self,
        weights: WeightsFile | WeightsHere,
        probe: Sequence[int],
        wanted: Callable[[], None] | None = None,
    ) -> Sequence[float]:
        assert isinstance(weights, WeightsFile), "the pool's about() says so"
        content = self._fleet.weights(weights)
        arguments = (weights.version, content, list(probe))
        found: Sequence[float] = self._worker.call("load", *arguments, wanted=wanted)
        return found

    def sample(self, job: Job, progress: Progress | None) -> Sequence[Sequence[RawCompletion]]:
        total = sum(request.n for request in job.requests)
        tell = None if progress is None else lambda: progress(0, total)
        rows: Sequence[Sequence[RawCompletion]] | str = self._worker.call(
            "sample", job, wanted=tell
        )
        if isinstance(rows, str):
            raise StaleWeightsError(rows)
        return rows

    def rest(self) -> None:
        self._worker.call("rest")

    def close(self) -> None:
        self._worker.close()
