"""Sums of tensors, by which sender and receiver know that weights arrived as they were sent.

A tensor's sum is the sum over its elements of their bits, read as a signed integer, times an odd
64-bit number that depends on the element's place, modulo 2**64:

    sum = sum over blocks c of  m(c + 2**40) * (sum over places i of  m(i) * bits[c * 2**20 + i])

with m a fixed mixing function. It is taken on the tensor's own device, in any order, and is the
same on every device. One element that changed always changes it, since an odd number times a
difference is never 0 there; several, or elements that changed places, do but for a chance of about
2**-60. It is no signature: whoever can write a tensor can also write one with the same sum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from gnomon.errors import EngineError

_BLOCK = 1 << 20
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def tensor_sum(tensor: Tensor) -> Tensor:
    """The sum of a tensor of any shape and numbers, as an int64 scalar on its device."""
    bits = tensor.detach().contiguous().view(-1).view(_INTEGERS[tensor.element_size()])
    places = _places(str(tensor.device))
    blocks = [
        (block.to(torch.int64) * places[: block.numel()]).sum()
        for block in torch.split(bits, _BLOCK)
    ]
    if not bits.numel():
        return torch.zeros((), dtype=torch.int64, device=tensor.device)
    factors = _mixed(torch.arange(len(blocks), dtype=torch.int64) + (1 << 40))
    return (torch.stack(blocks) * factors.to(tensor.device)).sum()


@cache
def _places(device: str) -> Tensor:
    """[2**20] what the places of a block count."""
    return _mixed(torch.arange(_BLOCK, dtype=torch.int64)).to(device)


def _mixed(places: Tensor) -> Tensor:
    """An odd number for each place; its bits look random (as SplitMix64's do)."""
    x = places * -7046029254386353131
    x = (x ^ (x >> 30)) * -4658895280553007687
    x = (x ^ (x >> 27)) * -7723592293110705685
    return x ^ (x >> 31) | 1


class Entry(NamedTuple):
    """A tensor as it was sent: how its numbers are stored, its shape and its sum."""

    dtype: str
    shape: tuple[int, ...]
    sum: int


@dataclass(frozen=True)
class Sums:
    """All tensors of a set of weights, by name.

    Attributes:
        entries: what each tensor is.
        more: what belongs to the weights besides: an adapter's settings.
    """

    entries: Mapping[str, Entry]
    more: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, tensors: Iterable[tuple[str, Tensor]], more: Mapping[str, str] | None = None
    ) -> Sums:
        """Take the sums of tensors, one after the other."""
        kept = [(name, dtype_name(t.dtype), tuple(t.shape), tensor_sum(t)) for name, t in tensors]
        return cls({n: Entry(d, s, int(total)) for n, d, s, total in kept}, more or {})

    @property
    def version(self) -> str:
        """Names the weights: equal versions are equal weights. SHA-256, in hex, of the entries."""
        parts = [sorted((name, *entry) for name, entry in self.entries.items()), {**self.more}]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        return json.dumps([self.entries, {**self.more}])

    @classmethod
    def from_json(cls, text: str) -> Sums:
        """The inverse; raises EngineError for anything else."""
        try:
            entries, more = json.loads(text)
            return cls(
                {
                    str(n): Entry(str(d), tuple(map(int, s)), int(t))
                    for n, (d, s, t) in entries.items()
                },
                {str(key): str(value) for key, value in more.items()},
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise EngineError(f"the sums of the weights are not understood: {error}") from error

    def check(self, found: Mapping[str, Entry]) -> None:
        """Raise EngineError, naming a tensor, unless ``found`` is what was sent."""
        for name, entry in self.entries.items():
            if name not in found:
                raise EngineError(damaged(f"{name} did not arrive"))
            if found[name] != entry:
                raise EngineError(damaged(f"{name} is not the tensor that was sent"))
        for name in found:
            if name not in self.entries:
                raise EngineError(damaged(f"{name} arrived, which was not sent"))


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def damaged(what: str) -> str:
    return (
        f"the weights were damaged on the way: {what}. Look at the disk and the network between "
        "trainer and sampler, and resume with --resume."
    )
