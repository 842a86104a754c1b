"""The in-process rollout engine: continuous batching over an ordinary transformers model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gnomon.errors import ConfigError
from gnomon.models.costs import WHOLE_SHARE, whole_rows
from gnomon.models.packed import attention_implementation
from gnomon.rollout.cache import KVCache
from gnomon.rollout.generate_engine import generate_bucketed
from gnomon.rollout.kept import KeptRows, weights_mark
from gnomon.rollout.linears import packed_linears
from gnomon.rollout.packed import IMPLEMENTATION, PROBE, sampling_mode, unsupported_reason
from gnomon.rollout.paged import IMPLEMENTATION as PAGED
from gnomon.rollout.paged import NO_GPU, Reading, reads_in_place
from gnomon.rollout.paged_batch import PagedBatch, check_fits
from gnomon.rollout.pages import PagePool
from gnomon.rollout.protocol import Completion, Engine, Progress, Request, SamplingParams
from gnomon.rollout.rows import RowBatch
from gnomon.rollout.sampling import Collector, Follow, check_params, check_request

_PACK_FROM = 16  # decoding steps that repay reordering the weights
_FREE_SHARE = 0.8  # of the free memory that pages may take; the rest is for what passes compute
_READ_PAGE, _COPIED_PAGE = 256, 64  # positions: what kernels read in place, what is copied first


@dataclass(frozen=True)
class CacheOptions:
    """How the torch engine keeps keys and values.

    Attributes:
        gib: most that the cache of the running rows may take; what is free when they start, but for
            a fifth, when None.
        paged: in pages (see ``gnomon.rollout.pages``), or row by row; when None in pages on a GPU
            and wherever ``gib`` is given, since only pages have a bound.
        page: positions per page. When None, 256 where a GPU reads them by a table; whole rows where
            it reads those in place, they fit into ``gib`` or else a quarter of its memory, and no
            turns are kept; and 64 elsewhere.
        kept_gib: most that is kept between the turns of episodes.
        cuda_graphs: replay decoding steps as CUDA graphs; of no effect elsewhere.
    """

    gib: float | None = None
    paged: bool | None = None
    page: int | None = None
    kept_gib: float = 1.0
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        for name, value in (("gib", self.gib), ("page", self.page)):
            if value is not None and not value > 0:
                raise ConfigError(f"cache_{name} is {value}; use a number above 0")
        if not self.kept_gib >= 0:
            raise ConfigError(f"kept_gib is {self.kept_gib}; use 0 (keep nothing) or more")
        if self.paged is False and self.gib is not None:
            raise ConfigError(
                "cache_gib bounds a cache in pages; leave paged out, or set it to true"
            )


class TorchEngine(Engine):
    """Samples from the policy in this process, sharing its weights.

    A prompt is computed once for its n samples, every row leaves the batch as soon as it ends and
    the next sample takes its place, and nothing is padded. What a request gets depends on its
    prompt, seed and sampling parameters only, up to the rounding of batched matrix products.

    Args:
        model: a causal language model, or a PEFT model around one.
        tokenizer: decodes responses; its EOS token ends one.
        activate: enters a context in which the policy's adapter is active.
        max_rows: most sequences decoded at once.
        eos_token_ids: tokens that end a response; those of the model's generation config and of
            the tokenizer when None, none at all when empty.
        cache: how keys and values are kept.

    Attributes:
        fallback_reason: None while packed passes are used; otherwise why the model cannot be
            driven so (ALiBi, state-space layers, ...) and transformers' own generation loop runs.
            Set by the first ``generate``, which also warns.
        prefilled: tokens of prompts computed so far; those known from earlier are not counted.
        preempted: how often a row gave up its pages to older ones and was computed again.
        reading: how steps read the cache's pages, the last time that there were any.
    """

    shares_weights = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        activate: Callable[[], AbstractContextManager[Any]] = nullcontext,
        max_rows: int = 256,
        eos_token_ids: Sequence[int] | None = None,
        cache: CacheOptions | None = None,
    ) -> None:
        if max_rows < 1:
            raise ConfigError(f"max_rows is {max_rows}; use 1 or more")
        wrapped = getattr(model, "get_base_model", None)
        self._model: PreTrainedModel = wrapped() if wrapped is not None else model
        self._tokenizer = tokenizer
        self._activate = activate
        self._max_rows = max_rows
        own_eos = _default_eos(self._model, tokenizer)
        self._eos = own_eos if eos_token_ids is None else frozenset(eos_token_ids)
        self._cache = cache or CacheOptions()
        self._token_bytes = 0
        self._refused: dict[Reading, str | None] = {}
        self._checked = self._told = False
        self._keeping = False
        self._mark: tuple[int, ...] = ()
        self._pool: PagePool | None = None
        self._kept: KeptRows | None = None
        self.prefilled = self.preempted = 0
        self.reading: Reading | None = None
        self.fallback_reason: str | None = None

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        progress: Progress | None = None,
        follow: Follow | None = None,
    ) -> list[list[Completion]]:
        """Draft ``request.n`` completions of each request, in the order of the requests.

        ``follow`` is called with a sample's ids after each of its tokens, for who shows one grow.

        Raises:
            ConfigError: sampling parameters that describe no distribution.
            DataError: a prompt that is empty, holds ids outside the vocabulary, or leaves no room
                for ``max_new_tokens`` in the model's window or in the cache.
        """
        check_params(params)
        for request in requests:
            self._check(request, params)
        collector = Collector(requests, params, self._tokenizer, self._eos, progress, follow)
        with self._activate(), sampling_mode(self._model):
            if not self._checked:
                self._self_check()
            if self.fallback_reason is not None:
                generate_bucketed(self._model, collector, self._max_rows)
            elif requests:
                self._forget_if_weights_changed()
                try:
                    self._draw(collector)
                except BaseException:
                    self._forget()  # pages that a pass was to fill may be half full
                    raise
        return collector.completions()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Within the block, what finished rows hold is kept for prompts that begin with it.

        Nothing survives a change of the weights: each ``generate`` compares their bits with those
        that the last one left. Which of the policy's adapters is active must not change.
        """
        before, self._keeping = self._keeping, True
        try:
            yield
        finally:
            self._keeping = before
            if not before:
                self._forget()

    def sync_weights(self) -> None:
        """The weights are shared, so they are the newest; what earlier ones computed goes."""
        self._forget()

    def _forget(self) -> None:
        self._pool = self._kept = None

    def _forget_if_weights_changed(self) -> None:
        if self._keeping:
            mark = weights_mark(self._model)
            if mark != self._mark:
                self._forget()
            self._mark = mark

    def _draw(self, collector: Collector) -> None:
        pays = collector.params.max_new_tokens >= _PACK_FROM
        keep = self._cache.kept_gib * 2**30 if self._keeping else 0
        with packed_linears(self._model) if pays else nullcontext():
            if self._paged:
                self._draw_in_pages(collector, int(keep))
                return
            if keep and self._kept is None:
                self._kept = KeptRows(int(keep))
            with attention_implementation(self._model, IMPLEMENTATION):
                batch = RowBatch(self._model, collector, self._max_rows, self._kept)
                self.prefilled += batch.run()

    def _draw_in_pages(self, collector: Collector, keep: int) -> None:
        pool = self._pool or self._new_pool(collector, keep)
        reading = self.reading = self._reading(pool)
        page_bytes = pool.size * self._token_bytes
        bound = (
            "Raise rollout.options.cache_gib" if self._cache.gib else "Free memory of the device"
        )
        check_fits(collector, pool, page_bytes, bound)
        with attention_implementation(self._model, PAGED):
            batch = PagedBatch(
                self._model,
                collector,
                pool,
                self._max_rows,
                reading=reading,
                graphs=self._cache.cuda_graphs and self._device.type == "cuda",
            )
            batch.run()
        self.prefilled += batch.prefilled
        self.preempted += batch.preempted
        pool.trim(keep // page_bytes)
        self._pool = pool if keep else None

    @property
    def _device(self) -> torch.device:
        return torch.device(self._model.get_input_embeddings().weight.device)

    @property
    def _paged(self) -> bool:
        auto = self._cache.gib is not None or self._device.type == "cuda"
        return auto if self._cache.paged is None else self._cache.paged

    def _reading(self, pool: PagePool) -> Reading:
        if self._reads("table"):
            return "table"
        return "whole" if pool.whole else "copied"

    def _reads(self, way: Reading) -> bool:
        return self._refused.get(way, "not tried") is None

    def _new_pool(self, collector: Collector, keep: int) -> PagePool:
        page, budget = self._cache.page, self._budget()
        if page is None and self._reads("table"):
            page = _READ_PAGE
        elif page is None:
            whole = self._whole_rows(collector, budget, keep)
            if isinstance(whole, PagePool):
                return whole
            self._say_that_pages_are_copied(whole)
            page = _COPIED_PAGE
        return PagePool(page, int(budget // (page * self._token_bytes)))

    def _budget(self) -> float:
        """Bytes that the cache may take now."""
        if self._cache.gib is not None:
            return self._cache.gib * 2**30
        if self._device.type != "cuda":
            return _FREE_SHARE * psutil.virtual_memory().available
        free, _ = torch.cuda.mem_get_info(self._device)
        idle = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return _FREE_SHARE * (free + idle)

    def _whole_rows(self, collector: Collector, budget: float, keep: int) -> PagePool | str:
        """Pages that hold a whole row each, or why not.

        What is free decides how many rows run at once, and not by which kernels they are read.
        """
        if not self._reads("whole"):
            return str(self._refused.get("whole"))
        if keep:
            return "turns of episodes are kept, each of which begins with the one before"
        rows = min(self._max_rows, sum(len(samples) for samples in collector.samples))
        longest = max(len(request.prompt_ids) for request in collector.requests)
        count, size = whole_rows(rows, longest + collector.params.max_new_tokens)
        page = size * self._token_bytes
        allowed = WHOLE_SHARE * self._total if self._cache.gib is None else budget
        taken = (count + 1) * page
        if taken > allowed:
            return (
                f"{rows} whole rows of {size} tokens take {taken / 2**30:.3g} GiB, more than the "
                f"{allowed / 2**30:.3g} that they may (a quarter of the memory, or cache_gib); "
                "fewer rollout.max_rows or lower max_new_tokens fit"
            )
        there = int(budget // page) - 1
        return PagePool(size, min(count, there), whole=True) if there > 0 else "no memory is free"

    @property
    def _total(self) -> float:
        """Bytes of the device."""
        if self._device.type == "cuda":
            return float(torch.cuda.get_device_properties(self._device).total_memory)
        return float(psutil.virtual_memory().total)

    def _say_that_pages_are_copied(self, why: str) -> None:
        if self._told or why == NO_GPU:
            return
        self._told = True
        warnings.warn(
            "each layer copies the cache's pages before it reads them, which is slower than to "
            f"read them where they lie: {why}. Pages of any size are read so by FlashAttention 3: "
            'install it and call torch.nn.attention.activate_flash_attention_impl("FA3") '
            f"({self._refused.get('table')})",
            stacklevel=5,
        )

    def _self_check(self) -> None:
        cache = KVCache(rows=len(PROBE), limit=16)
        self.fallback_reason = unsupported_reason(self._model, cache)
        self._checked = True
        if self.fallback_reason is not None:
            warnings.warn(
                f"{type(self._model).__name__} cannot use gnomon's packed rollouts: "
                f"{self.fallback_reason}. Falling back to transformers' generation loop, which is "
                "slower but samples the same distribution.",
                stacklevel=3,
            )
            return
        self._token_bytes = cache.bytes // (cache.rows * cache.positions)
        if self._paged:
            self._refused = reads_in_place(self._model, self._cache.page or _READ_PAGE)

    def _check(self, request: Request, params: SamplingParams) -> None:
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        config = self._model.config.get_text_config()
        window = getattr(config, "max_position_embeddings", None)
        check_request(request, params, vocabulary, window)


def _default_eos(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)
