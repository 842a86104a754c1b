"""From logits to finished responses: counter-based randomness, truncation, one inverse-CDF draw per
row, stop strings, and the bookkeeping of samples that every engine shares.

Randomness is a pure function of (request, sample number, step): a row draws the same uniform
number whichever rows share its batch, and torch's own generators are never touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gnomon.errors import ConfigError, DataError, EngineError
from gnomon.rollout.protocol import Completion, FinishReason, Progress, Request, SamplingParams

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the odd increment of SplitMix64
_WORD = (1 << 64) - 1
_BLOCK = 256  # vocabulary entries per block of the two-level inverse CDF
_FIRST_WIDTH = 1024  # candidates tried first for top-p before a wider search
_COLDEST = 1e-4  # a temperature below it divides logits into infinities
_BELOW_ONE = 1.0 - 1e-12  # keeps a rounded target strictly inside the cumulative mass

Words = npt.NDArray[np.uint64]
Follow = Callable[[Sequence[int]], None]
"""Called with a sample's ids after each of its tokens."""


def _mix(z: Words) -> Words:
    """The SplitMix64 finaliser (Steele, Lea & Flood 2014): a bijection that scrambles 64 bits."""
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def stream_keys(request: Request) -> list[int]:
    """One 64-bit key for each of ``request.n`` samples, from its seed and its prompt.

    The prompt is mixed in so that requests left at the same seed draw unrelated numbers.
    """
    with np.errstate(over="ignore"):
        ids = np.asarray(request.prompt_ids, dtype=np.uint64)
        places = np.arange(1, ids.size + 1, dtype=np.uint64) * _GAMMA
        prompt = np.bitwise_xor.reduce(_mix(_mix(places) + ids))
        root = _mix(_mix(np.array([request.seed & _WORD], dtype=np.uint64)) + prompt)
        samples = np.arange(1, request.n + 1, dtype=np.uint64) + np.uint64(request.first)
        return [int(key) for key in _mix(root + _mix(samples * _GAMMA))]


def uniforms(keys: Sequence[int], steps: Sequence[int]) -> Tensor:
    """[S] float64 numbers in [0, 1): number ``steps[i]`` of the stream ``keys[i]``."""
    with np.errstate(over="ignore"):
        counters = (np.asarray(steps, dtype=np.uint64) + np.uint64(1)) * _GAMMA
        words = _mix(np.asarray(keys, dtype=np.uint64) + counters)
    return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def check_params(params: SamplingParams) -> None:
    """Raise ConfigError for settings no distribution can be made from."""
    checks = (
        (params.max_new_tokens >= 1, f"max_new_tokens is {params.max_new_tokens}; use 1 or more"),
        (
            params.temperature == 0 or _COLDEST <= params.temperature < math.inf,
            f"temperature is {params.temperature}; use 0 (greedy), or {_COLDEST} or more",
        ),
        (0 < params.top_p <= 1, f"top_p is {params.top_p}; use 1.0 to switch it off"),
        (params.top_k >= 0, f"top_k is {params.top_k}; use 0 to switch it off"),
        (0 <= params.min_p <= 1, f"min_p is {params.min_p}; use 0.0 to switch it off"),
        (all(params.stop), "stop holds an empty string; remove it"),
        (
            all(_is_text(s) for s in params.stop),
            "stop holds half of a surrogate pair, which no text contains; write the character",
        ),
    )
    for good, message in checks:
        if not good:
            raise ConfigError(f"sampling: {message}")


def _is_text(string: str) -> bool:
    """Whether it can be written as UTF-8, which half a surrogate pair cannot."""
    return not any("\ud800" <= c <= "\udfff" for c in string)


def check_probe(probe: Sequence[int], vocabulary: int, window: int) -> None:
    """Raise DataError for ids that a model of this vocabulary and window cannot score.

    One token of the window stays free, since some engines score only while they sample.
    """
    if not 2 <= len(probe) < window:
        raise DataError(
            f"a probe of {len(probe)} tokens: send 2 or more, and fewer than the window's {window}"
        )
    if min(probe) < 0 or max(probe) >= vocabulary:
        raise DataError(f"the probe's ids must be in 0..{vocabulary - 1}")


