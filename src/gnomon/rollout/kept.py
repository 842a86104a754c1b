"""What an engine keeps between the turns of episodes, and how it sees that weights changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gnomon.rollout.cache import KVCache, Prefix


class KeptRows:
    """Rows of a contiguous cache that a later prompt may begin with; the longest unused go first.

    Args:
        most: bytes that they may take together.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: dict[tuple[int, ...], KVCache] = {}  # the longest unused first
        self._bytes = 0

    def keep(self, ids: Sequence[int], cache: KVCache, row: int) -> None:
        """Copy the positions of ``ids``, all that row ``row`` of ``cache`` holds."""
        key = tuple(ids)
        self._drop(key)
        self._rows[key] = cache.taken(row, len(key))
        self._bytes += self._rows[key].bytes
        while self._bytes > self._most:
            self._drop(next(iter(self._rows)))

    def find(self, prompt: Sequence[int]) -> Prefix | None:
        """The longest row that ``prompt`` begins with and goes beyond."""
        begun = tuple(prompt)
        lengths = sorted({len(key) for key in self._rows if len(key) < len(begun)}, reverse=True)
        for length in lengths:
            found = self._rows.pop(begun[:length], None)
            if found is not None:
                self._rows[begun[:length]] = found  # used just now
                return Prefix(found, length)
        return None

    def _drop(self, key: tuple[int, ...]) -> None:
        dropped = self._rows.pop(key, None)
        if dropped is not None:
            self._bytes -= dropped.bytes


_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def weights_mark(model: nn.Module) -> tuple[int, ...]:
    """Sums over the bits of every parameter and buffer: other numbers give other sums, however they
    were changed (unless changes cancel bit for bit). It reads the weights once, as a decoding step
    does, and waits for the device once."""
    sums = [_bits(tensor) for tensor in (*model.parameters(), *model.buffers())]
    device = sums[0].device
    return tuple(torch.stack([s.to(device, non_blocking=True) for s in sums]).tolist())


def _bits(tensor: Tensor) -> Tensor:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # a shard of FSDP's
    return local.detach().view(_WORDS[local.element_size()]).sum(dtype=torch.int64)
