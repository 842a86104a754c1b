"""The cache in pages: the same samples as row by row, in the memory used, without waiting."""

from __future__ import annotations

import inspect
import random
import warnings
from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from rollout_zoo import FAMILIES, family_model, naive_logprobs
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from fake_cuda import fake_cuda
from gnomon.errors import ConfigError, DataError, EngineError
from gnomon.models.packed import attention_implementation
from gnomon.rollout import Request, SamplingParams, TorchEngine, paged, torch_engine
from gnomon.rollout.decoding import Decoder, RowState, device_uniforms
from gnomon.rollout.paged import IMPLEMENTATION, Prompt, prefill
from gnomon.rollout.paged_batch import PagedBatch
from gnomon.rollout.pages import OutOfPagesError, PagePool
from gnomon.rollout.sampling import Collector, uniforms
from gnomon.rollout.torch_engine import CacheOptions

PROMPTS = [[5, 9, 33], [70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80], [41], [8, 100, 200, 3, 2, 1]]
SHOTS = [5 + (7 * i) % 90 for i in range(33)]
ASKED = [
    Request(str(i), p, n=1 + i % 3, seed=i)
    for i, p in enumerate([*PROMPTS, [*SHOTS, 4, 5], [*SHOTS, 6]])
]
SAMPLED = SamplingParams(max_new_tokens=21, temperature=0.8, top_p=0.95)
TOKEN = (
    2 * 2 * 2 * 8 * 4
)  # bytes of llama's cache: 2 layers, keys and values, 2 heads of 8, float32


def pages(number: float, size: int = 4) -> CacheOptions:
    """A budget of so many pages of llama's."""
    return CacheOptions(gib=number * size * TOKEN / 2**30, page=size)


