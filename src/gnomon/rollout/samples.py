"""The book-keeping every way of sampling shares: what each sample has so far, and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gnomon.rollout.protocol import Completion, FinishReason, Request, SamplingParams
from gnomon.rollout.sampling import draw, stream_keys, uniforms
from gnomon.rollout.text import StopText


@dataclass
class Sample:
    """One response in the making; ``key`` names its stream of random numbers."""

    key: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Collector:
    """Draws tokens for samples, ends them, and turns them into completions.

    Attributes:
        samples: for each request, its n samples.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        tokenizer: PreTrainedTokenizerBase,
        eos: frozenset[int],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.requests = requests
        self.params = params
        self.samples = [[Sample(key) for key in stream_keys(request)] for request in requests]
        self._eos = eos
        self._text = StopText(tokenizer, params.stop, eos)
        self._progress = progress
        self._total = sum(len(samples) for samples in self.samples)
        self._finished = 0

    def extend(self, samples: Sequence[Sample], logits: Tensor, rows: Sequence[int]) -> list[bool]:
        """Give each sample its next token, drawn from row ``rows[i]`` of ``logits`` [R, V].

        ``logits`` may be overwritten. Returns which samples are over.
        """
        u = uniforms([s.key for s in samples], [len(s.ids) for s in samples])
        tokens, logprobs = draw(
            logits, torch.tensor(rows, device=logits.device), u.to(logits.device), self.params
        )
        for sample, token, logprob in zip(samples, tokens.tolist(), logprobs.tolist(), strict=True):
            sample.ids.append(token)
            sample.logprobs.append(logprob)
            if token in self._eos:
                sample.finish_reason = "eos"
        open_ = [sample for sample in samples if sample.finish_reason is None]
        for sample, hit in zip(open_, self._text.matched([s.ids for s in open_]), strict=True):
            if hit:
                sample.finish_reason = "stop"
            elif len(sample.ids) == self.params.max_new_tokens:
                sample.finish_reason = "length"
        done = [sample.finish_reason is not None for sample in samples]
        for over in done:
            if over:
                self._finished += 1
                if self._progress is not None:
                    self._progress(self._finished, self._total)
        return done

    def completions(self) -> list[list[Completion]]:
        """The finished responses, by request."""
        return [[self._completion(sample) for sample in samples] for samples in self.samples]

    def _completion(self, sample: Sample) -> Completion:
        if sample.finish_reason is None:
            raise RuntimeError("a sample was left unfinished")
        return Completion(
            ids=tuple(sample.ids),
            logprobs=torch.tensor(sample.logprobs, dtype=torch.float32),
            finish_reason=sample.finish_reason,
            text=self._text.text(sample.ids),
        )
