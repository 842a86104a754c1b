"""Attention over packed groups: what may see what, and how to compute it in few large pieces.

A packed token sees the earlier tokens of its own group that are in the prompt or in its own
response. Nearly all pairs of packed tokens are hidden from each other, so the [N, N] product is
never formed. Instead a :class:`AttentionPlan`, made once per batch and used by every layer, gathers
queries and keys into a few dense blocks of similar shape and hands each to torch's
``scaled_dot_product_attention``.

The pieces are units of work: a unit is a run of queries with the keys they may see. A short group
is one unit. A long group with several responses is cut into its prompt and chunks of m responses,
each chunk seeing the prompt and itself, so that the cost grows as P^2 + K*T*(P + m*T) and not as
(P + K*T)^2. Units of similar shape share a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from gnomon.data.batch import Segment, to_device
from gnomon.models import fixed_order
from gnomon.models.costs import COSTS, Costs, costs_of
from gnomon.models.gather import Gather


@dataclass(frozen=True)
class Unit:
    """Queries [q, q + q_len) over keys [prompt, prompt + prompt_len) and then [own, own + own_len).

    ``causal``: the queries are the keys and each sees all that come before it.
    """

    q: int
    q_len: int
    prompt: int
    prompt_len: int
    own: int
    own_len: int
    causal: bool

    @property
    def k_len(self) -> int:
        return self.prompt_len + self.own_len


def units(segments: Iterable[Segment], costs: Costs | None = None) -> list[Unit]:
    """The units of all groups, in packed order, cut as suits a device (by default a CPU)."""
    costs = costs or COSTS["cpu"]
    return [unit for segment in segments for unit in _group_units(segment, costs)]


def _whole(begin: int, end: int, causal: bool) -> Unit:
    return Unit(begin, end - begin, begin, 0, begin, end - begin, causal)


def _group_units(segment: Segment, costs: Costs) -> list[Unit]:
    (begin, prompt_end), responses = segment.prompt, segment.responses
    L = segment.end - begin
    if len(responses) <= 1:
        return [_whole(begin, segment.end, causal=True)]
    P = prompt_end - begin
    per_chunk = _chunk_size(P, [b - a for a, b in responses], costs)
    cut = [_whole(begin, prompt_end, causal=True)]
    for i in range(0, len(responses), per_chunk):
        a, b = responses[i][0], responses[min(i + per_chunk, len(responses)) - 1][1]
        cut.append(Unit(a, b - a, begin, P, a, b - a, causal=False))
    # the cut group needs up to two more kernel calls when nothing else in the batch has its shape
    if sum(_cost(u, costs) for u in cut) + 2 * costs.call < L * L + 2 * costs.token * L:
        return cut
    return [_whole(begin, segment.end, causal=False)]


def _cost(unit: Unit, costs: Costs) -> float:
    return unit.q_len * unit.k_len + costs.token * (unit.q_len + unit.k_len)


def _chunk_size(P: int, lengths: Sequence[int], costs: Costs) -> int:
    """Responses per chunk: the m that minimises T*(P + m*T) + token*P/m for each of them.

    More per chunk wastes pairs of different responses; fewer copies the prompt's keys more often.
    """
    T = max(1.0, sum(lengths) / len(lengths))
    return max(1, min(len(lengths), round(math.sqrt(costs.token * P) / T)))


def buckets(work: Sequence[Unit], costs: Costs | None = None) -> list[list[Unit]]:
    """Group units of similar shape, so that padding costs less than the calls it saves.

    Units are taken from the longest down; a bucket closes when padding the next unit would bring
    its waste above the cost of one more call.
    """
    call = (costs or COSTS["cpu"]).call
    order = sorted(work, key=lambda u: (u.causal, -u.k_len, -u.q_len, u.q))
    out: list[list[Unit]] = []
    max_q = useful = 0
    for unit in order:
        pairs = unit.q_len * unit.k_len
        if out:
            first, rows = out[-1][0], len(out[-1]) + 1
            waste = rows * max(max_q, unit.q_len) * first.k_len - useful - pairs
        if not out or unit.causal != first.causal or waste > call:
            out.append([])
            max_q = useful = 0
        out[-1].append(unit)
        max_q, useful = max(max_q, unit.q_len), useful + pairs
    return out


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
    """How to compute one pass's attention; the same for all layers (and all models) that run it.

    Args:
        work: units that together have each of the N packed tokens as a query once.
        branch: [N] on the CPU: 0 for tokens that every query of their unit sees, k > 0 for those
            that only queries of the same branch see.
        position: [N] on the CPU: position in the token's own text.
        device: where the plan lives.

    Attributes:
        blocks: the dense pieces.
        queries: how packed queries map to the blocks' slots, block after block, and back.
        keys: the same for keys and values.
    """

    def __init__(
        self, work: Sequence[Unit], branch: Tensor, position: Tensor, device: torch.device
    ) -> None:
        costs = costs_of(device)
        parts = [_block(members, branch, position, device) for members in buckets(work, costs)]
        self.blocks = [block for block, _, _ in parts]
        N = branch.numel()
        self.queries = Gather.plan(torch.cat([q.flatten() for _, q, _ in parts]), N, device)
        self.keys = Gather.plan(torch.cat([k.flatten() for _, _, k in parts]), N, device)

    @classmethod
    def of(cls, segments: Sequence[Segment], device: torch.device) -> AttentionPlan:
        """The plan of a packed batch's segments, on its device."""
        return cls(units(segments, costs_of(device)), *_places(segments), device)

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
        deterministic: bool = False,
    ) -> Tensor:
        """Attention of packed queries [Hq, N, d] over keys [Hk, N, d] and values [Hk, N, e].

        Args:
            deterministic: take no kernel that a GPU adds up gradients in any order by.

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
            _attend_block(block, qb, kb, vb, scaling, dropout, window, softcap, deterministic)
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
    deterministic: bool,
) -> Tensor:
    """One block: q [B*Lq, Hq, d], k and v [B*Lk, Hk, d] to [B*Lq, Hq, d]."""
    B, Lq, Lk = block.rows, block.query_length, block.key_length
    q = q.view(B, Lq, *q.shape[1:]).transpose(1, 2)
    k = k.view(B, Lk, *k.shape[1:]).transpose(1, 2)
    v = v.view(B, Lk, *v.shape[1:]).transpose(1, 2)
    bias = block.bias(window, q.dtype)
    shares_heads = q.shape[1] != k.shape[1]
    # CUDA's fast kernels take shared key heads or a mask, not both, and float32's no such heads
    half = q.dtype in (torch.bfloat16, torch.float16)
    slow = q.is_cuda and (bias is not None or not half)
    if shares_heads and (softcap is not None or slow):
        repeats = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        shares_heads = False
    if softcap is not None:
        out = _softcapped(block, q, k, v, bias, scaling, dropout, softcap)
    else:
        kernels = fixed_order.attention if deterministic else F.scaled_dot_product_attention
        out = kernels(
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


def _places(segments: Iterable[Segment]) -> tuple[Tensor, Tensor]:
    """Branch [N] and position [N] of packed groups on the CPU, without asking the device."""
    branch: list[Tensor] = []
    position: list[Tensor] = []
    for segment in segments:
        begin, end = segment.prompt
        for k, (a, b) in enumerate(((begin, end), *segment.responses)):
            first = end - begin if k else 0
            branch.append(torch.full((b - a,), k))
            position.append(torch.arange(first, first + b - a))
    return torch.cat(branch), torch.cat(position)


def _block(
    members: Sequence[Unit], branch: Tensor, position: Tensor, device: torch.device
) -> tuple[Block, Tensor, Tensor]:
    """Units in packed order as one block, with its query and key indices [B, Lq] and [B, Lk].

    A row is padded with its last token again, the branch kept and the position counted on. So
    padding never needs a mask of its own: real queries do not see it because it comes later, and it
    sees something itself, so that its softmax is finite.
    """
    members = sorted(members, key=lambda u: u.q)
    table = torch.tensor(
        [(u.q, u.q_len, u.prompt, u.prompt_len, u.own, u.own_len) for u in members]
    )
    q, q_len, prompt, prompt_len, own, own_len = table.T[:, :, None]
    slot = torch.arange(int(q_len.max()))[None]
    pad = (slot - (q_len - 1)).clamp_(min=0)  # 0 at real slots, then 1, 2, ...
    q_index = q + slot - pad
    q_branch, q_position = branch[q_index], position[q_index] + pad
    slot = torch.arange(int((prompt_len + own_len).max()))[None]
    pad = (slot - (prompt_len + own_len - 1)).clamp_(min=0)
    real = slot - pad
    k_index = torch.where(real < prompt_len, prompt + real, own + real - prompt_len)
    k_branch, k_position = branch[k_index], position[k_index] + pad
    # a padded query no later than the last key always sees a key, whatever the sliding window
    q_position = q_position.minimum(k_position.amax(1, keepdim=True))
    causal = members[0].causal
    if causal:  # branches hide nothing here
        q_branch, k_branch = torch.zeros_like(q_branch), torch.zeros_like(k_branch)
    reach = int(q_position.max() - k_position.min())
    tables = [q_branch, q_position, k_branch, k_position]
    if all(bool((t == t[:1]).all()) for t in tables):
        tables = [t[:1] for t in tables]
    q_branch, q_position, k_branch, k_position = (to_device(t, device) for t in tables)
    block = Block(
        rows=len(members),
        query_length=q_index.shape[1],
        key_length=k_index.shape[1],
        causal=causal,
        query_branch=q_branch,
        query_position=q_position,
        key_branch=k_branch,
        key_position=k_position,
        reach=reach,
    )
    return block, q_index, k_index
