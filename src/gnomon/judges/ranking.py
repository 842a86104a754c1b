"""K answers in an order: how they are shown, and what several orders say together."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from itertools import combinations

from gnomon.records import Comparison

Wins = Mapping[tuple[int, int], float]
"""(i, j), i < j -> the probability that answer i is better than answer j; a tie is half."""


def showings(count: int, orders: int, seed: str) -> list[tuple[int, ...]]:
    """Different orders to show ``count`` answers in.

    The first is drawn from the seed, and every second one is the one before it turned round, so
    that of an even number of orders each pair is shown as often one way as the other. Further ones
    are rotated, so that each answer stands at the beginning, in the middle and at the end.
    """
    first = list(range(count))
    random.Random(seed).shuffle(first)
    turns = max(1, math.ceil(orders / 2))
    found: dict[tuple[int, ...], None] = {}
    for turn in range(count):
        by = (turn * count) // turns if turn < turns else turn
        rotated = tuple(first[by % count :] + first[: by % count])
        found |= dict.fromkeys([rotated, rotated[::-1]])
    return list(found)[:orders]


def wins_of_order(order: Sequence[Sequence[int]]) -> dict[tuple[int, int], float]:
    """What an order says of each pair: 1, 0, or 1/2 for a tie."""
    place = {answer: rank for rank, tied in enumerate(order) for answer in tied}
    return {
        (i, j): 0.5 if place[i] == place[j] else float(place[i] < place[j])
        for i, j in combinations(sorted(place), 2)
    }


def wins_of_best(shares: Sequence[float]) -> dict[tuple[int, int], float]:
    """What the probabilities [count] of being the best say of each pair, by Luce's axiom:
    P(i over j) = p_i / (p_i + p_j) (Luce 1959; Plackett 1975). A pair of which neither can be the
    best is left out."""
    return {
        (i, j): shares[i] / (shares[i] + shares[j])
        for i, j in combinations(range(len(shares)), 2)
        if shares[i] + shares[j] > 0
    }


def mean_wins(several: Sequence[Wins]) -> dict[tuple[int, int], float]:
    """The mean over those that know a pair."""
    pairs = sorted({pair for wins in several for pair in wins})
    known = {pair: [wins[pair] for wins in several if pair in wins] for pair in pairs}
    return {pair: sum(values) / len(values) for pair, values in known.items()}


def compared(wins: Wins) -> tuple[Comparison, ...]:
    """As records."""
    return tuple(comparison(i, j, p) for (i, j), p in wins.items())


def comparison(i: int, j: int, p: float) -> Comparison:
    """Answer ``i`` is better than ``j`` with probability ``p``; a tie at 1/2."""
    if abs(p - 0.5) < 1e-9:
        return Comparison(i, j, tie=True)
    better, worse = (i, j) if p > 0.5 else (j, i)
    return Comparison(better, worse, probability=min(1.0, max(p, 1.0 - p)))


def shares(wins: Wins, count: int) -> list[float]:
    """[count] the mean of what each answer wins against the others; 1/2 where it met none."""
    points = _points(wins, count)
    return [sum(own.values()) / len(own) if own else 0.5 for own in points]


def bradley_terry(wins: Wins, count: int) -> list[float]:
    """[count] log-strengths of Bradley and Terry's model (1952), P(i over j) = sigmoid(s_i - s_j).

    Every answer also draws once with an answer of strength 1, so that there is one solution, with
    finite strengths, whoever won all; the strengths are maximum a posteriori. Found by Hunter's MM
    iterations (2004, Annals of Statistics 32, section 3), which climb at every step.
    """
    points, strength = _points(wins, count), [1.0] * count
    for _ in range(1000):
        new = []
        for i, own in enumerate(points):
            met = sum(1.0 / (strength[i] + strength[j]) for j in own) + 1.0 / (strength[i] + 1.0)
            new.append((sum(own.values()) + 0.5) / met)
        moved = max(abs(math.log(a / b)) for a, b in zip(new, strength, strict=True))
        strength = new
        if moved < 1e-10:
            break
    return [math.log(s) for s in strength]


def _points(wins: Wins, count: int) -> list[dict[int, float]]:
    """For each answer, what it won against each that it met."""
    points: list[dict[int, float]] = [{} for _ in range(count)]
    for (i, j), p in wins.items():
        points[i][j], points[j][i] = p, 1.0 - p
    return points
