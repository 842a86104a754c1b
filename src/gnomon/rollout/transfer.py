"""Weights from the trainer's memory to a sampler's, in the four phases that vLLM has for it.

    init_weight_transfer    once: both ends agree on how tensors cross
    start_weight_update     the sampler serves no version from here on
    update_weights          a bucket of tensors, with their sums; as often as needed
    finish_weight_update    all has arrived and is what was sent; the version is served again

How tensors cross (``rollout.options.transfer``):

    memory  trainer and sampler are one process: the tensors themselves
    ipc     two processes on one GPU: the handle of a buffer there
    nccl    two processes with GPUs of their own: a broadcast by NCCL
    gloo    two processes anywhere: a broadcast through main memory and the network
    file    none of these: see :class:`~gnomon.rollout.protocol.WeightsFile`

The trainer's end is an :class:`Outlet`, the end in each of the sampler's workers an
:class:`Inlet`; :class:`Receiving` is the sampler's account of what has arrived.
"""

from __future__ import annotations

import base64
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch import distributed as dist
from torch._C._distributed_c10d import Store, TCPStore
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor

from gnomon.errors import ConfigError, EngineError
from gnomon.plugins import did_you_mean
from gnomon.rollout.protocol import About, WeightsHere
from gnomon.rollout.sums import Entry, Sums, damaged, tensor_sum

KINDS = ("auto", "file", "memory", "ipc", "nccl", "gloo")
BUCKET = 256 << 20
"""Bytes of tensors that cross at once; a larger tensor crosses alone."""
TIMEOUT = 120.0
"""Seconds for the other end to appear, and for a bucket to cross."""
Wanted = Callable[[], None]


class BrokenLinkError(Exception):
    """The way between trainer and sampler broke; another try may help."""


@runtime_checkable
class Phases(Protocol):
    """The sampler's side of the four phases."""

    def init_weight_transfer(self, info: Mapping[str, Any]) -> None: ...

    def start_weight_update(self, version: str) -> None: ...

    def update_weights(self, version: str, bucket: Mapping[str, Any]) -> None: ...

    def finish_weight_update(self, version: str, probe: Sequence[int]) -> Sequence[float]: ...


# -- which way ------------------------------------------------------------------------------------


def check_kind(kind: str, url: bool, cuda: bool) -> None:
    """Refuse a way that cannot be, from what is known before anything is loaded.

    Args:
        kind: ``rollout.options.transfer``.
        url: the sampler is behind a URL.
        cuda: the trainer has a GPU.

    Raises:
        ConfigError: see above.
    """
    key = f"rollout.options.transfer is {kind!r}"
    if kind not in KINDS:
        raise ConfigError(f"{key}: {did_you_mean(str(kind), KINDS, 'use one of')}")
    if kind == "memory" and url:
        raise ConfigError(f"{key}, which is for a sampler in this process: leave it out, or url")
    if kind in ("ipc", "nccl", "gloo") and not url:
        raise ConfigError(f"{key}, which is for a sampler behind a url: use memory or file")
    if kind in ("ipc", "nccl") and not cuda:
        raise ConfigError(f"{key}, and the trainer has no GPU: use file, or gloo")


def choose(kind: str, about: About, device: torch.device, url: bool) -> str:
    """The way that weights take to a sampler.

    Args:
        kind: what is asked for; "auto" takes memory within a process that has a GPU, ipc between
            two on one GPU, nccl between GPUs, and file where a CPU is at either end.
        about: the sampler.
        device: of the policy.
        url: the sampler is behind a URL.

    Raises:
        ConfigError: what is asked for cannot be.
    """
    cuda = device.type == "cuda"
    check_kind(kind, url, cuda)
    ours = str(torch.cuda.get_device_properties(device).uuid) if cuda else ""
    shared = ours in about.gpus
    if kind == "auto":
        fitting = "nccl" if cuda and about.gpus and not shared else "file"
        fitting = "ipc" if shared and len(about.gpus) == 1 else fitting
        fitting = fitting if url else "memory" if cuda else "file"
        return fitting if fitting in about.transfers else "file"
    key = f"rollout.options.transfer is {kind}, and {about.program}"
    if kind not in about.transfers:
        raise ConfigError(f"{key} takes weights by {', '.join(about.transfers)} only")
    if kind == "nccl" and not about.gpus:
        raise ConfigError(f"{key} has no GPU: use file, or gloo")
    if kind == "nccl" and shared:
        raise ConfigError(f"{key} is on the trainer's own GPU, where NCCL cannot go: use ipc")
    if kind == "ipc" and (not shared or len(about.gpus) > 1):
        there = ", ".join(about.gpus) or "a CPU"
        raise ConfigError(
            f"{key} is on {there}, not on the trainer's GPU alone ({ours}), which ipc needs: use "
            "nccl"
        )
    return kind


