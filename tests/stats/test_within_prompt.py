"""The correlation within prompts against numpy's, and that differences between prompts are none."""

import math

import numpy as np
import pytest

from gnomon.stats.prompts import within_prompt_correlation


def draw(slope: float, prompts: int = 30, samples: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(prompts, samples))
    return x, slope * x + rng.normal(size=x.shape)


def test_it_is_pearsons_of_what_differs_from_the_prompts_means():
    x, y = draw(0.5)
    a, b = (v - v.mean(1, keepdims=True) for v in (x, y))
    expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert within_prompt_correlation(x.tolist(), y.tolist()) == pytest.approx(expected)


def test_what_differs_between_prompts_alone_does_not_count():
    x, y = draw(0.0)
    levels = 10 * np.arange(len(x))[:, None]
    plain = within_prompt_correlation(x.tolist(), y.tolist())
    assert within_prompt_correlation((x + levels).tolist(), (y + levels).tolist()) == pytest.approx(
        plain
    )
    assert abs(plain) < 0.2
    assert np.corrcoef((x + levels).ravel(), (y + levels).ravel())[0, 1] > 0.99


def test_an_answer_that_either_lacks_is_left_out():
    found = within_prompt_correlation([[1, 2, 3, 9]], [[2, 4, 6, None]])
    assert found == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y"), [([[1], [2]], [[3], [4]]), ([[1, 1]], [[3, 4]]), ([[1, 2]], [[3, None]]), ([], [])]
)
def test_without_two_answers_that_differ_there_is_none(x, y):
    assert math.isnan(within_prompt_correlation(x, y))


def test_both_are_of_the_same_answers():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        within_prompt_correlation([[1, 2]], [[1]])
