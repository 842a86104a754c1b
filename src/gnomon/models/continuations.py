"""Log-probs of continuations of many contexts, each text that they share computed once.

The questions of an eval share their few-shot shots, and the choices of a question its text: a tree
of three levels. Everything that lies on it runs in packed passes (:mod:`gnomon.models.packed`),
with one copy of each shared part:

    prefix    what the contexts of a cluster begin with (the shots)
    rest      what is a context's own (the question)
    stems     the continuations but for their last token (the choices)

A prefix attends to itself, a rest to its prefix and itself, a stem to both and to itself. Position
and log-probs are those of each text alone, up to rounding. A pass holds whole branches and begins
with the prefixes that it needs, so passes need nothing of one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from gnomon.data.batch import pack
from gnomon.models.attention import AttentionPlan, Unit
from gnomon.models.costs import logits_at_once
from gnomon.models.logprobs import OutputHead
from gnomon.models.packed import PackedForward
from gnomon.models.varlen import PassPlan, Row
from gnomon.records import TokenGroup, TokenResponse

PASS_TOKENS = 4096
"""Packed tokens of one pass."""
_BRANCH_TOKENS = 256
"""Tokens of stems on one branch: beyond it, masked pairs of different stems cost more than another
branch with the same context, which the prefix then holds."""
_BRANCH_COST = 8
"""Tokens that one more branch of a shared prefix must save to be worth the copies of its keys."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Continuation:
    """Tokens to be scored after a context.

    Attributes:
        context: at least one token id.
        tokens: at least one token id.
    """

    context: Sequence[int]
    tokens: Sequence[int]


@dataclass(frozen=True)
class Scored:
    """What a model says of a continuation.

    Attributes:
        logprob: sum of the tokens' log-probs, in nats.
        greedy: each token is the likeliest one.
    """

    logprob: float
    greedy: bool


@dataclass
class _Branch:
    """A context with some of its continuations: distinct stems, and who asked for which of them.

    Attributes:
        asked: [(item, stem, last token)], stem by its place in ``stems``.
    """

    context: Ids
    stems: list[Ids] = field(default_factory=list)
    asked: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def stem_tokens(self) -> int:
        return sum(map(len, self.stems))


@dataclass(frozen=True)
class _Cluster:
    """Branches whose contexts begin with the same ``shared`` tokens."""

    shared: int
    branches: Sequence[_Branch]

    @property
    def tokens(self) -> int:
        own = sum(len(b.context) - self.shared + b.stem_tokens for b in self.branches)
        return self.shared + own


