"""The in-process rollout engine: continuous batching over an ordinary transformers model."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from gnomon.errors import ConfigError
from gnomon.models.packed import attention_implementation
from gnomon.rollout.generate_engine import generate_bucketed
from gnomon.rollout.kept import KeptRows, weights_mark
from gnomon.rollout.packed import (
    IMPLEMENTATION,
    PROBE,
    KVCache,
    Prefix,
    packed_pass,
    sampling_mode,
    unsupported_reason,
)
from gnomon.rollout.paged import IMPLEMENTATION as PAGED
from gnomon.rollout.paged import reads_in_place
from gnomon.rollout.paged_batch import PagedBatch, check_fits
from gnomon.rollout.pages import PagePool
from gnomon.rollout.protocol import Completion, Engine, Progress, Request, SamplingParams
from gnomon.rollout.sampling import Collector, Draft, Follow, check_params, check_request

_ROWS_HINT = 32  # the batch the layout is chosen for; it serves any other
_MEMORY_SHARE = 0.25  # copies may take this much of the memory that is free
_MIN_SIZE = 1 << 14  # smaller weights gain nothing


def _packable(module: nn.Module) -> bool:
    if type(module) is not nn.Linear and type(module) is not Conv1D:
        return False
    weight = module.weight
    return (
        type(weight) is nn.Parameter
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() >= _MIN_SIZE
    )


def _packed_forward(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """A replacement for ``module.forward`` that uses a reordered copy of the weight."""
    weight, bias = module.weight.detach(), module.bias  # type: ignore[operator]
    dense = weight.t().contiguous() if isinstance(module, Conv1D) else weight
    packed = torch.ops.mkldnn._reorder_linear_weight(dense, _ROWS_HINT)
    product = torch.ops.mkldnn._linear_pointwise

    def forward(x: Tensor) -> Tensor:
        out: Tensor = product(x, packed, bias, "none", [], "")
        return out

    return forward


@contextmanager
def packed_linears(model: nn.Module) -> Iterator[int]:
    """Serve the float32 CPU projections of ``model`` from reordered weights inside the block.

    Yields the number of projections served so: 0 on other devices, without oneDNN, or when the
    copies would take too much of the free memory, or under autocast. No gradient flows through a
    served projection.
    """
    modules = [module for module in model.modules() if _packable(module)]
    size = sum(4 * parameter.numel() for m in modules for parameter in m.parameters(recurse=False))
    usable = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    usable = usable and not torch.is_autocast_enabled("cpu")  # which multiplies in another type
    if not usable or size > _MEMORY_SHARE * psutil.virtual_memory().available:
        modules = []
    # A module may already carry its own ``forward`` (a hook library's, say): leave those alone.
    modules = [module for module in modules if "forward" not in vars(module)]
    try:
        for module in modules:
            module.forward = _packed_forward(module)
        yield len(modules)
    finally:
        for module in modules:
            vars(module).pop("forward", None)


_PACK_FROM = 16  # decoding steps that repay reordering the weights
_PREFILL_TOKENS = 2048  # prompt tokens per pass, so that a long queue cannot swell one pass
_PREFIX_TOKENS = 64  # that prompts must have in common for it to be worth computing them once
_FREE_SHARE = 0.8  # of the free memory that pages may take; the rest is for what passes compute
_GPU_PAGE, _CPU_PAGE = 256, 64  # positions; FlashAttention 2 takes multiples of 256, 3 and 4 any


@dataclass(frozen=True)
class CacheOptions:
    """How the torch engine keeps keys and values.

    Attributes:
        gib: most that the cache of the running rows may take; what is free when they start, but for
            a fifth, when None.
        paged: in pages (see ``gnomon.rollout.pages``), or row by row; when None in pages on a GPU
            and wherever ``gib`` is given, since only pages have a bound.
        page: positions per page; 256 on a GPU and 64 elsewhere when None.
        kept_gib: most that is kept between the turns of episodes.
        cuda_graphs: replay decoding steps as CUDA graphs; of no effect elsewhere.
    """

    gib: float | None = None
    paged: bool | None = None
    page: int | None = None
    kept_gib: float = 1.0
    cuda_graphs: bool = False

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
        self._in_place = False
        self._checked = False
        self._keeping = False
        self._mark: tuple[int, ...] = ()
        self._pool: PagePool | None = None
        self._kept: KeptRows | None = None
        self.prefilled = self.preempted = 0
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
                batch = _Batch(self._model, collector, self._max_rows, self._kept)
                self.prefilled += batch.run()

    def _draw_in_pages(self, collector: Collector, keep: int) -> None:
        pool = self._pool or self._new_pool()
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
                kernel=self._in_place,
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

    @property
    def _page(self) -> int:
        return self._cache.page or (_GPU_PAGE if self._device.type == "cuda" else _CPU_PAGE)

    def _new_pool(self) -> PagePool:
        if self._cache.gib is not None:
            budget = self._cache.gib * 2**30
        elif self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            idle = torch.cuda.memory_reserved(self._device)
            idle -= torch.cuda.memory_allocated(self._device)
            budget = _FREE_SHARE * (free + idle)
        else:
            budget = _FREE_SHARE * psutil.virtual_memory().available
        return PagePool(self._page, int(budget // (self._page * self._token_bytes)))

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
        self._in_place = self._paged and reads_in_place(self._model, self._page)

    def _check(self, request: Request, params: SamplingParams) -> None:
        vocabulary = self._model.get_input_embeddings().weight.shape[0]
        config = self._model.config.get_text_config()
        window = getattr(config, "max_position_embeddings", None)
        check_request(request, params, vocabulary, window)


def _default_eos(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


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


class _Batch:
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
