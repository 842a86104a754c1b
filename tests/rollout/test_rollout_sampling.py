"""What the sampler draws: exact supports, frequencies, and streams of random numbers."""

from __future__ import annotations

import pytest
import torch
from rollout_zoo import next_distribution
from scipy import stats
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gnomon.errors import ConfigError, EngineError
from gnomon.rollout import Request, SamplingParams, TorchEngine
from gnomon.rollout.sampling import check_params, draw, stream_keys, uniforms

PROMPT = [5, 9, 33]


def truncated(probabilities: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """The distribution transformers' own warpers leave of ``probabilities`` [V]."""
    warpers = LogitsProcessorList()
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        warpers.append(MinPLogitsWarper(params.min_p))
    scores = warpers(torch.zeros(1, 1, dtype=torch.long), probabilities.log()[None])
    return scores[0].softmax(-1)


def chi_square_p(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """p-value of the counts under the probabilities; rare outcomes are pooled."""
    expected = probabilities * counts.sum()
    common = expected >= 5
    observed = [*counts[common].tolist(), float(counts[~common].sum())]
    wanted = [*expected[common].tolist(), float(expected[~common].sum())]
    if wanted[-1] < 5:
        observed[-2:] = [sum(observed[-2:])]
        wanted[-2:] = [sum(wanted[-2:])]
    scale = sum(observed) / sum(wanted)
    return float(stats.chisquare(observed, [w * scale for w in wanted]).pvalue)


SETTINGS = [
    {},
    {"top_k": 12},
    {"top_p": 0.8},
    {"min_p": 0.05},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.02},
    {"top_p": 1e-6},
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_first_tokens_follow_the_truncated_softmax_exactly(setting, llama, tokenizer):
    params = SamplingParams(max_new_tokens=1, temperature=1.7, **setting)
    engine = TorchEngine(llama, tokenizer, eos_token_ids=(), max_rows=1000)
    [row] = engine.generate([Request("a", PROMPT, n=3000, seed=5)], params)
    counts = torch.bincount(torch.tensor([c.ids[0] for c in row]), minlength=len(tokenizer))
    expected = truncated(next_distribution(llama, PROMPT, 1.7), params)
    assert not counts[expected == 0].any()
    if int((expected > 0).sum()) == 1:
        assert counts[expected > 0].item() == 3000
    else:
        assert chi_square_p(counts, expected) > 1e-3
        # The check can fail: the same counts do not fit another temperature.
        assert chi_square_p(counts, truncated(next_distribution(llama, PROMPT, 0.9), params)) < 1e-4


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("vocabulary", [7, 256, 1301])
def test_every_kept_token_and_no_other_can_be_drawn(setting, vocabulary):
    """Sweep u over [0, 1): the draws cover each kept token in proportion to its mass."""
    logits = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 1.5
    params = SamplingParams(temperature=1.0, **setting)
    grid = 6000
    for row in range(3):
        rows = torch.full((grid + 2,), row)
        u = torch.cat([torch.arange(grid).double() / grid, torch.tensor([0.0, 1 - 2.0**-53])])
        tokens, logprobs = draw(logits.clone(), rows, u, params)
        exact = logits[row].log_softmax(-1)
        torch.testing.assert_close(logprobs, exact[tokens], atol=1e-5, rtol=1e-5)
        expected = truncated(exact.double().exp(), params)
        share = torch.bincount(tokens[:grid], minlength=vocabulary) / grid
        assert set(tokens.tolist()) <= set(expected.nonzero()[:, 0].tolist())
        torch.testing.assert_close(share.double(), expected, atol=1.01 / grid + 1e-6, rtol=0)


def test_huge_logits_and_masked_tokens_are_harmless():
    logits = torch.full((1, 600), float("-inf"))
    logits[0, [3, 599]] = 1e30
    u = torch.tensor([0.0, 0.49, 0.51, 1 - 2.0**-53])
    rows = torch.zeros(4, dtype=torch.long)
    tokens, logprobs = draw(logits, rows, u.double(), SamplingParams(temperature=0.1))
    assert tokens.tolist() == [3, 3, 599, 599]
    torch.testing.assert_close(logprobs, torch.full((4,), -0.6931472))


def test_half_precision_logits_are_not_overwritten():
    logits = torch.randn(2, 50).bfloat16()
    before = logits.clone()
    draw(logits, torch.tensor([0, 1]), torch.tensor([0.3, 0.7]).double(), SamplingParams())
    assert torch.equal(logits, before)


def test_streams_are_uniform_and_unrelated():
    keys = [k for seed in range(20) for k in stream_keys(Request("a", PROMPT, n=50, seed=seed))]
    assert len(set(keys)) == 1000
    table = torch.stack([uniforms(keys, [step] * 1000) for step in range(20)])
    assert float(table.min()) >= 0
    assert float(table.max()) < 1
    assert stats.kstest(table.flatten().numpy(), "uniform").pvalue > 1e-3
    for other in (table.roll(1, 0), table.roll(1, 1)):  # the next step, the next sample
        correlation = torch.corrcoef(torch.stack([table.flatten(), other.flatten()]))[0, 1]
        assert abs(float(correlation)) < 4 / 20000**0.5
    same_seed = [stream_keys(Request("a", prompt, seed=0))[0] for prompt in ([1, 2], [2, 1], [1])]
    assert len(set(same_seed)) == 3
    assert stream_keys(Request("x", PROMPT, seed=-1)) != stream_keys(Request("x", PROMPT, seed=1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("setting", [{}, {"temperature": 0}, {"top_p": 0.9}, {"top_k": 3}])
def test_scores_that_are_not_finite_are_named(bad, setting):
    """A diverged policy: the search for a token would run off the end of the vocabulary."""
    logits = torch.randn(2, 300)
    logits[1, 7] = bad
    u = torch.tensor([0.3, 0.7]).double()
    with pytest.raises(EngineError, match="scores are not finite"):
        draw(logits, torch.tensor([0, 1]), u, SamplingParams(**setting))
    masked = torch.randn(2, 300)
    masked[:, 50:] = float("-inf")  # a masked token is no error
    tokens, logprobs = draw(masked, torch.tensor([0, 1]), u, SamplingParams(**setting))
    assert int(tokens.max()) < 50
    assert bool(logprobs.isfinite().all())


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 1e-9}, "use 0 .greedy., or 0.0001 or more"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"min_p": float("nan")}, "min_p is nan"),
        ({"stop": ("\ud83d",)}, "half of a surrogate pair"),
    ],
)
def test_settings_that_make_no_distribution_are_named(setting, said):
    with pytest.raises(ConfigError, match=said):
        check_params(SamplingParams(**setting))
