"""How far a judge agrees with people, how it is biased, and what it can show.

Everything is about pairs of answers, ``a`` and ``b``. A verdict is what ``a`` wins: 1, 0, or 1/2
where neither is better. Pairs that belong together (of one prompt, say) are a cluster, and every
interval is over clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.special import ndtri  # type: ignore[import-untyped]

from gnomon.stats.intervals import Floats, Interval, t_quantile, weighted_proportion

ENOUGH_LABELS = 50
"""People's labels below which nothing is decided, or corrected, by a judge's calibration."""
POWER, LEVEL = 0.8, 0.95
"""Of the test that :func:`detectable_difference` plans: at 5%, seen with a chance of 80%."""


@dataclass(frozen=True)
class JudgedPair:
    """A pair as people and a judge see it.

    Attributes:
        cluster: what other pairs it belongs with.
        people: what ``a`` wins by each label.
        judge: what ``a`` wins by the judge's verdict, both orders together.
        win: the same before it became a verdict, from 0 to 1; a win rate is the mean of these.
        shown_first: what the answer shown first wins, by each of the judge's verdicts; empty where
            the order is not known.
        flipped: whether the verdict changed with the order; None where it was asked in one.
        longer: 1 where ``a`` is longer, -1 where ``b`` is, 0 where neither.
        category: to break figures down by.
        named: whether its labels are of labellers that are known to be different people.
        own: 1 where ``a`` is by the judge's own model, -1 where ``b`` is, 0 where neither or both.
        first: what the answer shown first wins on average over both orders, before they became
            verdicts; None where it was asked in one.
        belief: how likely ``a`` is the better one by all labels together, where a model of the
            labellers says so; None takes the mean of the labels.
    """

    cluster: object
    people: tuple[float, ...]
    judge: float
    win: float
    shown_first: tuple[float, ...] = ()
    flipped: bool | None = None
    longer: int = 0
    category: str | None = None
    named: bool = True
    own: int = 0
    first: float | None = None
    belief: float | None = None

    @property
    def label(self) -> float:
        """What ``a`` wins by people, on average."""
        if self.belief is not None:
            return self.belief
        return sum(self.people) / len(self.people)


def alike(x: float, y: float) -> float:
    """How far two verdicts agree: 1, 0 for opposite ones, 1/2 where just one of them is a tie."""
    return 1.0 - abs(x - y)


def agreement(pairs: Sequence[JudgedPair]) -> Interval:
    """How far the judge says what people say; every pair counts once, however many label it."""
    return _share([[alike(p.judge, label) for label in p.people] for p in pairs], pairs)


def people_agreement(pairs: Sequence[JudgedPair]) -> Interval:
    """How far two people agree, over the pairs that several labelled."""
    several = [p for p in pairs if p.named and len(p.people) > 1]
    return _share([[alike(x, y) for x, y in combinations(p.people, 2)] for p in several], several)


def first_share(pairs: Sequence[JudgedPair]) -> Interval:
    """What the answer shown first wins; 1/2 is without position bias.

    A pair that was asked about in both orders is one observation, their mean: a judge without
    position bias then has exactly 1/2 in every pair where it is sure.
    """
    known = [p for p in pairs if p.shown_first]
    return _share([[sum(p.shown_first) / len(p.shown_first)] for p in known], known)


def flip_share(pairs: Sequence[JudgedPair]) -> Interval:
    """The share of pairs whose verdict changes with the order."""
    known = [p for p in pairs if p.flipped is not None]
    return _share([[float(bool(p.flipped))] for p in known], known)


def _share(rows: Sequence[Sequence[float]], pairs: Sequence[JudgedPair]) -> Interval:
    """The mean of each pair's rows, by :func:`weighted_proportion`."""
    return weighted_proportion(
        [x for row in rows for x in row],
        [1.0 / len(row) for row in rows for _ in row],
        clusters=[p.cluster for p, row in zip(pairs, rows, strict=True) for _ in row],
    )


