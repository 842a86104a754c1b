"""Attention of an ordinary transformers model over a KV cache in pages.

A pass feeds N tokens of R rows, packed side by side: one token of each row (decoding), or what is
new of R prompts. Where flash attention takes a table of pages it reads them in place. Elsewhere a
page that holds a whole row is read where it lies by the kernels for rows of many lengths, and of
smaller pages each layer copies those of its rows side by side first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gnomon.data.batch import to_device
from gnomon.models.packed import attention_implementation
from gnomon.models.precision import as_multiplied
from gnomon.models.varlen import distrusted, kernel_arguments, varlen
from gnomon.rollout.packed import PROBE, attend, causal, gap_to_own_forward
from gnomon.rollout.pages import PagePool

IMPLEMENTATION = "gnomon_paged"
_PROBED = 16  # positions of the rows on which whole ones are tried
NO_GPU = "there is no GPU"
Reading = Literal["copied", "whole", "table"]
"""How a decoding step reads pages: copied side by side; where they lie, one page a row; or where
they lie by a table of them, which prompts are read by too."""


@dataclass
class PagedPass:
    """What attention must know about one pass.

    Attributes:
        pool: where keys and values live.
        table: [R, M] int32 pages of the rows, in the order of their positions.
        used: [R] int32 positions of each row, the new ones included.
        starts: [R + 1] int32 places of the rows among the N new tokens.
        slots: [N] flat place (page, position) of each new token in a store.
        spans: for each prompt, (new tokens, positions); None when each row feeds one token.
        reading: how the pages are read.
    """

    pool: PagePool
    table: Tensor
    used: Tensor
    starts: Tensor
    slots: Tensor
    spans: Sequence[tuple[int, int]] | None = None
    reading: Reading = "copied"
    _masks: dict[int | None, Tensor] = field(default_factory=dict)
    _bounds: dict[tuple[int | None, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    _keys: tuple[Tensor, Tensor, int] | None = None

    @property
    def longest(self) -> int:
        """Most new tokens of a row."""
        return 1 if self.spans is None else max(new for new, _ in self.spans)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[R, 1, 1, M * size] additive mask of a row's last position over its pages."""
        if window not in self._masks:
            at = torch.arange(self.table.shape[1] * self.pool.size, device=self.table.device)
            used = self.used[:, None]
            seen = at < used
            if window is not None:
                seen &= at >= used - window
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._masks[window] = mask.masked_fill_(~seen, float("-inf"))[:, None, None]
        return self._masks[window]

    def bounds(self, window: int | None, queries: int) -> tuple[Tensor, Tensor]:
        """Of rows that have one page each and ``queries`` queries: [2 R] int32 where the queries of
        a row begin and end, and its keys.

        What lies between two rows counts as a row without queries, for which kernels do nothing.
        """
        if (window, queries) not in self._bounds:
            begin = self.table[:, 0] * self.pool.size
            end = begin + self.used
            if window is not None:
                begin = torch.maximum(begin, end - window)
            rows = torch.arange(2 * len(end), dtype=torch.int32, device=end.device)
            keys = torch.stack([begin, end], dim=1).flatten()
            self._bounds[window, queries] = (rows + 1) // 2 * queries, keys
        return self._bounds[window, queries]

    def keys(self) -> tuple[Tensor, Tensor, int]:
        """Of the prompts: flat places of all their positions, one prompt after the other, [R + 1]
        int32 where each begins, and the most positions of one."""
        if self._keys is None:
            lengths = [positions for _, positions in self.spans or ()]
            size, device = self.pool.size, self.table.device
            row, at = (
                to_device(torch.cat(part), device)
                for part in (
                    [torch.full((n,), i) for i, n in enumerate(lengths)],
                    [torch.arange(n) for n in lengths],
                )
            )
            places = self.table[row, at // size].long() * size + at % size
            starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
            self._keys = places, to_device(starts, device), max(lengths)
        return self._keys


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    paged: PagedPass | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over the pages, in transformers' calling convention.

    ``query`` is [1, H, N, D], ``key`` and ``value`` [1, H_kv, N, D]; returns [1, N, H, D_v].
    """
    if paged is None:
        raise ValueError(f"{IMPLEMENTATION} attention runs only inside the rollout engine")
    query, key, value = as_multiplied(query, key, value)
    stores = paged.pool.layer(int(module.layer_idx), key, value)  # type: ignore[arg-type]
    for store, new in zip(stores, (key, value), strict=True):
        store.flatten(0, 1).index_copy_(0, paged.slots, new[0].transpose(0, 1))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if paged.reading == "table" and not softcap and _half(query):
        out = _in_place(paged, query[0].transpose(0, 1), stores, scale, sliding_window)
    elif paged.spans is None and paged.reading == "whole":
        out = _whole(paged, query[0].transpose(0, 1), stores, scale, sliding_window, softcap)
    elif paged.spans is None:
        out = _decode(paged, query[0].transpose(0, 1), stores, scale, sliding_window, softcap)
    else:
        out = _prompts(paged, query, stores, scale, sliding_window, softcap)
    return out[None], None


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, paged_attention)


def _half(query: Tensor) -> bool:
    """Whether it is of a type that kernels which read by a table take."""
    return query.dtype in (torch.bfloat16, torch.float16)


def _in_place(
    paged: PagedPass,
    query: Tensor,
    stores: tuple[Tensor, Tensor],
    scale: float,
    window: int | None,
) -> Tensor:
    """Causal attention of ``query`` [N, H, D] by one kernel over the pages: [N, H, D_v]."""
    return varlen(
        query.contiguous(),
        *stores,
        paged.starts,
        None,
        paged.longest,
        paged.table.shape[1] * paged.pool.size,
        scale=scale,
        window=window,
        seqused_k=paged.used,
        block_table=paged.table,
    )


def _whole(
    paged: PagedPass,
    query: Tensor,
    stores: tuple[Tensor, Tensor],
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """One query per row over its one page, where that lies: ``query`` [R, H, D] to [R, H, D_v].

    The H / H_kv queries that share a head of keys are so many queries of one head.

    Raises:
        ValueError: there is a softcap, which no kernel knows.
    """
    if softcap:
        raise ValueError("its scores have a softcap")
    keys, values = (store.flatten(0, 1) for store in stores)
    rows, heads, shared = len(query), keys.shape[1], query.shape[1] // keys.shape[1]
    starts_q, starts_k = paged.bounds(window, shared)
    out = varlen(
        query.reshape(rows, heads, shared, -1).transpose(1, 2).flatten(0, 1).contiguous(),
        keys, values, starts_q, starts_k, shared, paged.pool.size,
        scale=scale, window=None, causal=False,
    )  # fmt: skip
    return out.view(rows, shared, heads, -1).transpose(1, 2).reshape(rows, shared * heads, -1)


def _side_by_side(store: Tensor, table: Tensor) -> Tensor:
    """The pages ``table`` [R, M] of a store, copied: [R, H_kv, M * size, D]."""
    pages = store.index_select(0, table.flatten())
    return pages.view(len(table), -1, *store.shape[2:]).transpose(1, 2)


def _decode(
    paged: PagedPass,
    query: Tensor,
    stores: tuple[Tensor, Tensor],
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """One query per row over a copy of its pages: ``query`` [R, H, D] to [R, H, D_v]."""
    rows, heads, size = query.shape
    keys, values = (_side_by_side(store, paged.table) for store in stores)
    grouped = query.reshape(rows, keys.shape[1], -1, size)
    out = attend(grouped, keys, values, paged.mask(window, query.dtype), scale, softcap)
    return out.reshape(rows, heads, -1)


def _prompts(
    paged: PagedPass,
    query: Tensor,
    stores: tuple[Tensor, Tensor],
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """What is new of each prompt over a copy of its pages: [1, H, N, D] to [N, H, D_v].

    By one kernel for rows of many lengths where there is one: torch's others are called for each
    prompt, and cuDNN's, which it prefers on newer GPUs, plans anew for each length.
    """
    if not softcap and _in_one_call(query, stores, window):
        places, starts, longest = paged.keys()
        keys, values = (store.flatten(0, 1).index_select(0, places) for store in stores)
        rows = query[0].transpose(0, 1).contiguous()
        return varlen(
            rows, keys, values, paged.starts, starts, paged.longest, longest,
            scale=scale, window=window,
        )  # fmt: skip
    parts, start = [], 0
    for row, (new, positions) in enumerate(paged.spans or ()):
        table = paged.table[row : row + 1, : paged.pool.pages(positions)]
        keys, values = (_side_by_side(s, table)[:, :, :positions] for s in stores)
        span = query[:, :, start : start + new]
        parts.append(causal(span, keys, values, scale, window, softcap)[0].transpose(0, 1))
        start += new
    return torch.cat(parts)


def _in_one_call(query: Tensor, stores: tuple[Tensor, Tensor], window: int | None) -> bool:
    """Whether the kernels for rows of many lengths take ``query`` [1, H, N, D] and the stores'
    heads, and agree with masked attention."""
    if not query.is_cuda:
        return False
    keys, values = (store[0].transpose(0, 1) for store in stores)
    return distrusted(query[0], keys, values, window) is None


@dataclass(frozen=True)
class Prompt:
    """What is new of a row: ``ids`` after ``past`` tokens, in ``pages`` that hold both."""

    ids: Sequence[int]
    past: int
    pages: Sequence[int]


def prefill(
    model: PreTrainedModel, pool: PagePool, prompts: Sequence[Prompt], reading: Reading
) -> Tensor:
    """Fill the pages of prompts in one pass; [1, N, V] scores only of the last token."""
    device = model.get_input_embeddings().weight.device
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    spans, starts = [], [0]
    width = max(len(prompt.pages) for prompt in prompts)
    for prompt in prompts:
        end = prompt.past + len(prompt.ids)
        ids.extend(prompt.ids)
        positions.extend(range(prompt.past, end))
        slots.extend(
            prompt.pages[at // pool.size] * pool.size + at % pool.size
            for at in range(prompt.past, end)
        )
        spans.append((len(prompt.ids), end))
        starts.append(len(ids))
    table = [[*prompt.pages, *[0] * (width - len(prompt.pages))] for prompt in prompts]
    words = torch.tensor([ids, positions, slots], device=device)
    paged = PagedPass(
        pool,
        table=torch.tensor(table, dtype=torch.int32, device=device),
        used=torch.tensor([end for _, end in spans], dtype=torch.int32, device=device),
        starts=torch.tensor(starts, dtype=torch.int32, device=device),
        slots=words[2],
        spans=spans,
        reading=reading,
    )
    return paged_scores(model, words[0], words[1], paged, 1)


def paged_scores(
    model: PreTrainedModel, ids: Tensor, positions: Tensor, paged: PagedPass, keep: int = 0
) -> Tensor:
    """[N or ``keep``, V] scores of one pass over N tokens."""
    logits: Tensor = model(
        input_ids=ids[None],
        position_ids=positions[None],
        use_cache=False,
        logits_to_keep=keep,
        paged=paged,
    ).logits[0]
    return logits


def reads_in_place(model: PreTrainedModel, size: int) -> dict[Reading, str | None]:
    """Why flash attention does not read pages of this model where they lie, or None where it does:
    by a table of pages of ``size`` positions, and whole rows.

    It is tried on two short prompts, and believed when the scores are those of the model's own
    forward.
    """
    weight = model.get_input_embeddings().weight
    if weight.device.type != "cuda":
        return {"table": NO_GPU, "whole": NO_GPU}
    table: str | None = f"torch {torch.__version__}'s takes no table of pages"
    if "block_table" in kernel_arguments():
        table = _misread(model, size, "table")
    whole: str | None = f"torch {torch.__version__} has none for rows of many lengths"
    if "window_size" in kernel_arguments():
        whole = _misread(model, _PROBED, "whole")
    return {"table": table, "whole": whole}


def _misread(model: PreTrainedModel, size: int, reading: Reading) -> str | None:
    """Why two short prompts are not read as the model itself would, or None."""
    pool = PagePool(size, sum(map(len, PROBE)))
    try:
        with attention_implementation(model, IMPLEMENTATION):
            scores = _by_table(model, pool) if reading == "table" else _by_rows(model, pool)
        gap, most = gap_to_own_forward(model, scores)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return str(error).splitlines()[0]
    return None if gap <= most else f"its scores differ by {gap:.1e} (relative)"


def _by_table(model: PreTrainedModel, pool: PagePool) -> Tensor:
    """[2, V] scores of what follows the probe's prompts, each read by a table."""
    scores = []
    for ids in PROBE:
        pages = [pool.take() for _ in range(pool.pages(len(ids)))]
        scores.append(prefill(model, pool, [Prompt(ids, 0, pages)], "table")[0])
    return torch.stack(scores)


def _by_rows(model: PreTrainedModel, pool: PagePool) -> Tensor:
    """[2, V] scores of what follows the probe's prompts: a decoding step that feeds their last
    tokens and reads whole rows, which lie in another order than the prompts."""
    device = model.get_input_embeddings().weight.device
    pages = [pool.take() for _ in PROBE][::-1]
    begun = [Prompt(ids[:-1], 0, [page]) for ids, page in zip(PROBE, pages, strict=True)]
    prefill(model, pool, begun, "whole")
    at = torch.tensor([len(prompt.ids) for prompt in begun], device=device)
    table = torch.tensor(pages, dtype=torch.int32, device=device)[:, None]
    step = PagedPass(
        pool,
        table=table,
        used=(at + 1).int(),
        starts=torch.arange(len(pages) + 1, dtype=torch.int32, device=device),
        slots=table[:, 0] * pool.size + at,
        reading="whole",
    )
    return paged_scores(model, torch.tensor([ids[-1] for ids in PROBE], device=device), at, step)
