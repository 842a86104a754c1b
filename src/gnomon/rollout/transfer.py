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

The two ends are in :mod:`gnomon.rollout.links`; :class:`Receiving` is the sampler's account of what
has arrived.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from gnomon.errors import ConfigError, EngineError
from gnomon.plugins import did_you_mean
from gnomon.rollout.links import Outlet, Wanted
from gnomon.rollout.protocol import About, WeightsHere
from gnomon.rollout.sums import Entry, Sums, damaged, tensor_sum

KINDS = ("auto", "file", "memory", "ipc", "nccl", "gloo")
BUCKET = 256 << 20
"""Bytes of tensors that cross at once; a larger tensor crosses alone."""


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


# -- sending ---------------------------------------------------------------------------------------


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


# -- receiving -------------------------------------------------------------------------------------


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
