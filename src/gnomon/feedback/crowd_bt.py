"""Bradley and Terry's model with labellers of different ability.

Response i of an item has a score s_i, standard normal a priori, and labeller k follows the scores
as closely as their ability allows:

    P(k says a > b) = sigma(c_k (s_a - s_b))

With c_k = 0 they guess; below it they say the contrary. What others say of a third response counts,
too. A tie is half a vote for either side. Chen et al. 2013 ("Pairwise ranking aggregation in a
crowdsourced setting", Crowd-BT) mix a right and a contrary labeller instead, with chances e_k and
1 - e_k. From three votes a pair, which show no more than how often any two labellers agree, e_k and
the spread of the scores cannot be told apart; docs/believe.md has what comes of it. c_k can, since
the scores' spread is given: it is a factor's loading.

The posterior of the scores is normal by the bound of Jaakkola & Jordan 2000 ("Bayesian parameter
estimation via variational methods"), so every step has a closed form. With three votes a pair a
point estimate would be far too sure of itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtr  # type: ignore[import-untyped]

from gnomon.feedback.ballots import A, B, Ballots, Floats, Ints
from gnomon.feedback.dawid_skene import FLOOR, PRIOR, errors_of_scores

START = 2.0
"""The c_k that everybody starts from; above 0, since most people mean what they say."""
GOLD_VOTES = 50.0
"""What a gold question counts, in votes of somebody with START."""


@dataclass(frozen=True)
class FittedScores:
    """What was estimated.

    Attributes:
        better: [P] chance that the pair's first response has the higher score.
        slope: [L] c_k.  error: [L] its standard error.
        rounds, converged: of the iteration.
    """

    better: Floats
    slope: Floats
    error: Floats
    rounds: int
    converged: bool

    @property
    def even(self) -> Floats:
        """[P] 0: two scores are never the same."""
        return np.zeros_like(self.better)

    def accuracy(self, errors: float) -> Floats:
        """[L] how often each names the better side of two random responses, at the slope so many
        standard errors up."""
        return accuracy_of(self.slope + errors * self.error)


def accuracy_of(slope: Floats) -> Floats:
    """How often a labeller of this c_k names the better side of two random responses: the mean of
    sigma(c |d|) over the prior of d, normal with variance 2 (by Gauss-Hermite quadrature)."""
    at, weight = np.polynomial.hermite_e.hermegauss(64)
    sigma = expit(np.multiply.outer(slope, np.abs(at) * np.sqrt(2.0)))
    return np.asarray(sigma @ (weight / weight.sum()), dtype=np.float64)


def fit_scores(
    ballots: Ballots,
    gold: Ints | None = None,
    *,
    prior: float = PRIOR,
    rounds: int = 500,
    tolerance: float = 1e-4,
) -> FittedScores:
    """Fit by variational EM.

    Args:
        gold: [P] the known truth of a pair (``A``, ``TIE``, ``B``), or -1: counted as the votes of
            somebody who is believed.
        prior: votes that the pool's ability is worth.
        tolerance: the change of a slope below which it stops.
    """
    nodes = _Nodes.of(ballots)
    sign = 1.0 - ballots.said  # 1, 0 (a tie: half a vote each way) or -1
    known = np.zeros((2, len(ballots.pairs)))
    if gold is not None:
        known[0], known[1] = (gold >= 0) * GOLD_VOTES, (gold == A) * 1.0 - (gold == B) * 1.0
    slope = np.full(len(ballots.labellers), START)
    gap, square = np.zeros(len(ballots.pairs)), np.full(len(ballots.pairs), 2.0)
    variance, each, score = square, 0.0, np.zeros(len(ballots.said))
    done, moved = 0, np.inf
    while done < rounds and moved >= tolerance:
        own, before = slope[ballots.labeller], slope
        precision = ballots.by_pair(2.0 * _curve(own**2 * square[ballots.pair]) * own**2)
        precision += 2.0 * known[0] * _curve(START**2 * square) * START**2
        toward = ballots.by_pair(sign * own / 2.0) + known[0] * known[1] * START / 2.0
        gap, variance = nodes.solve(toward, precision)
        square = gap**2 + variance
        size = square[ballots.pair]
        up, down = sign * gap[ballots.pair] / 2.0, 2.0 * _curve(own**2 * size) * size
        each = float(down.mean())
        ups, downs = ballots.by_labeller(up), ballots.by_labeller(down)
        pool = (ups.sum() + FLOOR) / (downs.sum() + FLOOR)
        slope = (ups + prior * each * pool) / (downs + prior * each + FLOOR)
        score = up - down * slope[ballots.labeller]
        moved, done = float(np.abs(slope - before).max(initial=0.0)), done + 1
    error = errors_of_scores(ballots, score, np.full(len(slope), prior * each + FLOOR))
    better = np.asarray(ndtr(gap / np.sqrt(variance)), dtype=np.float64)
    return FittedScores(better, slope, error, done, moved < tolerance)


def _curve(square: Floats) -> Floats:
    """lambda(xi) of the bound at xi squared."""
    xi = np.sqrt(np.maximum(square, 1e-12))
    return np.asarray(np.tanh(xi / 2.0) / (4.0 * xi), dtype=np.float64)


@dataclass(frozen=True)
class _Nodes:
    """Responses that are compared, by items of as many responses.

    Attributes:
        blocks: for each size K: the places [n] of its pairs, and which item of the block (0..I-1)
            and which responses (0..K-1) they are of.
    """

    blocks: tuple[tuple[int, int, Ints, Ints, Ints, Ints], ...]
    pairs: int

    @classmethod
    def of(cls, ballots: Ballots) -> _Nodes:
        first = np.array([a for _, a, _ in ballots.pairs], dtype=np.int64)
        second = np.array([b for _, _, b in ballots.pairs], dtype=np.int64)
        sizes = np.zeros(int(ballots.item.max(initial=-1)) + 1, dtype=np.int64)
        np.maximum.at(sizes, ballots.item, second + 1)
        of_pair = sizes[ballots.item]
        blocks = []
        for size in np.unique(of_pair):
            at = np.flatnonzero(of_pair == size)
            held, item = np.unique(ballots.item[at], return_inverse=True)
            blocks.append((int(size), len(held), at, item, first[at], second[at]))
        return cls(tuple(blocks), len(ballots.pairs))

    def solve(self, toward: Floats, precision: Floats) -> tuple[Floats, Floats]:
        """[P] mean and variance of each pair's difference of scores.

        Args:
            toward: [P] the linear term of a - b.  precision: [P] the quadratic one.
        """
        gap, variance = np.empty(self.pairs), np.empty(self.pairs)
        for at, mean, cov, item, a, b in self._posteriors(toward, precision):
            gap[at] = mean[item, a] - mean[item, b]
            variance[at] = cov[item, a, a] + cov[item, b, b] - 2.0 * cov[item, a, b]
        return gap, variance

    def _posteriors(
        self, toward: Floats, precision: Floats
    ) -> Iterator[tuple[Ints, Floats, Floats, Ints, Ints, Ints]]:
        for size, items, at, item, a, b in self.blocks:
            linear = np.bincount(item * size + a, toward[at], items * size)
            linear -= np.bincount(item * size + b, toward[at], items * size)
            square = np.zeros(items * size * size)
            for i, j, sign in ((a, a, 1.0), (b, b, 1.0), (a, b, -1.0), (b, a, -1.0)):
                where = (item * size + i) * size + j
                square += np.bincount(where, sign * precision[at], square.size)
            whole = square.reshape(items, size, size) + np.eye(size)
            cov = np.asarray(np.linalg.inv(whole), dtype=np.float64)
            mean = np.asarray(np.einsum("ijk,ik->ij", cov, linear.reshape(items, size)))
            yield at, mean, cov, item, a, b
