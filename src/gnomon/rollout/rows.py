"""Continuous batching over a cache row by row: a sample is a row until it ends, and the next one
takes its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gnomon.rollout.cache import KVCache, Prefix
from gnomon.rollout.kept import KeptRows
from gnomon.rollout.packed import packed_pass
from gnomon.rollout.sampling import Collector, Draft

_PREFILL_TOKENS = 2048  # prompt tokens per pass, so that a long queue cannot swell one pass
_PREFIX_TOKENS = 64  # that prompts must have in common for it to be worth computing them once


@dataclass
class _Prefill:
    """A request on its way: the samples not yet started and, once prefilled, where to start."""

    prompt: Sequence[int]
    waiting: deque[Draft]
    prefix: Prefix | None = None  # what is known of it
    logits: Tensor = field(default_factory=lambda: torch.empty(0))  # [V] after the prompt

    @property
    def new(self) -> Sequence[int]:
        """The tokens to compute."""
        return self.prompt if self.prefix is None else self.prompt[self.prefix.length :]


@dataclass
class _Row:
    """A live row of the batch: its sample, and how many of its tokens the cache holds."""

    prefill: _Prefill
    sample: Draft
    cached: int


def _shared_prefix(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Prefix | None:
    """What all of several prompts begin with (few-shot examples, a system prompt), computed; None
    where that is little. At least one token of each prompt is left to be computed with it."""
    if len(prompts) < 2:
        return None
    texts = [list(prompt) for prompt in prompts]
    first, last = min(texts), max(texts)
    most = min(map(len, prompts)) - 1
    pairs = zip(first[:most], last, strict=False)
    length = next((i for i, (a, b) in enumerate(pairs) if a != b), most)
    if length < _PREFIX_TOKENS:
        return None
    cache = KVCache(rows=1, limit=length)
    cache.reserve(length)
    packed_pass(model, cache, [], [], [first[:length]])
    return Prefix(cache, length)


class RowBatch:
    """Rows in flight. Row i of the list is row i of the KV cache; live rows fill the front."""

    def __init__(
        self,
        model: PreTrainedModel,
        collector: Collector,
        max_rows: int,
        kept: KeptRows | None = None,
    ) -> None:
        self._model = model
        self._collector = collector
        self._kept = kept
        # Longest first: rows of like length run together, and the cache reaches its size early.
        prefills = [
            _Prefill(
                request.prompt_ids,
                deque(samples),
                None if kept is None else kept.find(request.prompt_ids),
            )
            for request, samples in zip(collector.requests, collector.samples, strict=True)
        ]
        self._queue = deque(sorted(prefills, key=lambda prefill: -len(prefill.prompt)))
        total = sum(len(prefill.waiting) for prefill in prefills)
        self._max_rows = min(max_rows, total)
        longest = max((len(prefill.prompt) for prefill in prefills), default=0)
        limit = longest + collector.params.max_new_tokens
        self._cache = KVCache(rows=self._max_rows, limit=limit)
        self._rows: list[_Row] = []
        unknown = [prefill for prefill in prefills if prefill.prefix is None]
        shared = _shared_prefix(model, [prefill.prompt for prefill in unknown])
        for prefill in unknown:
            prefill.prefix = shared
        self._prefilled = 0 if shared is None else shared.length

    def run(self) -> int:
        """Draw everything in the queue; returns how many tokens of prompts were computed."""
        while self._rows or self._queue:
            self._step()
        return self._prefilled

    def _step(self) -> None:
        """Run one packed pass: every live row gets a token, and waiting samples fill free rows."""
        old = len(self._rows)
        prompts, forks = self._admit()
        rows = self._rows[:old]
        need = [row.cached + 1 for row in rows] + [len(prefill.prompt) for prefill in prompts]
        self._cache.reserve(max(need))
        logits, _ = packed_pass(
            self._model,
            self._cache,
            [row.sample.ids[-1] for row in rows],
            [row.cached for row in rows],
            [prefill.new for prefill in prompts],
            [prefill.prefix for prefill in prompts],
        )
        self._prefilled += sum(len(prefill.new) for prefill in prompts)
        for row in rows:
            row.cached += 1
        for prefill, scores in zip(prompts, logits[old:], strict=True):
            prefill.logits = scores.clone()
        fresh = self._rows[old:]
        length = max((self._rows[new].cached for _, new in forks), default=0)
        self._cache.copy_rows([src for src, _ in forks], [new for _, new in forks], length)
        done = []
        if rows:
            done = self._collector.extend(
                [row.sample for row in rows], logits[:old], list(range(old))
            )
        ended = [i for i, over in enumerate(done) if over]
        self._settle(ended, list(range(old, old + len(fresh))))

    def _admit(self) -> tuple[list[_Prefill], list[tuple[int, int]]]:
        """Fill free rows: the prompts to prefill now, and (from, to) row copies to make after.

        The rows of the prompts come first, in order, then those copied from a row that holds the
        same prompt already.
        """
        prefills: list[_Prefill] = []
        tokens, planned = 0, {}
        source = {id(row.prefill): i for i, row in enumerate(self._rows)}
        free = self._max_rows - len(self._rows)
        partial = {id(row.prefill): row.prefill for row in self._rows if row.prefill.waiting}
        for prefill in partial.values():
            planned[id(prefill)] = min(free, len(prefill.waiting))
            free -= planned[id(prefill)]
        while self._queue and free:
            prefill = self._queue[0]
            fresh = len(prefill.new)
            if prefills and tokens + fresh > _PREFILL_TOKENS:
                break
            prefills.append(self._queue.popleft())
            tokens += fresh
            planned[id(prefill)] = min(free, len(prefill.waiting)) - 1
            free -= planned[id(prefill)] + 1
        for prefill in prefills:
            source[id(prefill)] = len(self._rows)
            self._start(prefill)
        forks = []
        for prefill in (*partial.values(), *prefills):
            for _ in range(planned[id(prefill)]):
                forks.append((source[id(prefill)], len(self._rows)))
                self._start(prefill)
        return prefills, forks

    def _start(self, prefill: _Prefill) -> None:
        self._rows.append(_Row(prefill, prefill.waiting.popleft(), len(prefill.prompt)))

    def _settle(self, ended: list[int], starting: list[int]) -> None:
        """Draw first tokens, reuse or free the rows that ended, and close the gaps.

        A row whose request has samples waiting starts the next one in place: its cache already
        holds the prompt. Such a sample can itself end at once, hence the loop.
        """
        free: list[int] = []
        while ended or starting:
            for index in ended:
                row = self._rows[index]
                if self._kept is not None and row.sample.finish_reason != "length":
                    ids = [*row.prefill.prompt, *row.sample.ids][: row.cached]
                    self._kept.keep(ids, self._cache, index)
                if row.prefill.waiting:
                    self._rows[index] = _Row(
                        row.prefill, row.prefill.waiting.popleft(), len(row.prefill.prompt)
                    )
                    starting.append(index)
                else:
                    free.append(index)
            ended = self._first_tokens(starting) if starting else []
            starting = []
        self._compact(free)

    def _first_tokens(self, starting: list[int]) -> list[int]:
        """Draw the first token of the rows ``starting``; returns those that ended with it."""
        prefills = {id(self._rows[i].prefill): self._rows[i].prefill for i in starting}
        place = {key: at for at, key in enumerate(prefills)}
        logits = torch.stack([prefill.logits for prefill in prefills.values()])
        done = self._collector.extend(
            [self._rows[i].sample for i in starting],
            logits,
            [place[id(self._rows[i].prefill)] for i in starting],
        )
        return [i for i, over in zip(starting, done, strict=True) if over]

    def _compact(self, free: list[int]) -> None:
        """Move the last live rows into the gaps, so that live rows fill the front again."""
        gone = set(free)
        count = len(self._rows) - len(gone)
        movers = [i for i in range(count, len(self._rows)) if i not in gone]
        gaps = sorted(i for i in gone if i < count)
        length = max((self._rows[i].cached for i in movers), default=0)
        self._cache.copy_rows(movers, gaps, length)
        for source, target in zip(movers, gaps, strict=True):
            self._rows[target] = self._rows[source]
        del self._rows[count:]
