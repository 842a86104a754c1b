"""An iteration's rollouts as a checkpoint can hold them: JSON and a few tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from gnomon.algorithms.base import EncodedPrompt
from gnomon.algorithms.rollouts import Rollout
from gnomon.records import Comparison, Score
from gnomon.rollout.protocol import Completion

STORED = {
    "Rollout": ("prompt", "completions", "scores", "observed", "comparisons"),
    "Completion": ("ids", "logprobs", "finish_reason", "text"),
    "Score": ("value", "parts", "error"),
}
"""The fields that are stored here; a test sees to it that there are no others."""


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
        "scores": [[asdict(s) for s in r.scores] for r in rollouts],
        "observed": [
            {name: [asdict(s) for s in scores] for name, scores in r.observed.items()}
            for r in rollouts
        ],
        "comparisons": [
            None if r.comparisons is None else [asdict(c) for c in r.comparisons] for r in rollouts
        ],
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
    compared = state.get("comparisons", [None] * len(state["prompts"]))  # older: none
    columns = (state["prompts"], state["counts"], state["scores"], state["observed"], compared)
    for prompt, count, scores, observed, comparisons in zip(*columns, strict=True):
        out.append(
            Rollout(
                prompts[prompt],
                completions[at : at + count],
                [Score(**s) for s in scores],
                {name: [Score(**s) for s in values] for name, values in observed.items()},
                None if comparisons is None else [Comparison(**c) for c in comparisons],
            )
        )
        at += count
    return out
