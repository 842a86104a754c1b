"""The best of n, against every draw there is."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import numpy as np
import pytest

from gnomon.stats.best_of import best_of, best_of_kl


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_it_is_the_mean_over_all_draws(n: int) -> None:
    values, keys = [3.0, 1.0, 2.0, 2.0, 5.0, 0.5], [1.0, 2.0, 2.0, 0.0, 1.5, 2.0]
    draws = list(combinations(range(6), n))
    own = np.mean([max(values[i] for i in draw) for draw in draws])
    assert best_of(values, n) == pytest.approx(own)
    chosen = [  # equal keys in every order
        values[max(draw, key=lambda i: (keys[i], order[i]))]
        for order in permutations(range(6))
        for draw in draws
    ]
    assert best_of(values, n, keys) == pytest.approx(np.mean(chosen))


def test_without_ties_a_key_chooses_exactly() -> None:
    values, keys = [1.0, 5.0, 2.0, 4.0], [4.0, 1.0, 3.0, 2.0]
    draws = list(combinations(range(4), 2))
    chosen = [values[max(draw, key=lambda i: keys[i])] for draw in draws]
    assert best_of(values, 2, keys) == pytest.approx(np.mean(chosen))


def test_the_kl_is_that_of_the_best_of_many_distinct_answers() -> None:
    n, m = 4, 200_000
    top = np.arange(1, m + 1) / m
    p = np.diff(np.concatenate([[0.0], top**n]))
    assert best_of_kl(n) == pytest.approx(float((p * np.log(p * m)).sum()), abs=1e-4)
    assert best_of_kl(1) == 0.0
    assert best_of_kl(2) == pytest.approx(math.log(2) - 0.5)


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="best of 3 of 2"):
        best_of([1.0, 2.0], 3)
