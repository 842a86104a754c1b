"""torch's varlen attention on the CPU: its op and its backward by the plain formulas, row by row.

torch has kernels for CUDA alone. Importing this registers others for the CPU, written from what
FlashAttention documents: row i's queries are the last of its keys' positions, so that a query sees
keys up to its own place counted from the end (bottom right), and with a window of (left, right) no
further back than ``left``.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.attention import varlen

CALLS: list[tuple[int, ...]] = []
"""(queries, keys, query heads, key heads) of each forward call."""
MODES: list[tuple[str, int]] = []
"""Of each call, forward and backward, torch's mode of deterministic algorithms (2: strict)."""
CORNER = "bottom right"
"""What the causal rule is aligned to; "top left" is the mistake that tests must notice."""


def _rows(starts_q: Tensor, starts_k: Tensor) -> list[tuple[slice, slice]]:
    pairs = zip(pairwise(starts_q.tolist()), pairwise(starts_k.tolist()), strict=True)
    return [(slice(*a), slice(*b)) for a, b in pairs]


def _scores(
    q: Tensor, k: Tensor, causal: bool, scale: float | None, window: list[int] | None
) -> Tensor:
    """Masked scores [Hq, n, m] of queries [n, Hq, d] and keys [m, Hk, d]."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = torch.einsum("nhd,mhd->hnm", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    n, m = q.shape[0], k.shape[0]
    shift = m - n if CORNER == "bottom right" else 0
    distance = torch.arange(n)[:, None] + shift - torch.arange(m)[None]
    left, right = window or (-1, -1)
    hidden = torch.zeros(n, m, dtype=torch.bool)
    if causal or right >= 0:
        hidden |= distance < -(max(right, 0))
    if left >= 0:
        hidden |= distance > left
    return scores.masked_fill(hidden, float("-inf"))


@varlen._varlen_attn.register_kernel("cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts_q: Tensor,
    starts_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window_size: list[int] | None = None,
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    CALLS.append((len(query), len(key), query.shape[1], key.shape[1]))
    MODES.append(("forward", torch.get_deterministic_debug_mode()))
    assert starts_q.dtype == starts_k.dtype == torch.int32
    assert int(starts_q[-1]) == len(query)
    assert int(starts_k[-1]) == len(key)
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    out, lse = torch.empty_like(query), query.new_empty(query.shape[1], len(query))
    for q, k in _rows(starts_q, starts_k):
        assert q.stop - q.start <= max_q
        assert k.stop - k.start <= max_k
        scores = _scores(query[q], key[k], is_causal, scale, window_size)
        lse[:, q] = scores.logsumexp(-1)
        v = value[k].repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        out[q] = torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v)
    return out, lse, torch.zeros(2, dtype=torch.uint64)


@varlen._varlen_attn_backward.register_kernel("cpu")
def _backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    starts_q: Tensor,
    starts_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool,
    rng_state: Tensor,
    scale: float | None = None,
    window_size: list[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """dS = P * (dP - rowsum(dO * O)), FlashAttention's formula, with P from the saved lse."""
    MODES.append(("backward", torch.get_deterministic_debug_mode()))
    grads = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    dq, dk, dv = grads
    share = query.shape[1] // key.shape[1]
    factor = query.shape[-1] ** -0.5 if scale is None else scale

    def summed(x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, share)).sum(2)

    for q, k in _rows(starts_q, starts_k):
        p = (_scores(query[q], key[k], is_causal, scale, window_size) - lse[:, q, None]).exp()
        wide_k, wide_v = (x[k].repeat_interleave(share, dim=1) for x in (key, value))
        delta = (grad_out[q] * out[q]).sum(-1).T[..., None]
        ds = p * (torch.einsum("nhd,mhd->hnm", grad_out[q], wide_v) - delta) * factor
        dq[q] = torch.einsum("hnm,mhd->nhd", ds, wide_k)
        dk[k] = summed(torch.einsum("hnm,nhd->mhd", ds, query[q]))
        dv[k] = summed(torch.einsum("hnm,nhd->mhd", p, grad_out[q]))
    return grads
