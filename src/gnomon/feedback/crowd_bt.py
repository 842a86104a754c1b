"""Bradley and Terry's model with labellers of different ability.

Response i of an item has a score s_i, standard normal a priori, and labeller k follows the scores
as closely as their ability allows:

    P(k says a > b) = sigma(c_k (s_a - s_b))

With c_k = 0 they guess; below it they say the contrary. Some pairs are closer than others, and what
is said of a third response counts, too. A tie is half a vote for either side. Chen et al. 2013
("Pairwise ranking aggregation in a crowdsourced setting", Crowd-BT) mix a right and a contrary
labeller instead, with chances e_k and 1 - e_k. From three votes a pair, which show no more than how
often any two labellers agree, e_k and the spread of the scores cannot be told apart. c_k can, since
the scores' spread is given: it is a factor's loading.

Fitted by EM on the marginal likelihood (Bock & Aitkin 1981): the integral over an item's scores is
a sum over fixed points, Gauss's for a pair and Sobol's for more responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]
from scipy.special import expit, log_expit, ndtri, softmax  # type: ignore[import-untyped]

from gnomon.errors import ConfigError
from gnomon.feedback.ballots import TIE, A, B, Ballots, Floats, Ints
from gnomon.feedback.dawid_skene import FLOOR, errors_of_scores

START, SPREAD = 2.0, 2.0
"""Mean and standard deviation of abilities a priori; the mean moves to that of the pool."""
ANCHOR = 20.0
"""Votes that START is worth against the pool's mean."""
SURE = 20.0
"""The c of somebody who knows: of gold questions, and the largest that is estimated."""
POINTS = {2: 24, 3: 256, 4: 512, 5: 1024, 6: 2048}
"""Points of the integral by how many responses an item has."""
CHUNK = 1 << 17
MANY = 20_000
"""Pairs to which abilities are fitted before they are fitted to all."""


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
    sigma(c \\|d\\|) over the prior of d, normal with variance 2."""
    at, weight = np.polynomial.hermite_e.hermegauss(200)
    sigma = expit(np.multiply.outer(slope, np.abs(at) * np.sqrt(2.0)))
    return np.asarray(sigma @ (weight / weight.sum()), dtype=np.float64)


def fit_scores(
    ballots: Ballots,
    gold: Ints | None = None,
    *,
    rounds: int = 300,
    tolerance: float = 1e-3,
) -> FittedScores:
    """Fit by EM, first to some of the items where there are many.

    Args:
        gold: [P] the known truth of a pair (``A``, ``TIE``, ``B``), or -1.
        tolerance: the change of a slope below which it stops.

    Raises:
        ConfigError: an item with more responses than POINTS has.
    """
    slope = np.full(len(ballots.labellers), START)
    step = -(-len(ballots.pairs) // MANY)
    if step > 1:
        some = ballots.item % step == 0
        part = None if gold is None else gold[some]
        slope, _, _ = _slopes(ballots.of_pairs(some), part, slope, rounds, tolerance)
    blocks = _blocks(ballots, gold)
    slope, done, moved = _slopes(ballots, gold, slope, rounds, tolerance, blocks)
    better, score = np.empty(len(ballots.pairs)), np.zeros(len(ballots.said))
    for block in blocks:
        posterior = block.posterior(slope)
        better[block.pairs] = block.better(posterior)
        score[block.votes] = block.scores(slope, posterior)
    error = errors_of_scores(ballots, score, np.full(len(slope), 1.0 / SPREAD**2))
    return FittedScores(better, slope, error, done, moved < tolerance)


def _slopes(
    ballots: Ballots,
    gold: Ints | None,
    slope: Floats,
    rounds: int,
    tolerance: float,
    blocks: Sequence[_Block] = (),
) -> tuple[Floats, int, float]:
    """The slopes from a start on, the rounds that took, and the last change."""
    blocks = blocks or _blocks(ballots, gold)
    telling = ballots.shared()  # nothing else shows how right a vote is
    if gold is not None:
        telling |= (gold >= 0)[ballots.pair]
    weight, done, moved = ballots.by_labeller(telling.astype(np.float64)), 0, np.inf
    while done < rounds and moved >= tolerance:
        pool = (weight @ slope + ANCHOR * START) / (weight.sum() + ANCHOR)
        gain, curve = (pool - slope) / SPREAD**2, np.full(len(slope), 1.0 / SPREAD**2)
        for block in blocks:
            up, down = block.steps(slope, block.posterior(slope))
            gain, curve = gain + up, curve + down
        after = np.clip(slope + np.clip(gain / curve, -1.0, 1.0), -SURE, SURE)
        moved, slope, done = float(np.abs(after - slope).max(initial=0.0)), after, done + 1
    return slope, done, moved


@dataclass(frozen=True)
class _Block:
    """The items of as many responses, with the points over which their scores are integrated.

    A cell is a labeller, a pair of places and what was said (``A`` or ``B``); a tie is half a vote
    in either cell.

    Attributes:
        pairs: places of its P pairs among all.  item: [P] which of the block's I items.
        gap: [P] rows of ``gaps``, [D, Q] the difference of scores in each of D pairs of places.
        votes: places of its N votes.  vote_item: [N].  vote_gap: [N].  vote_sign: [N] 1, 0, -1.
        vote_labeller: [N].
        cells: [I, cells] how often each cell was said of each item, single labellers' items
            included; telling: the same without those.
        cell_labeller, cell_gap, cell_sign: of each cell.
        known: [I, Q] log-likelihood of what is known for sure, and the points' weights.
    """

    pairs: Ints
    item: Ints
    gap: Ints
    gaps: Floats
    votes: Ints
    vote_item: Ints
    vote_gap: Ints
    vote_sign: Floats
    vote_labeller: Ints
    cells: Any
    telling: Any
    cell_labeller: Ints
    cell_gap: Ints
    cell_sign: Floats
    known: Floats

    def posterior(self, slope: Floats) -> Floats:
        """[I, Q] of each item's scores."""
        signed = self.cell_sign[:, None] * self.gaps[self.cell_gap]
        said = log_expit(slope[self.cell_labeller][:, None] * signed)
        return np.asarray(softmax(self.cells @ said + self.known, axis=1), dtype=np.float64)

    def steps(self, slope: Floats, posterior: Floats) -> tuple[Floats, Floats]:
        """[L] slope and curvature of the expected log-likelihood."""
        weight = self.telling.T @ posterior
        signed = self.cell_sign[:, None] * self.gaps[self.cell_gap]
        wrong = expit(-slope[self.cell_labeller][:, None] * signed)
        up = (weight * signed * wrong).sum(1)
        down = (weight * signed**2 * wrong * (1.0 - wrong)).sum(1)
        count = len(slope)
        return (
            np.bincount(self.cell_labeller, up, count).astype(np.float64),
            np.bincount(self.cell_labeller, down, count).astype(np.float64),
        )

    def better(self, posterior: Floats) -> Floats:
        """[P] chance that the first response of a pair has the higher score."""
        out = np.empty(len(self.pairs))
        for place in np.unique(self.gap):
            at = self.gap == place
            out[at] = posterior[self.item[at]] @ (self.gaps[place] > 0.0)
        return out

    def scores(self, slope: Floats, posterior: Floats) -> Floats:
        """[N] each vote's derivative of the log-likelihood by its labeller's slope."""
        out = np.empty(len(self.votes))
        for start in range(0, len(out), CHUNK):
            rows = slice(start, start + CHUNK)
            gap = self.gaps[self.vote_gap[rows]]
            own = slope[self.vote_labeller[rows]][:, None]
            said = (1.0 + self.vote_sign[rows]) / 2.0  # 1/2 for a tie
            each = gap * (said[:, None] - expit(own * gap))
            out[rows] = np.einsum("nq,nq->n", posterior[self.vote_item[rows]], each)
        return out


