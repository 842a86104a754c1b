"""How many labels a question needs, and what a number of labels can answer.

A study is simulated: N items, each judged by K of L labellers, as :mod:`gnomon.feedback.worlds`
draws them. What depends on the pattern of the votes (alpha, agreement) is read off many simulated
studies by the same crew of labellers, for several crews; what has a closed form is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtri  # type: ignore[import-untyped]

from gnomon.errors import ConfigError
from gnomon.feedback.agreement import Level, alpha_of
from gnomon.feedback.ballots import Floats, Ints
from gnomon.feedback.worlds import Population, counts_of
from gnomon.stats.judges import LEVEL, POWER

CREWS, STUDIES = 12, 30
"""Draws of labellers, and studies of items by each crew."""
MOST_ITEMS = 500
"""Items of a simulated study; the spread of a larger one follows from 1 / sqrt(items)."""
MOST_PER_ITEM = 9
LARGEST = 100_000
"""Items beyond which no design is proposed."""
VALUES = np.array([0.0, 0.5, 1.0])
_SEEN = float(ndtri(0.5 + LEVEL / 2.0) + ndtri(POWER))
"""Standard errors that a difference must have to be seen with a chance of POWER."""
_HALF = float(ndtri(0.5 + LEVEL / 2.0))


@dataclass(frozen=True)
class Design:
    """A study: each of ``items`` is judged by ``per_item`` of ``labellers`` people."""

    items: int
    labellers: int = 10
    per_item: int = 3

    def __post_init__(self) -> None:
        if self.items < 2 or self.per_item < 1:
            raise ConfigError(
                f"{self.items} items with {self.per_item} labels each: a study has 2 items or "
                "more, and a label or more on each"
            )
        if self.per_item > self.labellers:
            raise ConfigError(
                f"{self.per_item} labels an item need as many labellers; there are "
                f"{self.labellers}: give --labellers {self.per_item} or more"
            )

    @property
    def labels(self) -> int:
        return self.items * self.per_item


@dataclass(frozen=True)
class Prices:
    """Of a label: euros, and seconds of somebody's work."""

    price: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """What a design is expected to show.

    Attributes:
        alpha, alpha_width: Krippendorff's alpha, and the width of its 95% interval over items; NaN
            with one label an item.
        alpha_others: standard deviation of alpha between crews of such labellers, which no
            interval over items shows.
        agreement: how far two labellers agree (a tie is half).
        agreement_difference: smallest difference of agreement between two such studies that is
            seen with a chance of 80% (two-sided test at 5%).
        win_difference: the same of the share of items on which one side is better, from 0.5;
            infinite where not even all items would show.
        sure: how likely the likelier side is right, given the votes and the labellers' accuracies,
            on average over items: the accuracy of a consensus that knows its labellers.
        majority: the accuracy of plain majorities (a draw is half).
        bits: what the votes on an item tell about it, of 1 bit.
        labels, labels_each: in all, and by each labeller.
        shared: items that two labellers have in common.
        ability_error: standard error of a labeller's accuracy.
        money, hours: what it takes.
    """

    design: Design
    alpha: float
    alpha_width: float
    alpha_others: float
    agreement: float
    agreement_difference: float
    win_difference: float
    sure: float
    majority: float
    bits: float
    labels: int
    labels_each: float
    shared: float
    ability_error: float
    money: float
    hours: float

    def scaled(self, items: int, world: Population, prices: Prices) -> Forecast:
        """The forecast for another number of items: standard errors fall with its root."""
        design = replace(self.design, items=items)
        root = math.sqrt(self.design.items / items)
        return replace(
            self,
            alpha_width=self.alpha_width * root,
            agreement_difference=self.agreement_difference * root,
            win_difference=world.win_difference(design.items, design.per_item, _SEEN),
            ability_error=self.ability_error * root,
            **_totals(design, prices),
        )


