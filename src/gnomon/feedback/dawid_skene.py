"""Dawid and Skene's model of labellers, for pairs in which no side is the first.

Dawid & Skene 1979, "Maximum likelihood estimation of observer error-rates using the EM algorithm".
A pair's truth is that a is better, that b is, or that neither is. Which of two responses is called
a means nothing, so a labeller is as right on pairs in which a is better as on those in which b is:

    truth a or b:   right, wrong or "tie" with chances r, w, t
    truth tie:      "tie" with chance u, else either side

It is Dawid and Skene's fit to the pairs together with their mirror images (a test compares it with
crowd-kit's), with a prior: each labeller starts from what all do together, worth ``PRIOR`` votes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]
from scipy.special import expit, logit, softmax  # type: ignore[import-untyped]

from gnomon.feedback.ballots import TIE, A, B, Ballots, Floats, Ints

PRIOR = 4.0
"""How many votes the pool's error rates are worth against a labeller's own."""
TIES_KNOWN = 0.7
"""The chance that two equal responses are called a tie, before anything is known of it."""
FLOOR = 1e-6
"""The smallest chance of anything."""
FIRST = 20_000
"""Pairs to which abilities are fitted before they are fitted to all."""
MANY = 2000
"""Labellers above which the uncertainty of others' abilities is not carried into one's own."""


@dataclass(frozen=True)
class Fitted:
    """What was estimated.

    Attributes:
        posterior: [P, 3] of each pair's truth.
        right, wrong, tie: [L] chances of each labeller where one side is better.
        ties: chance that neither side of a pair is better.
        logit_error: [L] standard error of the log-odds of ``ability``.
        log: [L, 3, 3] log-chances of what is said (last axis) under each truth.
        rounds: that EM took.  converged: whether they were enough.
    """

    posterior: Floats
    right: Floats
    wrong: Floats
    tie: Floats
    ties: float
    logit_error: Floats
    log: Floats
    rounds: int
    converged: bool

    @property
    def better(self) -> Floats:
        """[P] that the first response is the better one; a tie counts half."""
        return self.posterior[:, A] + self.posterior[:, TIE] / 2.0

    @property
    def even(self) -> Floats:
        """[P] that neither is."""
        return self.posterior[:, TIE]

    @property
    def ability(self) -> Floats:
        """[L] how often a labeller who names a side names the better one."""
        return self.right / (self.right + self.wrong)

    def accuracy(self, errors: float) -> Floats:
        """[L] the ability, so many standard errors up (of its log-odds)."""
        middle = logit(np.clip(self.ability, FLOOR, 1.0 - FLOOR))
        return np.asarray(expit(middle + errors * self.logit_error), dtype=np.float64)


def fit(
    ballots: Ballots,
    gold: Ints | None = None,
    *,
    prior: float = PRIOR,
    rounds: int = 500,
    tolerance: float = 2e-5,
) -> Fitted:
    """Fit by EM, from the shares of the votes.

    Args:
        gold: [P] the known truth of a pair, or -1.
        prior: in votes; 0 is maximum likelihood.
        tolerance: the change of an ability below which it stops.
    """
    counts = ballots.counts()
    posterior = (counts + 0.1) / (counts + 0.1).sum(1, keepdims=True)
    any_tie = bool(counts[:, TIE].any()) or (gold is not None and bool((gold == TIE).any()))
    if not any_tie:
        posterior[:, TIE] = 0.0
        posterior /= posterior.sum(1, keepdims=True)
    known = np.flatnonzero(gold >= 0) if gold is not None else np.zeros(0, dtype=np.int64)
    truth = np.eye(3)[gold[known]] if gold is not None else np.zeros((0, 3))
    step = -(-len(ballots.pairs) // FIRST)
    if step > 1:  # from where some of the items lead to, few rounds are left for all
        some = ballots.item % step == 0
        part = fit(
            ballots.of_pairs(some),
            None if gold is None else gold[some],
            prior=prior, rounds=rounds, tolerance=tolerance,
        )  # fmt: skip
        posterior = _posterior(ballots, part.log, part.ties)
    before, done, moved = np.full(len(ballots.labellers), np.inf), 0, np.inf
    while done < rounds and moved >= tolerance:
        posterior[known] = truth
        rate = _rates(_tallies(ballots, posterior), prior)
        ties = float(posterior[:, TIE].mean()) if any_tie else 0.0
        table = _log_table(rate)
        posterior = _posterior(ballots, table, ties)
        ability = rate[:, 0] / (rate[:, 0] + rate[:, 1])
        moved = float(np.abs(ability - before).max(initial=0.0))
        before, done = ability, done + 1
    posterior[known] = truth
    right, wrong, tie, _ = rate.T
    error = _logit_errors(ballots, posterior, rate, prior)
    return Fitted(posterior, right, wrong, tie, ties, error, table, done, moved < tolerance)


def without_own(ballots: Ballots, fitted: Fitted) -> Floats:
    """[N, 3] the posterior of each vote's pair, had that vote not been given (abilities as fitted).

    A labeller is compared with this: with their own vote in it, everybody agrees a little.
    """
    own = fitted.log[ballots.labeller, :, ballots.said]
    rest = np.log(np.maximum(fitted.posterior, 1e-300))[ballots.pair] - own
    return np.asarray(softmax(rest, axis=1), dtype=np.float64)


def _tallies(ballots: Ballots, posterior: Floats) -> Floats:
    """[L, 5] expected votes: right, wrong, tie (a side is better); tie, a side (none is)."""
    given = posterior[ballots.pair]
    rows = np.arange(len(ballots.said))
    is_tie = ballots.said == TIE
    own = np.where(is_tie, 0.0, given[rows, ballots.said])
    other = np.where(is_tie, 0.0, given[rows, 2 - ballots.said])
    even = given[:, TIE]
    parts = (own, other, np.where(is_tie, 1.0 - even, 0.0), even * is_tie, even * ~is_tie)
    return np.stack([ballots.by_labeller(part) for part in parts], axis=1)


def _rates(tallies: Floats, prior: float) -> Floats:
    """[L, 4] chances (right, wrong, tie; tie of equals) with the pool's as a prior."""
    pool = tallies.sum(0)
    strict = (pool[:3] + FLOOR) / (pool[:3] + FLOOR).sum()
    equal = (pool[3] + TIES_KNOWN) / (pool[3] + pool[4] + 1.0)
    rights = tallies[:, :3] + prior * strict + FLOOR
    rights = rights / rights.sum(1, keepdims=True)
    even = (tallies[:, 3] + (prior + FLOOR) * equal) / (tallies[:, 3:].sum(1) + prior + FLOOR)
    return np.concatenate([rights, np.clip(even, FLOOR, 1.0 - FLOOR)[:, None]], axis=1)