def _blocks(ballots: Ballots, gold: Ints | None) -> list[_Block]:
    last = np.array([b + 1 for _, _, b in ballots.pairs], dtype=np.int64)
    size = np.zeros(len(ballots.item), dtype=np.int64)
    np.maximum.at(size, ballots.item, last)
    sizes = size[ballots.item]
    most = int(sizes.max(initial=2))
    if most > max(POINTS):
        at = ballots.pairs[int(np.argmax(sizes))][0]
        raise ConfigError(
            f"item {at!r} has {most} responses; bradley_terry takes up to {max(POINTS)}: use "
            "method dawid_skene"
        )
    return [_block(ballots, gold, np.flatnonzero(sizes == k), int(k)) for k in np.unique(sizes)]


def _block(ballots: Ballots, gold: Ints | None, pairs: Ints, size: int) -> _Block:
    first = np.array([ballots.pairs[p][1] for p in pairs], dtype=np.int64)
    second = np.array([ballots.pairs[p][2] for p in pairs], dtype=np.int64)
    held, item = np.unique(ballots.item[pairs], return_inverse=True)
    scores, weight = _points(size)
    upper = np.stack(np.triu_indices(size, 1), axis=1)
    gaps = scores[upper[:, 0]] - scores[upper[:, 1]]
    place = np.zeros((size, size), dtype=np.int64)
    place[upper[:, 0], upper[:, 1]] = np.arange(len(upper))
    gap = place[first, second]
    inside = np.full(len(ballots.pairs), -1)
    inside[pairs] = np.arange(len(pairs))
    votes = np.flatnonzero(inside[ballots.pair] >= 0)
    of = inside[ballots.pair[votes]]
    sign = 1.0 - ballots.said[votes].astype(np.float64)
    labeller, shape = ballots.labeller[votes], (len(ballots.labellers), len(upper), 2)
    cells, telling, used = _cells(
        item[of], (labeller, gap[of]), ballots.said[votes], ballots.shared()[votes], shape,
        known=None if gold is None else (gold >= 0)[ballots.pair[votes]], items=len(held),
    )  # fmt: skip
    who, pair_of, side = np.unravel_index(used, shape)
    known = np.tile(np.log(weight), (len(held), 1))
    if gold is not None:
        for truth, share in ((A, (1.0, 0.0)), (TIE, (5.0, 5.0)), (B, (0.0, 1.0))):
            at = np.flatnonzero(gold[pairs] == truth)
            sure = share[0] * log_expit(SURE * gaps) + share[1] * log_expit(-SURE * gaps)
            np.add.at(known, item[at], sure[gap[at]])
    return _Block(
        pairs, item, gap, gaps, votes, item[of], gap[of], sign, labeller, cells, telling,
        who, pair_of, np.where(side == 0, 1.0, -1.0), known,
    )  # fmt: skip


