"""Continuous batching over a cache in pages, for a device that should not wait for the host.

The host plans: which samples run, which pages they hold. Between two looks the device decodes by
itself. When the pages run out, the youngest row gives up its own and is computed again later; its
tokens are kept, and what it draws next follows from its seed, so its result is what it would have
been.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from gnomon.errors import DataError
from gnomon.rollout.decoding import Decoder, RowState
from gnomon.rollout.paged import Prompt, Reading, prefill
from gnomon.rollout.pages import OutOfPagesError, PagePool
from gnomon.rollout.sampling import Collector, Draft, check_finite

LOOK = 16  # steps between two looks
_LOOK_STOPS = 8  # where a stop string may end a row, which the device does not see
_WORTH = 16  # tokens of a whole row's beginning that are worth a copy, if the rest is computed
_PREFILL_TOKENS = 2048  # new tokens of prompts per pass, so that a long queue cannot swell one


@dataclass
class _Waiting:
    """A request's samples that are not running."""

    prompt: Sequence[int]
    samples: deque[Draft]


@dataclass
class _Row:
    """A sample that runs: the pages it holds, and how many of its tokens are in them."""

    prompt: Sequence[int]
    sample: Draft
    pages: list[int]
    cached: int

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.sample.ids]


@dataclass(frozen=True)
class _Beginning:
    """A page's first tokens, which another page is to hold too."""

    source: int
    target: int
    tokens: int


