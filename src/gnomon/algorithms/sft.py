"""Supervised fine-tuning: cross-entropy on the assistant's tokens, and on nothing else."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from gnomon.algorithms.base import (
    Evaluation,
    LossOutput,
    Offline,
    Settings,
    Totals,
    mean_metric,
    token_weight,
)
from gnomon.data.batch import Batch
from gnomon.losses.sft import negative_log_likelihood


class SFTSettings(Settings):
    """Settings of supervised fine-tuning."""

    pretraining_coef: float = Field(
        0.0, ge=0, description="weight of the loss on mixed-in pretraining text"
    )
    pretraining_batch: int = Field(8, ge=1, description="pretraining documents per step")


class SFT(Offline):
    """Minimise -log p(demonstration | prompt), averaged over the step's assistant tokens."""

    name: ClassVar[str] = "sft"
    summary: ClassVar[str] = "supervised fine-tuning on demonstrations"
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
