"""The classifier two-sample test: false alarms and power by simulation, areas against scipy."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import mannwhitneyu  # type: ignore[import-untyped]

from gnomon.errors import DataError
from gnomon.stats.two_sample import auc, auc_interval, two_sample

WORDS = [f"word{i}" for i in range(60)]


def texts(n: int, seed: int, shift: float = 0.0) -> list[str]:
    """Six words each; with chance ``shift`` a word comes from the last third alone."""
    rng = random.Random(seed)

    def draw() -> str:
        return rng.choice(WORDS[40:] if rng.random() < shift else WORDS)

    return [" ".join(draw() for _ in range(6)) for _ in range(n)]


def test_the_same_source_is_told_apart_as_rarely_as_p_says() -> None:
    found = [
        two_sample(texts(40, 2 * i), texts(40, 2 * i + 1), permutations=19, seed=i).p
        for i in range(120)
    ]
    share = sum(p <= 0.05 for p in found) / len(found)
    assert share <= 0.05 + 3 * (0.05 * 0.95 / 120) ** 0.5  # three standard errors


def test_another_source_is_told_apart() -> None:
    found = [two_sample(texts(80, 2 * i), texts(80, 2 * i + 1, 0.5), seed=i) for i in range(10)]
    assert all(result.p <= 0.01 for result in found)
    assert all(result.auc.low > 0.6 for result in found)
    assert all(result.auc.value > result.detectable for result in found)


def test_a_difference_of_the_detectable_size_is_mostly_seen() -> None:
    """A shift whose area is about the one that is called detectable is seen in more than half."""
    found = [two_sample(texts(80, 2 * i), texts(80, 2 * i + 1, 0.25), seed=i) for i in range(20)]
    near = [r for r in found if abs(r.auc.value - r.detectable) < 0.08]
    assert len(near) > 5
    assert sum(r.p <= 0.05 for r in near) / len(near) > 0.5


def test_the_most_foreign_texts_come_first() -> None:
    strange = ["quel est le prix du pain", "où est la gare de Lyon", "combien de jours en mai"] * 8
    own = [*texts(48, 5), *(f"{t} {i}" for i, t in enumerate(strange))]
    found = two_sample(texts(72, 6), own)
    assert found.p <= 0.05
    assert all("word" not in text for text in found.foreign[:5])


def test_shared_texts_are_no_difference() -> None:
    same = texts(60, 1)
    assert two_sample(same, list(reversed(same))).p > 0.05


def test_the_same_call_gives_the_same() -> None:
    assert two_sample(texts(40, 1), texts(40, 2)) == two_sample(texts(40, 1), texts(40, 2))


def test_few_texts_are_refused() -> None:
    with pytest.raises(DataError, match="first set has 1 different texts; 20"):
        two_sample(["a"] * 50, texts(40, 1))


def test_areas_are_mann_whitneys() -> None:
    rng = np.random.default_rng(0)
    scores, labels = (
        rng.integers(0, 9, (50, 1)).astype(float),
        (np.arange(50)[:, None] % 3 == 0) * 1.0,
    )
    u = mannwhitneyu(scores[labels > 0.5], scores[labels < 0.5]).statistic
    assert auc(scores, labels)[0] == pytest.approx(u / (17 * 33))


def test_intervals_of_areas_cover() -> None:
    """Of two normal distributions a standard deviation apart: the area is Phi(1 / sqrt 2)."""
    rng, covered = np.random.default_rng(1), 0
    for _ in range(400):
        scores = np.concatenate([rng.normal(0, 1, 40), rng.normal(1, 1, 40)])[:, None]
        labels = np.repeat([0.0, 1.0], 40)[:, None]
        interval = auc_interval(float(auc(scores, labels)[0]), 40, 40)
        covered += interval.low <= 0.7602 <= interval.high
    assert 0.92 <= covered / 400 <= 0.985
