"""Sampling through transformers' own generation loop, for models packed passes cannot drive.

The loop keeps whatever cache the family needs (state-space, ALiBi, hybrid); gnomon only chooses
the tokens, so seeds, truncation and log-probs are the same as in the packed engine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from gnomon.rollout.sampling import Collector, Draft


class _Chooser(LogitsProcessor):  # type: ignore[misc]
    """Draws each row's token itself and leaves the loop's greedy search no other choice."""

    def __init__(self, collector: Collector, samples: list[Draft]) -> None:
        self._collector = collector
        self._samples = samples

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        live = [i for i, s in enumerate(self._samples) if s.finish_reason is None]
        self._collector.extend([self._samples[i] for i in live], scores.clone(), live)
        chosen = torch.tensor([s.ids[-1] for s in self._samples], device=scores.device)
        forced = torch.full_like(scores, float("-inf"))
        return forced.scatter_(1, chosen[:, None], 0.0)


class _AllDone(StoppingCriteria):  # type: ignore[misc]
    """Ends the loop once every sample of the batch is over."""

    def __init__(self, samples: list[Draft]) -> None:
        self._samples = samples

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        over = all(sample.finish_reason is not None for sample in self._samples)
        return torch.full((len(input_ids),), over, device=input_ids.device)


@contextmanager
def _generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Hide the model's own generation defaults: ``generate`` would fill ``config`` up from them."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own


def generate_bucketed(model: PreTrainedModel, collector: Collector, max_rows: int) -> None:
    """Finish every sample of ``collector``, in batches of prompts of equal length.

    Equal lengths need no padding, which recurrent states and ALiBi would not forgive.
    """
    buckets: defaultdict[int, list[tuple[list[int], Draft]]] = defaultdict(list)
    for request, samples in zip(collector.requests, collector.samples, strict=True):
        prompt = list(request.prompt_ids)
        buckets[len(prompt)].extend((prompt, sample) for sample in samples)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=collector.params.max_new_tokens,
        pad_token_id=0,
    )
    device = model.get_input_embeddings().weight.device
    for bucket in buckets.values():
        for start in range(0, len(bucket), max_rows):
            batch = bucket[start : start + max_rows]
            ids = torch.tensor([prompt for prompt, _ in batch], device=device)
            rows = [sample for _, sample in batch]
            with _generation_config(model, config):
                model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=config,
                    logits_processor=LogitsProcessorList([_Chooser(collector, rows)]),
                    stopping_criteria=StoppingCriteriaList([_AllDone(rows)]),
                )
