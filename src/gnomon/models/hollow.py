"""Models without memory behind their weights: a process that keeps only a part of them is given
that by the first, layer by layer, and never holds the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gnomon.errors import ModelError
from gnomon.models.ranks import Ranks

_HOLLOW: ContextVar[bool] = ContextVar("gnomon_hollow", default=False)
M = TypeVar("M", bound=nn.Module)


@contextmanager
def hollow(wanted: bool = True) -> Iterator[None]:
    """Within the block models are made of their configuration alone, on torch's meta device."""
    token = _HOLLOW.set(wanted)
    try:
        yield
    finally:
        _HOLLOW.reset(token)


def wants_hollow() -> bool:
    """Whether models are made without memory now."""
    return _HOLLOW.get()


def placed(model: M, device: str | torch.device) -> M:
    """The model on a device; one without memory stays as it is."""
    return model if is_hollow(model) else model.to(device)


def is_hollow(module: nn.Module) -> bool:
    """Whether a weight has no memory."""
    return any(p.is_meta for p in module.parameters())


def check_alike(module: nn.Module, ranks: Ranks) -> None:
    """Check that every process has the tensors of the first, by name, shape and type.

    Raises:
        ModelError: one has others.
    """
    mine = {name: (list(t.shape), str(t.dtype)) for name, t in _named(module)}
    with ranks.together():
        first = ranks.told(mine)
        odd = [n for n in {**first, **mine} if first.get(n) != mine.get(n)]
        if odd:
            raise ModelError(
                f"this process makes another {type(module).__name__} than the first: "
                f"{odd[0]} is {mine.get(odd[0])} here and {first.get(odd[0])} there. Give all "
                "machines the same model folder and the same versions (transformers, peft), or "
                "set strategy: ddp"
            )


@torch.no_grad()
def fill(module: nn.Module, device: torch.device) -> None:
    """Give the module's tensors the first process's values; they are on ``device``
    afterwards. Every process calls it, for the same module."""
    done: dict[int, tuple[Tensor, Tensor]] = {}  # tied ones stay one
    for owner in module.modules():
        tables: tuple[dict[str, Any], ...] = (owner._parameters, owner._buffers)
        for held in tables:
            for name, tensor in held.items():
                if tensor is None or hasattr(tensor, "device_mesh"):
                    continue  # spread already
                if id(tensor) not in done:
                    done[id(tensor)] = (tensor, _received(tensor, device))
                held[name] = done[id(tensor)][1]


def _received(tensor: Tensor, device: torch.device) -> Tensor:
    there = tensor
    if tensor.is_meta or tensor.device != device:
        there = torch.empty_like(tensor, device=device, memory_format=torch.contiguous_format)
        if isinstance(tensor, nn.Parameter):
            there = nn.Parameter(there, requires_grad=tensor.requires_grad)
        if not tensor.is_meta:
            there.copy_(tensor)
    flat = there.detach().contiguous().reshape(-1)
    if flat.numel():
        dist.broadcast(flat.view(torch.uint8), src=0)  # as bytes: whatever its type is
    if flat.data_ptr() != there.data_ptr():
        there.copy_(flat.view_as(there))
    return there


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