def _cells(
    item: Ints,
    where: tuple[Ints, Ints],
    said: Ints,
    shared: Any,
    shape: tuple[int, int, int],
    *,
    known: Any,
    items: int,
) -> tuple[Any, Any, Ints]:
    """[I, cells] counts, the same of votes that tell something, and which cells those are."""
    telling = shared if known is None else shared | known
    rows, columns, counts, tells = [], [], [], []
    for side, against in ((0, B), (1, A)):
        at = np.flatnonzero(said != against)
        flat = np.ravel_multi_index((where[0][at], where[1][at], np.full(len(at), side)), shape)
        rows.append(item[at])
        columns.append(flat)
        counts.append(np.where(said[at] == TIE, 0.5, 1.0))
        tells.append(telling[at])
    used, column = np.unique(np.concatenate(columns), return_inverse=True)
    row, count, tell = np.concatenate(rows), np.concatenate(counts), np.concatenate(tells)
    size = (items, len(used))
    whole = sparse.csr_matrix((count, (row, column)), size)
    return whole, sparse.csr_matrix((count * tell, (row, column)), size), used


def _points(size: int) -> tuple[Floats, Floats]:
    """[K, Q] scores, and [Q] weights that sum to 1: of a pair only the difference counts."""
    count = POINTS[size]
    if size == 2:
        at, weight = np.polynomial.hermite_e.hermegauss(count)
        return np.stack([at, -at]) / np.sqrt(2.0), np.maximum(weight / weight.sum(), 1e-300)
    from scipy.stats.qmc import Sobol  # type: ignore[import-untyped]

    uniform = Sobol(size, scramble=True, seed=0).random(count // 2)
    half = ndtri(np.clip(uniform, FLOOR, 1.0 - FLOOR)).T
    return np.concatenate([half, -half], axis=1), np.full(count, 1.0 / count)
