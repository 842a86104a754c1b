"""The slope within prompts against numpy's least squares, and its interval against simulation."""

import math

import numpy as np
import pytest

from gnomon.stats.prompts import within_prompt_slope


def test_it_is_least_squares_with_an_intercept_for_each_prompt():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 4)) + rng.normal(size=(12, 1))
    y = 0.7 * x + 5 * rng.normal(size=(12, 1)) + rng.normal(size=(12, 4))
    prompts = np.repeat(np.eye(12), 4, axis=0)
    design = np.column_stack([x.ravel(), prompts])
    expected = np.linalg.lstsq(design, y.ravel(), rcond=None)[0][0]
    found = within_prompt_slope(x.tolist(), y.tolist())
    assert found.value == pytest.approx(expected)
    assert found.n == 12


def test_its_interval_covers_the_slope_where_answers_to_a_prompt_are_alike():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        x = rng.normal(size=(40, 5))
        own = 0.5 + 0.4 * rng.normal(size=(40, 1))  # each prompt has a slope of its own
        y = own * x + rng.normal(size=(40, 5))
        found = within_prompt_slope(x.tolist(), y.tolist())
        covered += found.low <= 0.5 <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_what_differs_between_prompts_only_has_no_slope():
    assert math.isnan(within_prompt_slope([[1.0, 1.0], [2.0, 2.0]], [[0.0, 1.0], [3.0, 4.0]]).value)
    one = within_prompt_slope([[1.0, 2.0, None]], [[0.0, 3.0, 9.0]])
    assert (one.value, one.known) == (3.0, False)
