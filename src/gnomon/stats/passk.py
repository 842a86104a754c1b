"""pass@k over prompts: how often at least one of k answers is right, and what training gained.

At k = 1 it is accuracy. A gain at 1 without one at a large k says that training sharpened what the
policy could already do; a gain at a large k, that it reaches prompts it did not reach before (Yue
et al. 2025, arXiv 2504.13837). Intervals are over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gnomon.stats.differences import paired_shares
from gnomon.stats.intervals import Interval, mean_of_shares, mean_samples
from gnomon.stats.statistics import pass_at_k

Right = Sequence[Sequence[bool | None]]
"""[P][n] whether the i-th answer to a prompt is right; None where it could not be judged."""


def ks_up_to(n: int) -> list[int]:
    """1, 2, 4, ... and n itself."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def prompt_pass_at_k(right: Right, k: int) -> list[float]:
    """[P] the unbiased estimate of pass@k for each prompt (Chen et al. 2021, eq. 1); NaN for a
    prompt with fewer than k judged answers."""
    judged = [[r for r in row if r is not None] for row in right]
    return [pass_at_k(len(row), sum(row), k) if len(row) >= k else math.nan for row in judged]


def pass_curve(right: Right, ks: Sequence[int]) -> list[Interval]:
    """The mean over prompts of pass@k, for each k, with its interval; prompts with too few judged
    answers are left out of it. A share of 0 of 20 is no proof of never: see
    :func:`~gnomon.stats.intervals.mean_of_shares`."""
    out = []
    for k in ks:
        known = [x for x in prompt_pass_at_k(right, k) if not math.isnan(x)]
        out.append(mean_of_shares(known, _samples([right], k)))
    return out


def pass_gain(after: Right, before: Right, ks: Sequence[int]) -> list[Interval]:
    """The mean over prompts of pass@k after less before, paired by prompt, for each k.

    Raises:
        ValueError: the two are not of the same prompts.
    """
    if len(after) != len(before):
        raise ValueError(f"paired by prompt, but there are {len(after)} and {len(before)}")
    out = []
    for k in ks:
        pairs = zip(prompt_pass_at_k(after, k), prompt_pass_at_k(before, k), strict=True)
        both = [(a, b) for a, b in pairs if not (math.isnan(a) or math.isnan(b))]
        samples = _samples([after, before], k)
        out.append(paired_shares([a for a, _ in both], [b for _, b in both], samples))
    return out


def _samples(sides: Sequence[Right], k: int) -> float:
    """As how many rights and wrongs a prompt's pass@k counts: n / k of its n judged answers, the
    harmonic mean over prompts."""
    counts = [sum(r is not None for r in row) for right in sides for row in right]
    return mean_samples([n / k for n in counts if n >= k])
