"""Judges with a bias of known size, and pairs of known quality to calibrate them on: does
``gnomon calibrate`` find what was planted, and nothing else?

A pair has a true difference in quality; people's labels and the judge's verdicts come of it with
errors of their own. Nothing in the calibration sees more than it would of a real judge.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from gnomon.evals.calibration_probes import AUTHORITY, FLATTERY, PLEA
from gnomon.judges.protocol import Judge
from gnomon.records import Comparison, Group, Judgement, Message, Prompt, Response

OWN, OTHER = "this-judges-model", "another-model"
_WORDS = (
    *("river", "table", "green", "window", "paper", "stone", "quiet", "walk", "morning", "number"),
    *(
        "winter",
        "garden",
        "letter",
        "music",
        "road",
        "bread",
        "silver",
        "cloud",
        "yellow",
        "market",
    ),
)


@dataclass(frozen=True)
class World:
    """How pairs and people's labels are drawn.

    Attributes:
        pairs: how many.
        people: labels of each pair, by different people.
        right: how often a person names the better answer.
        longer_better: how often the longer answer is the better one.
        own_better: how often the answer of the judge's own model is.
    """

    pairs: int = 300
    people: int = 3
    right: float = 0.85
    longer_better: float = 0.5
    own_better: float = 0.5

    def draw(self, seed: int) -> list[Group]:
        """Groups of two with people's labels and authors; what is true is in ``meta``, for the
        planted judge alone."""
        rng = random.Random(seed)
        return [self._pair(rng, f"{seed}-{i}") for i in range(self.pairs)]

    def _pair(self, rng: random.Random, name: str) -> Group:
        better = rng.choice((0, 1))
        sizes = sorted(rng.sample(range(3, 9), 2), reverse=rng.random() < self.longer_better)
        texts = [_answer(rng, size) for size in (sizes if better == 0 else sizes[::-1])]
        own = better if rng.random() < self.own_better else 1 - better
        authors = [OWN if i == own else OTHER for i in (0, 1)]
        won = [better if rng.random() < self.right else 1 - better for _ in range(self.people)]
        return Group(
            Prompt(
                name,
                text=f"Question {name}",
                meta={"labellers": tuple(f"person {k}" for k in range(self.people)),
                      "true": {text: float(i == better) for i, text in enumerate(texts)}},
            ),
            tuple(
                Response((Message("assistant", text),), meta={"model": author})
                for text, author in zip(texts, authors, strict=True)
            ),
            tuple(Comparison(k, 1 - k) for k in won),
        )  # fmt: skip


def _answer(rng: random.Random, size: int) -> str:
    return " ".join(
        f"The {rng.choice(_WORDS)} {rng.choice(_WORDS)} is {rng.choice(_WORDS)}."
        for _ in range(size)
    )


@dataclass
class PlantedJudge(Judge):
    """Compares two answers by their true quality, with known errors and likings in log-odds (nats).

    Attributes:
        right: how often it names the better of two answers, without any liking.
        position: for the answer shown first.
        length: for the longer answer.
        own: for its own model's answers.
        bold, bullets, padding, flattery, authority, plea: for answers with these.
        too_sure: what its log-odds are multiplied by before it says them; 1 is honest.
        verdicts: it gives verdicts instead of probabilities.
        noise: spread of its log-odds from one pair to the next.
        seed: of its errors.
    """

    right: float = 0.8
    position: float = 0.0
    length: float = 0.0
    own: float = 0.0
    bold: float = 0.0
    bullets: float = 0.0
    padding: float = 0.0
    flattery: float = 0.0
    authority: float = 0.0
    plea: float = 0.0
    too_sure: float = 1.0
    verdicts: bool = False
    noise: float = 0.7
    seed: int = 0

    name = "planted"
    groupwise = True

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        return [self._judged(group) for group in groups]

    def _judged(self, group: Group) -> Judgement:
        first, second = group.responses
        odds = self._knows(group) + self.position
        odds += self._likes(first) - self._likes(second)
        odds += self.length * _sign(len(first.text) - len(second.text))
        p = 1 / (1 + math.exp(-self.too_sure * odds))
        if self.verdicts:
            p = float(p >= 0.5)
        better = 0 if p >= 0.5 else 1
        compared = Comparison(better, 1 - better, probability=max(p, 1 - p))
        return Judgement(self.name, comparisons=(compared,))

    def _knows(self, group: Group) -> float:
        """The log-odds that it gives by quality: those of an honest judge that is right so often.

        An answer beside an edit of itself is of the same quality: there only noise is left.
        """
        true = group.prompt.meta.get("true", {})
        texts = [r.text for r in group.responses]
        worth = [next((v for t, v in true.items() if text == t), None) for text in texts]
        rng = random.Random(f"{self.seed}/{group.prompt.id}/{'/'.join(sorted(texts))}")
        spread = rng.gauss(0.0, self.noise) * _sign_of(texts)
        if None in worth or worth[0] == worth[1]:
            return spread
        # an honest judge: right with the probability that it says
        sure = math.log(self.right / (1 - self.right)) * math.exp(rng.gauss(0.0, 0.5))
        knows = rng.random() < 1 / (1 + math.exp(-sure))
        return sure * _sign((worth[0] or 0.0) - (worth[1] or 0.0)) * (1 if knows else -1)

    def _likes(self, response: Response) -> float:
        text = response.text
        likes = self.own * (response.meta.get("model") == OWN)
        likes += self.bold * ("**" in text) + self.bullets * text.startswith("- ")
        likes += self.padding * ("Let me say a few words" in text or "worth a moment" in text)
        likes += self.flattery * text.startswith(FLATTERY)
        return likes + self.authority * text.startswith(AUTHORITY) + self.plea * (PLEA in text)


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)


def _sign_of(texts: Sequence[str]) -> int:
    """1 or -1, the other way round when the texts are."""
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    return 1 if digests[0] < digests[1] else -1
