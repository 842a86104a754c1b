"""What an engine keeps between turns: less is computed, nothing changes, and nothing is stale."""

from __future__ import annotations

import pytest
import torch
from rollout_zoo import family_model

from gnomon.rollout import Request, SamplingParams, TorchEngine
from gnomon.rollout.torch_engine import CacheOptions

SAMPLED = SamplingParams(max_new_tokens=10)
OPENING = [5 + (7 * i) % 90 for i in range(30)]
ROW, PAGES = CacheOptions(), CacheOptions(paged=True, page=4)


def play(engine: TorchEngine, turns: int = 3, between=lambda: None):
    """Three samples go on for some turns, each told something of its own."""
    eos = [c for c in range(engine._tokenizer.vocab_size) if c % 3]
    engine._eos = frozenset(eos)  # most turns end by themselves
    texts, said = [OPENING] * 3, []
    for turn in range(turns):
        if turn:
            requests = [Request(str(i), t, seed=10 * turn + i) for i, t in enumerate(texts)]
            rows = [row[0] for row in engine.generate(requests, SAMPLED)]
        else:
            rows = engine.generate([Request("a", OPENING, n=3)], SAMPLED)[0]
        texts = [[*t, *c.ids, 20 + i, 21] for i, (t, c) in enumerate(zip(texts, rows, strict=True))]
        said.append(rows)
        between()
    return texts, said


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2"])
@pytest.mark.parametrize("cache", [ROW, PAGES])
def test_a_turn_computes_what_is_new_and_says_what_it_would_have(family, cache, tokenizer):
    model = family_model(family, len(tokenizer))
    plain = TorchEngine(model, tokenizer, cache=cache)
    kept = TorchEngine(model, tokenizer, cache=cache)
    expected, rows = play(plain)
    with kept.keeping():
        texts, same = play(kept)
    assert texts == expected
    for turn, other in zip(same, rows, strict=True):
        for a, b in zip(turn, other, strict=True):
            torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-5, rtol=1e-5)
    if cache is PAGES:  # the last token of a prompt is fed by the first step
        assert kept.prefilled == len(OPENING) - 1 + 2 * 3 * 2
    elif all(c.finished for turn in rows for c in turn):  # a turn that was cut off is not kept
        assert kept.prefilled == len(OPENING) + 3 * 3 * 2
    assert plain.prefilled > kept.prefilled + 60


@pytest.mark.parametrize("cache", [ROW, PAGES])
def test_new_weights_are_used_at_once(cache, llama, tokenizer):
    """Trained by an optimizer, or overwritten behind autograd's back, without a word to it."""
    optimizer = torch.optim.SGD(llama.parameters(), lr=1e-3)

    def train():
        llama(input_ids=torch.tensor([OPENING]), labels=torch.tensor([OPENING])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def overwrite():
        llama.model.layers[0].self_attn.k_proj.weight.data.mul_(-1)

    start = {name: value.clone() for name, value in llama.state_dict().items()}
    for change in (train, overwrite):
        engine = TorchEngine(llama, tokenizer, cache=cache)
        with engine.keeping():
            mine = play(engine, 2, change)
            computed = engine.prefilled
        llama.load_state_dict(start)
        fresh = TorchEngine(llama, tokenizer, cache=cache)
        assert mine[0] == play(fresh, 2, change)[0]
        assert computed == fresh.prefilled  # nothing old was used
        llama.load_state_dict(start)


@pytest.mark.parametrize("cache", [ROW, PAGES])
def test_what_is_kept_ends_with_the_block_a_sync_an_error_and_its_bound(cache, llama, tokenizer):
    def first(engine: TorchEngine) -> int:
        before = engine.prefilled
        text = [*OPENING, *engine.generate([Request("a", OPENING)], SAMPLED)[0][0].ids]
        engine.generate([Request("b", [*text, 9])], SAMPLED)
        return engine.prefilled - before

    engine = TorchEngine(llama, tokenizer, cache=cache)
    engine._eos = frozenset(range(0, 250, 2))
    whole = first(engine)
    with engine.keeping():
        less = first(engine)
        assert less < whole
        engine.sync_weights()
        assert first(engine) == less  # the opening is computed again
        with pytest.raises(KeyboardInterrupt):
            engine.generate([Request("a", [1, 2])], SAMPLED, progress=_interrupt)
        assert first(engine) == less
        assert first(engine) < less or cache is ROW  # now it is known
    assert first(engine) == whole
    none = TorchEngine(llama, tokenizer, cache=CacheOptions(paged=cache.paged, page=4, kept_gib=0))
    none._eos = engine._eos
    with none.keeping():
        assert first(none) == whole


def _interrupt(done: int, total: int) -> None:
    raise KeyboardInterrupt


def test_the_longest_unused_rows_are_dropped_first(llama, tokenizer):
    token = 2 * 2 * 2 * 8 * 4
    cache = CacheOptions(kept_gib=70 * token / 2**30)
    engine = TorchEngine(llama, tokenizer, eos_token_ids=range(400), cache=cache)
    asked = [[i, *OPENING[1:]] for i in range(3)]
    with engine.keeping():
        for prompt in asked:
            engine.generate([Request("a", prompt)], SAMPLED)
        computed = []
        for prompt in (asked[2], asked[0]):
            before = engine.prefilled
            engine.generate([Request("a", [*prompt, 7])], SAMPLED)
            computed.append(engine.prefilled - before)
    assert computed == [1, 31]
