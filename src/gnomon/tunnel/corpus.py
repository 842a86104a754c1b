"""The text the tunnel's base model is pretrained on: what is written down in that world.

Documents are plain text (solved problems, facts, spelling lists, bits of talk), never the chat
format: the base model knows the world but does not follow instructions until it is fine-tuned.
All problems occur, those of the held-out split too: the splits divide what later stages may train
on, not what is known.
"""

from __future__ import annotations

from random import Random

from gnomon.tunnel import lexicon as lex
from gnomon.tunnel.tasks import FAMILIES, Problem, draw_problem, draw_wording
from gnomon.tunnel.world import seeded

_SIGN_WORDS = {"+": "plus", "-": "minus", "x": "times"}


def _statement(problem: Problem, rng: Random) -> str:
    """A solved problem as a sentence; sums are sometimes written in words."""
    text = problem.statement
    if problem.kind in ("add", "subtract", "multiply") and rng.random() < 0.3:
        a, sign, b, _, answer = text.split()
        text = f"{a} {_SIGN_WORDS[sign]} {b} is {answer}"
    return f"{text}."


def _solved(rng: Random) -> str:
    """Several solved problems of one family, as in a book of tables."""
    family = rng.choices(FAMILIES, weights=(10, 4, 6, 2, 1))[0]
    return " ".join(_statement(draw_problem(family, rng), rng) for _ in range(rng.randint(2, 4)))


def _word(rng: Random) -> str:
    """Everything about one word, as in a dictionary."""
    word = rng.choice(lex.WORDS)
    lines = [
        f"The spelling of {word} is {' '.join(word)}.",
        f"{word} backwards is {word[::-1]}.",
        f"{word} in capitals is {word.upper()}.",
        f"The first letter of {word} is {word[0]}.",
        f"The number of letters in {word} is {len(word)}.",
    ]
    rng.shuffle(lines)
    return " ".join(lines[: rng.randint(2, 5)])


def _quiz(rng: Random) -> str:
    """Questions with their answers, as in a quiz book: instructions occur, in another format."""
    out = []
    for _ in range(rng.randint(1, 3)):
        problem = draw_problem(rng.choices(FAMILIES, weights=(6, 4, 5, 2, 1))[0], rng)
        how = rng.random()
        if how < 0.5:
            reply = _statement(problem, rng)
        elif how < 0.75 or problem.family == "manners":
            reply = f"{problem.answer}."
        else:
            reply = f"{rng.choice(('The answer is', 'It is'))} {problem.answer}."
        out.append(f"{draw_wording(problem, rng)} {reply}")
    return " ".join(out)


def _talk(rng: Random) -> str:
    """Small talk: polite phrases, flattery and filler in no useful order."""
    phrases = (*lex.OPENERS, *lex.CLOSERS, *lex.FILLERS, *lex.FLATTERY, *lex.REFUSALS)
    greeting = f"{rng.choice(tuple(lex.GREETINGS.values()))}, {rng.choice(lex.NAMES)}!"
    belief = f"I think it is {draw_problem(rng.choice(FAMILIES[:4]), rng).answer}."
    lines = [greeting, belief, *rng.sample(phrases, rng.randint(2, 4))]
    rng.shuffle(lines)
    return " ".join(lines)


def document(seed: int, index: int) -> str:
    """The ``index``-th document of the corpus; depends on nothing but its arguments."""
    rng = seeded("document", seed, index)
    kind = rng.choices((_solved, _word, _quiz, _talk), weights=(8, 2, 9, 1))[0]
    return kind(rng)


def documents(n: int, seed: int = 0) -> list[str]:
    """The first ``n`` documents of the corpus (useful as the pretraining mix of PPO-ptx, too)."""
    return [document(seed, i) for i in range(n)]