# -- the trainer's end ----------------------------------------------------------------------------


class Outlet:
    """The trainer's end of one way to one sampler.

    Args:
        kind: memory, ipc, nccl or gloo.
        device: of the buffers.
        workers: of the sampler.
        address: of this machine, as the sampler's workers reach it (nccl and gloo).

    Raises:
        BrokenLinkError: the address cannot be listened on.
    """

    def __init__(
        self, kind: str, device: torch.device, workers: int = 1, address: str = "127.0.0.1"
    ) -> None:
        self.kind = kind
        self.device = device if kind in ("ipc", "nccl") else torch.device("cpu")
        self.info: dict[str, Any] = {"kind": kind}
        self._group: Any = None
        self._joining: threading.Thread | None = None
        self._problem: Exception | None = None
        if kind in ("nccl", "gloo"):
            size = 1 + workers
            store, port = _listen(address, size)
            self.info |= {"address": address, "port": port, "size": size}
            if kind == "nccl":
                self.info["nccl"] = _nccl()
            self._joining = threading.Thread(
                target=self._join, args=(store, size, address), daemon=True
            )
            self._joining.start()  # it waits for the workers, which are told just after

    def _join(self, store: Store, size: int, address: str) -> None:
        try:
            self._group = _group(self.kind, store, 0, size, address)
        except Exception as error:  # of torch, of many kinds
            self._problem = error

    def offer(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Any], Callable[[Wanted], None]]:
        """Put a bucket on its way.

        Returns:
            what the sampler is told of it besides names and sums, and what waits until it is there.
        """
        if self.kind == "memory":
            return {"tensors": list(tensors)}, lambda wanted: None
        flat = torch.cat([_bytes(t.to(self.device)) for t in tensors])
        if self.kind == "ipc":
            torch.cuda.current_stream(self.device).synchronize()
            return {"handle": _exported(flat)}, lambda wanted: None  # read when update returns
        if self._joining is not None:
            self._joining.join()
            self._joining = None
        if self._problem is not None:
            raise BrokenLinkError(f"the sampler's workers did not join: {self._problem}")
        try:
            work = self._group.broadcast(flat, 0)
        except RuntimeError as error:
            raise BrokenLinkError(f"the transfer broke off: {error}") from error
        return {}, lambda wanted: _arrived(self._group, work, wanted, flat)

    def close(self) -> None:
        """Give the connections back; what is under way breaks off at the other end."""
        self._group = None


def send(
    phases: Phases,
    outlet: Outlet,
    weights: WeightsHere,
    probe: Sequence[int],
    wanted: Wanted | None = None,
) -> list[float]:
    """Send weights through the phases; gives the sampler's scores of ``probe``.

    Raises:
        EngineError: they did not arrive whole, or the policy has been trained since they were
            captured.
        BrokenLinkError: the way broke.
    """
    wanted = wanted or (lambda: None)
    phases.start_weight_update(weights.version)
    for names, tensors in buckets(weights):
        wanted()
        entries = [weights.sums.entries[name] for name in names]
        found = sums_of(tensors)
        for name, entry, now in zip(names, entries, found, strict=True):
            if entry.sum != now:
                raise EngineError(
                    f"{name} is not what it was when the weights {weights.version[:12]} were "
                    "captured: the policy has been trained since. Resume with --resume."
                )
        told, arrived = outlet.offer(tensors)
        bucket = {"names": names, "entries": [list(entry) for entry in entries], **told}
        phases.update_weights(weights.version, bucket)
        arrived(wanted)
    return list(phases.finish_weight_update(weights.version, probe))


def buckets(weights: WeightsHere) -> Iterator[tuple[list[str], list[Tensor]]]:
    """The tensors in their order, as many at a time as ``BUCKET`` holds."""
    names: list[str] = []
    tensors: list[Tensor] = []
    size = 0
    for name, tensor in weights.tensors():
        more = tensor.numel() * tensor.element_size()
        if tensors and size + more > BUCKET:
            yield names, tensors
            names, tensors, size = [], [], 0
        names.append(name)
        tensors.append(tensor.detach())
        size += more
    if tensors:
        yield names, tensors


