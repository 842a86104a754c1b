"""Attention over packed groups: what may see what, and how to compute it in few large pieces.

A packed token sees the earlier tokens of its own group that lie in the prompt or in its own
response. Nearly all pairs of packed tokens are hidden from each other, so the [N, N] product is
never formed. Instead a :class:`AttentionPlan`, made once per batch and used by every layer, gathers
queries and keys into a few dense blocks of similar shape and hands each to torch's
``scaled_dot_product_attention``.

The function is registered with transformers as ``gnomon_packed``; an ordinary model run under that
name, with ``attention_plan=`` among its keyword arguments, uses it in every layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from gnomon.data.batch import Batch
from gnomon.models.attention_units import Bucket, buckets, units

PACKED_ATTENTION = "gnomon_packed"


@dataclass
class Block:
    """Queries and keys of similar shape, one row per unit of work.

    Attributes:
        rows: number of rows B; ``query_length`` Lq and ``key_length`` Lk include padding.
        causal: every key at or before a query's position is visible, and Lq = Lk.
        query_branch, query_position: [B or 1, Lq]; one row where all rows are alike.
        key_branch, key_position: [B or 1, Lk].
        reach: the largest distance between a query and a key, so narrower windows matter.
    """

    rows: int
    query_length: int
    key_length: int
    causal: bool
    query_branch: Tensor
    query_position: Tensor
    key_branch: Tensor
    key_position: Tensor
    reach: int
    _masks: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive mask [B or 1, 1, Lq, Lk] with 0 where a query sees a key and -inf elsewhere.

        None means the plain causal mask. ``window`` hides keys ``window`` or more positions back.
        """
        if window is not None and self.reach < window:
            window = None
        if self.causal and window is None:
            return None
        found = self._masks.get((window, dtype))
        if found is None:
            hidden = ~self.visible(window)[:, None]
            found = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            found.masked_fill_(hidden, float("-inf"))
            self._masks[window, dtype] = found
        return found

    def visible(self, window: int | None = None) -> Tensor:
        """Bool [B or 1, Lq, Lk]: key in the prompt or the query's own response, and not later."""
        key_branch, query_branch = self.key_branch[:, None, :], self.query_branch[:, :, None]
        distance = self.query_position[:, :, None] - self.key_position[:, None, :]
        seen = ((key_branch == 0) | (key_branch == query_branch)) & (distance >= 0)
        return seen if window is None else seen & (distance < window)


class AttentionPlan:
    """How to compute one batch's attention; the same for all layers (and all models) that run it.

    Args:
        batch: a packed batch; the plan lives on its device.

    Attributes:
        blocks: the dense pieces.
        queries: how packed queries map to the blocks' slots, block after block, and back.
        keys: the same for keys and values.
    """

    def __init__(self, batch: Batch) -> None:
        device = batch.input_ids.device
        branch, position = batch.branch.cpu(), batch.position_ids.cpu()
        parts = [_block(b, branch, position) for b in buckets(units(batch.segments))]
        self.blocks = [_moved(block, device) for block, _, _ in parts]
        N = batch.num_tokens
        self.queries = _Gather.plan(torch.cat([q.flatten() for _, q, _ in parts]), N, device)
        self.keys = _Gather.plan(torch.cat([k.flatten() for _, _, k in parts]), N, device)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float | None = None,
        dropout: float = 0.0,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        """Attention of packed queries [Hq, N, d] over keys [Hk, N, d] and values [Hk, N, e].

        Returns:
            [N, Hq, e].
        """
        q = self.queries.spread(query.transpose(0, 1))
        k = self.keys.spread(key.transpose(0, 1))
        v = self.keys.spread(value.transpose(0, 1))
        q_sizes = [b.rows * b.query_length for b in self.blocks]
        k_sizes = [b.rows * b.key_length for b in self.blocks]
        parts = zip(
            self.blocks,
            torch.split(q, q_sizes),
            torch.split(k, k_sizes),
            torch.split(v, k_sizes),
            strict=True,
        )
        outs = [
            _attend_block(block, qb, kb, vb, scaling, dropout, window, softcap)
            for block, qb, kb, vb in parts
        ]
        return self.queries.collect(outs[0] if len(outs) == 1 else torch.cat(outs))


def _attend_block(
    block: Block,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scaling: float | None,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """One block: q [B*Lq, Hq, d], k and v [B*Lk, Hk, d] to [B*Lq, Hq, d]."""
    B, Lq, Lk = block.rows, block.query_length, block.key_length
    q = q.view(B, Lq, *q.shape[1:]).transpose(1, 2)
    k = k.view(B, Lk, *k.shape[1:]).transpose(1, 2)
    v = v.view(B, Lk, *v.shape[1:]).transpose(1, 2)
    bias = block.bias(window, q.dtype)
    shares_heads = q.shape[1] != k.shape[1]
    # CUDA's fast kernels take shared key heads or a mask, but not both
    if shares_heads and (softcap is not None or (bias is not None and q.is_cuda)):
        repeats = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        shares_heads = False
    if softcap is not None:
        out = _softcapped(block, q, k, v, bias, scaling, dropout, softcap)
    else:
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=bias,
            dropout_p=dropout,
            is_causal=bias is None,
            scale=scaling,
            enable_gqa=shares_heads,
        )
    return out.transpose(1, 2).reshape(B * Lq, out.shape[1], out.shape[3])