def assert_same(mine, theirs, tolerance: float = 1e-5) -> None:
    for row, other in zip(mine, theirs, strict=True):
        assert [(c.ids, c.text, c.finish_reason) for c in row] == [
            (c.ids, c.text, c.finish_reason) for c in other
        ]
        for a, b in zip(row, other, strict=True):
            torch.testing.assert_close(a.logprobs, b.logprobs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("family", FAMILIES)
def test_pages_give_what_rows_give(family, tokenizer):
    """Windows, grouped heads, soft caps, learned positions; and prompts that share a beginning."""
    model = family_model(family, len(tokenizer))
    eos = tuple(range(0, len(tokenizer), 9))
    by_row = TorchEngine(model, tokenizer, max_rows=4, eos_token_ids=eos)
    in_pages = TorchEngine(
        model, tokenizer, max_rows=4, eos_token_ids=eos, cache=CacheOptions(paged=True, page=4)
    )
    results = in_pages.generate(ASKED, SAMPLED)
    assert_same(results, by_row.generate(ASKED, SAMPLED))
    assert {c.finish_reason for row in results for c in row} <= {"eos", "length"}
    [last] = results[-1][:1]
    naive = naive_logprobs(model, list(ASKED[-1].prompt_ids), last.ids, 0.8)
    torch.testing.assert_close(last.logprobs, naive, atol=1e-4, rtol=1e-4)


def test_stop_strings_followers_and_other_draws_give_what_rows_give(llama, tokenizer):
    [free] = TorchEngine(llama, tokenizer, eos_token_ids=()).generate(
        [Request("a", PROMPTS[1], n=9)], SamplingParams(max_new_tokens=20, temperature=1.5)
    )
    stop = next(
        text
        for c in free
        for i in range(3, 15)
        if (text := tokenizer.decode(list(c.ids[i : i + 2]))).isascii() and text.isprintable()
    )
    for params in (
        SamplingParams(max_new_tokens=20, temperature=1.5, stop=(stop,)),
        SamplingParams(max_new_tokens=5, temperature=0),
        SamplingParams(max_new_tokens=18, top_k=9, min_p=0.01),
    ):
        seen: list[list[tuple[int, ...]]] = [[], []]
        found = []
        for cache, notes in zip((None, CacheOptions(paged=True, page=8)), seen, strict=True):
            engine = TorchEngine(llama, tokenizer, eos_token_ids=(), cache=cache)
            asked = [Request("a", PROMPTS[1], n=9)]
            found.append(
                engine.generate(asked, params, follow=lambda i, n=notes: n.append(tuple(i)))
            )
            assert_same([*engine.generate(asked, params)], found[-1])
        assert_same(found[1], found[0])
        assert sorted(seen[0]) == sorted(seen[1])


def test_rows_hold_what_they_use_and_share_their_prompt(llama, tokenizer):
    """Eight samples of 33 + 7 tokens: 8 pages of prompt and 2 each, where rows would take 80."""
    asked, params = [Request("a", SHOTS, n=8)], SamplingParams(max_new_tokens=7)
    shared = TorchEngine(llama, tokenizer, eos_token_ids=(), cache=pages(8 + 8 * 2))
    free = shared.generate(asked, params)
    assert (shared.prefilled, shared.preempted) == (32, 0)
    less = TorchEngine(llama, tokenizer, eos_token_ids=(), cache=pages(8 + 8 * 2 - 1))
    assert_same(less.generate(asked, params), free)


@pytest.mark.parametrize("budget", [14, 19, 40])
def test_rows_that_give_up_their_pages_end_as_they_would_have(budget, llama, tokenizer):
    eos = tuple(range(0, len(tokenizer), 40))
    seen = []
    engine = TorchEngine(llama, tokenizer, max_rows=5, eos_token_ids=eos, cache=pages(budget))
    results = engine.generate(ASKED, SAMPLED, progress=lambda done, total: seen.append(done))
    free = TorchEngine(llama, tokenizer, max_rows=5, eos_token_ids=eos).generate(ASKED, SAMPLED)
    assert_same(results, free)
    assert seen == list(range(1, sum(r.n for r in ASKED) + 1))
    assert bool(engine.preempted) == (budget < 40)


def test_what_can_never_fit_is_refused_with_what_is_missing(llama, tokenizer):
    engine = TorchEngine(llama, tokenizer, cache=pages(13))
    with pytest.raises(DataError, match=r"'4': a prompt of 35 tokens and max_new_tokens 21 take"):
        engine.generate(ASKED, SAMPLED)
    with pytest.raises(DataError, match=r"GiB more than .*cache_gib, lower max_new_tokens"):
        engine.generate(ASKED, SAMPLED)
    for bad in ({"gib": 0.0}, {"gib": 1.0, "paged": False}, {"page": 0}, {"kept_gib": -1.0}):
        with pytest.raises(ConfigError, match=r"cache_|kept_gib"):
            CacheOptions(**bad)


def test_scores_that_are_no_numbers_are_said(llama, tokenizer):
    engine = TorchEngine(llama, tokenizer, cache=pages(50))
    engine.generate([Request("a", [3, 4])], SAMPLED)
    with torch.no_grad():
        llama.model.norm.weight[0] = float("nan")
    with pytest.raises(EngineError, match="not finite numbers"):
        engine.generate([Request("a", [3, 4])], SAMPLED)


def test_pages_are_shared_copied_kept_and_given_up():
    pool = PagePool(size=2, limit=4)
    first = [pool.take() for _ in range(3)]
    pool.remember([1, 2, 3, 4, 5], first)
    assert pool.match([1, 2, 3, 4, 5, 6]) == (first[:2], first[2], 1)
    assert pool.match([1, 2, 3, 9]) == (first[:1], first[1], 1)
    assert pool.match([2, 1]) == ([], 0, 0)
    pool.hold(first[:1])
    pool.release(first)
    assert (pool.held, pool.kept) == (1, 2)
    taken = [pool.take() for _ in range(3)]  # one is free, then the ends of the kept ones go
    assert (pool.held, pool.kept) == (4, 0)
    assert pool.match([1, 2, 3, 4]) == (first[:1], 0, 0)
    with pytest.raises(OutOfPagesError):
        pool.take()
    pool.release(taken)
    assert pool.kept == 0


# -- on the device --------------------------------------------------------------------------------


def test_random_numbers_of_the_device_are_those_of_the_host():
    keys = [0, 1, 2**63, 2**64 - 1, 0x9E3779B97F4A7C15, 123456789 << 20]
    steps = [0, 1, 5, 1000, 2**31, 7]
    signed = torch.tensor([k - (1 << 64) if k >> 63 else k for k in keys])
    assert torch.equal(device_uniforms(signed, torch.tensor(steps)), uniforms(keys, steps))


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2"])
@pytest.mark.parametrize("draws", [{}, {"temperature": 0}, {"top_p": 0.9}, {"top_k": 5}])
def test_a_step_reads_nothing_and_keeps_its_shapes(family, draws, tokenizer):
    params = SamplingParams(max_new_tokens=9, **draws)
    model = family_model(family, len(tokenizer))
    with fake_cuda() as cuda, torch.no_grad(), attention_implementation(model, IMPLEMENTATION):
        decoder = _decoder(cuda.of(model), params)
        slots = decoder._filled([RowState(5, 3, 0, 2**64 - 1, [1, 2])] * 3, 4)
        uploads = len(cuda.syncs)
        shapes = {name: (x.shape, x.dtype, x.device) for name, x in vars(slots).items()}
        for _ in range(4):
            decoder.step(slots)
        assert cuda.syncs[uploads:] == []
        assert shapes == {name: (x.shape, x.dtype, x.device) for name, x in vars(slots).items()}
        slots.out.tolist()
        assert len(cuda.syncs) == uploads + 1  # and the counter counts


def _decoder(model, params: SamplingParams) -> Decoder:
    more = {"steps": 4, "width": 3, "most": 3, "reading": "copied", "graphs": False}
    return Decoder(model, PagePool(4, 9), params, frozenset({7}), **more)


def test_the_host_looks_every_sixteen_tokens(llama, tokenizer, monkeypatch):
    looks = []
    run = Decoder.run
    monkeypatch.setattr(
        Decoder, "run", lambda self, rows, steps: (looks.append(steps), run(self, rows, steps))[1]
    )
    engine = TorchEngine(llama, tokenizer, eos_token_ids=(), cache=pages(90))
    engine.generate(ASKED[:2], SamplingParams(max_new_tokens=40))
    assert looks == [16, 16, 8]


def test_without_graphs_a_batch_runs_all_the_same_and_says_so(llama, tokenizer):
    """No GPU here: what is tested is the batch filled up to a power of two, and the way back."""
    collector, by_row = (Collector(ASKED, SAMPLED, tokenizer, frozenset(), None) for _ in "ab")
    pool = PagePool(4, 99)
    with torch.no_grad(), attention_implementation(llama, IMPLEMENTATION):
        with pytest.warns(UserWarning, match="cannot be captured as a CUDA graph"):
            PagedBatch(llama, collector, pool, 7, graphs=True).run()
        PagedBatch(llama, by_row, PagePool(4, 99), 7).run()
    assert_same(collector.completions(), by_row.completions())
    assert pool.held == 0


def test_a_capture_that_fails_leaves_its_stream_and_the_step_is_run(llama, tokenizer, monkeypatch):
    """torch leaves the stream of a capture only where that ends well."""
    current = ["the thread's"]

    class Capture:
        def __init__(self, graph: object, **options: object) -> None: ...

        def __enter__(self) -> None:
            current[0] = "the capture's"

        def __exit__(self, *error: object) -> None:
            raise RuntimeError("the capture was invalidated")

    @contextmanager
    def stream(entered: str):
        before, current[0] = current[0], entered
        try:
            yield
        finally:
            current[0] = before

    def at_once(decoder: Decoder, slots: object) -> None:
        if current[0] == "the capture's":
            raise RuntimeError("the host reads a number")
        step(decoder, slots)

    step = Decoder.step
    monkeypatch.setattr(Decoder, "step", at_once)
    fakes = {"CUDAGraph": object, "graph": Capture, "current_stream": lambda: current[0]}
    for name, fake in {**fakes, "stream": stream}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    collector, by_row = (Collector(ASKED, SAMPLED, tokenizer, frozenset(), None) for _ in "ab")
    with torch.no_grad(), attention_implementation(llama, IMPLEMENTATION):
        with pytest.warns(UserWarning, match="the host reads a number"):
            PagedBatch(llama, collector, PagePool(4, 99), 7, graphs=True).run()
        assert current == ["the thread's"]
        PagedBatch(llama, by_row, PagePool(4, 99), 7).run()
    assert_same(collector.completions(), by_row.completions())


def test_a_graph_is_made_of_the_second_step_of_a_size(llama, tokenizer, monkeypatch):
    """Short answers too run by graphs but for one step; each size of a batch is captured once."""
    steps, captured = [], []
    step = Decoder.step

    class Graph:
        def __init__(self, decoder: Decoder, size: int) -> None:
            captured.append(size)
            self.replay = lambda: step(decoder, decoder._slots[size])

    monkeypatch.setattr(
        Decoder, "step", lambda self, s: (steps.append(len(s.order)), step(self, s))[1]
    )
    monkeypatch.setattr(Decoder, "_captured", lambda self, size: Graph(self, size))
    eos = frozenset(range(0, len(tokenizer), 9))
    collector, by_row = (Collector(ASKED, SAMPLED, tokenizer, eos, None) for _ in "ab")
    with torch.no_grad(), attention_implementation(llama, IMPLEMENTATION):
        PagedBatch(llama, collector, PagePool(4, 99), 7, graphs=True).run()
        seen = list(steps)
        PagedBatch(llama, by_row, PagePool(4, 99), 7).run()
    assert_same(collector.completions(), by_row.completions())
    assert seen == list(dict.fromkeys(captured))
    assert len(seen) > 1


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text"])
def test_all_prompts_by_one_kernel_are_what_each_by_its_own_is(family, tokenizer, monkeypatch):
    """Prompts that begin anew, and one whose beginning is in pages already."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", _rows_of_many_lengths)
    model = family_model(family, len(tokenizer))
    found = []
    with torch.no_grad(), attention_implementation(model, IMPLEMENTATION):
        for one_call in (False, True):
            monkeypatch.setattr(paged, "_in_one_call", lambda *asked, one=one_call: one)
            pool = PagePool(4, 20)
            held = [[pool.take() for _ in range(5)] for _ in range(3)]
            prefill(model, pool, [Prompt(PROMPTS[1][:6], 0, held[0])], "copied")
            texts = [
                Prompt(PROMPTS[1][6:], 6, held[0]),
                Prompt(PROMPTS[3], 0, held[1][:2]),
                Prompt(PROMPTS[0], 0, held[2][:1]),
            ]
            scores = prefill(model, pool, texts, "copied")
            found.append((scores, [torch.cat(stores) for stores in pool.layers.values()]))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "qwen3"])
def test_rows_read_where_they_lie_give_what_rows_give(family, tokenizer, monkeypatch):
    """Each row in one page, more samples than rows, prompts that begin alike, windows."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", _rows_of_many_lengths)
    monkeypatch.setattr(paged, "_in_one_call", lambda *asked: False)
    model = family_model(family, len(tokenizer))
    eos = frozenset(range(0, len(tokenizer), 9))
    collector = Collector(ASKED, SAMPLED, tokenizer, eos, None)
    pool = PagePool(64, 5, whole=True)
    with torch.no_grad(), attention_implementation(model, IMPLEMENTATION):
        batch = PagedBatch(model, collector, pool, 4, reading="whole")
        batch.run()
    by_row = TorchEngine(model, tokenizer, max_rows=4, eos_token_ids=sorted(eos))
    assert_same(collector.completions(), by_row.generate(ASKED, SAMPLED))
    assert (batch.preempted, pool.held) == (0, 0)
    assert batch.prefilled < by_row.prefilled


