"""Items and labellers as a study finds them: given in a few numbers, or fitted to a pilot's votes.

Votes are 0 (b is better), 1 (equal) or 2 (a is better), as many on each item; arrays of them are
[S, N, K]: studies, items, votes of an item.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from scipy.optimize import brentq  # type: ignore[import-untyped]
from scipy.special import expit, ndtr, ndtri  # type: ignore[import-untyped]

from gnomon.errors import ConfigError
from gnomon.feedback.agreement import vote_units
from gnomon.feedback.ballots import Floats, Ints
from gnomon.feedback.records import Vote
from gnomon.feedback.select import entropy

Told = tuple[float, float, float, float]
"""Of a study: accuracy of a consensus that knows how votes come about; of plain majorities (a draw
is half); bits that an item's votes tell about it; accuracy of a consensus of all votes but one."""

_NODES = np.linspace(-6.0, 6.0, 121)
_WEIGHTS = np.exp(-(_NODES**2) / 2.0) / np.exp(-(_NODES**2) / 2.0).sum()
"""Leads from N(0, 1), and how likely they are."""
_CLOSE = np.geomspace(1e-4, 6.0, 300)
_CLOSE_WEIGHTS = np.gradient(_CLOSE) * np.exp(-(_CLOSE**2) / 2.0)
"""The same for |lead|, fine where it is small: there sharp labellers err."""


class Population(Protocol):
    """Where items, labellers and their votes come from.

    Attributes:
        accuracy: how often a labeller names the better side, where they name one.
        spread: standard deviation of accuracies between labellers.
        ties: share of votes that call a pair equal.
        crews_differ: whether it knows how labellers differ.
    """

    @property
    def accuracy(self) -> float: ...
    @property
    def spread(self) -> float: ...
    @property
    def ties(self) -> float: ...
    @property
    def crews_differ(self) -> bool: ...

    def studies(
        self, asked: Ints, labellers: int, studies: int, rng: np.random.Generator
    ) -> tuple[Ints, Told]:
        """Votes [S, N, K] of studies of fresh items by one crew; ``asked`` [N, K] says who judges
        which. And what the first of them tells."""

    def win_difference(self, items: int, per_item: int, errors: float) -> float:
        """How far from 0.5 the share of items on which one side is better must be to move the
        win rate (the mean vote) by so many standard errors; infinite where no share does."""


def counts_of(said: Ints) -> Floats:
    """[N, 3] how many of an item's [N, K] votes say each of the three."""
    return np.stack([(said == v).sum(1) for v in range(3)], axis=1).astype(np.float64)


