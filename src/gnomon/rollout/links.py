"""The two ends of the way that tensors take from the trainer to a sampler: torch's parts."""

from __future__ import annotations

import base64
import math
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch._C._distributed_c10d import Store, TCPStore
from torch.multiprocessing.reductions import rebuild_cuda_tensor, reduce_tensor

from gnomon.errors import EngineError
from gnomon.rollout.sums import Entry

TIMEOUT = 120.0
"""Seconds for the other end to appear, and for a bucket to cross."""
Wanted = Callable[[], None]


class BrokenLinkError(Exception):
    """The way between trainer and sampler broke; another try may help."""


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
        """Give the connections back; what is under way breaks off at the other end.

        Nobody waits for gloo, which first gives what was offered and not taken its whole time.
        """
        held, self._group = [self._group], None
        if self.kind == "gloo":
            threading.Thread(target=held.clear, daemon=True).start()


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
