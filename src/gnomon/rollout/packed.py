"""Packed passes of an ordinary transformers model over the engine's own KV cache.

One forward pass serves rows that decode and prompts that are prefilled, packed side by side as
one sequence of N tokens without padding: first one token of each of B decoding rows, then whole
prompts. Row b of the cache belongs to decoding row b, so live rows always fill the front.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gnomon.models.packed import attention_implementation
from gnomon.models.precision import as_multiplied
from gnomon.rollout.cache import KVCache, Prefix

IMPLEMENTATION = "gnomon_rollout"
_BLOCK_ROWS = 8  # that attend in one call on a CPU ...
_BLOCK_SHARE = 0.9  # ... where no more than this share of the positions is read then


@dataclass(frozen=True)
class PromptSpan:
    """A prompt in a packed pass: ``length`` tokens from ``start``, kept in cache row ``row`` after
    what is known of it already."""

    row: int
    start: int
    length: int
    prefix: Prefix | None


@dataclass(frozen=True)
class RowBlock:
    """Decoding rows that attend in one call: to their first ``seen`` positions under an additive
    mask [rows, 1, 1, seen], None when all of them are visible."""

    rows: slice
    seen: int
    mask: Tensor | None


@dataclass
class PackedPass:
    """What attention must know about one packed pass.

    Attributes:
        cache: where keys and values live.
        lengths: [B] tokens already cached in each decoding row, which is also the position of
            the token it feeds now.
        counts: the same numbers, known without asking the device.
        segments: the prompts after the B decoding tokens.
        calls: attention calls served, by layer index (read by the engine's self-check).
        windows: the sliding window each layer asked for.
    """

    cache: KVCache
    lengths: Tensor
    counts: Sequence[int]
    segments: Sequence[PromptSpan] = ()
    calls: dict[int, int] = field(default_factory=dict)
    windows: dict[int, int | None] = field(default_factory=dict)
    _blocks: dict[int | None, list[RowBlock]] = field(default_factory=dict)
    _places: dict[int, Tensor] = field(default_factory=dict)

    def blocks(self, window: int | None, dtype: torch.dtype) -> list[RowBlock]:
        """The decoding rows, cut where it pays on a CPU, so that few positions are read that only
        longer rows have."""
        if window not in self._blocks:
            rows, longest = len(self.counts), max(self.counts)
            size = rows
            if self.lengths.device.type == "cpu":
                reads = sum(
                    len(part) * max(part)
                    for start in range(0, rows, _BLOCK_ROWS)
                    if (part := self.counts[start : start + _BLOCK_ROWS])
                )
                size = _BLOCK_ROWS if reads < _BLOCK_SHARE * rows * longest else rows
            self._blocks[window] = [
                self._block(slice(start, min(start + size, rows)), window, dtype)
                for start in range(0, rows, size)
            ]
        return self._blocks[window]

    def _block(self, rows: slice, window: int | None, dtype: torch.dtype) -> RowBlock:
        shortest, longest = min(self.counts[rows]), max(self.counts[rows])
        if window is not None and longest < window:
            window = None
        mask = None
        if window is not None or shortest < longest:
            at = torch.arange(longest + 1, device=self.lengths.device)
            lengths = self.lengths[rows, None]
            seen = at <= lengths
            if window is not None:
                seen &= at > lengths - window
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            mask = mask.masked_fill_(~seen, float("-inf"))[:, None, None]
        return RowBlock(rows, longest + 1, mask)

    def places(self, heads: int) -> Tensor:
        """[B * heads] flat index (row, head, position) of the new tokens in a store."""
        if heads not in self._places:
            device = self.lengths.device
            rows = torch.arange(len(self.lengths), device=device)[:, None] * heads
            rows = rows + torch.arange(heads, device=device)
            self._places[heads] = (rows * self.cache.positions + self.lengths[:, None]).flatten()
        return self._places[heads]


def rollout_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    rollout: PackedPass | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over the engine's cache, in transformers' calling convention.

    ``query`` is [1, H, N, D], ``key`` and ``value`` [1, H_kv, N, D]; returns [1, N, H, D_v].
    """
    if rollout is None:
        raise ValueError(f"{IMPLEMENTATION} attention runs only inside the rollout engine")
    if kwargs.get("s_aux") is not None:
        raise ValueError("attention sinks are not supported")
    query, key, value = as_multiplied(query, key, value)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    rollout.calls[layer] = rollout.calls.get(layer, 0) + 1
    rollout.windows[layer] = sliding_window
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    stores = rollout.cache.layer(layer, key, value)
    parts = []
    rows = len(rollout.lengths)
    if rows:
        new = slice(0, rows)
        step_query = query[0, :, new].transpose(0, 1)
        fresh = (key[0, :, new].transpose(0, 1), value[0, :, new].transpose(0, 1))
        parts.append(_decode(rollout, step_query, fresh, stores, scale, sliding_window, softcap))
    for segment in rollout.segments:
        span = slice(segment.start, segment.start + segment.length)
        k, v = key[:, :, span], value[:, :, span]
        if segment.prefix is not None:
            shared = segment.prefix.cache.layers[layer]
            past = segment.prefix.length
            k, v = (torch.cat([s[:, :, :past], n], 2) for s, n in zip(shared, (k, v), strict=True))
        stores[0][segment.row, :, : k.shape[2]] = k[0]
        stores[1][segment.row, :, : v.shape[2]] = v[0]
        out = causal(query[:, :, span], k, v, scale, sliding_window, softcap)
        parts.append(out[0].transpose(0, 1))
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


def _decode(
    step: PackedPass,
    query: Tensor,
    fresh: tuple[Tensor, Tensor],
    stores: tuple[Tensor, Tensor],
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """One query per row over that row's cache: ``query`` [B, H, D] to [B, H, D_v].

    Query heads that share a key head attend as if they were several queries of it, so keys and
    values are never repeated in memory.
    """
    rows, heads, size = query.shape
    kv_heads = stores[0].shape[1]
    for store, new in zip(stores, fresh, strict=True):
        flat = store.view(-1, store.shape[-1])
        flat[step.places(kv_heads)] = new.reshape(-1, store.shape[-1])
    grouped = query.reshape(rows, kv_heads, heads // kv_heads, size)
    parts = []
    for block in step.blocks(window, query.dtype):
        keys, values = (store[block.rows, :, : block.seen] for store in stores)
        parts.append(attend(grouped[block.rows], keys, values, block.mask, scale, softcap))
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out.reshape(rows, heads, -1)


def causal(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Causal attention inside one prompt, whose last T of P tokens are the queries: [1, H, T, D]
    and [1, H_kv, P, D] to [1, H, T, D_v]."""
    length, past = key.shape[2], key.shape[2] - query.shape[2]
    banded = window is not None and length > window
    if not banded and not softcap and not past:
        shared = query.shape[1] > key.shape[1]
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=shared
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    at = torch.arange(length, device=query.device)
    seen = at[past:, None] >= at
    if window is not None:
        seen &= at[past:, None] - at < window
    mask = torch.zeros(seen.shape, dtype=query.dtype, device=query.device)
    mask.masked_fill_(~seen, float("-inf"))
    return attend(query, key, value, mask, scale, softcap)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
) -> Tensor:
    """Attention with an additive mask, and Gemma 2's soft cap on the scores when given."""
    if not softcap:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = torch.matmul(query, key.transpose(2, 3)) * scale
    scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    return torch.matmul(scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype), value)


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, rollout_attention)


PROBE = ((5, 3, 7, 2, 6), (4, 6, 3))  # two short prompts that engines try themselves on
_ATTENDING = {"full_attention", "sliding_attention"}


@contextmanager
def sampling_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off and no graph inside the block; each module's own mode comes back after it."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def packed_pass(
    model: PreTrainedModel,
    cache: KVCache,
    tokens: Sequence[int],
    lengths: Sequence[int],
    prompts: Sequence[Sequence[int]],
    prefixes: Sequence[Prefix | None] | None = None,
) -> tuple[Tensor, PackedPass]:
    """Feed one token to each decoding row and whole prompts to the cache rows after them.

    Args:
        model: a causal language model under the engine's attention implementation.
        cache: with room for ``max(lengths) + 1`` positions and for every prompt.
        tokens: B token ids, one for each of the cache's first B rows.
        lengths: B numbers of tokens already cached.
        prompts: S prompts; prompt s goes to cache row B + s.
        prefixes: what each prompt begins with; ``prompts`` are what follows it.

    Returns:
        ([B + S, V] logits of the last position of each row and prompt, what the pass did).
    """
    device = model.get_input_embeddings().weight.device
    ids, positions, last, segments = list(tokens), list(lengths), list(range(len(tokens))), []
    known = prefixes or [None] * len(prompts)
    for row, (prompt, prefix) in enumerate(zip(prompts, known, strict=True), start=len(tokens)):
        segments.append(PromptSpan(row, len(ids), len(prompt), prefix))
        ids.extend(prompt)
        past = 0 if prefix is None else prefix.length
        positions.extend(range(past, past + len(prompt)))
        last.append(len(ids) - 1)
    step = PackedPass(
        cache=cache,
        lengths=torch.tensor(lengths, dtype=torch.long, device=device),
        counts=lengths,
        segments=segments,
    )
    output = model(
        input_ids=torch.tensor([ids], device=device),
        position_ids=torch.tensor([positions], device=device),
        use_cache=False,
        logits_to_keep=torch.tensor(last, device=device) if prompts else 0,
        rollout=step,
    )
    logits: Tensor = output.logits[0]
    return logits, step


def unsupported_reason(model: PreTrainedModel, cache: KVCache | None = None) -> str | None:
    """Why packed passes would be wrong for ``model``; None when they reproduce its own forward.

    Compares two packed passes (prefill, then a decoding step) with the model's forward. ``cache``
    is the one they use, for who wants to know the shapes of its stores.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    odd = sorted(set(kinds or ()) - _ATTENDING)
    if odd:
        return f"it has layers of kind {', '.join(odd)}"
    cache = cache or KVCache(rows=len(PROBE), limit=16)
    cache.reserve(8)
    try:
        with warnings.catch_warnings(), attention_implementation(model, IMPLEMENTATION):
            warnings.simplefilter("ignore")
            _, step = packed_pass(model, cache, [], [], [prompt[:-1] for prompt in PROBE])
            lengths = [len(prompt) - 1 for prompt in PROBE]
            packed, _ = packed_pass(model, cache, [p[-1] for p in PROBE], lengths, [])
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        return f"its forward does not take packed passes ({type(error).__name__}: {error})"
    if len(step.calls) != config.num_hidden_layers:
        return "its layers do not use the attention interface of transformers"
    windowed = [kind == "sliding_attention" for kind in kinds or ()]
    if any(flag != (step.windows[i] is not None) for i, flag in enumerate(windowed)):
        return "its sliding-window layers do not say their window"
    gap, most = gap_to_own_forward(model, packed)
    return (
        None
        if gap <= most
        else f"packed passes differ from its own forward by {gap:.1e} (relative)"
    )


def gap_to_own_forward(model: PreTrainedModel, scores: Tensor) -> tuple[float, float]:
    """How far ``scores`` [2, V] of what follows the probe's prompts are from those of the model's
    own forward, relative to these, and what rounding explains."""
    own = torch.stack(
        [
            model(input_ids=torch.tensor([p], device=scores.device), use_cache=False).logits[0, -1]
            for p in PROBE
        ]
    )
    gap = float((scores.float() - own.float()).norm() / own.float().norm().clamp(min=1e-6))
    return gap, 1e-3 if own.dtype == torch.float32 else 0.1
