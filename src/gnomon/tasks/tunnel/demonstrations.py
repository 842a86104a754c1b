"""Demonstrations as people write them: some right, some wrong, some curt, some long-winded.

Supervised fine-tuning on them gives a policy that can answer but has room to improve, and whose
samples differ in correctness, style and length: what a reward model needs to learn from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from gnomon.records import Group, Message, Prompt, Response
from gnomon.tasks.tunnel import lexicon as lex
from gnomon.tasks.tunnel.world import (
    BELIEF_RATE,
    Problem,
    generate_prompts,
    problem_of,
    seeded,
    wrong_answer,
)


@dataclass(frozen=True)
class Quality:
    """How good the demonstrators are; every field but ``correct`` is a chance in [0, 1].

    Attributes:
        correct: chance of a right answer by family.
        opener, closer: chance of a polite opening and a polite closing.
        filler, flattery: chance of one empty or flattering sentence (half of those say another).
        refuse: chance of "I do not know."
        agree: chance of giving the user's stated belief as the answer, right or wrong.
        hedge: chance of giving another answer as well, and then yet another.
    """

    correct: Mapping[str, float] = field(
        default_factory=lambda: {
            "arithmetic": 0.5,
            "strings": 0.75,
            "lists": 0.75,
            "facts": 0.8,
            "manners": 0.8,
        }
    )
    opener: float = 0.4
    closer: float = 0.3
    filler: float = 0.25
    flattery: float = 0.12
    refuse: float = 0.03
    agree: float = 0.3
    hedge: float = 0.0


MIXED = Quality()
"""The default: ordinary people in a hurry."""

EXPERT = Quality(
    correct=dict.fromkeys(("arithmetic", "strings", "lists", "facts", "manners"), 1.0),
    opener=1.0,
    closer=1.0,
    filler=0.0,
    flattery=0.0,
    refuse=0.0,
    agree=0.0,
)
"""Demonstrators who do exactly what the gold preference asks."""


def phrase_answer(problem: Problem, answer: str, rng: Random) -> str:
    """``answer`` as people write it: bare, in a sentence, or as a statement."""
    if problem.family == "manners":
        return f"{answer}{rng.choice('.!')}"
    statement = problem.statement.removesuffix(problem.answer) + answer
    return rng.choice(
        (f"{answer}.", f"The answer is {answer}.", f"It is {answer}.", statement + ".")
    )


def write_response(prompt: Prompt, rng: Random, quality: Quality = MIXED) -> str:
    """One demonstrator's answer to a tunnel prompt."""
    problem = problem_of(prompt)
    belief = prompt.meta.get("belief")
    sentences: list[str] = []
    if rng.random() < quality.opener:
        sentences.append(rng.choice(lex.OPENERS))
    sentences += _padding(rng, quality)
    if rng.random() < quality.refuse:
        sentences.append(rng.choice(lex.REFUSALS))
    else:
        right = rng.random() < quality.correct[problem.family]
        answer = problem.answer if right else wrong_answer(problem, rng)
        if belief is not None and rng.random() < quality.agree:
            answer = str(belief)
        sentences.append(phrase_answer(problem, answer, rng))
        while quality.hedge and len(sentences) < MOST and rng.random() < quality.hedge:
            sentences.append(phrase_answer(problem, wrong_answer(problem, rng), rng))
    if rng.random() < quality.closer:
        sentences.append(rng.choice(lex.CLOSERS))
    return " ".join(sentences)


MOST = 8
"""Sentences after which nobody gives yet another answer."""


def _padding(rng: Random, quality: Quality) -> list[str]:
    """Empty and flattering sentences before the answer."""
    out: list[str] = []
    for rate, phrases in ((quality.flattery, lex.FLATTERY), (quality.filler, lex.FILLERS)):
        while rng.random() < rate:
            out.append(rng.choice(phrases))
            rate *= 0.5
    return out


def demonstrations(
    n: int,
    seed: int = 0,
    quality: Quality = MIXED,
    families: Sequence[str] | None = None,
    belief_rate: float = BELIEF_RATE,
    correct: float | None = None,
    hedge: float | None = None,
) -> list[Group]:
    """``n`` prompts of the training split with one written response each (groups with K = 1).

    ``correct``, of every family, and ``hedge`` replace the quality's.
    """
    if correct is not None:
        quality = replace(quality, correct=dict.fromkeys(quality.correct, correct))
    if hedge is not None:
        quality = replace(quality, hedge=hedge)
    groups = []
    for prompt in generate_prompts(n, seed, families, "train", belief_rate):
        text = write_response(prompt, seeded("demonstration", seed, prompt.id), quality)
        groups.append(Group(prompt, (Response((Message("assistant", text),)),)))
    return groups
