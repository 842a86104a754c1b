"""Krippendorff's alpha against a published example, the definition, and known worlds."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from gnomon.errors import ConfigError
from gnomon.feedback.agreement import Level, Units, alpha, rating_units, vote_units
from gnomon.feedback.records import Label, Vote
from gnomon.stats.intervals import Interval

NAN = math.nan
PUBLISHED = [  # Krippendorff's example: 3 observers, 15 units
    [NAN, NAN, NAN, NAN, NAN, 3, 4, 1, 2, 1, 1, 3, 3, NAN, 3],
    [1, NAN, 2, 1, 3, 3, 4, 3, NAN, NAN, NAN, NAN, NAN, NAN, NAN],
    [NAN, NAN, 2, 1, 3, 4, 4, NAN, 2, 1, 1, 3, 3, NAN, 4],
]


def units(table: list[list[float]]) -> Units:
    values = sorted({v for row in table for v in row if v == v})
    counts = [[sum(row[n] == v for row in table) for v in values] for n in range(len(table[0]))]
    return Units(np.array(counts, float), np.array(values), np.arange(len(counts)))


def test_the_published_example() -> None:
    assert alpha(units(PUBLISHED), "nominal").value == pytest.approx(0.691, abs=5e-4)
    assert alpha(units(PUBLISHED), "interval").value == pytest.approx(0.811, abs=5e-4)


def by_definition(votes: list[list[float]], level: Level) -> float:
    """1 - D_o / D_e over all ordered pairs of values, of units and their mirror images."""
    votes = [u for u in votes if len(u) > 1]
    mirrored = [*votes, *([1.0 - v for v in unit] for unit in votes)]
    every = [v for unit in mirrored for v in unit]

    def apart(x: float, y: float) -> float:
        return float(x != y) if level == "nominal" else (x - y) ** 2

    n = len(every)
    observed = sum(
        apart(x, y) / (len(unit) - 1) for unit in mirrored for x, y in permutations(unit, 2)
    )
    expected = sum(apart(x, y) for x, y in permutations(every, 2)) / (n - 1)
    return 1.0 - observed / expected


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_few_items_without_dispute_do_not_show_that_there_is_none(level: Level) -> None:
    def agreed(items: int) -> Interval:
        votes = [Vote(f"i{n}", who, 0, 1, float(n % 2)) for n in range(items) for who in "xy"]
        return alpha(vote_units(votes), level)

    found = [agreed(n) for n in (3, 20, 400)]
    assert [(figure.value, figure.high) for figure in found] == [(1.0, 1.0)] * 3
    assert found[0].low < 0.0
    assert 0.5 < found[1].low < 0.8
    assert 0.97 < found[2].low < 1.0


@pytest.mark.parametrize("level", ["nominal", "interval"])
def test_pairs_by_the_definition(level: Level) -> None:
    rng = np.random.default_rng(1)
    table = [rng.choice([0.0, 0.5, 1.0], size=rng.integers(1, 5)).tolist() for _ in range(12)]
    votes = [
        Vote(f"i{n}", f"l{k}", 0, 1, v) for n, unit in enumerate(table) for k, v in enumerate(unit)
    ]
    assert alpha(vote_units(votes), level).value == pytest.approx(by_definition(table, level))


def test_which_response_is_called_a_means_nothing() -> None:
    votes = [Vote(f"i{n}", k, 0, 1, float(n % 3 != 0 or k == "x")) for n in range(9) for k in "xy"]
    turned = [
        Vote(v.item, v.labeller, 0, 1, 1.0 - v.won if v.item < "i5" else v.won) for v in votes
    ]
    assert alpha(vote_units(votes), "nominal") == alpha(vote_units(turned), "nominal")


def test_the_interval_holds_the_truth_and_counts_items_not_pairs() -> None:
    """Labellers of accuracy .8 on independent pairs agree by (2 x .8 - 1)^2 beyond chance."""
    rng, inside, trials = np.random.default_rng(0), 0, 60
    for _ in range(trials):
        said = rng.random((80, 3)) < 0.8
        votes = [
            Vote(f"i{n}", f"l{k}", 0, 1, float(said[n, k])) for n in range(80) for k in range(3)
        ]
        found = alpha(vote_units(votes), "nominal", resamples=200)
        assert found.n == 80
        inside += found.low <= 0.36 <= found.high
    assert inside >= 0.85 * trials  # 95% less four standard errors


def test_a_labeller_counts_once_and_single_votes_show_nothing() -> None:
    single = [Vote("i", "a", 0, 1, 1.0)]
    assert math.isnan(alpha(vote_units(single), "nominal").value)
    assert math.isnan(alpha(vote_units([*single, Vote("i", "a", 0, 1, 0.0)]), "nominal").value)


def test_ratings_and_approvals() -> None:
    def rated(who: str, item: str, values: tuple[float, ...]) -> Label:
        return Label(f"{who}/{item}", item, who, "rating", ratings=values)

    labels = [rated("a", "x", (1, 5)), rated("b", "x", (1, 4)), rated("a", "y", (3, 2))]
    labels.append(rated("b", "y", (3, 1)))
    found = rating_units(labels)
    assert found.values.tolist() == [1, 2, 3, 4, 5]
    assert found.counts.sum() == 8
    assert alpha(found, "interval").n == 2  # items, with two responses each
    yes = [Label(k, "x", k, "approval", approvals=(True, None)) for k in "ab"]
    assert rating_units(yes).counts.tolist() == [[2.0]]
    with pytest.raises(ConfigError, match="round them"):
        rating_units([rated("a", f"i{n}", (n / 7,)) for n in range(300)])
