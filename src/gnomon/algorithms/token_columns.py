"""Values of single tokens: computed on packed micro-batches, kept with their responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gnomon.data.batch import Batch, microbatches, pack
from gnomon.records import TokenGroup, TokenResponse


def annotate_tokens(
    groups: Sequence[TokenGroup],
    compute: Callable[[Batch], Mapping[str, Tensor]],
    tokens_per_microbatch: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Run ``compute`` on packed micro-batches and join its [R] columns over all groups."""
    columns: dict[str, list[Tensor]] = {}
    for part in microbatches(groups, tokens_per_microbatch):
        for name, values in compute(pack(part).to(device)).items():
            columns.setdefault(name, []).append(values.detach().float().cpu())
    return {name: torch.cat(parts) for name, parts in columns.items()}


def with_tokens(groups: Sequence[TokenGroup], columns: Mapping[str, Tensor]) -> list[TokenGroup]:
    """The groups with [R] columns cut up again and added to each response's ``token``."""
    out: list[TokenGroup] = []
    at = 0
    for group in groups:
        responses: list[TokenResponse] = []
        for response in group.responses:
            end = at + len(response.ids)
            added = {name: values[at:end] for name, values in columns.items()}
            responses.append(replace(response, token={**response.token, **added}))
            at = end
        out.append(replace(group, responses=tuple(responses)))
    return out


def per_response_sum(values: Tensor, batch: Batch) -> Tensor:
    """[S] sums of [R] values."""
    out = torch.zeros(batch.num_responses, dtype=values.dtype, device=values.device)
    return out.index_add(0, batch.response_of, values)