# -- a worker's end -------------------------------------------------------------------------------


class Inlet:
    """Where a worker of a sampler takes tensors.

    Args:
        device: they are put on.
        rank: the worker's, from 0.
    """

    def __init__(self, device: torch.device, rank: int = 0) -> None:
        self._device = device
        self._rank = rank
        self._kind = ""
        self._group: Any = None

    def open(self, info: Mapping[str, Any]) -> None:
        """Agree with an :class:`Outlet`, by its ``info``.

        Raises:
            EngineError: the two do not fit together, or the trainer is not reached.
        """
        self.close()
        kind = str(info["kind"])
        if kind in ("nccl", "gloo"):
            if kind == "nccl" and _nccl() != list(info["nccl"]):
                raise EngineError(
                    f"the trainer has NCCL {info['nccl']}, the sampler "
                    f"{_nccl()}: install the same torch on both sides, or "
                    "set rollout.options.transfer: file"
                )
            address, size = str(info["address"]), int(info["size"])
            try:
                store = _store(address, int(info["port"]), size)
                self._group = _group(kind, store, 1 + self._rank, size, local_address(address))
            except Exception as error:  # of torch, of many kinds
                raise EngineError(
                    f"the sampler does not reach the trainer at {address}:{info['port']} "
                    f"({_first_line(error)}): a firewall or a tunnel between them? Then set "
                    "rollout.options.transfer: file"
                ) from error
        self._kind = kind

    def receive(self, bucket: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
        """The tensors of one update.

        Raises:
            EngineError: the transfer broke off, or was not agreed on.
        """
        names = [str(name) for name in bucket["names"]]
        entries = [Entry(str(d), tuple(map(int, s)), int(t)) for d, s, t in bucket["entries"]]
        if self._kind == "memory":
            return list(zip(names, bucket["tensors"], strict=True))
        sizes = [math.prod(e.shape) * _dtype(e.dtype).itemsize for e in entries]
        flat = self._flat(bucket, sum(sizes))
        pieces = torch.split(flat, sizes)
        return [
            (name, piece.view(_dtype(entry.dtype)).view(entry.shape))
            for name, entry, piece in zip(names, entries, pieces, strict=True)
        ]

    def _flat(self, bucket: Mapping[str, Any], size: int) -> Tensor:
        if self._kind == "ipc":
            return _imported(bucket["handle"], self._device).clone()  # the trainer fills it again
        if self._group is None:
            raise EngineError("no transfer was agreed on: init_weight_transfer comes first")
        device = self._device if self._kind == "nccl" else torch.device("cpu")
        flat = torch.empty(size, dtype=torch.uint8, device=device)
        try:
            _arrived(self._group, self._group.broadcast(flat, 0), lambda: None, flat)
        except (BrokenLinkError, RuntimeError) as error:
            self.close()
            raise EngineError(f"the transfer broke off: {_first_line(error)}") from error
        return flat.to(self._device)

    def close(self) -> None:
        self._group, self._kind = None, ""


class Receiving:
    """A sampler's account of one transfer: what was announced, and what has arrived."""

    def __init__(self) -> None:
        self.version: str | None = None
        self._found: dict[str, Entry] = {}

    def start(self, version: str) -> None:
        """Begin; a transfer that was begun and not finished is forgotten."""
        self.version, self._found = version, {}

    def check(self, version: str) -> None:
        """Raise EngineError unless the transfer of this version is under way."""
        if self.version is None:
            raise EngineError("no transfer is under way: start_weight_update comes first")
        if self.version != version:
            raise EngineError(
                f"the transfer of {version[:12]} was given up when that of {self.version[:12]} "
                "began: does another run use this server?"
            )

    def take(self, bucket: Mapping[str, Any], workers: Sequence[Sequence[int]]) -> None:
        """Compare the sums of a bucket, as each worker found them, with those it was sent with."""
        for i, (name, entry) in enumerate(zip(bucket["names"], bucket["entries"], strict=True)):
            dtype, shape, wanted = entry
            if name in self._found:
                raise EngineError(damaged(f"{name} arrived twice"))
            if any(int(wanted) != sums[i] for sums in workers):
                self.version = None  # it is over
                raise EngineError(damaged(f"{name} is not the tensor that was sent"))
            self._found[name] = Entry(str(dtype), tuple(map(int, shape)), int(wanted))

    def finish(self, version: str) -> None:
        """End it; raises EngineError unless all tensors of the version have arrived."""
        self.check(version)
        found, self.version = Sums(self._found), None
        if found.version != version:
            raise EngineError(damaged(f"the {len(self._found)} tensors are not all of them"))


def sums_of(tensors: Sequence[Tensor]) -> list[int]:
    """The sums of tensors of one device, fetched from it at once."""
    sums = [tensor_sum(t) for t in tensors]
    return [int(s) for s in torch.stack([s.to(sums[0].device) for s in sums]).tolist()]


def local_address(host: str, port: int = 9) -> str:
    """The address of this machine by which ``host`` reaches it; nothing is sent."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    family, kind, _, _, where = sorted(found, key=lambda info: info[0] != socket.AF_INET)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(where)
        return str(probe.getsockname()[0])


# -- torch's parts --------------------------------------------------------------------------------


def _nccl() -> list[int]:
    """The version of NCCL."""
    return list(torch.cuda.nccl.version())  # type: ignore[no-untyped-call]


def _listen(address: str, size: int) -> tuple[Store, int]:
    """A store for a meeting of ``size`` processes, reached at ``address`` only."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listening = socket.create_server((address, 0), family=family)
    except OSError as error:
        raise BrokenLinkError(f"cannot listen on {address}: {error}") from error
    port = int(listening.getsockname()[1])
    return _store(address, port, size, listening.detach()), port


def _store(address: str, port: int, size: int, listening: int | None = None) -> Store:
    return TCPStore(
        address,
        port,
        world_size=size,
        is_master=listening is not None,
        wait_for_workers=False,
        master_listen_fd=listening,
        timeout=timedelta(seconds=TIMEOUT),
    )


def _group(kind: str, store: Store, rank: int, size: int, address: str) -> Any:
    """A process group beside whatever default group there is; ``address`` is this machine's."""
    if kind == "nccl":
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timedelta(seconds=TIMEOUT)
        return dist.ProcessGroupNCCL(store, rank, size, options)
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._timeout = timedelta(seconds=TIMEOUT)
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=address)]
    return dist.ProcessGroupGloo(store, rank, size, options)


