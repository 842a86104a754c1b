"""The one batch type: groups laid end to end, with no padding; and which groups come when.

Layout of N packed tokens: for each group its prompt, then its responses one after another. The
prompt is written once and shared; a token attends to token j <= i of its own group if j belongs to
the prompt (branch 0) or to its own response (same branch). Positions restart at the prompt's end
for each response, so every response sees exactly what it would see alone.

    group      0 0 0 0 0 0 0 0 1 1 1 1 1
    branch     0 0 0 1 1 1 2 2 0 0 1 1 1
    position   0 1 2 3 4 5 3 4 0 1 2 3 4

Two index sets are kept: packed positions (N of them), and response tokens (R of them, the tokens of
all responses in order). Per-token values of losses live on response tokens only.

:func:`pack` is the one place where masks and index sets are built. Which groups a step takes is a
pure function of the seed and the step (:class:`Sampler`), so a run resumes anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnomon.errors import DataError
from gnomon.records import Comparison, TokenGroup, TokenResponse


@dataclass(frozen=True)
class Segment:
    """The place of one group among the packed tokens: the prompt and then each response.

    ``prompt`` is (start, end) of the shared prompt; ``responses`` the (start, end) of each
    response, contiguous and in order, the first starting where the prompt ends.
    """

    prompt: tuple[int, int]
    responses: tuple[tuple[int, int], ...]

    @property
    def end(self) -> int:
        return self.responses[-1][1] if self.responses else self.prompt[1]


@dataclass(frozen=True, eq=False)
class Batch:
    """A packed micro-batch of G groups, S responses, R response tokens and N packed tokens.

    Attributes:
        input_ids: [N] token ids.
        position_ids: [N] position within the group's conversation.
        group_of_token: [N] which group a packed token belongs to.
        branch: [N] 0 for prompt tokens, k = 1..K for the group's k-th response.
        segments: the same as ranges, for attention kernels that work range by range.
        target_index: [R] packed position of each response token.
        source_index: [R] packed position whose hidden state predicts it (the token before it in its
            own conversation: the prompt's last token for a response's first).
        targets: [R] token ids of the response tokens (= input_ids[target_index]).
        response_of: [R] which response (0..S-1) a response token belongs to.
        response_mask: [R] bool, True where the token counts in a loss.
        response_start: [S + 1] offsets of each response among the R response tokens.
        last_index: [S] packed position of each response's last token (where a reward is read).
        lengths: [S] number of counted tokens (mask True) in each response.
        group_of: [S] which group (0..G-1) each response belongs to.
        group_weight: [G] float.
        ranking_weight: [G] what a group counts as one ranking: the mean strength of its
            comparisons, guesses (probability 0.5) among them; 1 without comparisons.
        pairs: [C, 2] response indices (0..S-1) of (better, worse).
        pair_weight, pair_margin: [C] float.  pair_tie: [C] bool.  pair_group: [C] group index.
        token: named [R] float tensors gathered from ``TokenResponse.token``.
        scalar: named [S] float tensors gathered from ``TokenResponse.scalar``.
        group_ids: the groups' ids, for error messages and samples.
    """

    input_ids: Tensor
    position_ids: Tensor
    group_of_token: Tensor
    branch: Tensor
    segments: tuple[Segment, ...]
    target_index: Tensor
    source_index: Tensor
    targets: Tensor
    response_of: Tensor
    response_mask: Tensor
    response_start: Tensor
    last_index: Tensor
    lengths: Tensor
    group_of: Tensor
    group_weight: Tensor
    ranking_weight: Tensor
    pairs: Tensor
    pair_weight: Tensor
    pair_margin: Tensor
    pair_tie: Tensor
    pair_group: Tensor
    token: Mapping[str, Tensor]
    scalar: Mapping[str, Tensor]
    group_ids: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        return int(self.input_ids.numel())

    @property
    def num_groups(self) -> int:
        return len(self.group_ids)

    @property
    def num_responses(self) -> int:
        return int(self.lengths.numel())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on ``device``; ``self`` when they are on it already.

        The host does not wait for the copies (:func:`to_device`), so it packs the next micro-batch
        while the device computes this one.
        """
        device = torch.device(device)
        here = self.input_ids.device
        if here.type == device.type and device.index in (None, here.index):
            return self
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                moved[f.name] = to_device(value, device)
            elif isinstance(value, Mapping):
                moved[f.name] = {k: to_device(v, device) for k, v in value.items()}
        return replace(self, **moved)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``. From the CPU to a CUDA device it goes through pinned memory, the
    only memory from which a copy does not hold the host up until the device has come to it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def pack(groups: Sequence[TokenGroup]) -> Batch:
    """Lay groups end to end: each prompt once, then its responses.

    Named per-token and per-response values are the union over all responses, so each name must be
    given by every response of the batch. Comparisons of strength 0 are left out.

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
        ranking_weight=torch.tensor([_ranking_weight(g) for g in groups], dtype=torch.float32),
        token=_token_values(responses),
        scalar=_scalar_values(responses),
        group_ids=tuple(g.id for g in groups),
        **pairs,
    )


def microbatches(groups: Sequence[TokenGroup], max_tokens: int) -> list[list[TokenGroup]]:
    """Split groups, in order, into the fewest runs of at most ``max_tokens`` packed tokens each.

    Among the splits with that many runs it takes the one whose largest run is smallest, so the
    work is balanced. A group larger than the budget gets a run of its own. The result depends on
    the arguments alone.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; it must be at least 1")
    if not groups:
        return []
    sizes = [g.num_tokens() for g in groups]
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
    found: list[
        tuple[int, Comparison, int]
    ] = []  # a group's first response, a comparison, the group
    first = 0
    for g, group in enumerate(groups):
        found += [(first, c, g) for c in group.comparisons if c.strength != 0]
        first += len(group.responses)
    rows = [(start + c.better, start + c.worse) for start, c, _ in found]
    return {
        "pairs": torch.tensor(rows, dtype=torch.int64).reshape(-1, 2),
        "pair_weight": torch.tensor([c.strength for _, c, _ in found], dtype=torch.float32),
        "pair_margin": torch.tensor([c.margin for _, c, _ in found], dtype=torch.float32),
        "pair_tie": torch.tensor([c.tie for _, c, _ in found], dtype=torch.bool),
        "pair_group": _long(g for _, _, g in found),
    }


