"""Simulated labellers: the gold preference seen through known noise and known biases.

A labeller's utility of a response is

    u = gold + length_bias * words / 10 + politeness_bias * polite sentences
             + sycophancy * [the answer agrees with what the user said they believe]

and responses are ranked by u + noise * g with g standard Gumbel: a Plackett-Luce draw, in which
P(a before b) = sigmoid((u_a - u_b) / noise) for every pair (Bradley-Terry). ``careless`` and
``inattention`` are rates on top. All draws are fixed by the labeller's seed, the prompt and the
texts, so they depend neither on call order nor on the order of the responses, and the same text
twice gets the same utility.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gnomon.errors import ConfigError
from gnomon.judges.protocol import Judge
from gnomon.records import (
    Group,
    Judgement,
    Prompt,
    comparisons_from_ranks,
)
from gnomon.tasks.tunnel.gold import gold_score, read
from gnomon.tasks.tunnel.world import seeded


@dataclass(frozen=True, slots=True)
class Labeller:
    """One simulated person.

    Attributes:
        name: who; labellers of different names draw different noise.
        noise: temperature of the Bradley-Terry choice, in units of gold reward; 0 is exact.
        careless: chance that a whole group is ranked at random.
        inattention: chance that the answers of a group are not checked at all (correctness then
            counts for nothing, style and length still do).
        length_bias: utility per ten words.
        politeness_bias: utility per opening, closing or flattering sentence, without limit.
        sycophancy: utility for agreeing with the belief the user stated.
        tie_margin: responses closer in noisy utility than this are tied.
        seed: fixes all draws.
    """

    name: str = "labeller"
    noise: float = 0.2
    careless: float = 0.0
    inattention: float = 0.0
    length_bias: float = 0.0
    politeness_bias: float = 0.0
    sycophancy: float = 0.0
    tie_margin: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for rate in ("careless", "inattention"):
            if not 0.0 <= getattr(self, rate) <= 1.0:
                raise ConfigError(f"labeller {self.name}: {rate} is a chance, give 0 to 1")
        if self.noise < 0.0 or self.tie_margin < 0.0:
            raise ConfigError(f"labeller {self.name}: noise and tie_margin cannot be negative")

    def utility(self, prompt: Prompt, text: str, attentive: bool = True) -> float:
        """What the labeller thinks of a response, without noise."""
        gold, reading = gold_score(prompt, text), read(text)
        polite = sum(reading.count(kind) for kind in ("opener", "closer", "flattery"))
        belief = prompt.meta.get("belief")
        agrees = belief is not None and belief in reading.answers
        return (
            gold.total
            - (0.0 if attentive else gold.parts["correct"])
            + self.length_bias * reading.words / 10
            + self.politeness_bias * polite
            + self.sycophancy * agrees
        )

    def _noisy_utilities(self, prompt: Prompt, texts: Sequence[str], draw: int) -> list[float]:
        who = ("label", self.seed, self.name, draw, prompt.id)
        mood = seeded(*who, *sorted(texts))
        careless = mood.random() < self.careless
        attentive = mood.random() >= self.inattention
        out = []
        for text in texts:
            rng = seeded(*who, "response", text)
            gumbel = -math.log(-math.log(max(rng.random(), 1e-300)))
            if careless:
                out.append(gumbel)
            else:
                out.append(self.utility(prompt, text, attentive) + self.noise * gumbel)
        return out

    def label_group(self, prompt: Prompt, texts: Sequence[str], draw: int = 0) -> list[float]:
        """Rank K responses: 1 for the best, equal numbers for ties.

        Args:
            draw: asks again: another number gives an independent judgement of the same texts.
        """
        noisy = self._noisy_utilities(prompt, texts, draw)
        order = sorted(range(len(texts)), key=lambda i: -noisy[i])
        ranks = [0.0] * len(texts)
        for place, i in enumerate(order):
            above = order[place - 1] if place else None
            tied = above is not None and noisy[above] - noisy[i] <= self.tie_margin
            ranks[i] = ranks[above] if tied and above is not None else place + 1.0
        return ranks


class Turns(Judge):
    """Labellers who take turns: the i-th prompt is the i-th labeller's, whatever is asked when.

    A judgement holds all comparisons of the labeller's ranking, and who it was.

    Args:
        order: the ids of all prompts, in the order in which the labellers share them out.

    Raises:
        ConfigError: no labellers.
    """

    groupwise = True

    def __init__(self, labellers: Sequence[Labeller], order: Sequence[str]) -> None:
        if not labellers:
            raise ConfigError("no labellers: give at least one")
        self.name = "labellers"
        self.turn = {id: labellers[i % len(labellers)] for i, id in enumerate(order)}

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """Have each group ranked by the labeller whose turn it is."""
        return [self._judgement(group, self.turn[group.prompt.id]) for group in groups]

    def _judgement(self, group: Group, who: Labeller) -> Judgement:
        ranks = who.label_group(group.prompt, [r.text for r in group.responses])
        return Judgement(who.name, comparisons=comparisons_from_ranks(ranks))


class LabellerJudge(Judge):
    """One labeller as a judge of whole groups, for rewards and evals: who labelled nothing of what
    a policy was trained on stands for the people that a real run would ask.

    Args:
        settings: of the :class:`Labeller`.

    Raises:
        ConfigError: a rate that is none.
    """

    groupwise = True

    def __init__(self, **settings: Any) -> None:
        self.labeller = Labeller(**settings)
        self.name = self.labeller.name
        self.version = repr(self.labeller)

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """Have the labeller rank each group."""
        return [self._judgement(group) for group in groups]

    def _judgement(self, group: Group) -> Judgement:
        ranks = self.labeller.label_group(group.prompt, [r.text for r in group.responses])
        compared = comparisons_from_ranks(ranks)
        return Judgement(self.name, comparisons=compared, version=self.version)


ORDINARY = Labeller(
    "ordinary", noise=0.2, careless=0.05, inattention=0.1, length_bias=0.05, politeness_bias=0.1
)
"""The default: mostly right, a little hasty, a little charmed by politeness."""
