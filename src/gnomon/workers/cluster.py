"""Ray: objects in actors, placed wherever the cluster has room.

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
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gnomon.errors import ConfigError, EngineError, GnomonError
from gnomon.plugins import load_builtin
from gnomon.recipe.placement import RaySpec
from gnomon.workers.process import Wanted, Worker

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
            "'gnomon-rlhf[ray]'. Without --ray (and without ray in the recipe) workers are "
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
        said = str(error).rstrip(". \n")
        raise ConfigError(
            f"the Ray cluster (address {address or 'not given'}) cannot be reached: {said}. Start "
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


def answer(ray: Any, ref: Any, wanted: Wanted | None = None) -> Any:
    """What an actor answers; ``wanted`` is called meanwhile, and by raising gives up.

    Raises:
        EngineError: the actor died, or failed in a way that only it knows.
        GnomonError: as the actor raised it.
    """
    while not ray.wait([ref], timeout=_POLL_SECONDS)[0]:
        if wanted is not None:
            wanted()
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, GnomonError):
            raise cause from None
        raise EngineError(f"a Ray worker failed: {type(cause).__name__}: {cause}.") from error
    except ray.exceptions.RayError as error:
        said = f"{type(error).__name__}: {_first_line(error)}"
        raise EngineError(f"a Ray worker is gone ({said})") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


class _Actor:
    """In an actor: an object, and the folders that it was made from."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gnomon-ray-")
        self._made: Any = None

    def start(
        self, make: str, options: Mapping[str, Any], names: Sequence[tuple[str, str]], *files: Any
    ) -> int:
        """Make the object from the files (uint8 arrays) of its folders; gives the process's id."""
        folders = {part: Path(self._folder.name) / part for part, _ in names}
        for (part, name), content in zip(names, files, strict=True):
            file = folders[part] / name
            file.parent.mkdir(parents=True, exist_ok=True)
            content.tofile(file)
        self._made = load_builtin(make)(folders, **options)
        return os.getpid()

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self._made, method)(*args)


class Fleet:
    """Workers that are made alike: the files that they are made from are put into Ray's object
    store once, and fetched from there by each, so that no file system has to be shared.

    Args:
        spec: which cluster, and what a worker takes of it.
        make, folders, options: see :class:`~gnomon.workers.process.ProcessWorker`.
        gpus: that a worker takes; those of ``spec`` by default.

    Raises:
        ConfigError: see :func:`connect`.
    """

    def __init__(
        self,
        spec: RaySpec,
        make: str,
        folders: Mapping[str, Path],
        options: Mapping[str, Any],
        gpus: float | None = None,
    ) -> None:
        self.ray = connect(spec)
        self._spec, self._make, self._options = spec, make, dict(options)
        self._gpus = spec.gpus_per_worker if gpus is None else gpus
        found = [
            (part, str(file.relative_to(folder)), file)
            for part, folder in folders.items()
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        ]
        self._names = [(part, name) for part, name, _ in found]
        self._files = [self.put(file) for _, _, file in found]

    def put(self, file: Path) -> Any:
        """A file's content in the object store.

        Raises:
            EngineError: it does not fit.
        """
        content = np.fromfile(file, dtype=np.uint8)
        try:
            return self.ray.put(content)
        except self.ray.exceptions.RayError as error:
            raise EngineError(
                f"Ray's object store has no room for {content.nbytes / 2**30:.3g} GiB of weights "
                f"({_first_line(error)}): start it with more (ray start --object-store-memory "
                "BYTES)"
            ) from error

    def worker(self) -> RayWorker:
        """A new worker, wherever there is room.

        Raises:
            EngineError: no node has room for it, or it did not start.
            GnomonError: what making the object raised.
        """
        spec = self._spec
        actor = self.ray.remote(_Actor).options(
            num_cpus=spec.cpus_per_worker, num_gpus=self._gpus, max_restarts=0
        )
        worker = RayWorker(self.ray, actor.remote())
        until = time.monotonic() + spec.start_seconds

        def patient() -> None:
            if time.monotonic() > until:
                raise EngineError(
                    f"a Ray worker did not start within {spec.start_seconds:g} s: has the cluster "
                    "room for it (ray status), with ray.cpus_per_worker and ray.gpus_per_worker "
                    "each?"
                )

        try:
            worker.start(self._make, self._options, self._names, self._files, patient)
        except BaseException:
            worker.close()
            raise
        return worker


class RayWorker(Worker):
    """An object in a Ray actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self.pid = 0

    def start(
        self,
        make: str,
        options: Mapping[str, Any],
        names: Sequence[tuple[str, str]],
        files: Sequence[Any],
        wanted: Wanted,
    ) -> None:
        """Make the object."""
        made = self._actor.start.remote(make, options, names, *files)
        self.pid = answer(self._ray, made, wanted)

    def call(self, method: str, *args: Any, wanted: Wanted | None = None) -> Any:
        """See :class:`~gnomon.workers.process.Worker`; arguments that are references to the object
        store are what they refer to there."""
        return answer(self._ray, self._actor.call.remote(method, *args), wanted)

    def close(self) -> None:
        self._ray.kill(self._actor)
