"""What the best of n answers is worth, from N answers to each prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence


def best_of(values: Sequence[float], n: int, keys: Sequence[float] | None = None) -> float:
    """The expected value of the answer with the highest key among n drawn of N without replacement:
    the unbiased estimate of best-of-n (as Chen et al. 2021, arXiv 2107.03374, estimate pass@k).

    Args:
        values: [N] what each answer is worth.
        n: at most N.
        keys: [N] by what the best is chosen; the values themselves by default. Equal keys share
            their chance alike.

    Raises:
        ValueError: n outside 1 .. N, or keys of another number.
    """
    chosen = values if keys is None else keys
    total = len(values)
    if not 1 <= n <= total or len(chosen) != total:
        raise ValueError(f"best of {n} of {total} values by {len(chosen)} keys")
    draws = math.comb(total, n)
    expected, below = 0.0, 0
    for key in sorted(set(chosen)):
        tied = [v for v, k in zip(values, chosen, strict=True) if k == key]
        upto = below + len(tied)
        # the best has this key: all n are at most this high, and not all are lower
        chance = (math.comb(upto, n) - math.comb(below, n)) / draws
        expected += chance * sum(tied) / len(tied)
        below = upto
    return expected


def best_of_kl(n: int) -> float:
    """An upper bound (in nats) on how far best-of-n moves from the model: log n - (n - 1) / n
    (Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment policy", arXiv
    2401.01879)."""
    return math.log(n) - (n - 1) / n