def forecast(
    world: Population,
    design: Design,
    prices: Prices = Prices(),
    *,
    level: Level = "nominal",
    seed: int = 0,
    crews: int = CREWS,
    studies: int = STUDIES,
) -> Forecast:
    """Simulate a design.

    Args:
        level: what alpha takes for distant (see :func:`gnomon.feedback.agreement.alpha`).
        crews, studies: draws of labellers, and of items by each.
    """
    simulated = replace(design, items=min(design.items, MOST_ITEMS))
    rng = np.random.default_rng(seed)
    alphas = np.full((crews, studies), math.nan)
    same = np.full((crews, studies), math.nan)
    known = []
    for k in range(crews):
        asked = _assigned(simulated, rng)
        said, told = world.studies(asked, design.labellers, studies, rng)
        known.append(told)
        if design.per_item > 1:
            counts = [counts_of(study) for study in said]
            alphas[k] = [study_alpha(c, level) for c in counts]
            same[k] = [study_agreement(c) for c in counts]
    sure, majority, bits, others = np.mean(known, axis=0)
    found = Forecast(
        alpha=_mean(alphas),
        alpha_width=2.0 * _HALF * _within(alphas),
        alpha_others=_between(alphas) if world.crews_differ else math.nan,
        agreement=_mean(same),
        agreement_difference=_SEEN * math.sqrt(2.0) * _within(same),
        win_difference=world.win_difference(simulated.items, simulated.per_item, _SEEN),
        sure=float(sure),
        majority=float(majority),
        bits=float(bits),
        ability_error=_ability_error(world, simulated, float(others)),
        **_totals(simulated, prices),
    )
    return found.scaled(design.items, world, prices)


def _totals(design: Design, prices: Prices) -> dict[str, Any]:
    pairs = design.labellers * (design.labellers - 1)
    both = design.items * design.per_item * (design.per_item - 1)
    return {
        "design": design,
        "labels": design.labels,
        "labels_each": design.labels / design.labellers,
        "shared": both / pairs if pairs else 0.0,
        "money": design.labels * prices.price,
        "hours": design.labels * prices.seconds / 3600.0,
    }


def _assigned(design: Design, rng: np.random.Generator) -> Ints:
    """[N, K] who judges each item: K different labellers drawn at random."""
    drawn = rng.random((design.items, design.labellers))
    return np.argpartition(drawn, design.per_item - 1, axis=1)[:, : design.per_item]


def study_alpha(counts: Floats, level: Level) -> float:
    """Alpha of a study's [N, 3] votes, as many on each item; either side of a pair may be the
    first, as in ``agreement.alpha``."""
    each = counts[0].sum()
    found = (counts.T @ counts - np.diag(counts.sum(0))) / (each - 1.0)
    return alpha_of(found + found[::-1, ::-1], VALUES, level)


def study_agreement(counts: Floats) -> float:
    """How far two of an item's votes agree, on average over items; 1/2 where just one is a tie."""
    each = counts[0].sum()
    apart = 2.0 * counts[:, 0] * counts[:, 2] + counts[:, 1] * (counts[:, 0] + counts[:, 2])
    return float(1.0 - (apart / (each * (each - 1.0))).mean())


def _ability_error(world: Population, design: Design, others: float) -> float:
    """Standard error of a labeller's accuracy, judged by a consensus of the others on their items:
    agreement with one that is right with chance r is a r + (1 - a)(1 - r)."""
    gain = 2.0 * others - 1.0
    each = design.labels / design.labellers * (1.0 - world.ties)
    if design.per_item < 2 or gain <= 1e-3:
        return math.inf
    agrees = world.accuracy * others + (1.0 - world.accuracy) * (1.0 - others)
    return math.sqrt(agrees * (1.0 - agrees) / each) / gain


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _within(values: Floats) -> float:
    """Standard deviation between studies of the same crew."""
    if not np.isfinite(values).any():
        return math.nan
    return math.sqrt(float(np.nanmean(np.nanvar(values, axis=1, ddof=1))))


def _between(values: Floats) -> float:
    """Standard deviation between crews, beyond that of their studies' means."""
    if not np.isfinite(values).any():
        return math.nan
    noise = float(np.nanmean(np.nanvar(values, axis=1, ddof=1))) / values.shape[1]
    return math.sqrt(max(0.0, float(np.nanvar(np.nanmean(values, axis=1), ddof=1)) - noise))