def check_request(
    request: Request, params: SamplingParams, vocabulary: int, window: int | None
) -> None:
    """Raise DataError for a request that a model of this vocabulary and window cannot answer."""
    ids, where = request.prompt_ids, f"request {request.id!r}"
    if request.n < 1:
        raise DataError(f"{where}: n is {request.n}; ask for 1 or more samples")
    if len(ids) == 0:
        raise DataError(f"{where}: the prompt has no tokens; drop the row or add a BOS token")
    if min(ids) < 0 or max(ids) >= vocabulary:
        raise DataError(
            f"{where}: prompt ids must be in 0..{vocabulary - 1}; "
            "encode it with the tokenizer of this model"
        )
    if window is not None and len(ids) + params.max_new_tokens > window:
        raise DataError(
            f"{where}: a prompt of {len(ids)} tokens and max_new_tokens "
            f"{params.max_new_tokens} do not fit the model's window of {window} tokens; "
            "shorten or drop the prompt, or lower max_new_tokens"
        )


def draw(
    logits: Tensor, rows: Tensor, u: Tensor, params: SamplingParams, ask: bool = True
) -> tuple[Tensor, Tensor]:
    """Draw one token for each of S samples.

    Args:
        logits: [R, V] scores; overwritten when they are float32.
        rows: [S] which row of ``logits`` each sample draws from (samples of a prompt share one).
        u: [S] uniform numbers in [0, 1), float64; unused when greedy.
        params: temperature and truncation.
        ask: look at numbers on the way. Without it the host never waits for the device: scores
            that are not finite give a log-prob that is not, and top-p sorts the whole vocabulary.

    Returns:
        ([S] token ids, [S] float32 log-probabilities in nats under softmax(logits / temperature),
        before truncation).

    Raises:
        EngineError: scores that are NaN or infinite, from which nothing can be drawn.
    """
    weights = logits.float()
    if params.temperature == 0:
        best, tokens = weights.max(dim=-1)
        total = _block_sums(weights.sub_(best[:, None]).exp_()).sum(dim=-1)
        if ask:
            check_finite(total)
        return tokens[rows], -total.log().float()[rows]
    if params.temperature != 1:
        weights.div_(params.temperature)
    weights.sub_(weights.amax(dim=-1, keepdim=True)).exp_()
    sums = _block_sums(weights)
    total = sums.sum(dim=-1)
    if ask:
        check_finite(total)
    if params.top_k or params.top_p < 1:
        values, tokens_of = _candidates(weights, total, params, ask)
        tokens = tokens_of[rows].gather(1, _invert(values.double()[rows], u)[:, None])[:, 0]
        chosen = weights[rows, tokens]
    else:
        kept = weights
        if params.min_p:  # the most likely token weighs exactly 1
            kept = weights.where(weights >= params.min_p, 0.0)
            sums = _block_sums(kept)
        tokens = _invert_blocks(kept, sums, rows, u)
        chosen = weights[rows, tokens]
    return tokens, (chosen.double().log() - total[rows].log()).float()


def check_finite(total: Tensor) -> None:
    """Raise EngineError for sums of weights, or log-probs, that are not numbers."""
    if not bool(total.isfinite().all()):  # NaN where a score is NaN or +infinity, or all are -inf
        raise EngineError(
            "the policy's scores are not finite numbers, so no token can be drawn: its weights "
            "hold NaN or infinity, or its dtype is too small for them. Lower the learning rate "
            "and resume from an earlier checkpoint."
        )


