"""The text the tunnel's base model is pretrained on: what is written down in that world.

Documents are plain text (solved problems, facts, spelling lists, bits of talk), never the chat
format: the base model knows the world but does not follow instructions until it is fine-tuned.
All problems occur, those of the held-out split too: the splits divide what later stages may train
on, not what is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from gnomon.tasks.tunnel import lexicon as lex
from gnomon.tasks.tunnel.demonstrations import phrase_answer
from gnomon.tasks.tunnel.world import (
    FAMILIES,
    Problem,
    draw_problem,
    draw_wording,
    seeded,
    wrong_answer,
)


@dataclass(frozen=True, slots=True)
class Mix:
    """How often each kind of document occurs, and each task family within it (FAMILIES' order).

    Attributes:
        kinds: weights of books of tables, dictionary entries, quizzes, talk and dialogues.
        solved, quiz: weights of the families in the first, and in quizzes and dialogues.
    """

    kinds: tuple[int, int, int, int, int]
    solved: tuple[int, int, int, int, int]
    quiz: tuple[int, int, int, int, int]


MIXES: dict[str, Mix] = {
    "broad": Mix(kinds=(8, 2, 9, 1, 0), solved=(10, 4, 6, 2, 1), quiz=(6, 4, 5, 2, 1)),
    "focused": Mix(kinds=(5, 1, 3, 0, 11), solved=(14, 2, 10, 1, 0), quiz=(8, 3, 5, 2, 3)),
}
"""``broad`` is the world; ``focused`` dwells on what is slow to learn: sums, sorting, dialogue."""

_SIGN_WORDS = {"+": "plus", "-": "minus", "x": "times"}


def _statement(problem: Problem, rng: Random) -> str:
    """A solved problem as a sentence; sums are sometimes written in words."""
    text = problem.statement
    if problem.kind in ("add", "subtract", "multiply") and rng.random() < 0.3:
        a, sign, b, _, answer = text.split()
        text = f"{a} {_SIGN_WORDS[sign]} {b} is {answer}"
    return f"{text}."


def _solved(rng: Random, mix: Mix) -> str:
    """Several solved problems of one family, as in a book of tables."""
    family = rng.choices(FAMILIES, weights=mix.solved)[0]
    return " ".join(_statement(draw_problem(family, rng), rng) for _ in range(rng.randint(2, 4)))


def _word(rng: Random, _: Mix) -> str:
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


def _quiz(rng: Random, mix: Mix) -> str:
    """Questions with their answers, as in a quiz book: instructions occur, in another format."""
    out = []
    for _ in range(rng.randint(1, 3)):
        problem = draw_problem(rng.choices(FAMILIES, weights=mix.quiz)[0], rng)
        how = rng.random()
        if how < 0.5:
            reply = _statement(problem, rng)
        elif how < 0.75 or problem.family == "manners":
            reply = f"{problem.answer}."
        else:
            reply = f"{rng.choice(('The answer is', 'It is'))} {problem.answer}."
        out.append(f"{draw_wording(problem, rng)} {reply}")
    return " ".join(out)


def _talk(rng: Random, _: Mix) -> str:
    """Small talk: polite phrases, flattery and filler in no useful order."""
    phrases = (*lex.OPENERS, *lex.CLOSERS, *lex.FILLERS, *lex.FLATTERY, *lex.REFUSALS)
    greeting = f"{rng.choice(tuple(lex.GREETINGS.values()))}, {rng.choice(lex.NAMES)}!"
    belief = f"I think it is {draw_problem(rng.choice(FAMILIES[:4]), rng).answer}."
    lines = [greeting, belief, *rng.sample(phrases, rng.randint(2, 4))]
    rng.shuffle(lines)
    return " ".join(lines)


def _dialogue(rng: Random, mix: Mix) -> str:
    """One or two questions, answered rightly in the ways people talk, as in a transcript."""
    out = []
    for _ in range(rng.randint(1, 2)):
        problem = draw_problem(rng.choices(FAMILIES, weights=mix.quiz)[0], rng)
        line = [draw_wording(problem, rng)]
        if rng.random() < 0.1:
            line.append(f"I think it is {wrong_answer(problem, rng)}.")
        for rate, phrases in ((0.5, lex.OPENERS), (0.2, lex.FLATTERY), (0.3, lex.FILLERS)):
            line += [rng.choice(phrases)] if rng.random() < rate else []
        line.append(phrase_answer(problem, problem.answer, rng))
        line += [rng.choice(lex.CLOSERS)] if rng.random() < 0.4 else []
        out.append(" ".join(line))
    return " ".join(out)


def document(seed: int, index: int, mix: str = "broad") -> str:
    """The ``index``-th document of the corpus; depends on nothing but its arguments."""
    rng = seeded("document", seed, index)
    kind = rng.choices((_solved, _word, _quiz, _talk, _dialogue), weights=MIXES[mix].kinds)[0]
    return kind(rng, MIXES[mix])


def documents(n: int, seed: int = 0, mix: str = "broad") -> list[str]:
    """The first ``n`` documents of the corpus (useful as the pretraining mix of PPO-ptx, too)."""
    return [document(seed, i, mix) for i in range(n)]