# -- the cheapest design that shows what is wanted -------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """What a study has to show, and may cost; None asks for nothing.

    Attributes:
        alpha_width: of alpha's 95% interval, at most.
        difference: of a win rate from 0.5, seen with a chance of 80%.
        sure: accuracy of the consensus, at least.
        budget: euros.
    """

    alpha_width: float | None = None
    difference: float | None = None
    sure: float | None = None
    budget: float | None = None

    def missed(self, found: Forecast) -> list[str]:
        """What a forecast does not give, in words."""
        out = []
        if self.alpha_width is not None and not found.alpha_width <= self.alpha_width * 1.0001:
            wide = (
                f"{found.alpha_width:.3f} wide" if math.isfinite(found.alpha_width) else "unknown"
            )
            out.append(f"alpha's interval is {wide}")
        if self.difference is not None and not found.win_difference <= self.difference * 1.0001:
            shows = f"differences of {found.win_difference:.3f} and more"
            out.append(
                f"it shows {shows if math.isfinite(found.win_difference) else 'none at all'}"
            )
        if self.sure is not None and not found.sure >= self.sure:
            out.append(f"the consensus is right on {found.sure:.3f}")
        if self.budget is not None and found.money > self.budget * 1.0001:
            out.append(f"it costs {found.money:.0f} euros")
        return out


def designs(
    world: Population,
    wish: Wish,
    prices: Prices,
    *,
    labellers: int = 10,
    level: Level = "nominal",
    seed: int = 0,
) -> list[Forecast]:
    """For each number of labels an item: the fewest items that give what is wished for, or, where
    only a budget is named, the most that it pays; those that meet the wish first, by cost (by what
    difference they show, where all cost the same). None of more than LARGEST items: where there is
    none at all, :func:`out_of_reach` says why.

    Raises:
        ConfigError: nothing is wished for; a budget without a price.
    """
    if wish == Wish():
        raise ConfigError("say what the study has to show, or what it may cost")
    if wish.budget is not None and not prices.price > 0:
        raise ConfigError("a budget needs the price of a label: give --price")
    only_budget = replace(wish, budget=None) == Wish()
    out: list[Forecast] = []
    for per_item in range(1, min(labellers, MOST_PER_ITEM) + 1):
        if per_item == 1 and wish.alpha_width is not None:
            continue
        base = forecast(
            world, Design(MOST_ITEMS, labellers, per_item), prices, level=level, seed=seed
        )
        if only_budget:
            assert wish.budget is not None
            items = min(LARGEST, int(wish.budget / prices.price / per_item))
        else:
            items = _fewest(base, world, wish, prices)
        if items >= 2:
            out.append(base.scaled(items, world, prices))
    return sorted(
        out, key=lambda f: (bool(wish.missed(f)), f.labels if not only_budget else f.win_difference)
    )


def _fewest(base: Forecast, world: Population, wish: Wish, prices: Prices) -> int:
    """The fewest items with which a design meets the wish, its budget left aside; 0 where LARGEST
    do not."""
    free = replace(wish, budget=None)
    low, high = 2, LARGEST
    if free.missed(base.scaled(high, world, prices)):
        return 0
    while low < high:
        middle = (low + high) // 2
        if free.missed(base.scaled(middle, world, prices)):
            low = middle + 1
        else:
            high = middle
    return low


def contradictory(world: Population) -> bool:
    """Whether labellers say nothing together: not even LARGEST items, as often judged as a design
    has it, would show a side that is better on all of them."""
    return not math.isfinite(world.win_difference(LARGEST, MOST_PER_ITEM, _SEEN))


def out_of_reach(
    world: Population, wish: Wish, *, labellers: int = 10, level: Level = "nominal", seed: int = 0
) -> list[str]:
    """What of a wish LARGEST items with the most labels on each do not give, in words."""
    per_item = min(labellers, MOST_PER_ITEM)
    base = forecast(world, Design(MOST_ITEMS, labellers, per_item), level=level, seed=seed)
    most = base.scaled(LARGEST, world, Prices())
    return [
        f"{missed} with {LARGEST:,} items and {per_item} labels on each"
        for missed in replace(wish, budget=None).missed(most)
    ]
