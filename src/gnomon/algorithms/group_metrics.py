"""What an iteration's groups say of the policy: right answers, pass@k, lengths, spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from gnomon.algorithms.episodes import written
from gnomon.algorithms.rollouts import Rollout
from gnomon.stats.prompts import pass_at_k

CORRECT = "correct"
"""The observer (or part of a reward) whose values above 0.5 count as right answers."""


def right_answers(rollouts: Sequence[Rollout]) -> list[list[bool | None]] | None:
    """For each response of each group whether it is right (None: it could not be judged).

    What says so is the observer ``correct``, else the reward's part ``correct``, else the reward
    itself if it gave nothing but 0 and 1. None where nothing says so.
    """
    if all(CORRECT in r.observed for r in rollouts):
        values = [[s.value for s in r.observed[CORRECT]] for r in rollouts]
    elif any(CORRECT in s.parts for r in rollouts for s in r.scores):
        values = [[s.parts.get(CORRECT) for s in r.scores] for r in rollouts]
    else:
        values = [[s.value for s in r.scores] for r in rollouts]
        if not {v for row in values for v in row if v is not None} <= {0.0, 1.0}:
            return None
    return [[None if v is None else v > 0.5 for v in row] for row in values]


def no_signal(rollouts: Sequence[Rollout], *, within_groups: bool) -> str | None:
    """Why an iteration's rewards teach nothing, in words; None where they teach something.

    Args:
        within_groups: only differences between responses to the same prompt count.
    """
    rewards = [[s.value for s in r.scores if s.value is not None] for r in rollouts]
    values = [v for row in rewards for v in row]
    if len(values) < 2 or (_differ(values) and not within_groups):
        return None
    if within_groups and any(map(_differ, rewards)):
        return None
    if len(set(values)) == 1:
        return f"all {len(values)} rewards are {values[0]:g}"
    if all(len(set(row)) < 2 for row in rewards):
        return "the rewards of each prompt's responses are all equal"
    return f"the rewards (around {values[0]:g}) differ by less than float32 can tell apart"


def _differ(values: Sequence[float]) -> bool:
    """Whether the values differ in float32, which they are trained on in."""
    return len(set(np.asarray(values, dtype=np.float32).tolist())) > 1


def group_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Means over an iteration's groups; those of right answers only where they can be told.

    ``reward_std_in_group`` (unbiased; groups of two and more), ``pass@1``, ``pass@K`` for groups
    of K, ``solved`` and ``unsolved`` (shares of prompts with every answer right, or none), and
    ``length_correct`` and ``length_incorrect`` in tokens.
    """
    metrics: dict[str, float] = {}
    rewards = [[s.value for s in r.scores if s.value is not None] for r in rollouts]
    stds = [statistics.stdev(values) for values in rewards if len(values) > 1]
    if stds:
        metrics["reward_std_in_group"] = sum(stds) / len(stds)
    right = right_answers(rollouts)
    if right is None:
        return metrics
    judged = [[v for v in row if v is not None] for row in right]
    judged = [row for row in judged if row]
    if judged:
        metrics["solved"] = sum(all(row) for row in judged) / len(judged)
        metrics["unsolved"] = sum(not any(row) for row in judged) / len(judged)
        largest = max(len(row) for row in right)
        for k in sorted({1, largest}):
            found = [pass_at_k(len(row), sum(row), k) for row in judged if len(row) >= k]
            if found:
                metrics[f"pass@{k}"] = sum(found) / len(found)
    for name, wanted in (("length_correct", True), ("length_incorrect", False)):
        lengths = [
            written(c)
            for r, row in zip(rollouts, right, strict=True)
            for c, v in zip(r.completions, row, strict=True)
            if v is wanted
        ]
        if lengths:
            metrics[name] = sum(lengths) / len(lengths)
    return metrics
