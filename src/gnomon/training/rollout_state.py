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
    return {
        "prompts": [place[id(r.prompt)] for r in rollouts],
        **pack_completions([r.completions for r in rollouts]),
        "judgements": [asdict(r.judgement) for r in rollouts],
        "observed": [{name: asdict(j) for name, j in r.observed.items()} for r in rollouts],
    }


def unpack_rollouts(state: Mapping[str, Any], prompts: Sequence[EncodedPrompt]) -> list[Rollout]:
    """The inverse of :func:`pack_rollouts`, bit for bit."""
    rows = unpack_completions(state)
    return [
        Rollout(
            prompts[prompt],
            row,
            _judgement(judgement),
            {name: _judgement(one) for name, one in observed.items()},
        )
        for prompt, row, judgement, observed in zip(
            state["prompts"], rows, state["judgements"], state["observed"], strict=True
        )
    ]


def pack_completions(rows: Sequence[Sequence[Completion]]) -> dict[str, Any]:
    """Completions of each of several prompts."""
    completions = [c for row in rows for c in row]
    return {
        "counts": [len(row) for row in rows],
        "lengths": [len(c.ids) for c in completions],
        "ids": torch.tensor([i for c in completions for i in c.ids], dtype=torch.int64),
        "logprobs": torch.cat([torch.zeros(0), *(c.logprobs.float().cpu() for c in completions)]),
        "finish": [c.finish_reason for c in completions],
        "texts": [c.text for c in completions],
    }


def unpack_completions(state: Mapping[str, Any]) -> list[list[Completion]]:
    """The inverse of :func:`pack_completions`, bit for bit."""
    ids = torch.split(state["ids"], state["lengths"])
    logprobs = torch.split(state["logprobs"], state["lengths"])
    each = iter(
        [
            Completion(tuple(i.tolist()), lp.clone(), finish, text)
            for i, lp, finish, text in zip(
                ids, logprobs, state["finish"], state["texts"], strict=True
            )
        ]
    )
    return [[next(each) for _ in range(count)] for count in state["counts"]]


def _judgement(packed: Mapping[str, Any]) -> Judgement:
    compared = packed["comparisons"]
    comparisons = None if compared is None else tuple(Comparison(**c) for c in compared)
    scores = tuple(Score(**s) for s in packed["scores"])
    cost = Cost(**packed["cost"])
    return Judgement(**{**packed, "scores": scores, "comparisons": comparisons, "cost": cost})
