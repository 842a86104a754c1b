"""Packing: token groups in, one :class:`~gnomon.data.batch.Batch` without padding out.

This is the one place where masks and index sets are built.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gnomon.data.batch import Batch, Segment
from gnomon.errors import DataError
from gnomon.records import TokenGroup, TokenResponse


def pack(groups: Sequence[TokenGroup]) -> Batch:
    """Lay groups end to end: each prompt once, then its responses.

    Named per-token and per-response values are the union over all responses, so each name must be
    given by every response of the batch. Comparisons of weight 0 are left out.

    Returns:
        a batch on the CPU; indices are int64, values float32, masks bool.

    Raises:
        DataError: a response without tokens, a named value that some response lacks or that has the
            wrong length, or a comparison between responses that do not exist.
        ValueError: no groups.
    """
    if not groups:
        raise ValueError("pack needs at least one group")
    for group in groups:
        _check(group)
    layout = _Layout(groups)
    responses = [(g, r) for g in groups for r in g.responses]
    pairs = _pairs(groups)
    source_index, target_index = _long(layout.source), _long(layout.target)
    input_ids = _long(layout.ids)
    mask = torch.tensor([bool(m) for _, r in responses for m in r.mask], dtype=torch.bool)
    sizes = _long(len(r.ids) for _, r in responses)
    start = torch.zeros(len(responses) + 1, dtype=torch.int64)
    torch.cumsum(sizes, 0, out=start[1:])
    response_of = torch.repeat_interleave(torch.arange(len(responses)), sizes)
    lengths = torch.zeros(len(responses), dtype=torch.int64)
    lengths.index_add_(0, response_of, mask.to(torch.int64))
    return Batch(
        input_ids=input_ids,
        position_ids=_long(layout.position),
        group_of_token=torch.repeat_interleave(
            torch.arange(len(groups)), _long(g.num_tokens() for g in groups)
        ),
        branch=_long(layout.branch),
        segments=tuple(layout.segments),
        target_index=target_index,
        source_index=source_index,
        targets=input_ids[target_index],
        response_of=response_of,
        response_mask=mask,
        response_start=start,
        last_index=target_index[start[1:] - 1],
        lengths=lengths,
        group_of=torch.repeat_interleave(
            torch.arange(len(groups)), _long(len(g.responses) for g in groups)
        ),
        group_weight=torch.tensor([g.weight for g in groups], dtype=torch.float32),
        token=_token_values(responses),
        scalar=_scalar_values(responses),
        group_ids=tuple(g.id for g in groups),
        **pairs,
    )


def microbatches(
    groups: Sequence[TokenGroup], max_tokens: int, *, shared: bool = True
) -> list[list[TokenGroup]]:
    """Split groups, in order, into the fewest runs of at most ``max_tokens`` packed tokens each.

    Among the splits with that many runs it takes the one whose largest run is smallest, so the
    work is balanced. A group larger than the budget stands alone. The result depends on nothing but
    the arguments.

    Args:
        max_tokens: tokens one forward pass may compute.
        shared: count each prompt once (the packed forward), or once per response (the fallback).
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; it must be at least 1")
    if not groups:
        return []
    sizes = [g.num_tokens(shared=shared) for g in groups]
    ends = _runs(sizes, max_tokens)
    low, high = 1, max_tokens
    while low < high:  # smallest capacity that needs no more runs
        middle = (low + high) // 2
        tighter = _runs(sizes, middle)
        if len(tighter) <= len(ends):
            high = middle
        else:
            low = middle + 1
    ends = _runs(sizes, high)
    return [list(groups[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def _runs(sizes: Sequence[int], capacity: int) -> list[int]:
    """Ends of the runs when each run takes what fits (a size above capacity goes alone)."""
    ends: list[int] = []
    load = 0
    for i, size in enumerate(sizes):
        if i and load + size > capacity:
            ends.append(i)
            load = 0
        load += size
    return [*ends, len(sizes)]


class _Layout:
    """The packed positions of all groups, as plain lists."""

    def __init__(self, groups: Sequence[TokenGroup]) -> None:
        self.ids: list[int] = []
        self.position: list[int] = []
        self.branch: list[int] = []
        self.source: list[int] = []
        self.target: list[int] = []
        self.segments: list[Segment] = []
        for group in groups:
            self._add(group)

    def _add(self, group: TokenGroup) -> None:
        begin, P = len(self.ids), len(group.prompt_ids)
        self.ids.extend(group.prompt_ids)
        self.position.extend(range(P))
        self.branch.extend([0] * P)
        prompt_last = begin + P - 1
        ranges: list[tuple[int, int]] = []
        for k, response in enumerate(group.responses, start=1):
            a, T = len(self.ids), len(response.ids)
            self.ids.extend(response.ids)
            self.position.extend(range(P, P + T))
            self.branch.extend([k] * T)
            self.target.extend(range(a, a + T))
            # the prompt's last token predicts the first, every other is predicted by the one before
            self.source.append(prompt_last)
            self.source.extend(range(a, a + T - 1))
            ranges.append((a, a + T))
        self.segments.append(Segment((begin, begin + P), tuple(ranges)))


def _check(group: TokenGroup) -> None:
    K = len(group.responses)
    for k, response in enumerate(group.responses):
        if not len(response.ids):
            raise DataError(
                f"{_name(group)}: response {k} has no tokens; drop it or end it with an EOS token"
            )
    for c in group.comparisons:
        if not (0 <= c.better < K and 0 <= c.worse < K and c.better != c.worse):
            raise DataError(
                f"{_name(group)}: a comparison names responses {c.better} and {c.worse}, but the "
                f"group has {K}; it must name two different ones"
            )


def _name(group: TokenGroup) -> str:
    return f"group {group.id!r}" + (f" ({group.source})" if group.source else "")


def _long(values: Iterable[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _pairs(groups: Sequence[TokenGroup]) -> dict[str, Tensor]:
    rows: list[tuple[int, int]] = []
    weight: list[float] = []
    margin: list[float] = []
    tie: list[bool] = []
    owner: list[int] = []
    first = 0
    for g, group in enumerate(groups):
        for c in group.comparisons:
            if c.weight == 0:
                continue
            rows.append((first + c.better, first + c.worse))
            weight.append(c.weight)
            margin.append(c.margin)
            tie.append(c.tie)
            owner.append(g)
        first += len(group.responses)
    return {
        "pairs": torch.tensor(rows, dtype=torch.int64).reshape(-1, 2),
        "pair_weight": torch.tensor(weight, dtype=torch.float32),
        "pair_margin": torch.tensor(margin, dtype=torch.float32),
        "pair_tie": torch.tensor(tie, dtype=torch.bool),
        "pair_group": torch.tensor(owner, dtype=torch.int64),
    }


_Owned = Sequence[tuple[TokenGroup, TokenResponse]]


def _token_values(responses: _Owned) -> dict[str, Tensor]:
    names = dict.fromkeys(name for _, r in responses for name in r.token)
    out: dict[str, Tensor] = {}
    for name in names:
        parts: list[Tensor] = []
        for group, r in responses:
            value = r.token.get(name)
            if value is None:
                raise _missing(group, "per-token", name)
            if value.shape != (len(r.ids),):
                raise DataError(
                    f"{_name(group)}: per-token value {name!r} has shape {tuple(value.shape)} for "
                    f"{len(r.ids)} tokens; it must be [{len(r.ids)}]"
                )
            parts.append(value.detach().to("cpu", torch.float32))
        out[name] = torch.cat(parts)
    return out


def _scalar_values(responses: _Owned) -> dict[str, Tensor]:
    names = dict.fromkeys(name for _, r in responses for name in r.scalar)
    out: dict[str, Tensor] = {}
    for name in names:
        for group, r in responses:
            if name not in r.scalar:
                raise _missing(group, "per-response", name)
        out[name] = torch.tensor([r.scalar[name] for _, r in responses], dtype=torch.float32)
    return out


def _missing(group: TokenGroup, kind: str, name: str) -> DataError:
    return DataError(
        f"{_name(group)}: a response lacks the {kind} value {name!r} that others of the batch "
        "have; give it to every response or to none"
    )
