"""Figures of judges against other ways to compute them, and by simulation."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from gnomon.stats.judges import (
    JudgedPair,
    agreement,
    attenuation,
    detectable_difference,
    first_share,
    flip_share,
    kappa,
    people_agreement,
)

WINS = (1.0, 0.5, 0.0)


def pair(people: tuple[float, ...], judge: float, cluster: object = None, **more: object):
    own = object() if cluster is None else cluster
    return JudgedPair(own, people, judge, **{"win": judge, **more})  # type: ignore[arg-type]


def some(rng: np.random.Generator, n: int, labels: int = 1, sure: float = 0.6) -> list[JudgedPair]:
    """Pairs whose judge and people agree now and then."""
    out = []
    for _ in range(n):
        truth = rng.choice(WINS)
        said = [truth if rng.random() < sure else rng.choice(WINS) for _ in range(labels + 1)]
        out.append(pair(tuple(map(float, said[1:])), float(said[0])))
    return out


def test_agreement_counts_every_pair_once_and_ties_half() -> None:
    pairs = [pair((1.0, 1.0, 0.0), 1.0), pair((0.5,), 1.0), pair((0.0,), 0.0)]
    assert agreement(pairs).value == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert people_agreement(pairs).value == pytest.approx(1 / 3)  # of the first alone: 1 of 3
    anonymous = [pair((1.0, 0.0), 1.0, named=False)]
    assert math.isnan(people_agreement(anonymous).value)


def test_kappa_is_sklearns_over_the_pairs_and_their_mirror_images() -> None:
    rng = np.random.default_rng(0)
    pairs = some(rng, 200)
    judge = [p.judge for p in pairs]
    people = [p.people[0] for p in pairs]
    both = [str(x) for x in judge] + [str(1 - x) for x in judge]
    theirs = [str(x) for x in people] + [str(1 - x) for x in people]
    assert kappa(pairs).value == pytest.approx(cohen_kappa_score(both, theirs))
    assert kappa([pair((w,), w) for w in WINS]).value == 1.0
    turned = [JudgedPair(p.cluster, (1 - p.people[0],), 1 - p.judge, 1 - p.win) for p in pairs]
    assert kappa(turned).value == pytest.approx(kappa(pairs).value)


def test_people_agree_as_two_of_them_would_be_drawn() -> None:
    rng = np.random.default_rng(1)
    pairs = some(rng, 50, labels=4)
    by_hand = [np.mean([1 - abs(x - y) for x, y in combinations(p.people, 2)]) for p in pairs]
    assert people_agreement(pairs).value == pytest.approx(np.mean(by_hand))


def test_position_and_flips() -> None:
    always_first = [pair((1.0,), 0.5, shown_first=(1.0, 1.0), flipped=True) for _ in range(20)]
    assert first_share(always_first).value == 1.0
    assert first_share(always_first).low > 0.8
    assert flip_share(always_first).value == 1.0
    assert agreement(always_first).value == 0.5
    assert math.isnan(first_share([pair((1.0,), 1.0)]).value)


# -- by simulation ---------------------------------------------------------------------------------


def channel(
    rng: np.random.Generator, n: int, win_rate: float, right: float, ties: float = 0.1
) -> list[JudgedPair]:
    """People's labels with a win rate, and a judge that says the same with a chance of ``right``,
    else the opposite; some of its verdicts are ties instead."""
    people = (rng.random(n) < win_rate).astype(float)
    judge = np.where(rng.random(n) < right, people, 1 - people)
    judge = np.where(rng.random(n) < ties, 0.5, judge)
    return [pair((float(h),), float(j)) for h, j in zip(people, judge, strict=True)]


def test_attenuation_is_that_of_the_channel() -> None:
    rng = np.random.default_rng(2)
    found = attenuation(channel(rng, 4000, 0.7, right=0.8))
    assert found.low < 0.9 * (2 * 0.8 - 1) < found.high
    assert found.high - found.low < 0.08


@pytest.mark.parametrize("right", [0.75, 0.95])
def test_the_detectable_difference_is_seen_four_times_in_five(right: float) -> None:
    rng = np.random.default_rng(3)
    n = 300
    planned = detectable_difference(channel(rng, 5_000, 0.5, right), n)
    many = (3000, n)
    people = rng.random(many) < 0.5 + planned
    judge = np.where(rng.random(many) < right, people, ~people).astype(float)
    judge = np.where(rng.random(many) < 0.1, 0.5, judge)
    seen = stats.ttest_1samp(judge, 0.5, axis=1).pvalue < 0.05
    assert np.mean(seen) == pytest.approx(0.8, abs=0.05)


def test_a_judge_that_knows_nothing_detects_nothing() -> None:
    pairs = [pair((w,), 0.5) for w in (1.0, 0.0)] * 30
    assert detectable_difference(pairs) == math.inf
    turned = [pair((w,), 1 - w) for w in (1.0, 0.0)] * 30
    assert detectable_difference(turned) == math.inf
    assert detectable_difference([]) == math.inf
    assert 0.25 < detectable_difference([pair((w,), w) for w in (1.0, 0.0)] * 10, 20) < 0.4


@pytest.mark.parametrize("figure", [agreement, kappa, attenuation])
def test_intervals_of_clustered_pairs_cover(figure) -> None:
    """Clusters share how easy they are; the interval covers the figure of all such clusters."""
    rng = np.random.default_rng(4)

    def draw(clusters: int) -> list[JudgedPair]:
        out = []
        for c in range(clusters):
            easy = rng.choice([0.55, 0.95])
            for _ in range(4):
                label = float(rng.random() < 0.5)
                out.append(pair((label,), label if rng.random() < easy else 1 - label, c))
        return out

    true = {agreement: 0.75, kappa: 0.5, attenuation: 0.5}[figure]
    hits = [(found := figure(draw(30))).low <= true <= found.high for _ in range(200)]
    assert 0.91 <= np.mean(hits) <= 0.995


def test_an_interval_that_ignored_the_clusters_would_not_cover() -> None:
    """The simulation above can fail: copies of a pair are no more pairs."""
    once = [pair((1.0,), float(i % 3 > 0), i) for i in range(30)]
    copied = [p for p in once for _ in range(10)]
    free = [JudgedPair(object(), p.people, p.judge, p.win) for p in copied]
    assert agreement(copied).value == agreement(free).value
    wide, narrow = (f.high - f.low for f in (agreement(copied), agreement(free)))
    assert wide > 2.5 * narrow