def _log_table(rate: Floats) -> Floats:
    right, wrong, tie, equal = np.log(np.maximum(rate, FLOOR)).T
    side = np.log((1.0 - rate[:, 3]) / 2.0)
    table = np.empty((len(rate), 3, 3))
    table[:, A] = np.stack([right, tie, wrong], axis=1)
    table[:, TIE] = np.stack([side, equal, side], axis=1)
    table[:, B] = np.stack([wrong, tie, right], axis=1)
    return table


def _posterior(ballots: Ballots, table: Floats, ties: float) -> Floats:
    logs = np.full((len(ballots.pairs), 3), np.log((1.0 - ties) / 2.0))
    logs[:, TIE] = np.log(ties) if ties > 0.0 else -np.inf
    own = table[ballots.labeller, :, ballots.said]
    for truth in (A, TIE, B) if ties > 0.0 else (A, B):
        logs[:, truth] += ballots.by_pair(own[:, truth])
    return np.asarray(softmax(logs, axis=1), dtype=np.float64)


def _logit_errors(ballots: Ballots, posterior: Floats, rate: Floats, prior: float) -> Floats:
    """[L] standard errors of the abilities' log-odds: from the products of the items' scores
    (Berndt, Hall, Hall & Hausman 1974), which are expected ones of the complete data (Fisher's
    identity). All abilities are estimated together, so the inverse is of the whole matrix."""
    ability = rate[:, 0] / (rate[:, 0] + rate[:, 1])
    given, own = posterior[ballots.pair], ability[ballots.labeller]
    rows, decided = np.arange(len(ballots.said)), ballots.said != TIE
    right, wrong = given[rows, ballots.said], given[rows, 2 - ballots.said]
    score = np.where(decided, right * (1.0 - own) - wrong * own, 0.0)
    assumed = (prior * (rate[:, 0] + rate[:, 1]) + FLOOR) * ability * (1.0 - ability)
    return errors_of_scores(ballots, score, assumed)


def errors_of_scores(ballots: Ballots, score: Floats, assumed: Floats) -> Floats:
    """[L] standard errors from the [N] votes' scores, which are summed within items.

    Args:
        assumed: [L] information of the prior.
    """
    item, labellers = ballots.item[ballots.pair], len(ballots.labellers)
    shape = (int(item.max(initial=-1)) + 1, labellers)
    scores = sparse.csr_matrix((score, (item, ballots.labeller)), shape=shape)
    if labellers > MANY:
        information = np.asarray(scores.multiply(scores).sum(0)).ravel() + assumed
        return np.asarray(1.0 / np.sqrt(information), dtype=np.float64)
    whole = (scores.T @ scores).toarray() + np.diag(assumed)
    spread = np.diag(np.linalg.pinv(whole, hermitian=True))
    return np.asarray(np.sqrt(np.maximum(spread, 0.0)), dtype=np.float64)
