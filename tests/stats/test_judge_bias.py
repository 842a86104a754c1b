"""What a judge likes beyond people: against other ways to compute it, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gnomon.stats.intervals import Interval
from gnomon.stats.judge_bias import (
    beyond_people,
    longer_shift,
    own_shift,
    shift,
    smallest_seen,
    stands_out,
)
from gnomon.stats.judges import JudgedPair


def some(
    rng: np.random.Generator,
    n: int,
    *,
    likes: float = 0.0,
    right: float = 0.8,
    people: int = 1,
    label_right: float = 1.0,
    own_better: float = 0.5,
) -> list[JudgedPair]:
    """Pairs whose ``a`` is by the judge's own model and truly better in ``own_better`` of them; the
    judge is right in ``right``, and with a chance of ``likes`` says its own whatever is true."""
    out = []
    for _ in range(n):
        true = float(rng.random() < own_better)
        said = true if rng.random() < right else 1 - true
        said = 1.0 if rng.random() < likes else said
        labels = tuple(true if rng.random() < label_right else 1 - true for _ in range(people))
        turned = rng.random() < 0.5
        if turned:
            said, labels = 1 - said, tuple(1 - x for x in labels)
        out.append(JudgedPair(object(), labels, said, said, own=-1 if turned else 1))
    return out


def test_with_one_label_it_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    pairs = some(rng, 120, likes=0.2, own_better=0.7)
    x = np.array([(p.own, p.label - 0.5) for p in pairs])
    y = np.array([p.win - 0.5 for p in pairs])
    (alpha, _), *_ = np.linalg.lstsq(x, y, rcond=None)
    assert own_shift(pairs).value == pytest.approx(alpha)


def test_with_several_labels_one_is_the_instrument_of_another() -> None:
    rng = np.random.default_rng(1)
    pairs = some(rng, 200, likes=0.2, own_better=0.7, people=3, label_right=0.75)
    rows = [
        (p.own, p.people[i] - 0.5, p.people[k] - 0.5, p.win - 0.5)
        for p in pairs
        for i in range(3)
        for k in range(3)
        if i != k
    ]
    o, h, z, y = np.array(rows).T
    x, w = np.stack([o, h], 1), np.stack([o, z], 1)
    alpha, _ = np.linalg.solve(w.T @ x, w.T @ y)
    assert own_shift(pairs).value == pytest.approx(alpha)


def covered(figure, truth: float, draw, draws: int = 200) -> float:
    hits = [(found := figure(draw())).low <= truth <= found.high for _ in range(draws)]
    return float(np.mean(hits))


@pytest.mark.parametrize("likes", [0.0, 0.3])
def test_its_own_models_being_better_is_no_self_preference(likes: float) -> None:
    """A judge that says its own with a chance of ``likes`` shifts equal pairs by half of that."""
    rng = np.random.default_rng(2)
    how = {"likes": likes, "people": 3, "label_right": 0.75, "own_better": 0.8}
    found = covered(own_shift, likes / 2, lambda: some(rng, 150, **how))
    assert 0.9 <= found <= 0.99


def test_what_the_difference_of_two_shares_says_would_be_wrong() -> None:
    """An honest judge that is right less often than people seems to dislike what is better."""
    rng = np.random.default_rng(3)
    pairs = some(rng, 4000, right=0.7, own_better=0.8)
    raw = np.mean([(p.win - p.label) * p.own for p in pairs])
    assert raw < -0.1
    assert abs(own_shift(pairs).value) < 0.02


def test_with_one_noisy_label_what_is_better_seems_liked() -> None:
    """Nothing in such data tells the two apart, and the interval says so; where people do not like
    its own more there is nothing to tell apart, and the liking is seen."""
    rng = np.random.default_rng(4)
    found = own_shift(some(rng, 4000, label_right=0.8, own_better=0.8))
    assert found.value > 0.05
    assert not found.excludes(0.0)
    liked = own_shift(some(rng, 300, label_right=0.8, likes=0.3))
    assert liked.excludes(0.0)
    sure = own_shift(some(rng, 4000, own_better=0.8))
    assert not sure.excludes(0.0)


def test_a_judge_that_always_takes_the_longer_shifts_by_a_half() -> None:
    pairs = [
        JudgedPair(i, (float(i % 4 > 0),), 1.0, 1.0, longer=1) for i in range(40)
    ]  # people too, in three of four
    pairs += [JudgedPair(100 + i, (0.5,), 0.0, 0.0) for i in range(5)]
    found = longer_shift(pairs)
    assert found.n == 40
    assert found.low < found.value
    turned = [
        JudgedPair(p.cluster, (1 - p.people[0],), 1 - p.win, 1 - p.win, longer=-p.longer)
        for p in pairs
    ]
    assert longer_shift(turned).value == pytest.approx(found.value)
    plain = [JudgedPair(i, (float(i % 2),), 1.0, 1.0, longer=1) for i in range(40)]
    assert longer_shift(plain).value == pytest.approx(0.5)
    assert longer_shift(plain).low > 0.3


def test_nothing_is_said_where_nothing_can_be() -> None:
    same = [JudgedPair(i, (1.0,), 1.0, 1.0, longer=1) for i in range(20)]
    assert math.isnan(longer_shift(same).value)  # people always like the longer: one and the same
    assert math.isnan(own_shift(same).value)  # nobody's own
    assert math.isnan(shift([]).value)
    ties = [JudgedPair(i, (0.5,), 1.0, 1.0, longer=1) for i in range(20)]
    assert longer_shift(ties).value == pytest.approx(0.5)
    torn = [
        JudgedPair(i, (1.0, 0.0), float(i % 2), float(i % 2), longer=1) for i in range(60)
    ]  # people who disagree on every pair
    assert longer_shift(torn).value == pytest.approx(0.0)


def test_controlled_pairs_shift_from_a_half() -> None:
    found = shift([1.0, 0.5, 0.5, 0.0, 1.0, 1.0])
    assert found.value == pytest.approx(4 / 6 - 0.5)
    assert found.low < 0 < found.high
    equal = shift([0.5] * 40)
    assert (equal.value, equal.excludes(0.0)) == (0.0, False)
    assert equal.high < 0.1  # forty ties say more than forty coins


def test_of_many_figures_without_effect_one_stands_out_in_one_case_of_twenty() -> None:
    rng = np.random.default_rng(5)
    tests, n, alarms = 8, 400, 0
    for _ in range(n):
        x = rng.normal(0, 1, tests)
        figures = [Interval(v, v - 1.96, v + 1.96, 100) for v in x]
        alarms += any(stands_out(f, 0.0, tests) for f in figures)
    assert alarms / n == pytest.approx(0.05, abs=0.03)
    loose = np.mean([abs(v) > 1.96 for v in rng.normal(0, 1, 8 * n)]) * tests
    assert loose > 0.25  # what a test of each by itself would do


@pytest.mark.parametrize("tests", [1, 9])
def test_the_smallest_effect_is_seen_four_times_in_five(tests: int) -> None:
    rng = np.random.default_rng(6)
    size = smallest_seen(Interval(0.0, -1.96, 1.96, 100), tests)
    assert size is not None
    x = rng.normal(size, 1, 4000)
    seen = [stands_out(Interval(v, v - 1.96, v + 1.96, 100), 0.0, tests) for v in x]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.03)
    assert smallest_seen(Interval(0.3)) is None
    assert smallest_seen(None) is None
    assert not stands_out(Interval(0.3), 0.0)


def test_signs_are_per_pair() -> None:
    pairs = [JudgedPair(i, (0.5,), 1.0, 1.0) for i in range(30)]
    assert beyond_people(pairs, [1] * 15 + [-1] * 15).value == pytest.approx(0.0)
