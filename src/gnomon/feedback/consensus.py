"""What labellers say together of every comparison, and how far each can be believed.

votes -> consensus -> P(a is better) of every pair, ability of every labeller
                   -> groups whose comparisons carry that probability into the loss
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from gnomon.errors import ConfigError
from gnomon.feedback.ballots import TIE, A, B, Ballots, Floats, Pair
from gnomon.feedback.crowd_bt import POINTS, fit_scores
from gnomon.feedback.dawid_skene import fit
from gnomon.feedback.records import Item, Vote
from gnomon.records import Comparison, Group
from gnomon.stats.intervals import Interval, t_quantile, weighted_proportion

Method = Literal["auto", "dawid_skene", "bradley_terry", "majority"]
Gold = Mapping[Pair, float]
"""What is known to be true of a pair: 1 where its first response is better, 0, or 0.5."""
LEVEL = 0.95
NORMAL = t_quantile(LEVEL, np.inf)


@dataclass(frozen=True, slots=True)
class Belief:
    """What the votes together say of a pair.

    Attributes:
        probability: that its first response is the better one; a tie counts half.
        tie: that neither is.
        votes: how many.
    """

    probability: float
    tie: float
    votes: int


@dataclass(frozen=True, slots=True)
class Ability:
    """How far a labeller can be believed.

    Attributes:
        accuracy: how often they name the better side when they name one; ``n`` counts such votes.
            1/2 is a guess. In ``bradley_terry`` it is the chance of following the scores.
        error: its standard error.
        ties: the share of their votes that are ties.
        votes: all of them.
    """

    labeller: str
    accuracy: Interval
    error: float
    ties: float
    votes: int

    @property
    def adversarial(self) -> bool:
        """Whether they name the worse side more often than chance does: their votes then count
        against what they say."""
        return self.accuracy.high < 0.5

    @property
    def guessing(self) -> bool:
        """Whether they cannot be told from somebody who guesses."""
        return not self.accuracy.excludes(0.5)


@dataclass(frozen=True)
class Consensus:
    """What a method made of votes.

    Attributes:
        method: its name.
        beliefs: by pair (item, a, b).
        labellers: by name.
        notes: what a reader should know, in words.
    """

    method: str
    beliefs: Mapping[Pair, Belief]
    labellers: Mapping[str, Ability]
    notes: tuple[str, ...] = ()


def consensus(
    votes: Iterable[Vote], method: Method = "auto", *, gold: Gold | None = None
) -> Consensus:
    """Weigh votes by who gave them.

    A labeller's several votes on a pair count once, the last. A labeller's own confidence is not
    used: how far they can be believed is estimated from what the others say.

    Args:
        method: ``dawid_skene`` (see :mod:`gnomon.feedback.dawid_skene`) takes pairs by themselves
            and knows ties; ``bradley_terry`` (:mod:`gnomon.feedback.crowd_bt`) has a score for each
            response, so that a-b and b-c say something of a-c; ``majority`` believes all alike.
            ``auto`` takes ``bradley_terry`` where an item has pairs that only some of its labellers
            compared, else ``dawid_skene``.
        gold: truths that are known; they fix which side of chance a labeller is on.

    Raises:
        ConfigError: an unknown method.
        DataError: a vote that is neither a win nor a tie.
    """
    if method not in get_args(Method):
        raise ConfigError(f"unknown method {method!r}: use {', '.join(get_args(Method))}")
    ballots = Ballots.of(votes)
    chosen = _chosen(ballots) if method == "auto" else method
    truth = None if not gold else np.array([_truth(gold.get(p)) for p in ballots.pairs], np.int64)
    if chosen == "majority" or not ballots.pairs:
        return _majority(ballots)
    fitted = fit(ballots, truth) if chosen == "dawid_skene" else fit_scores(ballots, truth)
    beliefs = _beliefs(ballots, fitted.better, fitted.even)
    labellers = _abilities(ballots, *(fitted.accuracy(z) for z in (0.0, -NORMAL, NORMAL)))
    notes = _notes(ballots, labellers, bool(gold))
    if not fitted.converged:
        notes.append(f"{chosen} had not converged after {fitted.rounds} rounds")
    return Consensus(chosen, beliefs, labellers, tuple(notes))


def majority(votes: Iterable[Vote]) -> Consensus:
    """The shares of the votes, whoever gave them; an ability is the agreement with the others'
    majority, each vote against those of the others on its pair."""
    return _majority(Ballots.of(votes))


def gold_pairs(items: Iterable[Item]) -> dict[Pair, float]:
    """What the gold questions among the items say of each pair of their responses."""
    out: dict[Pair, float] = {}
    for item in items:
        ranks = item.gold or ()
        for a in range(len(ranks)):
            for b in range(a + 1, len(ranks)):
                out[item.id, a, b] = 0.5 if ranks[a] == ranks[b] else float(ranks[a] < ranks[b])
    return out


def believed_groups(items: Iterable[Item], found: Consensus) -> list[Group]:
    """The items' groups with what was found of them; items without a vote have no group.

    ``majority`` gives plain verdicts, all others probabilities. A pair that is likelier a tie than
    either side is a tie, of the weight of that probability.
    """
    said: dict[str, list[Comparison]] = {}
    hard = found.method == "majority"
    for (item, a, b), belief in found.beliefs.items():
        said.setdefault(item, []).append(_comparison(a, b, belief, hard))
    return [
        Group(item.prompt, item.responses, tuple(said[item.id]))
        for item in items
        if item.id in said
    ]


def _comparison(a: int, b: int, belief: Belief, hard: bool) -> Comparison:
    p = belief.probability
    better, worse = (a, b) if p >= 0.5 else (b, a)
    if hard:
        return Comparison(better, worse, tie=p == 0.5)
    if belief.tie > 0.5:
        return Comparison(better, worse, weight=belief.tie, tie=True)
    return Comparison(better, worse, probability=max(p, 1.0 - p))


# -- what the methods share -----------------------------------------------------------------------


def _chosen(ballots: Ballots) -> Method:
    """``bradley_terry`` where pairs of an item are not compared by the same labellers, and it can
    take them."""
    per_item = np.bincount(ballots.item)
    votes = ballots.counts().sum(1)
    several = per_item[ballots.item] > 1
    low = np.full(len(per_item), np.inf)
    high = np.zeros(len(per_item))
    np.minimum.at(low, ballots.item, votes)
    np.maximum.at(high, ballots.item, votes)
    sizes = np.zeros(len(per_item), dtype=np.int64)
    np.maximum.at(sizes, ballots.item, np.array([b + 1 for _, _, b in ballots.pairs], np.int64))
    whole = per_item == sizes * (sizes - 1) // 2
    uneven = bool(several.any()) and bool(((low < high) | ~whole)[per_item > 1].any())
    small = int(sizes.max(initial=0)) <= max(POINTS)
    return "bradley_terry" if uneven and small else "dawid_skene"


def _truth(known: float | None) -> int:
    return -1 if known is None else {1.0: A, 0.5: TIE, 0.0: B}[float(known)]


def _beliefs(ballots: Ballots, better: Floats, ties: Floats) -> dict[Pair, Belief]:
    counts = ballots.counts().sum(1).astype(np.int64)
    rows = zip(better.tolist(), ties.tolist(), counts.tolist(), strict=True)
    return dict(zip(ballots.pairs, (Belief(*row) for row in rows), strict=True))


def _abilities(ballots: Ballots, ability: Floats, low: Floats, high: Floats) -> dict[str, Ability]:
    votes = ballots.by_labeller(np.ones(len(ballots.said)))
    ties = ballots.by_labeller((ballots.said == TIE) * 1.0)
    return {
        name: Ability(
            name,
            Interval(float(ability[k]), float(low[k]), float(high[k]), float(votes[k] - ties[k])),
            float(high[k] - low[k]) / (2.0 * NORMAL),
            float(ties[k] / votes[k]),
            int(votes[k]),
        )
        for k, name in enumerate(ballots.labellers)
    }


def _majority(ballots: Ballots) -> Consensus:
    counts = ballots.counts()
    total = counts.sum(1)
    better = (counts[:, A] + counts[:, TIE] / 2) / np.maximum(total, 1)
    beliefs = _beliefs(ballots, better, counts[:, TIE] / np.maximum(total, 1))
    return Consensus("majority", beliefs, _agreements(ballots, counts))


def _agreements(ballots: Ballots, counts: Floats) -> dict[str, Ability]:
    """How often each labeller sides with the majority of the others, who are not all wrong."""
    others = counts[ballots.pair]
    others[np.arange(len(ballots.said)), ballots.said] -= 1
    lead = np.sign(others[:, A] - others[:, B])
    own = 1.0 - ballots.said
    agrees = (1.0 + own * lead) / 2.0
    compared = (ballots.said != TIE) & (others.sum(1) > 0)
    item = ballots.item[ballots.pair]
    votes, ties = (np.bincount(ballots.labeller, w) for w in (None, (ballots.said == TIE) * 1.0))
    out = {}
    for k, name in enumerate(ballots.labellers):
        at = np.flatnonzero(compared & (ballots.labeller == k))
        found = weighted_proportion(agrees[at], clusters=item[at].tolist())
        error = (found.high - found.low) / (2.0 * NORMAL)
        out[name] = Ability(name, found, error, float(ties[k] / votes[k]), int(votes[k]))
    return out


def _notes(ballots: Ballots, labellers: Mapping[str, Ability], gold: bool) -> list[str]:
    notes = []
    if ballots.repeated:
        notes.append(
            f"{ballots.repeated} votes are of labellers who voted on the pair again: their last "
            "vote counts"
        )
    against = [a for a in labellers.values() if a.adversarial]
    for a in against:
        notes.append(
            f"labeller {a.labeller!r} names the worse side in {1 - a.accuracy.value:.0%} of their "
            "votes (more than a guess would): their votes count against what they say"
        )
    if 2 * sum(a.votes for a in against) > len(ballots.said):
        notes.append(
            "most votes count against what they say: without gold questions nothing shows which "
            "half is right"
        )
    if not gold and ballots.counts().sum(1).max(initial=0) < 2:
        notes.append(
            "no pair has two labellers and there are no gold questions: abilities are what was "
            "assumed, not what was seen"
        )
    return notes