def _softcapped(
    block: Block,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    scaling: float | None,
    dropout: float,
    softcap: float,
) -> Tensor:
    """Gemma 2's attention: scores squashed to (-softcap, softcap) before the mask and softmax."""
    scores = (q @ k.transpose(-1, -2)) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if bias is None:
        scores = scores.masked_fill(~block.visible()[:, None], float("-inf"))
    else:
        scores = scores + bias
    weights = scores.softmax(-1, dtype=torch.float32).to(v.dtype)
    return F.dropout(weights, dropout) @ v


def _block(bucket: Bucket, branch: Tensor, position: Tensor) -> tuple[Block, Tensor, Tensor]:
    """The bucket as a block, with its query and key indices [B, Lq] and [B, Lk]."""
    q_index, q_branch, q_position = _padded(bucket.query_index, bucket.query_pad, branch, position)
    k_index, k_branch, k_position = _padded(bucket.key_index, bucket.key_pad, branch, position)
    # a padded query no later than the last key always sees a key, whatever the sliding window
    q_position = q_position.minimum(k_position.amax(1, keepdim=True))
    if bucket.causal:  # branches hide nothing here
        q_branch, k_branch = torch.zeros_like(q_branch), torch.zeros_like(k_branch)
    block = Block(
        rows=q_index.shape[0],
        query_length=q_index.shape[1],
        key_length=k_index.shape[1],
        causal=bucket.causal,
        query_branch=q_branch,
        query_position=q_position,
        key_branch=k_branch,
        key_position=k_position,
        reach=int(q_position.max() - k_position.min()),
    )
    tables = (q_branch, q_position, k_branch, k_position)
    if all(bool((t == t[:1]).all()) for t in tables):
        block.query_branch, block.query_position = q_branch[:1], q_position[:1]
        block.key_branch, block.key_position = k_branch[:1], k_position[:1]
    return block, q_index, k_index


def _padded(
    index: Tensor, pad: Tensor, branch: Tensor, position: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Index, branch and position of each slot; padding carries its row's last branch onward.

    ``index`` repeats the row's last token in the ``pad`` slots ([B, L], 0 for a real token, 1, 2...
    for the padding after it). So padding never needs a mask of its own: real queries do not see it
    because it comes later, and it sees something itself, so that its softmax is finite.
    """
    return index, branch[index], position[index] + pad


def _moved(block: Block, device: torch.device) -> Block:
    for name in ("query_branch", "query_position", "key_branch", "key_position"):
        setattr(block, name, getattr(block, name).to(device))
    return block


@dataclass
class _Gather:
    """An index from block slots to packed positions, with what its gradient needs.

    Attributes:
        index: [M] packed position of each slot, or None where slots are the packed positions.
        first: [N] the slot that holds each packed position (the first, if it has several).
        again, again_to: slots that hold a position once more, and that position; padding, whose
            gradient is zero, is among neither.
    """

    index: Tensor | None
    first: Tensor | None
    again: Tensor | None = None
    again_to: Tensor | None = None

    @classmethod
    def plan(cls, index: Tensor, N: int, device: torch.device) -> _Gather:
        M = index.numel()
        if M == N and bool((index == torch.arange(N)).all()):
            return cls(None, None)
        first = torch.full((N,), M, dtype=torch.int64)
        first.scatter_reduce_(0, index, torch.arange(M), "amin")
        again = (first[index] != torch.arange(M)).nonzero().flatten()
        if not again.numel():
            return cls(index.to(device), first.to(device))
        return cls(index.to(device), first.to(device), again.to(device), index[again].to(device))

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


class _Spread(torch.autograd.Function):
    """A gather whose gradient is a gather too (plus a sum where a position is used repeatedly)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gather: _Gather) -> Tensor:
        ctx.gather = gather
        return x.index_select(0, gather.index)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        gather: _Gather = ctx.gather
        out = grad.index_select(0, gather.first)  # type: ignore[arg-type]
        if gather.again is not None and gather.again_to is not None:
            out.index_add_(0, gather.again_to, grad.index_select(0, gather.again))
        return out, None


class _Collect(torch.autograd.Function):
    """The inverse gather; slots that are not collected get a zero gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gather: _Gather) -> Tensor:
        ctx.gather, ctx.slots = gather, x.shape[0]
        return x.index_select(0, gather.first)  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        out = grad.new_zeros(ctx.slots, *grad.shape[1:])
        return out.index_copy_(0, ctx.gather.first, grad), None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    attention_plan: AttentionPlan | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: [1, H, N, d] in, [1, N, H, d] out."""
    if attention_plan is None:
        raise RuntimeError(
            f"{type(module).__name__} did not pass the attention plan on; run it by PackedForward"
        )
    out = attention_plan.attend(
        query[0],
        key[0],
        value[0],
        scaling=scaling,
        dropout=dropout,
        window=sliding_window,
        softcap=softcap,
    )
    return out[None], None


def register(name: str = PACKED_ATTENTION, function: Callable[..., Any] = packed_attention) -> None:
    """Make the packed attention known to transformers.

    It is deliberately not given a mask function: transformers builds no mask for an attention that
    has none, and a mask over all packed tokens would cost N^2.
    """
    AttentionInterface.register(name, function)


register()
