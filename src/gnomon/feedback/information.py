"""What votes say, in bits, and what a bit of it costs.

What a label says is measured in bits: the mutual information of one vote with the truth as the
*other* labellers' consensus has it. Which side of a pair is the first means nothing, so a vote that
is right with chance r, wrong with w and a tie with t carries

    I = H(vote) - H(vote | truth) = (1 - t) (1 - H2(r / (r + w)))    bits

of the one bit that a pair has. Shares estimated from n votes make I too large by about
1 / (2 n ln 2) (Miller & Madow 1955, "Note on the bias of information estimates"), which is taken
off. Bits of several votes on a pair do not add up: the second says less that is new.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.special import entr  # type: ignore[import-untyped]

from gnomon.feedback.ballots import Floats
from gnomon.feedback.consensus import Gold, consensus
from gnomon.feedback.records import Vote
from gnomon.feedback.select import entropy
from gnomon.stats.intervals import Interval

FOLDS = 10
RESAMPLES = 1000
PEOPLE = ("person", "simulated")
"""Kinds whose consensus the others' labels are measured by, where there are any."""
Truths = Mapping[tuple[str, str, int, int], float]
"""(labeller, item, a, b) -> P(a is better) as the other labellers have it."""


def bits(table: Floats) -> Floats:
    """Mutual information, in bits, of votes that are right, ties and wrong as often as
    ``table`` [..., 3] says, with the truth; not corrected."""
    n = table.sum(-1, keepdims=True)
    p = table / np.maximum(n, 1e-300)
    vote = entropy(p[..., 1]) + 1.0 - p[..., 1]
    return np.asarray(vote - entr(p).sum(-1) / math.log(2.0))


def miller_madow(table: Floats) -> float:
    """By how much :func:`bits` of n votes is too large: (m - 1) / (2 n ln 2) for each entropy of m
    kinds of votes that were seen. H(vote) has two, deciding and tying, since either side of a pair
    may be the first."""
    n = float(table.sum())
    seen, decides = int((table > 0).sum()), int(table[0] + table[2] > 0) + int(table[1] > 0)
    return max(0, seen - decides) / (2.0 * n * math.log(2.0)) if n else math.nan


def information(votes: Iterable[Vote], truth: Truths, *, seed: int = 0) -> Interval:
    """Bits of one vote about its pair, corrected, with a 95% interval by bootstrap over items.

    Args:
        truth: votes on a pair that it does not hold are left out.

    Returns:
        NaN where no vote can be checked; ``n`` counts the items.
    """
    place: dict[str, int] = {}
    rows: list[tuple[int, float, float, float]] = []
    for vote in votes:
        p = truth.get((vote.labeller, vote.item, vote.a, vote.b))
        if p is None:
            continue
        item = place.setdefault(vote.item, len(place))
        agrees = p if vote.won == 1.0 else 1.0 - p
        rows.append((item, 0.0, 1.0, 0.0) if vote.won == 0.5 else (item, agrees, 0.0, 1 - agrees))
    if not rows:
        return Interval(math.nan)
    table = np.zeros((len(place), 3))
    raw = np.array(rows)
    np.add.at(table, raw[:, 0].astype(np.int64), raw[:, 1:])
    total = table.sum(0)
    bias = miller_madow(total)
    value = float(bits(total)) - bias
    if len(place) < 2:
        return Interval(max(0.0, value), n=float(len(place)))
    rng = np.random.default_rng(seed)
    alike = np.full(len(place), 1.0 / len(place))
    resamples = max(100, min(RESAMPLES, 10_000_000 // len(place)))
    drawn = np.array([rng.multinomial(len(place), alike) @ table for _ in range(resamples)])
    # a resample's estimate is too large by the bias once more
    low, high = np.quantile(bits(drawn) - 2.0 * bias, (0.025, 0.975))
    value = max(0.0, value)
    ends = (max(0.0, min(float(low), value)), max(float(high), value))
    return Interval(value, *ends, float(len(place)))


def others_truth(
    said: Sequence[Vote], kinds: Mapping[str, str], gold: Gold | None = None
) -> Truths:
    """What the others say of each vote's pair: the consensus without the votes of a tenth of the
    labellers, the voter among them (without the voter alone, of ten or fewer). Where people
    labelled, it is theirs; else everybody's.
    """
    people = {v.labeller for v in said if kinds.get(v.labeller, "person") in PEOPLE}
    names = sorted({v.labeller for v in said})
    by = people or set(names)
    gold = gold or {}
    out: dict[tuple[str, str, int, int], float] = {}
    folds = [set(names[i::FOLDS]) for i in range(min(FOLDS, len(names)))]
    for fold in folds:
        left = [v for v in said if v.labeller in by and v.labeller not in fold]
        beliefs = consensus(left, gold=gold).beliefs if left else {}
        for v in said:
            if v.labeller in fold:
                pair = (v.item, v.a, v.b)
                known = gold.get(pair)
                belief = beliefs.get(pair)
                if known is not None or belief is not None:
                    p = known if known is not None else belief.probability  # type: ignore[union-attr]
                    out[(v.labeller, *pair)] = p
    return out


def per_bit(money_per_pair: float, found: Interval) -> Interval:
    """Euros for a bit; infinite where a vote says nothing."""
    if not money_per_pair > 0 or math.isnan(found.value):
        return Interval(math.nan)

    def price(x: float) -> float:
        return money_per_pair / x if x > 0 else math.inf

    return Interval(price(found.value), price(found.high), price(found.low), found.n)


def per_point(money: float, accuracy: Interval) -> Interval:
    """Euros for a hundredth of a reward model's accuracy above a half, which needs no labels;
    infinite where it has none."""
    gained = (100.0 * (x - 0.5) for x in (accuracy.value, accuracy.high, accuracy.low))
    value, low, high = (money / x if x > 0 else math.inf for x in gained)
    return Interval(value, low, high, accuracy.n)
