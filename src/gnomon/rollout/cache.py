"""Keys and values that the engine keeps: of each row, and of what several prompts begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_AHEAD = 64  # least positions allocated ahead of need
_MULTIPLE = 16  # cache lengths are rounded up to a multiple of this


@dataclass
class KVCache:
    """Keys and values of every layer, [rows, kv heads, positions, head size], grown on demand.

    Attributes:
        rows: rows that can be alive at once.
        limit: most positions a row can ever need; growth stops there.
    """

    rows: int
    limit: int
    positions: int = 0
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def reserve(self, positions: int) -> None:
        """Make room for ``positions`` tokens in every row (rows grow together, by half)."""
        if positions <= self.positions:
            return
        ahead = max(self.positions * 3 // 2, positions + _AHEAD)
        wanted = max(positions, min(self.limit, ahead))
        self.positions = -(-wanted // _MULTIPLE) * _MULTIPLE
        for index, (keys, values) in self.layers.items():
            self.layers[index] = (self._grown(keys), self._grown(values))

    def _grown(self, old: Tensor) -> Tensor:
        new = old.new_empty(old.shape[0], old.shape[1], self.positions, old.shape[3])
        new[:, :, : old.shape[2]] = old
        new[:, :, old.shape[2] :] = 0
        return new

    def layer(self, index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The stores of one layer; zeros at first, since a masked NaN would still be a NaN."""
        if index not in self.layers:
            self.layers[index] = (
                key.new_zeros(self.rows, key.shape[1], self.positions, key.shape[3]),
                value.new_zeros(self.rows, value.shape[1], self.positions, value.shape[3]),
            )
        return self.layers[index]

    def copy_rows(self, source: Sequence[int], target: Sequence[int], length: int) -> None:
        """Copy the first ``length`` positions of the rows ``source`` over the rows ``target``."""
        if not target:
            return
        for stores in self.layers.values():
            for store in stores:
                src = torch.tensor(source, device=store.device)
                dst = torch.tensor(target, device=store.device)
                view = store[:, :, :length]
                view.index_copy_(0, dst, view.index_select(0, src))

    def taken(self, row: int, length: int) -> KVCache:
        """The first ``length`` positions of a row, copied into a cache of their own."""
        cut = (slice(row, row + 1), slice(None), slice(0, length))
        layers = {i: (k[cut].clone(), v[cut].clone()) for i, (k, v) in self.layers.items()}
        return KVCache(1, length, length, layers)

    @property
    def bytes(self) -> int:
        """What the stores take."""
        return sum(store.nbytes for stores in self.layers.values() for store in stores)


@dataclass(frozen=True)
class Prefix:
    """Tokens that a prompt begins with, computed before: the first ``length`` positions of the
    only row of ``cache``."""

    cache: KVCache
    length: int