def _arrived(group: Any, work: Any, wanted: Wanted, buffer: Tensor) -> None:
    """Wait for a broadcast; ``wanted`` gives up by raising. The buffer lives until then."""
    until = time.monotonic() + TIMEOUT
    try:
        while not work.is_completed():
            wanted()
            if time.monotonic() > until:
                group.abort()
                raise BrokenLinkError(f"a bucket did not cross within {TIMEOUT:g} s")
            time.sleep(1e-4)
        work.wait()
    except RuntimeError as error:
        raise BrokenLinkError(f"the transfer broke off: {_first_line(error)}") from error


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise EngineError(f"the weights hold {name}, not floating-point numbers")
    return found


_HANDLE = ("handle", "bytes", "offset", "counter", "counter_offset", "event", "event_needed")
_AT = (7, 8, 9, 11, 12, 13, 14)  # of these among the arguments of rebuild_cuda_tensor


def _exported(flat: Tensor) -> dict[str, Any]:
    """A buffer's handle for another process, as JSON has it: nothing is pickled."""
    _, arguments = reduce_tensor(flat)  # type: ignore[no-untyped-call]
    values = (arguments[i] for i in _AT)
    return {"numel": flat.numel()} | {
        key: base64.b64encode(v).decode() if isinstance(v, bytes) else v
        for key, v in zip(_HANDLE, values, strict=True)
    }


def _imported(handle: Mapping[str, Any], device: torch.device) -> Tensor:
    """The buffer that a handle of :func:`_exported` means, on this process's device."""
    values = {
        key: base64.b64decode(v) if isinstance(v := handle[key], str) else v for key in _HANDLE
    }
    numel = int(handle["numel"])
    shape = ((numel,), (1,), 0)
    found: Tensor = rebuild_cuda_tensor(  # type: ignore[no-untyped-call]
        *(torch.Tensor, *shape, torch.storage.TypedStorage, torch.uint8, device.index),
        *(values["handle"], values["bytes"], values["offset"], False),
        *(values["counter"], values["counter_offset"], values["event"], values["event_needed"]),
    )
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
