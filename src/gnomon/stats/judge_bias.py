"""What a judge likes beyond what people like, and how small a liking would have been seen.

A bias is a shift of what an answer wins from 1/2 where people find both equally good: 0 is fair,
1/2 is always. Where pairs are edited so that only one thing differs it is read off
(:func:`shift`); elsewhere it is what is left beside people's labels (:func:`beyond_people`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri  # type: ignore[import-untyped]

from gnomon.stats.intervals import Floats, Interval, finite_or_none, vector, weighted_proportion
from gnomon.stats.judges import LEVEL, POWER, JudgedPair, jackknife

ALIKE = 0.3
"""How far one label tells another on the same pair (2 x agreement - 1) where nothing shows it:
people agree in two of three pairs in AlpacaFarm (Dubois et al. 2023, arXiv 2305.14387) and MT-bench
(Zheng et al. 2023, arXiv 2306.05685)."""
SEVERAL = 30
"""Pairs that several people labelled from which their own disagreement is taken into account."""


def position_shift(pairs: Sequence[JudgedPair]) -> Interval:
    """How far an answer is preferred for being shown first, in probability: of pairs that were
    asked about in both orders, in which the answers themselves cancel out. A judge may be swayed
    by the place long before its verdicts change."""
    known = [p for p in pairs if p.first is not None]
    return shift([p.first or 0.0 for p in known], [p.cluster for p in known])


def longer_shift(pairs: Sequence[JudgedPair]) -> Interval:
    """How far the longer answer is preferred where people find both equally good."""
    return beyond_people(pairs, [p.longer for p in pairs])


def own_shift(pairs: Sequence[JudgedPair]) -> Interval:
    """How far the judge's own model's answers are preferred where people find both equally good
    (Panickssery, Bowman & Feng 2024, "LLM evaluators recognize and favor their own generations",
    arXiv 2404.13076, compare at equal human preference too)."""
    return beyond_people(pairs, [p.own for p in pairs])


def beyond_people(pairs: Sequence[JudgedPair], signs: Sequence[int]) -> Interval:
    """The shift ``alpha`` of a regression through the origin,

        win - 1/2 = alpha sign + beta (label - 1/2),

    which holds people's preference fixed: a judge that says what people say half the time has
    ``beta`` 1/2 and ``alpha`` 0, whichever answers people like.

    A label is what someone thinks, and has an error of its own, which makes ``beta`` too small: an
    honest judge then seems to like whatever is truly better. Where several people labelled a pair,
    one's label is the instrument of another's (two-stage least squares), which takes that out.
    With one label a pair nothing says how large the error is. The value is then that of labels
    without error, and the interval reaches from there to that of people who agree in 65 of 100
    pairs: a liking that people's errors could explain is within it.

    Args:
        signs: [n] 1 where ``a`` has what may be liked and ``b`` does not, -1 the other way round, 0
            where neither or both have it.

    The interval is the jackknife's over clusters; NaN where no pair has a sign, or where the sign
    cannot be told from people's preference.
    """
    if not any(signs):
        return Interval(math.nan)
    y = np.array([p.win - 0.5 for p in pairs])
    h = np.array([p.label - 0.5 for p in pairs])
    o = np.array(signs, dtype=np.float64)
    products = np.array([_product(p) for p in pairs])
    several = ~np.isnan(products)
    clusters = [p.cluster for p in pairs]
    if several.sum() >= SEVERAL and products[several].sum() > 0:
        z, zh = np.where(several, h, 0.0), np.where(several, products, 0.0)
        found = _shift(np.stack([o * o, o * h, o * y, z * o, zh, z * y], axis=1), clusters)
    else:
        sums = (o * o, o * h, o * y, h * o)
        found, *other = (
            _shift(np.stack([*sums, share * h * h, h * y], axis=1), clusters)
            for share in ((1.0,) if any(p.belief is not None for p in pairs) else (1.0, ALIKE))
        )
        found = _hull(found, other)
    size = float(len({c for c, sign in zip(clusters, signs, strict=True) if sign}))
    if found.known or math.isnan(found.value):
        return Interval(found.value, found.low, found.high, size)
    # every verdict is as the regression says: what so many pairs show of a share
    at = np.flatnonzero(o)
    part = shift(0.5 + y[at] * o[at], [clusters[i] for i in at.tolist()])
    low, high = part.low - part.value, part.high - part.value
    return Interval(found.value, found.value + low, found.value + high, size)


def _shift(rows: Floats, clusters: Sequence[object]) -> Interval:
    """``alpha`` from sums of products: sign x sign, sign x label, sign x win, instrument x sign,
    instrument x label, instrument x win."""
    scale = float(np.abs(rows).sum(0).max())

    def of(sums: Floats) -> float:
        oo, oh, oy, zo, zh, zy = (float(x) for x in sums / scale)
        if zh <= 0:  # no label decides anything
            return oy / oo if oo > 0 else math.nan
        determinant = oo * zh - oh * zo
        return (oy * zh - oh * zy) / determinant if determinant > 1e-9 else math.nan

    return jackknife(rows, clusters, of)


def _hull(found: Interval, others: Sequence[Interval]) -> Interval:
    """The first value, with an interval that holds all of them; from -1/2 to 1/2 where one of them
    is not known, since people's errors could then explain anything."""
    if not found.known:
        return found
    ends = [(x.low, x.high) if x.known else (-0.5, 0.5) for x in (found, *others)]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    return Interval(found.value, low, high, found.n, found.level)


def _product(pair: JudgedPair) -> float:
    """The mean product of two people's labels less 1/2; NaN where just one labelled it."""
    h = [x - 0.5 for x in pair.people]
    m = len(h)
    if m < 2 or not pair.named or pair.belief is not None:
        return math.nan
    return (sum(h) ** 2 - sum(x * x for x in h)) / (m * (m - 1))


def shift(wins: ArrayLike, clusters: Sequence[object] | None = None) -> Interval:
    """How far answers that were edited are preferred to themselves: their wins less 1/2.

    Args:
        wins: [n] what the edited answer wins, from 0 to 1.
    """
    x = vector(wins, "wins")
    if not x.size:
        return Interval(math.nan)
    share = weighted_proportion(x, clusters=clusters)
    return Interval(share.value - 0.5, share.low - 0.5, share.high - 0.5, share.n)


# -- what is seen, and what would be ---------------------------------------------------------------


def stands_out(figure: Interval, null: float, tests: int = 1) -> bool:
    """Whether a figure differs from ``null`` at a level of 5% for ``tests`` figures together
    (Bonferroni): of so many figures without any effect, one stands out in at most one case of 20.

    The interval is taken as that of a normal error on the side of ``null``.
    """
    if not figure.known:
        return False
    half = figure.value - figure.low if figure.value > null else figure.high - figure.value
    return abs(figure.value - null) > half * _critical(tests) / _critical(1)


def smallest_seen(figure: Interval | None, tests: int = 1) -> float | None:
    """The smallest effect that a figure with such an interval shows with a chance of 80%, by the
    test of :func:`stands_out`; None where it has no interval."""
    if figure is None or not figure.known:
        return None
    half = (figure.high - figure.low) / 2.0
    return finite_or_none((_critical(tests) + float(ndtri(POWER))) / _critical(1) * half)


def _critical(tests: int) -> float:
    return float(ndtri(1.0 - (1.0 - LEVEL) / 2.0 / max(1, tests)))