def kappa(pairs: Sequence[JudgedPair]) -> Interval:
    """Cohen's kappa of the judge's verdicts and people's (1960, "A coefficient of agreement for
    nominal scales"): the share that is the same, beyond what chance gives.

    Which of two answers is ``a`` means nothing, so chance takes both for equally likely: it is
    Cohen's kappa of the pairs together with their mirror images. The interval is the jackknife's;
    where every pair is alike, that of the share that is the same, at the chance that was seen.
    """
    rows = np.array(
        [
            (
                sum(p.judge == x for x in p.people) / len(p.people),
                p.judge == 0.5,
                sum(x == 0.5 for x in p.people) / len(p.people),
                1.0,
            )
            for p in pairs
        ],
        dtype=np.float64,
    ).reshape(-1, 4)

    def of(sums: Floats) -> float:
        same, ties, their_ties = sums[:3] / sums[3]
        chance = ties * their_ties + (1 - ties) * (1 - their_ties) / 2
        return float((same - chance) / (1 - chance)) if chance < 1 else math.nan

    found = jackknife(rows, [p.cluster for p in pairs], of)
    if math.isfinite(found.value) and not found.known:
        ties, their_ties = rows[:, 1:3].mean(0)
        chance = ties * their_ties + (1 - ties) * (1 - their_ties) / 2
        share = weighted_proportion(rows[:, 0], clusters=[p.cluster for p in pairs])
        low, high = ((end - chance) / (1 - chance) for end in (share.low, share.high))
        return Interval(found.value, low, high, found.n, found.level)
    return replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0))


def same_beyond_chance(items: Sequence[JudgedPair]) -> Interval:
    """Cohen's kappa of verdicts on single answers, good (1) or bad (0): chance is by how often the
    judge and people call answers good. The interval is the jackknife's."""
    rows = np.array(
        [
            (sum(p.judge == x for x in p.people) / len(p.people), p.judge, p.label, 1.0)
            for p in items
        ]
    ).reshape(-1, 4)

    def of(sums: Floats) -> float:
        same, judge, people = sums[:3] / sums[3]
        chance = judge * people + (1 - judge) * (1 - people)
        return float((same - chance) / (1 - chance)) if chance < 1 else math.nan

    return jackknife(rows, [p.cluster for p in items], of)


def attenuation(pairs: Sequence[JudgedPair]) -> Interval:
    """How much of a difference that people see is left in the judge's win rate: 1 is all of it, 0
    is none (verdicts that have nothing to do with people's).

    The slope, through the origin, of the judge's win less 1/2 on people's.
    """
    rows = np.array([((p.win - 0.5) * (p.label - 0.5), (p.label - 0.5) ** 2) for p in pairs])

    def of(sums: Floats) -> float:
        return float(sums[0] / sums[1]) if sums[1] > 0 else math.nan

    return jackknife(rows.reshape(-1, 2), [p.cluster for p in pairs], of)


def detectable_difference(pairs: Sequence[JudgedPair], n: int | None = None) -> float:
    """The smallest difference from 1/2 of people's win rate that a win rate by this judge, over
    ``n`` pairs of as many prompts, shows with a chance of 80% (two-sided test at 5%).

    What the judge's verdicts keep of it (:func:`attenuation`) must be 2.8 standard errors. Infinite
    where they keep nothing, or where not even a win rate of 1 would be seen.
    """
    n = len(pairs) if n is None else n
    slope = attenuation(pairs).value if pairs else math.nan
    if not slope > 0 or n < 2:
        return math.inf
    spread = math.sqrt(sum((p.win - 0.5) ** 2 for p in pairs) / len(pairs))
    errors = t_quantile(LEVEL, n - 1) + float(ndtri(POWER))
    found = errors * spread / math.sqrt(n) / slope
    return found if found <= 0.5 else math.inf


def jackknife(
    rows: Floats, clusters: Sequence[object], of: Callable[[Floats], float], level: float = LEVEL
) -> Interval:
    """A function of sums with the jackknife's interval over clusters (Efron & Stein 1981).

    It has no interval (NaN ends) with fewer than two clusters, or where no cluster makes a
    difference: nothing shows then how far others would be.

    Args:
        rows: [n, k] what is summed.
        clusters: [n] what belongs together.
        of: the figure from k sums.
    """
    if not len(rows):
        return Interval(math.nan, level=level)
    place: dict[object, int] = {}
    at = [place.setdefault(cluster, len(place)) for cluster in clusters]
    count = len(place)
    sums = np.zeros((count, rows.shape[1]))
    np.add.at(sums, at, rows)
    total = sums.sum(0)
    value = of(total)
    without = np.array([of(total - own) for own in sums]) if count > 1 else np.zeros(0)
    error = math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    if count < 2 or not error > 1e-12:
        return Interval(value, n=float(count), level=level)
    half = t_quantile(level, count - 1) * error
    return Interval(value, value - half, value + half, float(count), level)
