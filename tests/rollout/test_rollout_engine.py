"""The torch engine against transformers' generate and a naive forward without a cache."""

from __future__ import annotations

import re
import warnings
from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rollout_zoo import FAMILIES, alibi_model, family_model, naive_logprobs, state_space_model
from transformers import GenerationConfig

from gnomon.errors import ConfigError, DataError
from gnomon.rollout import Completion, Request, SamplingParams, TorchEngine, linears, packed, rows

PROMPTS = [[5, 9, 33], [70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80], [41], [8, 100, 200, 3, 2, 1]]
GREEDY = SamplingParams(max_new_tokens=20, temperature=0)
SAMPLED = SamplingParams(max_new_tokens=10, temperature=0.8)


def own_greedy(model, prompt, steps, eos=None):
    config = GenerationConfig(
        do_sample=False, max_new_tokens=steps, eos_token_id=eos, pad_token_id=0
    )
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return tuple(out[0, len(prompt) :].tolist())


def ids_of(results: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.ids for completion in row] for row in results]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_transformers_generate(family, tokenizer):
    model = family_model(family, len(tokenizer))
    engine = TorchEngine(model, tokenizer, max_rows=3, eos_token_ids=())
    requests = [Request(str(i), p, n=1 + i % 2) for i, p in enumerate(PROMPTS)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = engine.generate(requests, GREEDY)
    assert engine.fallback_reason is None
    for request, completions in zip(requests, results, strict=True):
        expected = own_greedy(model, list(request.prompt_ids), 20)
        assert [c.ids for c in completions] == [expected] * request.n
        assert {c.finish_reason for c in completions} == {"length"}
    assert len({c[0].ids for c in results}) == len(PROMPTS)  # the prompts matter


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
def test_sampler_logprobs_are_those_of_a_full_forward(family, temperature, tokenizer):
    model = family_model(family, len(tokenizer))
    engine = TorchEngine(model, tokenizer, max_rows=5, eos_token_ids=())
    params = SamplingParams(max_new_tokens=18, temperature=temperature, top_k=20, top_p=0.9)
    requests = [Request(str(i), p, n=3, seed=i) for i, p in enumerate(PROMPTS)]
    for prompt, row in zip(PROMPTS, engine.generate(requests, params), strict=True):
        for completion in row:
            naive = naive_logprobs(model, prompt, completion.ids, temperature or 1.0)
            torch.testing.assert_close(completion.logprobs, naive, atol=1e-4, rtol=1e-4)


SHOTS = [5 + (7 * i) % 90 for i in range(70)]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_prompts_begin_with_is_computed_once(family, tokenizer, monkeypatch):
    passed = []
    plain = rows.packed_pass

    def counting(model, cache, tokens, lengths, prompts, prefix=None):
        passed.append(sum(map(len, prompts)))
        return plain(model, cache, tokens, lengths, prompts, prefix)

    monkeypatch.setattr(rows, "packed_pass", counting)
    model = family_model(family, len(tokenizer))
    engine = TorchEngine(model, tokenizer, max_rows=3, eos_token_ids=())
    prompts = [[*SHOTS, *p] for p in (*PROMPTS, [6])]
    requests = [Request(str(i), p, n=1 + i % 2, seed=i) for i, p in enumerate(prompts)]
    results = engine.generate(requests, SAMPLED)
    assert sum(passed) == 70 + sum(map(len, PROMPTS)) + 1
    for prompt, row in zip(prompts, results, strict=True):
        for completion in row:
            naive = naive_logprobs(model, prompt, completion.ids, 0.8)
            torch.testing.assert_close(completion.logprobs, naive, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("last", [[SHOTS], [[*SHOTS[:20], 3]]])
def test_a_prompt_that_is_all_shared_or_shares_little_is_answered_too(last, llama, tokenizer):
    engine = TorchEngine(llama, tokenizer, eos_token_ids=())
    prompts = [[*SHOTS, 9], [*SHOTS, 4, 4], *last]
    results = engine.generate([Request(str(i), p) for i, p in enumerate(prompts)], GREEDY)
    for prompt, (completion,) in zip(prompts, results, strict=True):
        assert completion.ids == own_greedy(llama, prompt, 20)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_rows_of_many_lengths_attend_in_blocks(family, tokenizer, monkeypatch):
    """Twenty rows, so that the last block is not full; each must see its own positions only."""
    cuts = []
    plain = packed.PackedPass.blocks

    def counting(self, window, dtype):
        found = plain(self, window, dtype)
        cuts.append([(block.rows.stop - block.rows.start, block.seen) for block in found])
        return found

    monkeypatch.setattr(packed.PackedPass, "blocks", counting)
    model = family_model(family, len(tokenizer))
    prompts = [[(5 * i + 3 * j) % 90 + 5 for j in range(2 + 4 * i)] for i in range(20)]
    requests = [Request(str(i), p, seed=i) for i, p in enumerate(prompts)]
    engine = TorchEngine(model, tokenizer, eos_token_ids=())
    for prompt, [completion] in zip(prompts, engine.generate(requests, SAMPLED), strict=True):
        naive = naive_logprobs(model, prompt, completion.ids, 0.8)
        torch.testing.assert_close(completion.logprobs, naive, atol=1e-4, rtol=1e-4)
    assert [(8, 79), (8, 47), (4, 15)] in cuts


def test_a_wrong_sliding_window_would_be_seen(tokenizer):
    """The window is short enough to matter: without it the tokens differ."""
    model = family_model("mistral", len(tokenizer))
    [[windowed]] = TorchEngine(model, tokenizer, eos_token_ids=()).generate(
        [Request("a", PROMPTS[1])], GREEDY
    )
    model.config.sliding_window = 100
    for layer in model.model.layers:
        layer.self_attn.config.sliding_window = 100
    assert own_greedy(model, PROMPTS[1], 20) != windowed.ids


def test_the_cache_grows_with_long_responses(llama, tokenizer):
    engine = TorchEngine(llama, tokenizer, max_rows=2, eos_token_ids=())
    params = SamplingParams(max_new_tokens=110, temperature=0)
    results = engine.generate([Request(str(i), p) for i, p in enumerate(PROMPTS[:3])], params)
    for prompt, [completion] in zip(PROMPTS, results, strict=False):
        assert completion.ids == own_greedy(llama, prompt, 110)


def test_reordered_weights_do_not_change_the_tokens(llama, tokenizer, monkeypatch):
    monkeypatch.setattr(linears, "_MIN_SIZE", 1)
    [[completion]] = TorchEngine(llama, tokenizer, eos_token_ids=()).generate(
        [Request("a", PROMPTS[1])], GREEDY
    )
    assert completion.ids == own_greedy(llama, PROMPTS[1], 20)


def test_early_eos_ends_rows_and_keeps_the_token(llama, tokenizer):
    free = own_greedy(llama, PROMPTS[0], 20)
    eos = free[4]
    stop_at = free.index(eos) + 1
    engine = TorchEngine(llama, tokenizer, max_rows=2, eos_token_ids=(eos,))
    results = engine.generate([Request(str(i), p) for i, p in enumerate(PROMPTS)], GREEDY)
    assert results[0][0].ids == free[:stop_at]
    assert results[0][0].finish_reason == "eos"
    for prompt, [completion] in zip(PROMPTS, results, strict=True):
        assert completion.ids == own_greedy(llama, prompt, 20, eos=eos)
        ended = completion.ids[-1] == eos
        assert completion.finish_reason == ("eos" if ended else "length")
        assert completion.finished == ended
        body = list(completion.ids[:-1] if ended else completion.ids)
        assert completion.text == tokenizer.decode(body, skip_special_tokens=True)


def test_eos_is_read_from_the_generation_config_and_the_tokenizer(llama, tokenizer):
    first = own_greedy(llama, PROMPTS[0], 1)[0]
    llama.generation_config.eos_token_id = [first, 1]
    [[completion]] = TorchEngine(llama, tokenizer).generate([Request("a", PROMPTS[0])], GREEDY)
    assert completion.ids == (first,)
    assert completion.finish_reason == "eos"
    assert completion.text == ""


@pytest.mark.parametrize("max_rows", [1, 2, 3, 7, 64])
def test_a_request_gets_the_same_tokens_whatever_shares_the_batch(max_rows, llama, tokenizer):
    eos = tuple(range(0, len(tokenizer), 9))  # responses of many lengths
    requests = [Request(str(i), p, n=1 + i, seed=40 + i) for i, p in enumerate(PROMPTS)]
    alone = [
        TorchEngine(llama, tokenizer, eos_token_ids=eos).generate([request], SAMPLED)[0]
        for request in requests
    ]
    together = TorchEngine(llama, tokenizer, max_rows=max_rows, eos_token_ids=eos)
    assert ids_of(together.generate(requests, SAMPLED)) == ids_of(alone)
    assert ids_of(together.generate(requests[::-1], SAMPLED)) == ids_of(alone[::-1])
    assert {len(c.ids) for row in alone for c in row} > {1, 10}


def test_samples_of_a_request_and_seeds_differ(llama, tokenizer):
    engine = TorchEngine(llama, tokenizer, eos_token_ids=())
    params = SamplingParams(max_new_tokens=12, temperature=2.0)
    [row] = engine.generate([Request("a", PROMPTS[0], n=16, seed=0)], params)
    [other] = engine.generate([Request("a", PROMPTS[0], n=16, seed=1)], params)
    assert len({c.ids for c in [*row, *other]}) == 32
    [fewer] = engine.generate([Request("b", PROMPTS[0], n=3, seed=0)], params)
    assert [c.ids for c in fewer] == [c.ids for c in row[:3]]


def test_stop_string_across_tokens_cuts_the_text_and_keeps_the_tokens(llama, tokenizer):
    engine = TorchEngine(llama, tokenizer, eos_token_ids=())
    request = Request("a", PROMPTS[1], n=24)
    [free] = engine.generate([request], SamplingParams(max_new_tokens=20, temperature=1.5))
    runs = [
        tokenizer.decode(list(c.ids[i : i + 3])) for c in free for i in range(2, len(c.ids) - 3)
    ]
    stop = next(run for run in runs if run.isascii() and run.isprintable() and len(run) >= 3)
    params = SamplingParams(max_new_tokens=20, temperature=1.5, stop=("never seen", stop))
    [stopped] = engine.generate([request], params)
    assert "stop" in {c.finish_reason for c in stopped}
    for before, after in zip(free, stopped, strict=True):
        assert after.text == before.text.split(stop)[0]
        assert after.ids == before.ids[: len(after.ids)]
        if after.finish_reason == "stop":
            assert stop in tokenizer.decode(list(after.ids))
            assert stop not in tokenizer.decode(list(after.ids[:-1]))
        else:
            assert stop not in before.text
            assert after.ids == before.ids


def test_progress_counts_every_sequence_once(llama, tokenizer):
    seen = []
    engine = TorchEngine(llama, tokenizer, max_rows=2)
    requests = [Request(str(i), p, n=2) for i, p in enumerate(PROMPTS)]
    engine.generate(requests, SAMPLED, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 8) for i in range(1, 9)]


def test_no_requests_give_no_results(llama, tokenizer):
    assert TorchEngine(llama, tokenizer).generate([], GREEDY) == []


def test_dropout_modes_gradients_and_random_state_are_left_as_they_were(tokenizer):
    model = family_model("gpt2", len(tokenizer))
    expected = own_greedy(model, PROMPTS[0], 20)
    model.train()
    model.transformer.h[0].attn.attn_dropout.eval()
    before = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    engine = TorchEngine(model, tokenizer, eos_token_ids=())
    [[greedy], _] = engine.generate([Request("a", PROMPTS[0]), Request("b", PROMPTS[1])], GREEDY)
    engine.generate([Request("a", PROMPTS[0])], SAMPLED)
    assert greedy.ids == expected
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert model.config._attn_implementation == "eager"
    model(input_ids=torch.tensor([PROMPTS[0]])).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_changed_weights_are_used_at_once(llama, tokenizer):
    engine = TorchEngine(llama, tokenizer, eos_token_ids=())
    [[before]] = engine.generate([Request("a", PROMPTS[0])], GREEDY)
    with torch.no_grad():
        llama.model.layers[0].mlp.down_proj.weight.data.mul_(-3)
    engine.sync_weights()
    [[after]] = engine.generate([Request("a", PROMPTS[0])], GREEDY)
    assert after.ids == own_greedy(llama, PROMPTS[0], 20) != before.ids


def test_peft_adapter_is_used_where_activate_says_so(llama, tokenizer):
    plain = own_greedy(llama, PROMPTS[0], 20)
    wrapped = get_peft_model(llama, LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    wrapped.eval()
    adapted = own_greedy(wrapped, PROMPTS[0], 20)
    wrapped.train()
    entered = []

    @contextmanager
    def without_adapter():
        entered.append(True)
        with wrapped.disable_adapter():
            yield

    def first(engine):
        return engine.generate([Request("a", PROMPTS[0])], GREEDY)[0][0].ids

    assert adapted != plain
    assert first(TorchEngine(wrapped, tokenizer, eos_token_ids=())) == adapted
    off = TorchEngine(wrapped, tokenizer, eos_token_ids=(), activate=without_adapter)
    assert first(off) == plain
    assert entered == [True]


@pytest.mark.parametrize(
    ("build", "reason"),
    [(alibi_model, "attention interface"), (state_space_model, "linear_attention|interface")],
)
def test_models_without_packed_passes_fall_back_visibly(build, reason, tokenizer):
    model = build(len(tokenizer))
    model.generation_config.eos_token_id = 7
    model.generation_config.repetition_penalty = 5.0  # must not leak into what is sampled
    engine = TorchEngine(model, tokenizer, max_rows=3, eos_token_ids=())
    requests = [Request(str(i), p, n=2, seed=3) for i, p in enumerate(PROMPTS)]
    with pytest.warns(UserWarning, match="Falling back"):
        results = engine.generate(requests, SAMPLED)
    assert re.search(reason, engine.fallback_reason)
    for prompt, row in zip(PROMPTS, results, strict=True):
        for completion in row:
            assert len(completion.ids) == 10
            naive = naive_logprobs(model, prompt, completion.ids, 0.8)
            torch.testing.assert_close(completion.logprobs, naive, atol=1e-4, rtol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns once
        [alone] = engine.generate(requests[1:2], SAMPLED)
    assert [c.ids for c in alone] == [c.ids for c in results[1]]
    assert model.generation_config.repetition_penalty == 5.0


def test_prompts_that_cannot_run_name_the_request_and_the_cure(llama, tokenizer):
    engine = TorchEngine(llama, tokenizer)
    long = Request("row 7", list(range(100)))
    with pytest.raises(DataError, match=r"'row 7'.*100 tokens.*29.*128.*lower max_new_tokens"):
        engine.generate([long], SamplingParams(max_new_tokens=29))
    assert len(engine.generate([long], SamplingParams(max_new_tokens=28))[0]) == 1
    with pytest.raises(DataError, match=r"'empty'.*no tokens"):
        engine.generate([Request("empty", [])], GREEDY)
    with pytest.raises(DataError, match=r"'odd'.*tokenizer"):
        engine.generate([Request("odd", [len(tokenizer)])], GREEDY)
    with pytest.raises(DataError, match=r"'none'.*n is 0"):
        engine.generate([Request("none", [1], n=0)], GREEDY)
    for bad in ({"temperature": -1.0}, {"top_p": 0.0}, {"min_p": 2.0}, {"max_new_tokens": 0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            engine.generate([long], SamplingParams(**bad))
