"""Figures over prompts that were answered once or several times: means, and gains paired by prompt.

``bounds`` says what the values are: shares between two values, or quantities where it is None. By
default they are asked themselves (:func:`share_bounds`); to compare models ask all their values
together, so that one model's constant answers are seen for what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from gnomon.stats.differences import paired_difference, paired_shares
from gnomon.stats.intervals import (
    Bounds,
    Floats,
    Interval,
    mean_interval,
    mean_of_shares,
    mean_samples,
    share_bounds,
)

AskedBounds = Bounds | None | Literal["auto"]
Values = Sequence[Sequence[float | None]]
"""[prompts][samples] what a measure gave; None where it failed."""


def over_prompts(values: Values, bounds: AskedBounds = "auto", level: float = 0.95) -> Interval:
    """The mean over prompts of their samples' means, with its interval.

    Failed samples are left out, and prompts without any other. Of quantities that are all the same
    there is no interval (NaN ends).
    """
    known = [row for row in _rows(values) if row]
    means = [sum(row) / len(row) for row in known]
    if bounds == "auto":
        bounds = common_bounds(known)
    if bounds is None:
        return mean_interval(means, level, method="t")
    samples = mean_samples([len(row) for row in known])
    return mean_of_shares(_as_shares(means, bounds), samples, level).scaled(bounds)


def gain_over_prompts(
    own: Values, reference: Values, bounds: AskedBounds = "auto", level: float = 0.95
) -> Interval:
    """What ``own`` is above ``reference``, paired by prompt; what either lacks is left out.

    Raises:
        ValueError: the two are not of the same prompts.
    """
    sides = zip(_rows(own), _rows(reference), strict=True)
    pairs = [(a, b) for a, b in sides if a and b]
    means = [(sum(a) / len(a), sum(b) / len(b)) for a, b in pairs]
    first, second = [a for a, _ in means], [b for _, b in means]
    if bounds == "auto":
        bounds = common_bounds(side for pair in pairs for side in pair)
    if bounds is None:
        return paired_difference(first, second, level, method="t")
    samples = mean_samples([len(row) for pair in pairs for row in pair])
    gain = paired_shares(_as_shares(first, bounds), _as_shares(second, bounds), samples, level)
    return gain.scaled((0.0, bounds[1] - bounds[0]))


def gain_between_runs(
    after: Mapping[str, Sequence[float | None]],
    before: Mapping[str, Sequence[float | None]],
    bounds: AskedBounds = "auto",
    level: float = 0.95,
) -> Interval:
    """What one run's values are above another's on the prompts that both answered.

    Args:
        after, before: each prompt's values, by the prompt's id, as ``comparison.json`` keeps them
            (``prompts`` and each row's ``scores``).
        bounds: of both runs' values together by default.

    Returns:
        The mean difference; ``n`` is the number of prompts that both have, and 0 says none.
    """
    shared = [prompt for prompt in after if prompt in before]
    return gain_over_prompts([after[p] for p in shared], [before[p] for p in shared], bounds, level)


def common_bounds(values: Iterable[Sequence[float | None]]) -> Bounds | None:
    """:func:`~gnomon.stats.intervals.share_bounds` of all the values that did not fail."""
    return share_bounds([v for row in values for v in row if v is not None])


def _rows(values: Values) -> list[list[float]]:
    return [[v for v in samples if v is not None] for samples in values]


def _as_shares(means: Sequence[float], bounds: Bounds) -> Floats:
    low, high = bounds
    return np.clip((np.asarray(means, dtype=np.float64) - low) / (high - low), 0.0, 1.0)
