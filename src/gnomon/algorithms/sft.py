"""Supervised fine-tuning: cross-entropy on the assistant's tokens, and on nothing else."""

from __future__ import annotations

from typing import ClassVar

import torch

from gnomon.algorithms.base import (
    Evaluation,
    LossOutput,
    Offline,
    Settings,
    Totals,
    mean_metric,
    token_weight,
)
from gnomon.algorithms.offline_settings import SFTSettings
from gnomon.data.batch import Batch
from gnomon.losses.sft import negative_log_likelihood


class SFT(Offline):
    """Minimise -log p(demonstration | prompt), averaged over the step's assistant tokens."""

    name: ClassVar[str] = "sft"
    Settings: ClassVar[type[Settings]] = SFTSettings
    data: ClassVar = "demonstrations"
    needs: ClassVar[tuple[str, ...]] = ("policy",)

    def loss(self, batch: Batch, totals: Totals) -> LossOutput:
        logprobs = self.roles["policy"].logprobs(batch).logprobs
        nll = negative_log_likelihood(logprobs)
        weight = token_weight(batch)
        return LossOutput((nll * weight).sum() / totals.tokens, {"nll": mean_metric(nll, weight)})

    @torch.no_grad()
    def evaluate(self, iteration: int, final: bool) -> Evaluation:
        nats, tokens = 0.0, 0.0
        for batch in self.batches(self.ingredients.eval_groups):
            logprobs = self.roles["policy"].logprobs(batch).logprobs
            nats -= float((logprobs * batch.response_mask).sum())
            tokens += float(batch.response_mask.sum())
        if not tokens:
            return Evaluation()
        loss = nats / tokens
        return Evaluation({"eval/loss": loss}, {"held-out loss (nats per token)": loss})
