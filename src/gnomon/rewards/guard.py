"""Calling a reward so that its failures are kept with their samples, never lost and never zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gnomon.errors import RunError
from gnomon.rewards.protocol import Reward, Sample, Score


def score_safely(reward: Reward, samples: Sequence[Sample]) -> list[Score]:
    """Score ``samples``; whatever goes wrong becomes the error of the samples it went wrong for.

    A reward that raises on the whole batch is asked again sample by sample, so that one bad sample
    does not take the others with it. NaN, infinities, None and anything that is not one Score per
    sample are errors.

    Raises:
        RunError: the reward itself says that the run must stop, or pause for people.
    """
    if not samples:
        return []
    try:
        scores = list(reward(samples))
    except RunError:
        raise
    except Exception as error:
        if len(samples) == 1:
            return [Score(None, error=f"{reward.name}: {type(error).__name__}: {error}")]
        return [score_safely(reward, [sample])[0] for sample in samples]
    if len(scores) != len(samples):
        message = f"{reward.name}: returned {len(scores)} scores for {len(samples)} samples"
        return [Score(None, error=message) for _ in samples]
    return [checked(reward.name, score) for score in scores]


def checked(name: str, score: Any) -> Score:
    """The score in plain Python numbers (parts of numpy's or torch's cannot be stored), its error
    named; one whose value is no finite number becomes an error."""
    if not isinstance(score, Score):
        return Score(None, error=f"{name}: gave a {type(score).__name__}, not a Score")
    try:
        parts = {str(key): float(part) for key, part in score.parts.items()}
    except (TypeError, ValueError, AttributeError):
        return Score(None, error=f"{name}: the parts {score.parts!r} are not all numbers")
    if score.error is not None:
        return Score(None, parts, _named(name, score.error))
    try:
        value = None if score.value is None else float(score.value)
    except (TypeError, ValueError):
        return Score(None, parts, f"{name}: the reward is {score.value!r}, not a number")
    if value is None or not math.isfinite(value):
        return Score(None, parts, f"{name}: the reward is {value}")
    return Score(value, parts)


def _named(name: str, error: str) -> str:
    """The error with the reward's name in front, once."""
    return error if error.startswith(f"{name}: ") else f"{name}: {error}"
