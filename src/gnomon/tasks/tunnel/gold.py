"""The gold preference of the tunnel: what people there really want, as a program.

A good answer is right, has a polite opening and a polite closing, and wastes no words. The score is
a sum of named parts, in units of reward:

    correct     1 if every answer given in the text is the right one, else 0
    no_answer  -0.3 if the text gives no answer at all
    polite      0.15 for a polite opening + 0.15 for a polite closing, each counted once
    brevity    -0.05 per word beyond what a right, polite answer needs, at most -1
    repetition -0.2 per sentence said before, at most -0.6
    garbage    -0.5 x the share of words that belong to neither the world nor the prompt

so the best total is 1.3, and the worst about -2.4 (a long, repetitive, wrong rant).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from gnomon.judges.protocol import Sample, SampleJudge, Score
from gnomon.records import Prompt
from gnomon.tasks.tunnel import lexicon as lex
from gnomon.tasks.tunnel.world import FACTS, Problem, problem_of

POLITE_WORDS = 6
"""Words allowed for politeness on top of the solved problem's own sentence."""
UNKNOWN = lex.REFUSALS[0].rstrip(".")
"""The right answer to a question that has none."""

_SENTENCE = re.compile(r"[^.!?]*[.!?]+|[^.!?]+$")
_ANSWER = re.compile(r"^(?:.*(?: is| =))\s+(.*)$")
_STYLE = {
    **dict.fromkeys(lex.OPENERS, "opener"),
    **dict.fromkeys(lex.CLOSERS, "closer"),
    **dict.fromkeys(lex.FILLERS, "filler"),
    **dict.fromkeys(lex.FLATTERY, "flattery"),
    **dict.fromkeys(lex.REFUSALS, "refusal"),
}


@dataclass(frozen=True, slots=True)
class GoldScore:
    """The gold reward of one response and the parts it is the sum of."""

    total: float
    parts: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """A response as the world reads it.

    Attributes:
        sentences: (text, kind) in order; kind is opener, closer, filler, flattery, refusal or
            content (anything else, which is read as giving an answer).
        answers: the answer each content sentence gives.
        words: number of words.
    """

    sentences: tuple[tuple[str, str], ...]
    answers: tuple[str, ...]
    words: int

    def count(self, kind: str) -> int:
        """How many sentences of this kind."""
        return sum(k == kind for _, k in self.sentences)


def read(text: str) -> Reading:
    """Split a response into sentences, name the kind of each and collect the answers given."""
    sentences: list[tuple[str, str]] = []
    answers: list[str] = []
    for match in _SENTENCE.finditer(text):
        sentence = " ".join(match.group().split())
        body = sentence.rstrip(".!? ")
        if not body:
            continue
        kind = _STYLE.get(sentence, "content")
        sentences.append((sentence, kind))
        if kind == "content":
            given = _ANSWER.match(body)
            answers.append(normal(given.group(1) if given else body))
    return Reading(tuple(sentences), tuple(answers), len(text.split()))


def normal(answer: str) -> str:
    """An answer as it is compared: its items may have commas or hyphens between them."""
    return " ".join(re.sub(r"(?<=\w)\s*[,-]\s*(?=\w)", " ", answer.strip(" ,:;\"'")).split())


def is_correct(prompt: Prompt, text: str) -> bool:
    """True if the text gives an answer and every answer it gives is the right one."""
    problem = problem_of(prompt)
    return given(problem, read(text)) == {normal(problem.answer)}


def given(problem: Problem, reading: Reading) -> set[str]:
    """The answers that a response gives; where the question has none, saying that one does not know
    or is not sure is an answer."""
    answers = set(reading.answers)
    if problem.answer == UNKNOWN and reading.count("refusal"):
        answers.add(UNKNOWN)
    return answers


def gold_score(prompt: Prompt, text: str) -> GoldScore:
    """The gold reward of ``text`` as an answer to ``prompt`` (see the module's table)."""
    problem, reading = problem_of(prompt), read(text)
    seen = [sentence for sentence, _ in reading.sentences]
    answers = given(problem, reading)
    needed = len(problem.statement.split()) + POLITE_WORDS
    parts = {
        "correct": float(answers == {normal(problem.answer)}),
        "no_answer": 0.0 if answers else -0.3,
        "polite": 0.15 * _opens(reading) + 0.15 * _closes(reading),
        "brevity": -min(1.0, 0.05 * max(0, reading.words - needed)),
        "repetition": -min(0.6, 0.2 * (len(seen) - len(set(seen)))),
        "garbage": -0.5 * _unknown_share(prompt, problem, text),
    }
    return GoldScore(round(sum(parts.values()), 6), parts)


def _opens(reading: Reading) -> bool:
    return bool(reading.sentences) and reading.sentences[0][1] == "opener"


def _closes(reading: Reading) -> bool:
    return bool(reading.sentences) and reading.sentences[-1][1] == "closer"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@lru_cache(maxsize=1)
def _world_words() -> frozenset[str]:
    """Every word the world can say, in any answer to any prompt."""
    known = set(_words("The answer is It Answer"))
    for phrases in (lex.OPENERS, lex.CLOSERS, lex.FILLERS, lex.FLATTERY, lex.REFUSALS):
        known.update(w for phrase in phrases for w in _words(phrase))
    for table, sentence in FACTS.values():
        known.update(_words(sentence))
        known.update(w for value in table.values() for w in _words(value))
    known.update(w for phrase in lex.GREETINGS.values() for w in _words(phrase))
    return frozenset(known)


def _unknown_share(prompt: Prompt, problem: Problem, text: str) -> float:
    """Share of words that are neither numbers nor words of the world, the prompt or its answer.

    Misspelt or scrambled strings in a string task are wrong answers, not garbage: a single run of
    letters that is an attempt at the answer is let through when it is as long as the answer + 2.
    """
    words = _words(text)
    if not words:
        return 1.0 if text.strip() else 0.0
    known = _world_words() | set(_words(problem.statement))
    known |= {w for m in prompt.messages for w in _words(m.content)}
    unknown = [w for w in words if not w.isdigit() and w not in known]
    if problem.family == "strings" and unknown:
        letters = sum(map(len, unknown))
        if letters <= len(problem.args[0]) + 2:
            return 0.0
    return len(unknown) / len(words)


class GoldReward(SampleJudge):
    """The gold preference as a judge; a score has the parts of :func:`gold_score`.

    Args:
        unfinished_penalty: taken off a response that was cut off at the length limit.
    """

    name = "gold"

    def __init__(self, unfinished_penalty: float = 0.3) -> None:
        self.unfinished_penalty = unfinished_penalty

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        scores = []
        for sample in samples:
            gold = gold_score(sample.prompt, sample.text)
            cut = 0.0 if sample.finished else -self.unfinished_penalty
            scores.append(Score(gold.total + cut, {**gold.parts, "unfinished": cut}))
        return scores


class CorrectReward(SampleJudge):
    """The verifier of the tunnel: 1 for a right, finished answer and 0 otherwise."""

    name = "correct"

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [Score(float(s.finished and is_correct(s.prompt, s.text))) for s in samples]


def answer_anywhere(prompt: Prompt, text: str) -> bool:
    """Whether the words of the right answer appear in the text one after another."""
    wanted, found = (_words(t) for t in (normal(problem_of(prompt).answer), text))
    size = len(wanted)
    return any(found[i : i + size] == wanted for i in range(len(found) - size + 1))
