"""Cutting packed groups into units of attention work, and units into buckets of similar shape.

A unit is a run of queries with the keys they may see. A short group is one unit. A long group with
several responses is cut into its prompt and chunks of m responses, each chunk seeing the prompt and
itself, so that the cost grows as P^2 + K*T*(P + m*T) and not as (P + K*T)^2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnomon.data.batch import Segment

# One more kernel call costs about as much as this many query-key pairs.
CALL_COST = 4096
# Gathering one query or key costs about as much as this many query-key pairs.
TOKEN_COST = 32


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


@dataclass(frozen=True)
class Bucket:
    """Units padded to one shape.

    ``query_index`` [B, Lq] and ``key_index`` [B, Lk] are packed positions; padding repeats the
    row's last one. ``query_pad`` and ``key_pad`` are 0 at real slots and 1, 2, ... at padding.
    """

    causal: bool
    query_index: Tensor
    query_pad: Tensor
    key_index: Tensor
    key_pad: Tensor


def units(segments: Iterable[Segment]) -> list[Unit]:
    """The units of all groups, in packed order."""
    return [unit for segment in segments for unit in _group_units(segment)]


def _whole(begin: int, end: int, causal: bool) -> Unit:
    return Unit(begin, end - begin, begin, 0, begin, end - begin, causal)


def _group_units(segment: Segment) -> list[Unit]:
    (begin, prompt_end), responses = segment.prompt, segment.responses
    L = segment.end - begin
    if len(responses) <= 1:
        return [_whole(begin, segment.end, causal=True)]
    P = prompt_end - begin
    per_chunk = _chunk_size(P, [b - a for a, b in responses])
    cut = [_whole(begin, prompt_end, causal=True)]
    for i in range(0, len(responses), per_chunk):
        a, b = responses[i][0], responses[min(i + per_chunk, len(responses)) - 1][1]
        cut.append(Unit(a, b - a, begin, P, a, b - a, causal=False))
    # the cut group needs up to two more kernel calls when nothing else in the batch has its shape
    if sum(_cost(u) for u in cut) + 2 * CALL_COST < L * L + 2 * TOKEN_COST * L:
        return cut
    return [_whole(begin, segment.end, causal=False)]


def _cost(unit: Unit) -> int:
    return unit.q_len * unit.k_len + TOKEN_COST * (unit.q_len + unit.k_len)


def _chunk_size(P: int, lengths: Sequence[int]) -> int:
    """Responses per chunk: the m that minimises T*(P + m*T) + TOKEN_COST*P/m for each of them.

    More per chunk wastes pairs of different responses; fewer copies the prompt's keys more often.
    """
    T = max(1.0, sum(lengths) / len(lengths))
    return max(1, min(len(lengths), round(math.sqrt(TOKEN_COST * P) / T)))


def buckets(work: Sequence[Unit]) -> list[Bucket]:
    """Group units of similar shape, so that padding costs less than the calls it saves.

    Units are taken from the longest down; a bucket closes when padding the next unit would bring
    its waste above the cost of one more call. Units of the same shape stay in packed order.
    """
    order = sorted(work, key=lambda u: (u.causal, -u.k_len, -u.q_len, u.q))
    out: list[Bucket] = []
    members: list[Unit] = []
    max_q = useful = 0
    for unit in order:
        pairs = unit.q_len * unit.k_len
        if members:
            max_k = members[0].k_len
            area = (len(members) + 1) * max(max_q, unit.q_len) * max_k
            new_kind = unit.causal != members[0].causal
            if new_kind or area - useful - pairs > CALL_COST:
                out.append(_bucket(members))
                members, max_q, useful = [], 0, 0
        members.append(unit)
        max_q, useful = max(max_q, unit.q_len), useful + pairs
    if members:
        out.append(_bucket(members))
    return out


def _bucket(members: Sequence[Unit]) -> Bucket:
    members = sorted(members, key=lambda u: u.q)
    table = torch.tensor(
        [(u.q, u.q_len, u.prompt, u.prompt_len, u.own, u.own_len) for u in members]
    )
    q, q_len, prompt, prompt_len, own, own_len = table.T[:, :, None]
    slot = torch.arange(int(q_len.max()))[None]
    query_pad = (slot - (q_len - 1)).clamp_(min=0)
    query_index = q + slot - query_pad
    slot = torch.arange(int((prompt_len + own_len).max()))[None]
    key_pad = (slot - (prompt_len + own_len - 1)).clamp_(min=0)
    real = slot - key_pad
    key_index = torch.where(real < prompt_len, prompt + real, own + real - prompt_len)
    return Bucket(members[0].causal, query_index, query_pad, key_index, key_pad)