# -- given in numbers ------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """Bradley-Terry items with ties (Rao & Kupper 1967) and labellers of drawn accuracies.

    An item has a lead d of its first response over its second, drawn from N(0, 1), whose sign is
    the truth. A labeller of sensitivity s sees u = s d + logistic noise and says a where u > c, b
    where u < -c, else that they are equal; s and c follow from the numbers below.

    Attributes:
        accuracy: of labellers, on average, where they name a side; above 0.5.
        spread: standard deviation of accuracies between labellers.
        ties: share of votes that call a pair equal.
    """

    accuracy: float = 0.8
    spread: float = 0.05
    ties: float = 0.0

    crews_differ = True

    def __post_init__(self) -> None:
        if not 0.5 < self.accuracy < 1.0:
            raise ConfigError(
                f"accuracy is {self.accuracy:g}: labellers are right more often than a coin, and "
                "not always; give a number between 0.5 and 1"
            )
        if not 0.0 <= self.spread < 0.5:
            raise ConfigError(f"spread of accuracies is {self.spread:g}; give 0 to 0.5")
        if not 0.0 <= self.ties < 0.9:
            raise ConfigError(f"ties is {self.ties:g}, a share of votes; give 0 to 0.9")

    @cached_property
    def zone(self) -> float:
        """c: how near 0 what a labeller sees must be to be called equal."""
        c = 0.0
        for _ in range(60):
            before, c = c, _equal_zone(self.ties, _sensitivity(self.accuracy, c))
            if abs(c - before) < 1e-6:
                break
        return c

    def crew(self, n: int, rng: np.random.Generator) -> Floats:
        """[n] sensitivities of labellers drawn at random."""
        return self._sensitivities(rng.normal(self.accuracy, self.spread, n))

    def _sensitivities(self, accuracy: Floats) -> Floats:
        clipped = np.clip(accuracy, 0.02, 0.999)
        return np.asarray(np.interp(clipped, *_table(round(self.zone, 6))))

    @cached_property
    def _typical(self) -> Floats:
        """Sensitivities at nine equally likely places of the distribution of accuracies."""
        places = ndtri((np.arange(9) + 0.5) / 9.0)
        return self._sensitivities(self.accuracy + self.spread * places)

    def votes(self, lead: Floats, sensitivity: Floats, rng: np.random.Generator) -> Ints:
        """What labellers of these sensitivities say at these leads."""
        signal = lead * sensitivity
        u = signal + rng.logistic(size=signal.shape)
        return 1 + (u > self.zone).astype(np.int64) - (u < -self.zone).astype(np.int64)

    def studies(
        self, asked: Ints, labellers: int, studies: int, rng: np.random.Generator
    ) -> tuple[Ints, Told]:
        skill = self.crew(labellers, rng)[asked]
        lead = rng.normal(0.0, 1.0, (studies, len(asked), 1))
        said = self.votes(lead, skill, rng)
        like = np.zeros((len(asked), len(_NODES)))
        without = like
        for k in range(asked.shape[1]):
            u = skill[:, k, None] * _NODES
            a, b = expit(u - self.zone), expit(-u - self.zone)
            law = np.choose(said[0, :, k, None], [b, 1.0 - a - b, a])
            without, like = like, like + np.log(np.maximum(law, 1e-300))
        side = 0.5 + 0.5 * np.sign(np.round(_NODES, 9))
        return said, _told(like, without, side, _WEIGHTS, said[0])

    def win_difference(self, items: int, per_item: int, errors: float) -> float:
        def vote(lead: Floats) -> tuple[Floats, Floats]:
            u = lead[:, None] * self._typical
            win, loss = expit(u - self.zone).mean(1), expit(-u - self.zone).mean(1)
            tie = 1.0 - win - loss
            return win + 0.5 * tie, win + 0.25 * tie

        mean, square = vote(_NODES)
        between = float(_WEIGHTS @ (mean - 0.5) ** 2)
        within = float(_WEIGHTS @ (square - mean**2)) / per_item
        needed = errors * math.sqrt((between + within) / items)

        def short(lean: float) -> float:
            """By how much too little the win rate moves where leads are N(lean, 1)."""
            return float(_WEIGHTS @ vote(lean + _NODES)[0]) - 0.5 - needed

        if short(4.0) < 0.0:
            return math.inf
        return float(ndtr(brentq(short, 0.0, 4.0))) - 0.5


def _told(like: Floats, without: Floats, side: Floats, weights: Floats, said: Ints) -> Told:
    """What a study's votes tell.

    Args:
        like, without: [N, Q] log-likelihoods of an item's votes, and of all but one, by its kind.
        side: [Q] 1 where a is the better one, 0 where b is, 1/2 where neither.
        weights: [Q] how many items are of a kind.
    """
    p, fewer = (_better(x, side, weights) for x in (like, without))
    lean = np.sign((said - 1).sum(1))
    right = 0.5 + 0.5 * lean * (2.0 * p - 1.0)
    told = 1.0 - float(entropy(p).mean())
    sure, others = (float(np.maximum(x, 1.0 - x).mean()) for x in (p, fewer))
    return sure, float(right.mean()), told, others


def _better(log_like: Floats, side: Floats, weights: Floats) -> Floats:
    """P(a is the better one) from log-likelihoods [N, Q]."""
    posterior = weights * np.exp(log_like - log_like.max(1, keepdims=True))
    return np.asarray((posterior @ side) / posterior.sum(1))


@lru_cache(maxsize=64)
def _table(c: float) -> tuple[Floats, Floats]:
    """(accuracies, sensitivities) of labellers with the equal zone ``c``; both rise."""
    up = np.concatenate([[0.0], np.geomspace(0.01, 1000.0, 300)])
    right, wrong = (expit(side * np.outer(up, _CLOSE) - c) @ _CLOSE_WEIGHTS for side in (1, -1))
    accuracy = right / (right + wrong)
    return (
        np.concatenate([1.0 - accuracy[:0:-1], accuracy]),
        np.concatenate([-up[:0:-1], up]),
    )


def _sensitivity(accuracy: float, c: float) -> float:
    return float(np.interp(accuracy, *_table(round(c, 6))))


def _equal_zone(ties: float, s: float) -> float:
    """The c at which a labeller of sensitivity ``s`` calls this share of pairs equal."""
    if ties == 0.0:
        return 0.0

    def share(c: float) -> float:
        seen = s * _NODES
        return float(_WEIGHTS @ (expit(seen + c) - expit(seen - c)))

    return float(brentq(lambda c: share(c) - ties, 0.0, 50.0 + 10.0 * abs(s)))


# -- fitted to a pilot -----------------------------------------------------------------------------

STEPS = 20
"""The laws of votes that a pilot's items may have lie 1 / STEPS apart."""
ROUNDS = 1000