@pytest.fixture
def reads(monkeypatch):
    """As on a GPU whose kernels read whole rows; why they do not, where a test says so."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", _rows_of_many_lengths)
    monkeypatch.setattr(paged, "_in_one_call", lambda *asked: True)
    ways = {"table": "it has none", "whole": None}
    monkeypatch.setattr(torch_engine, "reads_in_place", lambda model, size: ways)
    return ways


FIVE = 6 * 64 * TOKEN / 2**30  # GiB of the rows, of one that has ended, and nobody's


def test_whole_rows_are_taken_where_they_are_read_and_fit(llama, tokenizer, reads):
    """Else pages, and what is missing is said once."""
    free = TorchEngine(llama, tokenizer, max_rows=4).generate(ASKED, SAMPLED)
    engine = TorchEngine(llama, tokenizer, max_rows=4, cache=CacheOptions(gib=FIVE))
    assert_same(engine.generate(ASKED, SAMPLED), free)
    assert engine.reading == "whole"
    engine = TorchEngine(llama, tokenizer, max_rows=4, cache=CacheOptions(gib=0.99 * FIVE))
    with pytest.warns(UserWarning, match=r"4 whole rows of 64 tokens take .* GiB, more than"):
        found = engine.generate(ASKED, SAMPLED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(found, engine.generate(ASKED, SAMPLED))
    assert_same(found, free)
    assert engine.reading == "copied"
    asked_for = TorchEngine(llama, tokenizer, max_rows=4, cache=CacheOptions(gib=1, page=4))
    assert_same(asked_for.generate(ASKED, SAMPLED), free)
    assert asked_for.reading == "copied"


def test_turns_that_are_kept_and_kernels_that_refuse_have_small_pages(llama, tokenizer, reads):
    engine = TorchEngine(llama, tokenizer, max_rows=4, cache=CacheOptions(gib=1))
    with pytest.warns(UserWarning, match="turns of episodes are kept"), engine.keeping():
        engine.generate(ASKED, SAMPLED)
    assert engine.reading == "copied"
    reads["whole"] = "its scores differ"
    engine = TorchEngine(llama, tokenizer, max_rows=4, cache=CacheOptions(gib=1))
    with pytest.warns(UserWarning, match=r"lie: its scores differ\. .* \(it has none\)"):
        engine.generate(ASKED, SAMPLED)
    assert engine.reading == "copied"


def test_what_is_free_decides_how_many_rows_run_and_not_how_they_are_read(
    llama, tokenizer, reads, monkeypatch
):
    free = TorchEngine(llama, tokenizer, max_rows=4).generate(ASKED, SAMPLED)
    found = []
    for rows in (3, 1):
        memory = SimpleNamespace(total=2**40, available=(rows + 1.5) * 64 * TOKEN / 0.8)
        monkeypatch.setattr(torch_engine.psutil, "virtual_memory", lambda memory=memory: memory)
        engine = TorchEngine(llama, tokenizer, max_rows=4, cache=CacheOptions(paged=True))
        found.append(engine.generate(ASKED, SAMPLED))
        assert engine.reading == "whole"
        assert_same(found[-1], free)


def test_whole_rows_do_not_wait_for_pages_that_were_only_copied_from(
    llama, tokenizer, reads, monkeypatch
):
    """Prompts that begin alike, in waves: there are as many rounds as waves."""
    ran = []
    run = Decoder.run
    monkeypatch.setattr(
        Decoder, "run", lambda self, rows, n: (ran.append(len(rows)), run(self, rows, n))[1]
    )
    asked = [Request(str(i), [*range(9, 29), 30 + i % 8, 40 + i]) for i in range(32)]
    engine = TorchEngine(llama, tokenizer, max_rows=8, eos_token_ids=(), cache=CacheOptions(gib=1))
    engine.generate(asked, SamplingParams(max_new_tokens=16))
    assert ran == [8, 8, 8, 8]


def test_idle_rows_of_a_batch_leave_the_others_alone(llama, tokenizer, reads):
    collector, by_row = (Collector(ASKED, SAMPLED, tokenizer, frozenset(), None) for _ in "ab")
    pool = PagePool(64, 8, whole=True)
    with torch.no_grad(), attention_implementation(llama, IMPLEMENTATION):
        with pytest.warns(UserWarning, match="cannot be captured as a CUDA graph"):
            PagedBatch(llama, collector, pool, 7, reading="whole", graphs=True).run()
        PagedBatch(llama, by_row, PagePool(4, 99), 7).run()
    assert_same(collector.completions(), by_row.completions())


@pytest.mark.parametrize("size", [1, 3, 16])
def test_a_kernel_that_reads_by_a_table_is_tried_on_pages_of_any_size(size, llama, monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", _reference)
    monkeypatch.setattr(paged, "_half", lambda query: True)
    with torch.no_grad():
        assert paged._misread(llama.eval(), size, "table") is None


@pytest.mark.parametrize("seed", range(4))
def test_beginnings_are_as_long_as_they_are(seed):
    draw = random.Random(seed)
    for _ in range(300):
        a = tuple(draw.randrange(3) for _ in range(draw.randrange(200)))
        b = a[: draw.randrange(len(a) + 1)] + tuple(
            draw.randrange(3) for _ in range(draw.randrange(90))
        )
        shared = 0
        while shared < min(len(a), len(b)) and a[shared] == b[shared]:
            shared += 1
        pool = PagePool(size=300, limit=2)
        pool.remember(a, [pool.take()])
        assert pool.match(b)[2] == shared


def test_kernels_that_read_rows_are_tried_first(llama, tokenizer, monkeypatch):
    def off_by_one(query, key, value, cu_seq_q, cu_seq_k, *lengths, **more):
        return _rows_of_many_lengths(query, key, value, cu_seq_q, cu_seq_k + 1, *lengths, **more)

    def refusing(*given, **more):
        raise RuntimeError("no half precision\nin detail")

    llama.eval()
    with torch.no_grad():
        for kernel, said in (
            (_rows_of_many_lengths, "None"),
            (off_by_one, "its scores differ by"),
            (refusing, "no half precision"),
        ):
            monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
            assert str(paged._misread(llama, 64, "whole")).startswith(said)
        gemma = family_model("gemma2", len(tokenizer))
        assert paged._misread(gemma, 64, "whole") == "its scores have a softcap"


def _rows_of_many_lengths(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **more):
    """What varlen_attn documents: each row by itself, causal at the bottom right or not at all."""
    outs = []
    left, right = more["window_size"]
    for (a, b), (c, d) in zip(
        pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist()), strict=True
    ):
        if a == b:
            continue
        assert b - a <= max_q
        assert d - c <= max_k
        q, k, v = (
            x[s].transpose(0, 1)
            for x, s in zip(
                (query, key, value), (slice(a, b), slice(c, d), slice(c, d)), strict=True
            )
        )
        gap = torch.arange(d - c)[d - c - (b - a) :, None] - torch.arange(d - c)
        seen = ((gap >= 0) | (right < 0)) & ((gap <= left) | (left < 0))
        outs.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=seen, scale=more["scale"], enable_gqa=True
            ).transpose(0, 1)
        )
    return torch.cat(outs)


def _reference(query: Tensor, key: Tensor, value: Tensor, cu_seq_q, cu_seq_k, max_q, max_k, **more):
    """What varlen_attn documents of pages: causal at the bottom right, in float64."""
    assert cu_seq_k is None
    assert query.is_contiguous()
    outs = []
    for row, used in enumerate(more["seqused_k"].tolist()):
        q = query[cu_seq_q[row] : cu_seq_q[row + 1]].transpose(0, 1)
        table = more["block_table"][row].long()
        k, v = (x[table].flatten(0, 1)[:used].transpose(0, 1) for x in (key, value))
        at = torch.arange(used)
        gap = at[used - q.shape[1] :, None] - at
        left, right = more["window_size"]
        seen = (gap >= -right) & ((gap <= left) | (left < 0))
        assert (q.shape[1] <= max_q, used <= max_k) == (True, True)
        outs.append(
            F.scaled_dot_product_attention(
                *(x.double() for x in (q, k, v)),
                attn_mask=seen,
                scale=more["scale"],
                enable_gqa=more["enable_gqa"],
            ).transpose(0, 1)
        )
    return torch.cat(outs).to(query.dtype)


_rows_of_many_lengths.__signature__ = inspect.signature(varlen_attn)  # type: ignore[attr-defined]
_reference.__signature__ = inspect.signature(varlen_attn)  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text"])
def test_a_kernel_that_reads_pages_gives_what_copies_give(family, tokenizer, monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", _reference)
    model = family_model(family, len(tokenizer)).bfloat16()
    with torch.no_grad(), attention_implementation(model, IMPLEMENTATION):
        found = []
        for reading in ("table", "copied"):
            pool = PagePool(4, 20)
            held = [[pool.take() for _ in range(5)] for _ in range(2)]
            prefill(model, pool, [Prompt(PROMPTS[1][:6], 0, held[0])], reading)
            texts = [Prompt(PROMPTS[1][6:], 6, held[0]), Prompt(PROMPTS[3], 0, held[1])]
            scores = prefill(model, pool, texts, reading)
            decoder = _decoder(model, SamplingParams(max_new_tokens=9, temperature=0))
            decoder._pool, decoder._reading, decoder._width = pool, reading, 5
            rows = [RowState(9, 11, 0, 1, held[0]), RowState(4, 6, 0, 1, held[1])]
            found.append((scores, decoder.run(rows, 1)[:, 0, 1]))
    torch.testing.assert_close(found[0][0], found[1][0], atol=0.3, rtol=0.1)
    torch.testing.assert_close(found[0][1], found[1][1], atol=0.2, rtol=0.1)