def _ranking_weight(group: TokenGroup) -> float:
    """The likelihood of a ranking is one number and cannot weigh each comparison by itself."""
    counted = [c.strength for c in group.comparisons if c.weight != 0]
    return sum(counted) / len(counted) if counted else 1.0


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


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser: 64 bits in, 64 well-mixed bits out (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def epoch_order(n: int, seed: int, epoch: int) -> list[int]:
    """A permutation of 0..n-1 that depends on (n, seed, epoch) only, on any machine."""
    golden = 0x9E3779B97F4A7C15
    words = np.array([(seed * golden + 1) % 2**64, (epoch * golden + 2) % 2**64], dtype=np.uint64)
    a, b = _mix(words)
    keys = _mix(_mix(np.arange(n, dtype=np.uint64) * np.uint64(golden) + a) ^ b)
    return [int(i) for i in np.argsort(keys, kind="stable")]


_cached_order = lru_cache(maxsize=4)(epoch_order)


class Sampler:
    """Batches of item indices without state: any step's batch, without the steps before it.

    Positions run on across epochs, so a batch may hold the end of one epoch and the start of the
    next, and every epoch visits every item once.

    Raises:
        ValueError: no items, or an empty batch.
    """

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        if n < 1 or batch_size < 1:
            raise ValueError(f"a sampler needs items and a batch size, got {n} and {batch_size}")
        self.n = n
        self.batch_size = batch_size
        self.seed = seed

    def batch(self, step: int) -> list[int]:
        """The indices of step 0, 1, 2, ... (``batch_size`` of them)."""
        first = step * self.batch_size
        places = range(first, first + self.batch_size)
        return [_cached_order(self.n, self.seed, p // self.n)[p % self.n] for p in places]
