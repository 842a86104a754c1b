"""Comparisons of one prompt share their scores: intervals must know."""

import numpy as np
import pytest

from gnomon.stats.intervals import exact_interval, weighted_proportion


def test_pairs_of_one_prompt_are_not_independent() -> None:
    """Duplicating every outcome within its prompt must not narrow the interval."""
    rng = np.random.default_rng(0)
    once = (rng.random(200) < 0.65).astype(float)
    prompts = [str(i) for i in range(200)]
    alone = weighted_proportion(once, clusters=prompts)
    tenfold = weighted_proportion(
        np.repeat(once, 10), clusters=[p for p in prompts for _ in range(10)]
    )
    naive = weighted_proportion(np.repeat(once, 10))
    assert tenfold.low == pytest.approx(alone.low, abs=5e-3)
    assert tenfold.high == pytest.approx(alone.high, abs=5e-3)
    assert naive.high - naive.low < 0.5 * (alone.high - alone.low)  # what clusters prevent
    assert weighted_proportion(once).low == pytest.approx(alone.low, abs=1e-9)


def test_clusters_that_all_agree_count_for_little_more_than_once_each() -> None:
    every = weighted_proportion(np.ones(50), clusters=[i // 10 for i in range(50)])
    assert exact_interval(3, 3).low < every.low < exact_interval(8, 8).low
    assert every.n == 5
