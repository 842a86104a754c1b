"""Calling a reward so that its failures are kept with their samples, never lost and never zero."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gnomon.rewards.protocol import Reward, Sample, Score


def score_safely(reward: Reward, samples: Sequence[Sample]) -> list[Score]:
    """Score ``samples``; whatever goes wrong becomes the error of the samples it went wrong for.

    A reward that raises on the whole batch is asked again sample by sample, so that one bad sample
    does not take the others with it. NaN, infinities, None and results that are not one Score per
    sample are errors.
    """
    if not samples:
        return []
    try:
        scores = list(reward(samples))
    except Exception as error:
        if len(samples) == 1:
            return [Score(None, error=f"{reward.name}: {type(error).__name__}: {error}")]
        return [score_safely(reward, [sample])[0] for sample in samples]
    if len(scores) != len(samples):
        message = f"{reward.name}: returned {len(scores)} scores for {len(samples)} samples"
        return [Score(None, error=message) for _ in samples]
    return [_checked(reward.name, score) for score in scores]


def _checked(name: str, score: Score) -> Score:
    if score.error is not None:
        return Score(None, score.parts, score.error)
    if score.value is None or not math.isfinite(score.value):
        return Score(None, score.parts, f"{name}: the reward is {score.value}")
    return score
