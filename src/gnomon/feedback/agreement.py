"""How far labellers agree, beyond chance: Krippendorff's alpha with its interval.

Krippendorff 2004, "Content analysis", chapter 11. A unit is what is labelled: a pair of responses,
or one response that is rated. The estimate is the ``krippendorff`` library's; its interval is a
bootstrap over items, since pairs of one item's ranking hang together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

from gnomon.errors import ConfigError
from gnomon.feedback.ballots import Ballots, Floats, Ints
from gnomon.feedback.records import Item, Label, Vote, standing
from gnomon.stats.intervals import Interval, exact_interval

Level = Literal["nominal", "ordinal", "interval"]
RESAMPLES = 1000
MOST_VALUES = 200
"""Different values that ratings may have: a table of values by values is held."""


@dataclass(frozen=True)
class Units:
    """Labels as counts.

    Attributes:
        counts: [N, V] how many labellers gave unit n the value v; a labeller counts once a unit.
        values: [V] in order.
        cluster: [N] a number for each unit's item.
        mirrored: which side of a pair is the first means nothing: 1 - v is as good as v.
    """

    counts: Floats
    values: Floats
    cluster: Ints
    mirrored: bool = False


def vote_units(votes: Iterable[Vote]) -> Units:
    """Pairs as units, with the values 0 (b is better), 1/2 (a tie) and 1."""
    ballots = Ballots.of(votes)
    return Units(ballots.counts()[:, ::-1], np.array([0.0, 0.5, 1.0]), ballots.item, True)


def rating_scales(
    labels: Iterable[Label], items: Iterable[Item]
) -> tuple[dict[str, Units], list[str]]:
    """Rated responses as units, each scale by itself, by its name in words: ratings and approvals
    (0 and 1), of every campaign. What chance would give is not the same on two scales.

    Returns:
        And what could not be counted, in words.
    """
    campaigns = {item.id: item.campaign for item in items}
    scales: dict[tuple[str, str], list[Label]] = {}
    for label in labels:
        if label.kind in ("rating", "approval"):
            scales.setdefault((label.kind, campaigns.get(label.item, "")), []).append(label)
    several = len({campaign for _, campaign in scales}) > 1
    found: dict[str, Units] = {}
    notes: list[str] = []
    for (kind, campaign), own in sorted(scales.items()):
        name = {"rating": "ratings", "approval": "good or bad"}[kind]
        name += f" in {campaign or 'no campaign'}" if several else ""
        try:
            found[name] = rating_units(own)
        except ConfigError as error:
            notes.append(f"agreement of {name} is not known: {error}")
    return found, notes


def rating_units(labels: Iterable[Label]) -> Units:
    """Rated responses as units, of one scale; approvals are ratings of 0 and 1.

    Raises:
        ConfigError: more than MOST_VALUES different ratings.
    """
    last: dict[tuple[str, int, str], float] = {}
    for label in standing(labels):
        given = label.ratings if label.kind == "rating" else label.approvals
        for i, value in enumerate(given if label.kind in ("rating", "approval") else ()):
            if value is not None:
                last[label.item, i, label.labeller] = float(value)
    values = sorted(set(last.values()))
    if len(values) > MOST_VALUES:
        raise ConfigError(
            f"{len(values)} different ratings; agreement is measured on at most {MOST_VALUES}: "
            "round them to a scale"
        )
    place = {value: v for v, value in enumerate(values)}
    units: dict[tuple[str, int], int] = {}
    items: dict[str, int] = {}
    cells: list[tuple[int, int]] = []
    cluster: list[int] = []
    for (item, i, _), value in last.items():
        n = units.setdefault((item, i), len(units))
        if n == len(cluster):
            cluster.append(items.setdefault(item, len(items)))
        cells.append((n, place[value]))
    counts = np.zeros((len(units), len(values)))
    if cells:
        np.add.at(counts, tuple(np.array(cells).T), 1.0)
    return Units(counts, np.array(values), np.array(cluster, dtype=np.int64))


def alpha(
    units: Units, level: Level, *, resamples: int = RESAMPLES, seed: int = 0, cover: float = 0.95
) -> Interval:
    """Krippendorff's alpha: 1 is agreement throughout, 0 what chance gives, below it discord.

    Args:
        level: how far apart two values are: ``nominal`` (same or not), ``ordinal`` (by rank) or
            ``interval`` (the squared difference).

    Returns:
        With the percentile interval of a bootstrap over items, and ``n`` the items with two labels
        or more on a unit. Where everybody agrees throughout, no draw differs: the lower end is then
        that of as many items at the chance that was seen. NaN where there are none, or all labels
        are the same (no disagreement is possible then).
    """
    several = units.counts.sum(1) >= 2
    counts, cluster = units.counts[several], units.cluster[several]
    items = len(np.unique(cluster))
    if not items:
        return Interval(math.nan, n=0.0, level=cover)
    if units.mirrored:
        counts, cluster = np.vstack([counts, counts[:, ::-1]]), np.tile(cluster, 2)
    value = _library(counts, units.values, level)
    if not math.isfinite(value) or items < 2:
        return Interval(value, n=float(items), level=cover)
    if value >= 1.0 - 1e-12:
        return Interval(
            1.0, _least(counts, units.values, level, items, cover), 1.0, float(items), cover
        )
    patterns, held, times = _items(counts, cluster)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = rng.multinomial(items, times / items)
        found.append(alpha_of(_coincidences(patterns, held.T @ drawn), units.values, level))
    tail = (1.0 - cover) / 2.0
    known = [x for x in found if math.isfinite(x)]
    low, high = np.quantile(known, (tail, 1.0 - tail)) if known else (math.nan, math.nan)
    return Interval(value, min(float(low), value), max(float(high), value), float(items), cover)


def _least(counts: Floats, values: Floats, level: Level, items: int, cover: float) -> float:
    """The lower end of an alpha of 1: were as many items in dispute as none of so many leave
    possible, and each as far as two values go apart."""
    disputed = 1.0 - exact_interval(items, items, cover).low
    n = counts.sum(0)
    apart = _apart(n, values, level)
    expected = float((np.outer(n, n) * apart).sum()) / (float(n.sum()) * (float(n.sum()) - 1.0))
    given = n > 0
    return max(-1.0, 1.0 - disputed * float(apart[np.ix_(given, given)].max()) / expected)


def _items(counts: Floats, cluster: Ints) -> tuple[Floats, Any, Ints]:
    """Items that were labelled alike are resampled together.

    Returns:
        [Q, V] the different counts of a unit; [M, Q] how many units of each an item of each kind
        has (sparse); [M] how many items are of that kind.
    """
    patterns, kind = np.unique(counts, axis=0, return_inverse=True)
    of_item: dict[int, list[int]] = {}
    for item, one in zip(cluster.tolist(), kind.reshape(-1).tolist(), strict=True):
        of_item.setdefault(item, []).append(one)
    alike = Counter(tuple(sorted(kinds)) for kinds in of_item.values())
    rows = [m for m, kinds in enumerate(alike) for _ in kinds]
    columns = [one for kinds in alike for one in kinds]
    held = csr_matrix((np.ones(len(rows)), (rows, columns)), (len(alike), len(patterns)))
    return patterns, held, np.array(list(alike.values()), dtype=np.int64)


def _coincidences(patterns: Floats, weight: Floats) -> Floats:
    """[V, V] coincidences of units with these counts, each ``weight`` [Q] times."""
    share = weight / (patterns.sum(1) - 1.0)
    whole = (patterns.T * share) @ patterns - np.diag(share @ patterns)
    return np.asarray(whole, dtype=np.float64)


def alpha_of(coincidences: Floats, values: Floats, level: Level) -> float:
    """Alpha of [V, V] coincidences (Krippendorff 2004, section 11.3); NaN if all are one value."""
    n = coincidences.sum(1)
    apart = _apart(n, values, level)
    expected = float((np.outer(n, n) * apart).sum())  # equal values are no distance apart
    if expected <= 0.0:
        return math.nan
    return 1.0 - (float(n.sum()) - 1.0) * float((coincidences * apart).sum()) / expected


def _apart(n: Floats, values: Floats, level: Level) -> Floats:
    if level == "nominal":
        return 1.0 - np.eye(len(values))
    if level == "interval":
        return np.asarray((values[:, None] - values[None, :]) ** 2, dtype=np.float64)
    middle = np.cumsum(n) - n / 2.0
    return np.asarray((middle[:, None] - middle[None, :]) ** 2, dtype=np.float64)


def _library(counts: Floats, values: Floats, level: Level) -> float:
    try:
        import krippendorff
    except ImportError as error:
        raise ConfigError(
            "agreement needs the krippendorff package: pip install 'gnomon-rlhf[label]'"
        ) from error
    if (counts.sum(0) > 0).sum() < 2:
        return math.nan  # all labels are one value
    return float(
        krippendorff.alpha(
            value_counts=counts.astype(np.int64), value_domain=values, level_of_measurement=level
        )
    )