class PagedBatch:
    """Draws every sample of a collector.

    Args:
        model: a causal language model under the paged attention.
        collector: what is asked for.
        pool: the pages; what it holds afterwards may serve later prompts.
        max_rows: most samples that run at once.
        reading, graphs: see :class:`Decoder`.

    Attributes:
        prefilled: tokens of prompts that were computed.
        preempted: how often a row gave up its pages.

    Raises:
        DataError: a prompt that does not fit the cache even alone.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        collector: Collector,
        pool: PagePool,
        max_rows: int,
        *,
        reading: Reading = "copied",
        graphs: bool = False,
    ) -> None:
        self.prefilled = self.preempted = 0
        self._model, self._collector, self._pool = model, collector, pool
        self._reading = reading
        waiting = [
            _Waiting(request.prompt_ids, deque(samples))
            for request, samples in zip(collector.requests, collector.samples, strict=True)
        ]
        self._queue = deque(sorted(waiting, key=lambda w: -len(w.prompt)))
        self._max_rows = min(max_rows, sum(len(w.samples) for w in waiting))
        self._most = collector.params.max_new_tokens
        self._look = _LOOK_STOPS if collector.params.stop else LOOK
        if collector.follow is not None:
            self._look = 1
        self._rows: list[_Row] = []  # the youngest last
        self._fresh: set[int] = set()  # pages that the next pass fills
        longest = max((len(w.prompt) for w in waiting), default=0)
        self._decoder = Decoder(
            model,
            pool,
            collector.params,
            collector.eos,
            steps=self._look,
            width=pool.pages(longest + self._most),
            most=self._max_rows,
            reading=reading,
            graphs=graphs,
        )

    def run(self) -> None:
        """Draw everything in the queue."""
        while self._rows or self._queue:
            while self._admit():
                pass
            self._round()

    # -- starting rows ----------------------------------------------------------------------------

    def _admit(self) -> bool:
        """Start waiting samples while there are rows and pages, and compute what is new of their
        prompts in one pass. Returns whether more can be started."""
        new: list[Prompt] = []
        before: list[_Beginning] = []
        after: list[_Beginning] = []
        self._fresh.clear()
        room = True
        while self._queue and len(self._rows) < self._max_rows:
            if sum(len(prompt.ids) for prompt in new) >= _PREFILL_TOKENS:
                break
            waiting = self._queue[0]
            room = self._start(waiting.prompt, waiting.samples[0], new, before, after)
            if not room:
                break
            waiting.samples.popleft()
            if not waiting.samples:
                self._queue.popleft()
        self._copy(before)
        if new:
            prefill(self._model, self._pool, new, self._reading)
            self.prefilled += sum(len(prompt.ids) for prompt in new)
        self._copy(after)
        freed = bool(before)  # the pages that were copied from
        return (room or freed) and bool(self._queue) and len(self._rows) < self._max_rows

    def _start(
        self,
        prompt: Sequence[int],
        sample: Draft,
        new: list[Prompt],
        before: list[_Beginning],
        after: list[_Beginning],
    ) -> bool:
        """Give a sample pages for all tokens but its last one, which its first step feeds.

        Pages that hold its beginning are shared, and a page that holds a part of the next one's
        tokens is copied: ``after`` the pass where that fills it, else ``before``. Returns False
        where there are not enough.
        """
        pool, size = self._pool, self._pool.size
        ids = [*prompt, *sample.ids][:-1]
        pages, source, tokens = pool.match(ids)
        known = len(pages) * size
        late = source in self._fresh
        few = pool.whole and tokens < _WORTH
        if known + tokens < len(ids) and (late or few):
            tokens = 0  # what comes next is computed in the very pass that fills the source
        total = len(prompt) + self._most - 1
        wanted = pool.pages(min(len(ids) + self._look, total))
        if not self._hold(pages, [source] if tokens else [], wanted):
            if not tokens or self._rows or not self._hold(pages, [], wanted):
                return False
            tokens = 0
        if tokens:
            beginning = _Beginning(source, pages[known // size], tokens)
            (after if late else before).append(beginning)
            known += tokens
        if known < len(ids):
            new.append(Prompt(ids[known:], known, pages[: pool.pages(len(ids))]))
            self._fresh.update(pages[known // size : pool.pages(len(ids))])
        pool.remember(ids, pages)
        self._rows.append(_Row(prompt, sample, pages, len(ids)))
        return True

    def _hold(self, pages: list[int], source: Sequence[int], wanted: int) -> bool:
        """Hold ``pages`` and the page to copy from, and take further ones up to ``wanted``; or
        nothing at all."""
        shared = len(pages)
        self._pool.hold([*pages, *source])
        try:
            while len(pages) < wanted:
                pages.append(self._pool.take())
        except OutOfPagesError:
            self._pool.release([*pages, *source])
            del pages[shared:]
            return False
        return True

    def _copy(self, beginnings: Sequence[_Beginning]) -> None:
        sources = [b.source for b in beginnings]
        most = max((b.tokens for b in beginnings), default=0)
        self._pool.copy(sources, [b.target for b in beginnings], most)
        for source in sources:
            self._pool.release([source])

    # -- decoding ---------------------------------------------------------------------------------

    def _round(self) -> None:
        """Decode until the next look, and end the rows that are over."""
        left = max(self._most - len(row.sample.ids) for row in self._rows)
        steps = min(self._look, left)
        self._reserve(steps)
        states = [
            RowState(row.ids[-1], row.cached, len(row.sample.ids), row.sample.key, row.pages)
            for row in self._rows
        ]
        drawn = self._decoder.run(states, steps)
        tokens, logprobs = drawn[:, :, 0].long().tolist(), drawn[:, :, 1]
        for step in range(steps):
            live = [i for i, row in enumerate(self._rows) if row.sample.finish_reason is None]
            if not live:
                break
            check_finite(logprobs[live, step])
            self._collector.take(
                [self._rows[i].sample for i in live],
                [tokens[i][step] for i in live],
                logprobs[live, step].tolist(),
            )
        for row in self._rows:
            row.cached = len(row.prompt) + len(row.sample.ids) - 1
            if row.sample.finish_reason is not None:
                self._give_back(row)
        self._rows = [row for row in self._rows if row.sample.finish_reason is None]

    def _reserve(self, steps: int) -> None:
        """Take the pages that the next steps fill; the youngest rows go where there are too few."""
        at = 0
        while at < len(self._rows):
            row = self._rows[at]
            last = min(row.cached + steps, len(row.prompt) + self._most - 1)
            try:
                while len(row.pages) < self._pool.pages(last):
                    row.pages.append(self._pool.take())
            except OutOfPagesError:
                youngest = self._rows.pop()
                self._give_back(youngest)
                self._queue.appendleft(_Waiting(youngest.prompt, deque([youngest.sample])))
                self.preempted += 1
                continue
            at += 1

    def _give_back(self, row: _Row) -> None:
        """Let go of a row's pages, which a later prompt may find by what they hold."""
        self._pool.remember(row.ids[: row.cached], row.pages)
        self._pool.release(row.pages)


def check_fits(collector: Collector, pool: PagePool, page_bytes: int, how: str) -> None:
    """Refuse a request that needs more pages than there are, even alone.

    Raises:
        DataError: with what is missing, and ``how`` the cache's size is set.
    """
    most = collector.params.max_new_tokens
    for request in collector.requests:
        pages = pool.pages(len(request.prompt_ids) + most - 1)
        if pages > pool.limit:
            needs, has = (n * page_bytes / 2**30 for n in (pages, pool.limit))
            raise DataError(
                f"request {request.id!r}: a prompt of {len(request.prompt_ids)} tokens and "
                f"max_new_tokens {most} take {needs:.3g} GiB of cache, {needs - has:.2g} GiB more "
                f"than the {has:.3g} GiB there are. {how}, lower max_new_tokens, or drop the prompt"
            )
