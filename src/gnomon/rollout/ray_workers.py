"""Ray: actors around the same hosts, placed wherever the cluster has room.

Ray pickles what passes between its processes. That is only gnomon's own objects between gnomon's
own processes; models are safetensors and JSON here too, and nothing that a user downloaded is
unpickled.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.errors import ConfigError, EngineError, GnomonError
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

_POLL_SECONDS = 0.1
_CONNECT_SECONDS = 10.0


def import_ray() -> Any:
    """The module ray.

    Raises:
        ConfigError: it is missing, or does not import here.
    """
    if find_spec("ray") is None:
        raise ConfigError(
            "workers are to be placed by Ray, which is not in this environment: pip install "
            "'gnomon-rlhf[ray]'. Without --ray (and without ray in the recipe) rollout.workers are "
            "processes on this machine"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except Exception as error:  # a build for another machine fails in many ways
        raise ConfigError(f"Ray is installed but does not import here: {error}") from error
    return ray


def connect(spec: RaySpec) -> Any:
    """Ray, connected to the cluster that a recipe names; to the one of this process, if it has one.

    Raises:
        ConfigError: Ray is missing, or the cluster cannot be reached.
    """
    ray = import_ray()
    if ray.is_initialized():
        return ray
    address = spec.address
    if address is not None and ":" in address and "://" not in address:
        _check_reached(address)
    here = {"include_dashboard": False} if address in (None, "local") else {}
    kept = signal.getsignal(signal.SIGTERM)  # Ray's own ends the process at once
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, **here)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError: whatever is in the way
        if isinstance(error, TypeError):
            raise
        raise ConfigError(
            f"the Ray cluster (address {address or 'not given'}) cannot be reached: {error}. Start "
            "one (ray start --head), give its address as ray.address, or leave the address out to "
            "start one on this machine"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, kept)
    return ray


def _check_reached(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address} ({error}): start one there (ray start --head), "
            "or correct ray.address"
        ) from error


def answer(ray: Any, ref: Any, wanted: Callable[[], None]) -> Any:
    """What an actor answers; ``wanted`` is called meanwhile, and by raising gives up.

    Raises:
        EngineError: the actor died, or failed in a way that only it knows.
        GnomonError, StaleWeightsError: as the actor raised it.
    """
    while not ray.wait([ref], timeout=_POLL_SECONDS)[0]:
        wanted()
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, GnomonError | StaleWeightsError):
            raise cause from None
        raise EngineError(f"a Ray worker failed: {type(cause).__name__}: {cause}.") from error
    except ray.exceptions.RayError as error:
        said = str(error).strip().splitlines()[0]
        raise EngineError(f"a Ray worker is gone ({type(error).__name__}: {said})") from error


class _Worker:
    """In an actor: a host, and its model's files."""

    def __init__(self, engine: str, options: Mapping[str, Any]) -> None:
        self._engine, self._options = engine, options
        self._folder = tempfile.TemporaryDirectory(prefix="gnomon-ray-")
        self._host: Host | None = None

    def start(self, names: Sequence[str], *files: Any) -> tuple[About, int]:
        """Load the model whose files (uint8 arrays) these are; gives the process's id too."""
        folder = Path(self._folder.name) / "model"
        folder.mkdir(exist_ok=True)
        for name, content in zip(names, files, strict=True):
            content.tofile(folder / name)
        self._host = make_host(self._engine, folder, self._options)
        return self._host.about(), os.getpid()

    def load(self, version: str, content: Any, probe: Sequence[int]) -> Sequence[float]:
        path = Path(self._folder.name) / "weights.safetensors"
        content.tofile(path)
        try:
            return list(self._made.load(WeightsFile(path, version), probe))
        finally:
            path.unlink(missing_ok=True)

    def sample(self, job: Job) -> Sequence[Sequence[RawCompletion]]:
        return self._made.sample(job, None)

    def rest(self) -> None:
        self._made.rest()

    @property
    def _made(self) -> Host:
        if self._host is None:
            raise EngineError("it was not started")
        return self._host