@torch.no_grad()
def score(
    packed: PackedForward, items: Sequence[Continuation], pass_tokens: int = PASS_TOKENS
) -> Iterator[dict[int, Scored]]:
    """Score ``items``: after each pass what it found, by the items' places.

    Args:
        packed: of a causal language model in evaluation mode.
        items: contexts and continuations in any order; what is asked twice is computed once.
        pass_tokens: packed tokens of a pass; a longer text has one of its own.

    Raises:
        ValueError: an empty context or continuation.
    """
    for i, item in enumerate(items):
        if not len(item.context) or not len(item.tokens):
            raise ValueError(f"item {i} has an empty context or continuation")
    head = OutputHead.of(packed.model)
    if packed.shares_prefix:
        for clusters in _passes(_clusters(_branches(items), pass_tokens), pass_tokens):
            yield _Pass(clusters).run(packed, head)
        return
    order = sorted(range(len(items)), key=lambda i: len(items[i].context) + len(items[i].tokens))
    while order:  # longest first, each row padded to the longest
        longest = len(items[order[-1]].context) + len(items[order[-1]].tokens)
        count = max(1, pass_tokens // longest)
        chosen, order = order[-count:], order[:-count]
        yield _alone(packed, head, {i: items[i] for i in chosen})


def computed_tokens(items: Sequence[Continuation], pass_tokens: int = PASS_TOKENS) -> int:
    """How many tokens :func:`score` puts through a model that shares prefixes."""
    return sum(c.tokens for c in _clusters(_branches(items), pass_tokens))


def _alone(
    packed: PackedForward, head: OutputHead, items: dict[int, Continuation]
) -> dict[int, Scored]:
    """Models that cannot share: every continuation with its own copy of the context."""
    groups = [
        TokenGroup(str(i), list(item.context), (TokenResponse(list(item.tokens), [True] * n),))
        for i, item in items.items()
        if (n := len(item.tokens))
    ]
    batch = pack(groups).to(packed.trunk.get_input_embeddings().weight.device)
    hidden = packed.hidden(batch)
    logprobs, greedy = _targets(hidden, head, batch.source_index, batch.targets)
    return _summed(list(items), batch.response_of.cpu(), logprobs, greedy)


def _summed(items: list[int], of: Tensor, logprobs: Tensor, greedy: Tensor) -> dict[int, Scored]:
    """Per-token values [T] as one for each item; ``of`` [T] is the place in ``items``."""
    total = torch.zeros(len(items), dtype=torch.float64).index_add_(0, of, logprobs)
    missed = torch.zeros(len(items)).index_add_(0, of, (~greedy).float())
    pairs = zip(total.tolist(), missed.tolist(), strict=True)
    return {i: Scored(s, m == 0) for i, (s, m) in zip(items, pairs, strict=True)}


def _targets(
    hidden: Tensor, head: OutputHead, source: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probs [T] (float64) and whether it is the likeliest [T] of each target, on the CPU.

    The logits of a source are computed once, however many targets follow it.
    """
    rows, place = torch.unique(source, return_inverse=True)
    order = torch.argsort(place, stable=True)
    place, targets = place[order], targets[order]
    logprobs = torch.zeros(len(targets), dtype=torch.float64)
    greedy = torch.zeros(len(targets), dtype=torch.bool)
    chunk = max(64, logits_at_once(hidden.device) // int(head.logits(hidden[:1]).shape[-1]))
    for begin in range(0, len(rows), chunk):
        logits = head.logits(hidden[rows[begin : begin + chunk]])
        bounds = place.new_tensor([begin, begin + chunk])
        a, b = torch.searchsorted(place, bounds).tolist()
        at, wanted = place[a:b] - begin, targets[a:b]
        values = logits[at, wanted] - torch.logsumexp(logits, -1)[at]
        where = order[a:b].cpu()
        logprobs[where] = values.double().cpu()
        greedy[where] = (logits.argmax(-1)[at] == wanted).cpu()
    return logprobs, greedy


# -- which tokens are computed, and in which pass -------------------------------------------------


def _branches(items: Sequence[Continuation]) -> list[_Branch]:
    """Every distinct context with its distinct continuations, contexts in the order of tokens."""
    wanted: dict[Ids, dict[Ids, list[tuple[int, int]]]] = {}
    for i, item in enumerate(items):
        *first, last = item.tokens
        stems = wanted.setdefault(tuple(item.context), {})
        stems.setdefault(tuple(first), []).append((i, last))
    found: list[_Branch] = []
    for context in sorted(wanted):
        branch = _Branch(context)
        for stem, asked in wanted[context].items():
            if branch.stems and branch.stem_tokens + len(stem) > _BRANCH_TOKENS:
                found.append(branch)
                branch = _Branch(context)
            branch.asked += [(i, len(branch.stems), last) for i, last in asked]
            branch.stems.append(stem)
        found.append(branch)
    return found


def _clusters(branches: Sequence[_Branch], most: int) -> list[_Cluster]:
    """The runs of branches, in order, that make the fewest tokens, none above ``most``.

    A run shares what all its contexts begin with, but for their last token, from which the first
    token of a continuation is predicted.
    """
    n = len(branches)
    lengths = [len(b.context) for b in branches]
    common = [0] + [_common(a.context, b.context) for a, b in pairwise(branches)]
    best: list[float] = [0.0] + [float("inf")] * n
    begin_of, shared_of = [0] * (n + 1), [0] * (n + 1)
    for end in range(1, n + 1):
        shared, own = lengths[end - 1] - 1, 0
        for begin in range(end - 1, -1, -1):
            own += lengths[begin] + branches[begin].stem_tokens
            shared = min(shared, lengths[begin] - 1)
            if begin < end - 1:
                shared = min(shared, common[begin + 1])
            rows = end - begin
            tokens = own - (rows - 1) * shared
            if rows > 1 and (tokens > most or not shared):
                break
            cost = best[begin] + tokens + (_BRANCH_COST * rows if rows > 1 else 0)
            if cost < best[end]:
                best[end], begin_of[end] = cost, begin
                shared_of[end] = shared if rows > 1 else 0
    found, end = [], n
    while end:
        found.append(_Cluster(shared_of[end], branches[begin_of[end] : end]))
        end = begin_of[end]
    return found[::-1]


def _common(a: Ids, b: Ids) -> int:
    """How many tokens two contexts begin with alike."""
    alike = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(alike) if x != y), min(len(a), len(b)))


def _passes(clusters: Sequence[_Cluster], most: int) -> Iterator[list[_Cluster]]:
    """Clusters in passes of at most ``most`` tokens, those of like size together, longest first."""
    chosen: list[_Cluster] = []
    load = 0
    for cluster in sorted(clusters, key=lambda c: -c.tokens):
        if chosen and load + cluster.tokens > most:
            yield chosen
            chosen, load = [], 0
        chosen.append(cluster)
        load += cluster.tokens
    if chosen:
        yield chosen


class _Pass:
    """The packed tokens of some clusters, and which of them predict which token of which item."""

    def __init__(self, clusters: Sequence[_Cluster]) -> None:
        self.ids: list[int] = []
        self.position: list[int] = []
        self.branch: list[int] = []
        self.units: list[Unit] = []
        self.rows: list[Row] = []
        self.items: list[int] = []
        self.of: list[int] = []
        self.source: list[int] = []
        self.target: list[int] = []
        for cluster in clusters:
            begin, P = len(self.ids), cluster.shared
            if P:
                self._put(cluster.branches[0].context[:P], 0, 0)
                self.units.append(Unit(begin, P, begin, 0, begin, P, causal=True))
                self.rows.append(Row(begin, begin + P))
            for branch in cluster.branches:
                self._add(branch, begin, P)

    def _put(self, tokens: Sequence[int], position: int, branch: int) -> None:
        self.ids += tokens
        self.position += range(position, position + len(tokens))
        self.branch += [branch] * len(tokens)

    def _add(self, branch: _Branch, prefix: int, P: int) -> None:
        begin, L = len(self.ids), len(branch.context)
        self._put(branch.context[P:], P, 0)
        own = (begin, begin + L - P)
        shared = ((prefix, prefix + P),) if P else ()
        self.rows.append(Row(*own, shared))
        last = len(self.ids) - 1
        starts = []
        for k, stem in enumerate(branch.stems, start=1):
            starts.append(start := len(self.ids))
            self._put(stem, L, k)
            if stem:
                self.rows.append(Row(start, start + len(stem), (*shared, own)))
        n = len(self.ids) - begin
        causal = not P and sum(map(bool, branch.stems)) <= 1
        self.units.append(Unit(begin, n, prefix, P, begin, n, causal))
        for item, k, token in branch.asked:
            stem, start = branch.stems[k], starts[k]
            self.source += [last, *range(start, start + len(stem))]
            self.target += [*stem, token]
            self.of += [len(self.items)] * (len(stem) + 1)
            self.items.append(item)

    def run(self, packed: PackedForward, head: OutputHead) -> dict[int, Scored]:
        """One forward pass: what was asked of it, by the items' places."""
        device = packed.trunk.get_input_embeddings().weight.device
        position, branch = torch.tensor(self.position), torch.tensor(self.branch)
        plan = PassPlan(
            self.rows, lambda: AttentionPlan(self.units, branch, position, device), device
        )
        ids = torch.tensor(self.ids, device=device)
        hidden = packed.planned(ids, position.to(device), plan)
        source = torch.tensor(self.source, device=device)
        target = torch.tensor(self.target, device=device)
        found = _targets(hidden, head, source, target)
        return _summed(self.items, torch.tensor(self.of), *found)
