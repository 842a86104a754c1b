"""How a figure of answers changed from a stage's beginning to its end, and when."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gnomon.audit.evidence import Evidence
from gnomon.audit.samples import Sample
from gnomon.stats.intervals import Bounds, Interval
from gnomon.stats.prompts import gain_over_prompts, independent_difference, over_prompts

ByPrompt = Mapping[str, Sequence[float | None]]
"""The values of the answers to each prompt; None where one cannot be measured."""
Measure = Callable[[Sequence[Sample]], ByPrompt]
SHARE: Bounds = (0.0, 1.0)
MANY = 20
"""Prompts that say by being all alike that others are too."""


@dataclass(frozen=True)
class Change:
    """A figure before and after, over prompts; ``gain`` is after less before, paired where both
    answered the same prompts."""

    before: Interval
    after: Interval
    gain: Interval


def each(value: Callable[[Sample], float | None]) -> Measure:
    """Measures every answer by itself."""

    def measure(samples: Sequence[Sample]) -> ByPrompt:
        found: dict[str, list[float | None]] = {}
        for sample in samples:
            found.setdefault(sample.prompt_id, []).append(value(sample))
        return found

    return measure


def change_of(
    evidence: Evidence,
    measure: Measure,
    *,
    bounds: Bounds | None = None,
) -> Change:
    """What became of a figure between the stage's beginning and its end.

    Args:
        bounds: of a share; None for a quantity.
    """
    old, new = measure(evidence.before), measure(evidence.after)
    return _change(old, new, bounds, paired=evidence.paired)


def _change(old: ByPrompt, new: ByPrompt, bounds: Bounds | None, *, paired: bool) -> Change:
    before, after = (_mean(x, bounds) for x in (old, new))
    if not paired:
        return Change(before, after, independent_difference(after, before))
    shared = [prompt for prompt in new if prompt in old]
    gain = gain_over_prompts([new[p] for p in shared], [old[p] for p in shared], bounds)
    return Change(before, after, gain)


def _mean(values: ByPrompt, bounds: Bounds | None) -> Interval:
    """The mean over prompts; of a quantity that is the same for all of many prompts, without
    width: nothing else shows how far others would be, and both sides of a change are asked."""
    found = over_prompts(list(values.values()), bounds)
    if math.isnan(found.low) and found.n >= MANY:
        return Interval(found.value, found.value, found.value, found.n)
    return found


def first_alarm(
    evidence: Evidence,
    measure: Measure,
    past: Callable[[Change], bool],
    *,
    bounds: Bounds | None = None,
) -> float | None:
    """The first step at which a window of training's samples was past the limit, and the next one
    too; None where training kept none, or they never were.

    Args:
        past: whether a window's change since the first one is.
    """
    windows = evidence.windows
    if len(windows) < 2:
        return None
    old = measure(windows[0][1])
    pending: float | None = None
    for step, samples in windows:
        if past(_change(old, measure(samples), bounds, paired=False)):
            if pending is not None:
                return pending
            pending = float(step)
        else:
            pending = None
    return pending


def reward_change(evidence: Evidence) -> Change | None:
    """What became of the trained reward; None where the answers have none."""
    if not any(sample.reward is not None for sample in evidence.after):
        return None
    return change_of(evidence, each(lambda sample: sample.reward))


def reward_rose(evidence: Evidence) -> bool:
    """Whether the trained reward is shown to have risen; True where there is none to ask, or it has
    no level that could rise."""
    change = reward_change(evidence)
    return change is None or change.gain.low > 0 or only_ranks(evidence)


def only_ranks(evidence: Evidence) -> bool:
    """Whether the trained reward only tells the answers to a prompt from each other, as ranks and
    win rates over the other answers do: its mean over them is the same for every prompt."""
    groups: dict[tuple[int, str], list[float]] = {}
    for sample in evidence.rollouts:
        if sample.reward is not None:
            groups.setdefault((sample.step, sample.prompt_id), []).append(sample.reward)
    several = [rewards for rewards in groups.values() if len(rewards) > 1]
    means = [sum(rewards) / len(rewards) for rewards in several]
    spread = max((max(rewards) - min(rewards) for rewards in several), default=0.0)
    return len(several) >= MANY and max(means) - min(means) < 1e-6 * spread
