"""Supervised fine-tuning: cross-entropy on the assistant's tokens, and on nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from gnomon.algorithms.base import (
    SUPERVISED_LR,
    Algorithm,
    Evaluation,
    LossOutput,
    Settings,
    Step,
    token_weight,
)
from gnomon.algorithms.metric import MetricSums, mean
from gnomon.algorithms.offline_settings import SFTSettings
from gnomon.data.batch import Batch
from gnomon.losses.sft import negative_log_likelihood
from gnomon.records import TokenGroup


class SFT(Algorithm):
    """Minimise -log p(demonstration | prompt), averaged over the step's assistant tokens."""

    Settings: ClassVar[type[Settings]] = SFTSettings
    data: ClassVar = "demonstrations"
    base_lr: ClassVar[float | None] = SUPERVISED_LR
    metrics: ClassVar[tuple[str, ...]] = ("nll",)

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        nll = negative_log_likelihood(self.roles["policy"].logprobs(batch).logprobs)
        weight = token_weight(batch)
        return LossOutput((nll * weight).sum() / step.totals.tokens, {"nll": mean(nll, weight)})

    @torch.no_grad()
    def evaluate(self, groups: Sequence[TokenGroup]) -> Evaluation:
        """The loss on held-out demonstrations, weighed as in training."""
        sums = MetricSums()
        for batch in self.bench.batches(groups):
            logprobs = self.roles["policy"].logprobs(batch).logprobs
            nll = negative_log_likelihood(logprobs)
            sums.add({"loss": mean(nll, token_weight(batch))})
        loss = sums.values().get("loss")
        if loss is None:
            return Evaluation()
        return Evaluation({"eval/loss": loss}, {"held-out loss (nats per token)": loss})
