"""Pairs from one prompt's sampled responses and their judgement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gnomon.algorithms.rollouts import Rollout, as_response
from gnomon.records import Comparison, TokenGroup, TokenResponse


@dataclass(frozen=True)
class PairMaking:
    """How pairs are made.

    Attributes:
        pairs: the best against the worst, or every pair.
        tie_margin: rewards that differ by no more than this are a tie.
        no_eos_penalty: taken off the reward of a cut-off response.
        whole: the whole ranking is learned from, so every response stays, those of ties too.
    """

    pairs: Literal["best_worst", "all"] = "best_worst"
    tie_margin: float = 0.0
    no_eos_penalty: float = 0.0
    whole: bool = False

    def group(self, rollout: Rollout, group_id: str) -> tuple[TokenGroup | None, int]:
        """The group to learn from (None if all its responses are equal), and how many ties.

        The pairs are the judge's own comparisons where it made any, else they follow from the
        rewards.

        Responses carry ``rank`` and ``reward``; those in no pair are left out, and so are pairs of
        the same tokens and responses whose reward failed.
        """
        scored = {
            i: (c, s.value - self.no_eos_penalty * (not c.finished))
            for i, (c, s) in enumerate(zip(rollout.completions, rollout.scores, strict=True))
            if s.value is not None and len(c.ids)
        }
        rewards = [value for _, value in scored.values()]
        judged = rollout.judgement.comparisons
        if judged is None:
            compared = compare_rewards(rewards, self.tie_margin)
        else:
            at = {i: k for k, i in enumerate(scored)}
            compared = tuple(
                replace(c, better=at[c.better], worse=at[c.worse])
                for c in judged
                if c.better in at and c.worse in at
            )
            if self.no_eos_penalty:
                ended = [c.finished for c, _ in scored.values()]
                compared = tuple(_by_penalty(c, rewards, ended) for c in compared)
        made = [as_response(c) for c, _ in scored.values()]
        ids = [c.ids for c, _ in scored.values()]
        strict = [c for c in compared if not c.tie and ids[c.better] != ids[c.worse]]
        ties = len(compared) - len(strict)
        if self.pairs == "best_worst":
            ties = int(bool(compared) and not strict)  # all are equal: its one pair is a tie
            strict = sorted(strict, key=lambda c: rewards[c.worse] - rewards[c.better])[:1]
        ranks = ranks_from_rewards(rewards, self.tie_margin if judged is None else 0.0)
        used = sorted({i for c in strict for i in (c.better, c.worse)})
        if self.whole and strict:
            used = list(range(len(scored)))
        if not used:
            return None, ties
        place = {i: k for k, i in enumerate(used)}
        responses = tuple(
            TokenResponse(
                made[i].ids, made[i].mask, scalar={"rank": ranks[i], "reward": rewards[i]}
            )
            for i in used
        )
        prompt = rollout.prompt
        group = TokenGroup(
            group_id,
            prompt.ids,
            responses,
            tuple(replace(c, better=place[c.better], worse=place[c.worse]) for c in strict),
            source=prompt.prompt.source,
            category=prompt.prompt.category,
        )
        return group, ties


def _by_penalty(said: Comparison, rewards: Sequence[float], ended: Sequence[bool]) -> Comparison:
    """A judge's comparison of an answer that ended with one that was cut off, as the rewards less
    the penalty say; of all others as the judge said."""
    gap = rewards[said.better] - rewards[said.worse]
    if ended[said.better] == ended[said.worse] or gap == 0 or (gap > 0 and not said.tie):
        return said
    better, worse = (said.better, said.worse) if gap > 0 else (said.worse, said.better)
    return replace(said, better=better, worse=worse, tie=False, probability=1.0)


def compare_rewards(rewards: Sequence[float], tie_margin: float) -> tuple[Comparison, ...]:
    """All K(K-1)/2 comparisons; ``margin`` is by how much the better one's reward is higher."""
    out: list[Comparison] = []
    for i in range(len(rewards)):
        for j in range(i + 1, len(rewards)):
            better, worse = (i, j) if rewards[i] >= rewards[j] else (j, i)
            gap = rewards[better] - rewards[worse]
            out.append(Comparison(better, worse, margin=gap, tie=gap <= tie_margin))
    return tuple(out)


def ranks_from_rewards(rewards: Sequence[float], tie_margin: float) -> list[float]:
    """1 for the highest reward; neighbours within ``tie_margin`` share a rank."""
    order = sorted(range(len(rewards)), key=lambda i: -rewards[i])
    ranks = [0.0] * len(rewards)
    for place, i in enumerate(order):
        above = order[place - 1] if place else None
        tied = above is not None and rewards[above] - rewards[i] <= tie_margin
        ranks[i] = ranks[above] if tied and above is not None else place + 1.0
    return ranks
