"""Gathers of packed tokens whose gradients are gathers too.

Autograd's own gradient of a gather adds rows up one by one. Which rows a position was copied to is
known when a batch is laid out, so here the gradient is read from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gnomon.data.batch import to_device


@dataclass
class Gather:
    """An index from slots to packed positions, with what its gradient needs.

    Attributes:
        index: [M] packed position of each slot, or None where slots are the packed positions.
        first: [N] the slot that holds each packed position (the first, if it has several).
        again, again_to: slots that hold a position once more, and that position.
        order, offsets: instead of those two, all slots by position [M], and where each position's
            begin [N].
    """

    index: Tensor | None
    first: Tensor | None
    again: Tensor | None = None
    again_to: Tensor | None = None
    order: Tensor | None = None
    offsets: Tensor | None = None

    @classmethod
    def plan(
        cls, index: Tensor, N: int, device: torch.device, *, ordered: bool | None = None
    ) -> Gather:
        """The gather of ``index`` [M], which lies on the CPU and holds each of N positions.

        Args:
            ordered: add a position's gradients up in one kernel, in the order of the slots and in
                float32 whatever their dtype. A GPU, where the alternative adds in no fixed order,
                always does; on a CPU it is slower.
        """
        M = index.numel()
        if M == N and bool((index == torch.arange(N)).all()):
            return cls(None, None)
        first = torch.full((N,), M, dtype=torch.int64)
        first.scatter_reduce_(0, index, torch.arange(M), "amin")
        again = (first[index] != torch.arange(M)).nonzero().flatten()
        if not again.numel():
            return cls(to_device(index, device), to_device(first, device))
        if ordered or (ordered is None and device.type == "cuda"):
            order = torch.argsort(index, stable=True)
            offsets = torch.searchsorted(index[order], torch.arange(N))
            index, first, order, offsets = (
                to_device(t, device) for t in (index, first, order, offsets)
            )
            return cls(index, first, order=order, offsets=offsets)
        return cls(*(to_device(t, device) for t in (index, first, again, index[again])))

    def spread(self, x: Tensor) -> Tensor:
        """Packed [N, H, d] to slots [M, H, d]."""
        if self.index is None:
            return x.contiguous()
        return _Spread.apply(x, self)  # type: ignore[no-any-return,no-untyped-call]

    def collect(self, x: Tensor) -> Tensor:
        """Slots [M, H, d] to packed [N, H, d]: the first slot of each position."""
        if self.first is None:
            return x
        return _Collect.apply(x, self)  # type: ignore[no-any-return,no-untyped-call]


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` of ``x``. The gradients of a row that is taken again are added up in a fixed
    order on a GPU too, where those of ``index_select`` are not."""
    return x[index] if x.is_cuda else x.index_select(0, index)


class _Spread(torch.autograd.Function):
    """A gather whose gradient is a gather too (plus a sum where a position is used repeatedly)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gather: Gather) -> Tensor:
        ctx.gather = gather
        return x.index_select(0, gather.index)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        gather: Gather = ctx.gather
        if gather.order is not None:
            total = F.embedding_bag(
                gather.order, grad.reshape(grad.shape[0], -1), gather.offsets, mode="sum"
            )
            return total.view(-1, *grad.shape[1:]), None
        out = grad.index_select(0, gather.first)  # type: ignore[arg-type]
        if gather.again is not None and gather.again_to is not None:
            out.index_add_(0, gather.again_to, grad.index_select(0, gather.again))
        return out, None


class _Collect(torch.autograd.Function):
    """The inverse gather; slots that are not collected get a zero gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gather: Gather) -> Tensor:
        ctx.gather, ctx.slots = gather, x.shape[0]
        return x.index_select(0, gather.first)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        out = grad.new_zeros(ctx.slots, *grad.shape[1:])
        return out.index_copy_(0, ctx.gather.first, grad), None
