"""An iteration's rollouts as a checkpoint can hold them: JSON and a few tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from gnomon.algorithms.rollouts import EncodedPrompt, Rollout
from gnomon.records import Comparison, Cost, Judgement, Score
from gnomon.rollout.protocol import Completion

STORED = {
    "Rollout": ("prompt", "completions", "judgement", "observed"),
    "Completion": ("ids", "logprobs", "finish_reason", "text"),
    "Judgement": (
        *("judge", "scores", "comparisons", "version", "cost", "reason", "error", "principle"),
    ),
    "Score": ("value", "parts", "error"),
}
"""The fields that are stored here; a test checks that they are all there are."""


def pack_rollouts(rollouts: Sequence[Rollout], prompts: Sequence[EncodedPrompt]) -> dict[str, Any]:
    """Rollouts of some of ``prompts``."""
    place = {id(prompt): i for i, prompt in enumerate(prompts)}
    completions = [c for r in rollouts for c in r.completions]
    return {
        "prompts": [place[id(r.prompt)] for r in rollouts],
        "counts": [len(r.completions) for r in rollouts],
        "lengths": [len(c.ids) for c in completions],
        "ids": torch.tensor([i for c in completions for i in c.ids], dtype=torch.int64),
        "logprobs": torch.cat([torch.zeros(0), *(c.logprobs.float().cpu() for c in completions)]),
        "finish": [c.finish_reason for c in completions],
        "texts": [c.text for c in completions],
        "judgements": [asdict(r.judgement) for r in rollouts],
        "observed": [{name: asdict(j) for name, j in r.observed.items()} for r in rollouts],
    }


def unpack_rollouts(state: Mapping[str, Any], prompts: Sequence[EncodedPrompt]) -> list[Rollout]:
    """The inverse of :func:`pack_rollouts`, bit for bit."""
    ids = torch.split(state["ids"], state["lengths"])
    logprobs = torch.split(state["logprobs"], state["lengths"])
    completions = [
        Completion(tuple(i.tolist()), lp.clone(), finish, text)
        for i, lp, finish, text in zip(ids, logprobs, state["finish"], state["texts"], strict=True)
    ]
    out: list[Rollout] = []
    at = 0
    for prompt, count, judgement, observed in zip(
        state["prompts"], state["counts"], state["judgements"], state["observed"], strict=True
    ):
        out.append(
            Rollout(
                prompts[prompt],
                completions[at : at + count],
                _judgement(judgement),
                {name: _judgement(one) for name, one in observed.items()},
            )
        )
        at += count
    return out


def _judgement(packed: Mapping[str, Any]) -> Judgement:
    compared = packed["comparisons"]
    comparisons = None if compared is None else tuple(Comparison(**c) for c in compared)
    scores = tuple(Score(**s) for s in packed["scores"])
    cost = Cost(**packed["cost"])
    return Judgement(**{**packed, "scores": scores, "comparisons": comparisons, "cost": cost})