def _block_sums(weights: Tensor) -> Tensor:
    """[R, ceil(V / block)] float64 sums of ``weights`` [R, V] over blocks of the vocabulary."""
    whole = weights.shape[1] // _BLOCK * _BLOCK
    blocks = weights[:, :whole].view(len(weights), -1, _BLOCK)
    parts = [blocks.sum(dim=-1)] if whole else []
    if whole < weights.shape[1]:
        parts.append(weights[:, whole:].sum(dim=-1, keepdim=True))
    return torch.cat(parts, dim=1).double()


def _invert(mass: Tensor, u: Tensor) -> Tensor:
    """[S] index of the entry of ``mass`` [S, K] at which the cumulative mass passes u.

    An entry without mass is never chosen: the first entry whose cumulative mass exceeds the
    target always has some. Where the mass is not a number the last entry is, which is no
    distribution's, but an index.
    """
    cumulative = mass.cumsum(dim=-1)
    target = (u.clamp(max=_BELOW_ONE) * cumulative[:, -1])[:, None]
    found = torch.searchsorted(cumulative, target, right=True)[:, 0]
    return found.clamp_(max=mass.shape[1] - 1)


def _invert_blocks(weights: Tensor, sums: Tensor, rows: Tensor, u: Tensor) -> Tensor:
    """[S] token drawn from ``weights`` [R, V] by finding first its block, then its place in it."""
    mass = sums[rows]
    block = _invert(mass, u)
    here = mass.gather(1, block[:, None])[:, 0]
    before = mass.cumsum(dim=-1).gather(1, block[:, None])[:, 0] - here
    inside_u = ((u * mass.sum(dim=-1) - before) / here).clamp(0.0, _BELOW_ONE)
    tokens = block[:, None] * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    vocabulary = weights.shape[1]
    inside = weights[rows[:, None], tokens.clamp(max=vocabulary - 1)].double()
    inside = inside.where(tokens < vocabulary, 0.0)
    return (block * _BLOCK + _invert(inside, inside_u)).clamp_(max=vocabulary - 1)


def _candidates(
    weights: Tensor, total: Tensor, params: SamplingParams, ask: bool
) -> tuple[Tensor, Tensor]:
    """The heaviest entries of each row after top-k, top-p and min-p: [R, K] weights and tokens.

    Dropped entries weigh 0. Top-p alone needs no full sort: the search widens only until the
    candidates of every row hold the asked-for mass.
    """
    vocabulary = weights.shape[1]
    width = min(params.top_k or (_FIRST_WIDTH if ask else vocabulary), vocabulary)
    values, tokens = weights.topk(width, dim=-1)
    while not params.top_k and width < vocabulary:
        if bool((values.sum(dim=-1, dtype=torch.float64) >= params.top_p * total).all()):
            break
        width = min(width * 8, vocabulary)
        values, tokens = weights.topk(width, dim=-1)
    if params.top_p < 1:
        cumulative = values.double().cumsum(dim=-1)
        whole = cumulative[:, -1:] if params.top_k else total[:, None]
        values = values.where(cumulative - values < params.top_p * whole, 0.0)
    if params.min_p:
        values = values.where(values >= params.min_p * values[:, :1], 0.0)
    return values, tokens