class RayFleet:
    """What the workers of one pool share: the model's files and the newest weights, which are put
    into Ray's object store once and fetched from there by every worker.

    Args:
        spec: which cluster, and what a worker takes of it.
        model: a folder; its files are sent, so no file system has to be shared.
        engine, options: as for :func:`~gnomon.rollout.serve.make_host`.
    """

    def __init__(self, spec: RaySpec, model: Path, engine: str, options: Mapping[str, Any]) -> None:
        self.ray = connect(spec)
        self._spec, self._engine, self._options = spec, engine, dict(options)
        files = [file for file in sorted(model.iterdir()) if file.is_file()]
        self._names = [file.name for file in files]
        self._files = [self.ray.put(np.fromfile(file, dtype=np.uint8)) for file in files]
        self._lock = threading.Lock()
        self._sent: tuple[str, Any] | None = None

    def host(self) -> RayHost:
        """A new worker, wherever there is room.

        Raises:
            EngineError: no node has room for it, or it did not start.
        """
        spec = self._spec
        actor = self.ray.remote(_Worker).options(
            num_cpus=spec.cpus_per_worker, num_gpus=spec.gpus_per_worker, max_restarts=0
        )
        return RayHost(self, actor.remote(self._engine, self._options), spec.start_seconds)

    def started(self, actor: Any) -> Any:
        """An actor's answer to the model's files."""
        return actor.start.remote(self._names, *self._files)

    def weights(self, file: WeightsFile) -> Any:
        """A file's content in the object store, put there once."""
        with self._lock:
            if self._sent is None or self._sent[0] != file.version:
                self._sent = None  # the old ones first: two may not fit
                content = self.ray.put(np.fromfile(file.path, dtype=np.uint8))
                self._sent = (file.version, content)
            return self._sent[1]


class RayHost(Host):
    """A host in a Ray actor. It never comes back by itself: whoever needs it makes another.

    Attributes:
        pid: of its process, on whatever node it is.
    """

    def __init__(self, fleet: RayFleet, actor: Any, start_seconds: float) -> None:
        self._fleet, self._actor = fleet, actor
        waited = 0.0

        def patient() -> None:
            nonlocal waited
            waited += _POLL_SECONDS
            if waited > start_seconds:
                raise EngineError(
                    f"a Ray worker did not start within {start_seconds:g} s: has the cluster room "
                    "for it (ray status), with ray.cpus_per_worker and ray.gpus_per_worker each?"
                )

        try:
            self._about, self.pid = self._ask(fleet.started(actor), patient)
        except BaseException:
            self.close()
            raise

    def about(self) -> About:
        about: About = self._about
        return about

    def load(
        self,
        weights: WeightsFile | WeightsHere,
        probe: Sequence[int],
        wanted: Callable[[], None] | None = None,
    ) -> Sequence[float]:
        assert isinstance(weights, WeightsFile), "the pool's about() says so"
        content = self._fleet.weights(weights)
        ref = self._actor.load.remote(weights.version, content, list(probe))
        found: Sequence[float] = self._ask(ref, wanted or (lambda: None))
        return found

    def sample(self, job: Job, progress: Progress | None) -> Sequence[Sequence[RawCompletion]]:
        total = sum(request.n for request in job.requests)
        tell = progress or (lambda done, of: None)
        rows: Sequence[Sequence[RawCompletion]] = self._ask(
            self._actor.sample.remote(job), lambda: tell(0, total)
        )
        return rows

    def rest(self) -> None:
        self._ask(self._actor.rest.remote(), lambda: None)

    def close(self) -> None:
        self._fleet.ray.kill(self._actor)

    def _ask(self, ref: Any, wanted: Callable[[], None]) -> Any:
        return answer(self._fleet.ray, ref, wanted)