@dataclass(frozen=True)
class Pilot:
    """Items as the votes of a pilot show them: each has a law, the chances of b, equal and a, and
    the laws are mixed as the votes are likeliest (Kiefer & Wolfowitz 1956).

    No form is assumed of items (some are plain, some are toss-ups, some are equal to everybody).
    The truth of an item is what most people would say. Who voted is left out: the figures are for
    such a crew as the pilot's, and how crews differ is not known.

    Attributes:
        laws: [Q, 3].  weights: [Q] how many of the items follow each.
    """

    laws: Floats
    weights: Floats

    crews_differ = False
    spread = math.nan

    @property
    def ties(self) -> float:
        return float(self.weights @ self.laws[:, 1])

    @property
    def _side(self) -> Floats:
        return np.asarray(0.5 + 0.5 * np.sign(np.round(self.laws[:, 2] - self.laws[:, 0], 9)))

    @property
    def accuracy(self) -> float:
        decided = self.laws[:, 0] + self.laws[:, 2]
        right = self.weights @ np.maximum(self.laws[:, 0], self.laws[:, 2])
        return float(right / (self.weights @ decided))

    def studies(
        self, asked: Ints, labellers: int, studies: int, rng: np.random.Generator
    ) -> tuple[Ints, Told]:
        drawn = rng.choice(len(self.weights), p=self.weights, size=(studies, len(asked)))
        ends = np.cumsum(self.laws, axis=1)[drawn][:, :, None, :2]
        said = (rng.random((studies, *asked.shape))[..., None] > ends).sum(-1)
        log = np.log(np.maximum(self.laws, 1e-12)).T
        like, without = (counts_of(x) @ log for x in (said[0], said[0, :, :-1]))
        return said, _told(like, without, self._side, self.weights, said[0])

    def win_difference(self, items: int, per_item: int, errors: float) -> float:
        """Items lean to one side more often, the plainer the more: their weights are multiplied by
        1 + x t, where t = 2 (mean vote) - 1. The win rate moves by x E[t^2] / 2 then, and the truth
        by x E|t| / 2."""
        mean = self.laws @ np.array([0.0, 0.5, 1.0])
        square = self.laws @ np.array([0.0, 0.25, 1.0])
        between = float(self.weights @ (mean - 0.5) ** 2)
        within = float(self.weights @ (square - mean**2)) / per_item
        lean = np.abs(2.0 * mean - 1.0)
        kept = float(self.weights @ lean**2) / max(float(self.weights @ lean), 1e-12)
        leans = float(self.weights @ (self._side != 0.5))
        found = errors * math.sqrt((between + within) / items) / max(kept, 1e-12)
        return found if found <= 0.5 * leans else math.inf


def fit_pilot(votes: Iterable[Vote]) -> Pilot:
    """The mixture of laws under which a pilot's votes are likeliest, by expectation maximisation;
    either response may be the first, so every item counts in both orders.

    Raises:
        ConfigError: no pair has two labellers.
    """
    counts = vote_units(votes).counts
    counts = counts[counts.sum(1) >= 2]
    if not len(counts):
        raise ConfigError(
            "a pilot needs pairs that two labellers or more judged: nothing else shows how far "
            "they agree. Leave the store out and give --accuracy."
        )
    if not (counts[:, 0] + counts[:, 2]).any():
        raise ConfigError(
            "every label of the pilot calls its two responses equal: it shows no difference, and "
            "more labels of its kind would not. Look at the items, or give --accuracy without it."
        )
    patterns, times = np.unique(np.vstack([counts, counts[:, ::-1]]), axis=0, return_counts=True)
    b, a = (x.ravel() for x in np.meshgrid(np.arange(STEPS + 1), np.arange(STEPS + 1)))
    inside = a + b <= STEPS
    laws = np.stack([b, STEPS - a - b, a], axis=1)[inside] / STEPS
    like = np.exp(patterns @ np.log(np.maximum(laws, 1e-9)).T)
    weights = np.full(len(laws), 1.0 / len(laws))
    for _ in range(ROUNDS):
        shares = like * weights
        shares /= shares.sum(1, keepdims=True)
        before, weights = weights, times @ shares / times.sum()
        if np.abs(weights - before).max() < 1e-6:
            break
    return Pilot(laws, weights / weights.sum())