class StopText:
    """Decodes responses and watches for stop strings, which may span any number of tokens.

    While a row grows only its tail is decoded: as many tokens as the longest stop string has
    bytes (each token of it holds at least one), and a few more so that a character cut at the
    window's edge cannot hide a match. A match in the tail is confirmed on the whole text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], eos: frozenset[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._eos = eos
        self._window = max((len(s.encode()) for s in self._stop), default=0) + 4
        # A stop string that names a special token can only be seen when those are spelt out.
        self._specials = tuple(str(token) for token in tokenizer.all_special_tokens)
        self._spell = any(token in s for s in self._stop for token in self._specials)

    @property
    def spells(self) -> bool:
        """Whether special tokens must be written out for a stop string to be seen."""
        return self._spell

    def matched(self, responses: Sequence[Sequence[int]]) -> list[bool]:
        """For each growing response, whether a stop string is now complete in it."""
        if not self._stop or not responses:
            return [False] * len(responses)
        tails = self._decode([ids[-self._window :] for ids in responses])
        found = [self._first(tail) is not None for tail in tails]
        return [
            hit and self._first(self._decode([ids])[0]) is not None
            for hit, ids in zip(found, responses, strict=True)
        ]

    def text(self, ids: Sequence[int]) -> str:
        """The response's text up to the first stop string, without EOS and special tokens."""
        body = ids[:-1] if ids and ids[-1] in self._eos else ids
        text = self._decode([body])[0]
        cut = self._first(text)
        text = text if cut is None else text[:cut]
        if self._spell:
            for token in self._specials:
                text = text.replace(token, "")
        return text

    def _first(self, text: str) -> int | None:
        places = [place for s in self._stop if (place := text.find(s)) >= 0]
        return min(places, default=None)

    def _decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        texts = self._tokenizer.batch_decode(
            [list(ids) for ids in sequences],
            skip_special_tokens=not self._spell,
            clean_up_tokenization_spaces=False,
        )
        return list(texts)


@dataclass
class Draft:
    """One response in the making; ``key`` names its stream of random numbers."""

    key: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Collector:
    """Draws tokens for samples, ends them, and turns them into completions.

    Attributes:
        samples: for each request, its n samples.
        eos: tokens that end one.
        follow: called with a sample's ids after each of its tokens.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        tokenizer: PreTrainedTokenizerBase,
        eos: frozenset[int],
        progress: Progress | None,
        follow: Follow | None = None,
    ) -> None:
        self.requests = requests
        self.params = params
        self.samples = [[Draft(key) for key in stream_keys(request)] for request in requests]
        self.eos = eos
        self.follow = follow
        self._text = StopText(tokenizer, params.stop, eos)
        self._progress = progress
        self._total = sum(len(samples) for samples in self.samples)
        self._finished = 0

    def extend(self, samples: Sequence[Draft], logits: Tensor, rows: Sequence[int]) -> list[bool]:
        """Give each sample its next token, drawn from row ``rows[i]`` of ``logits`` [R, V].

        ``logits`` may be overwritten. Returns which samples are over.
        """
        u = uniforms([s.key for s in samples], [len(s.ids) for s in samples])
        tokens, logprobs = draw(
            logits, torch.tensor(rows, device=logits.device), u.to(logits.device), self.params
        )
        return self.take(samples, tokens.tolist(), logprobs.tolist())

    def take(
        self, samples: Sequence[Draft], tokens: Sequence[int], logprobs: Sequence[float]
    ) -> list[bool]:
        """Give each sample its next token, which was drawn elsewhere. Returns which are over."""
        for sample, token, logprob in zip(samples, tokens, logprobs, strict=True):
            sample.ids.append(token)
            sample.logprobs.append(logprob)
            if token in self.eos:
                sample.finish_reason = "eos"
        open_ = [sample for sample in samples if sample.finish_reason is None]
        for sample, hit in zip(open_, self._text.matched([s.ids for s in open_]), strict=True):
            if hit:
                sample.finish_reason = "stop"
            elif len(sample.ids) == self.params.max_new_tokens:
                sample.finish_reason = "length"
        done = [sample.finish_reason is not None for sample in samples]
        if self.follow is not None:
            for sample in samples:
                self.follow(sample.ids)
        for over in done:
            if over:
                self._finished += 1
                if self._progress is not None:
                    self._progress(self._finished, self._total)
        return done

    def completions(self) -> list[list[Completion]]:
        """The finished responses, by request."""
        return [[self._completion(sample) for sample in samples] for samples in self.samples]

    def _completion(self, sample: Draft) -> Completion:
        if sample.finish_reason is None:
            raise RuntimeError("a sample was left unfinished")
        return Completion(
            ids=tuple(sample.ids),
            logprobs=torch.tensor(sample.logprobs, dtype=torch.float32),
            finish_reason=sample.finish_reason,
            text=self._text.text(sample.ids),
        )
