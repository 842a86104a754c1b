"""The ways in which an AI judge looks at a group: what it asks, and what the answers come to."""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Protocol

from gnomon.errors import ConfigError, DataError
from gnomon.judges import ranking
from gnomon.judges.ai_options import AIOptions
from gnomon.judges.answers import Reply
from gnomon.judges.prompting import MOST, Principle, Question, Template, conversation
from gnomon.judges.reading import read_order
from gnomon.judges.rubric import Rubric
from gnomon.judges.verdicts import Verdict, compared
from gnomon.records import Comparison, Group, Judgement, Prompt, Score

EACH = "Does the answer meet this criterion?"
TOGETHER = "Which of these criteria does the answer meet?"
OVERALL = (
    "How well does the answer meet these criteria together? Each has a number in parentheses, what "
    "it counts; the answer should not do what counts below 0."
)


class Principles(Protocol):
    """A constitution, as a judge sees it.

    Attributes:
        version: of its text, and of how principles are drawn: part of the judge's own version.
    """

    version: str

    def __call__(self, prompt: Prompt) -> Principle | None:
        """What a prompt's answers are judged by, always the same for the same prompt; None where
        nothing but the judge's own template says it."""
        ...


@dataclass(frozen=True)
class Planned:
    """A question about a group.

    Attributes:
        about: which of its answers it is about, for people, who count from 1.
        shown: the answers' indices, in the order they are shown in.
        part: which of several questions about the same answers: a criterion's place.
    """

    about: str
    shown: tuple[int, ...]
    question: Question
    part: int = 0


@dataclass(frozen=True)
class Asked:
    """A question about a group, and what came of it."""

    planned: Planned
    reply: Reply

    @property
    def verdict(self) -> Verdict:
        """Of two answers, as shown."""
        return Verdict.of(self.reply.shares)


@dataclass(frozen=True)
class Opinion:
    """A judgement, and all that was asked for it.

    Attributes:
        over: whether something was not asked since the budget is spent.
        members: of a panel, each one's name and opinion.
    """

    judgement: Judgement
    asked: tuple[Asked, ...] = ()
    over: bool = False
    members: tuple[tuple[str, Opinion], ...] = ()


@dataclass(frozen=True)
class Found:
    """What the answers come to; an error takes the place of all else."""

    scores: tuple[Score, ...] = ()
    comparisons: tuple[Comparison, ...] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Way:
    """How a judge looks at a group.

    Attributes:
        spec, template: the judge's.
        principles: its constitution.
        rubric: the rubric that all prompts share, in ``mode: rubric``.
    """

    spec: AIOptions
    template: Template
    principles: Principles
    rubric: Rubric | None = field(default=None)

    @abstractmethod
    def plan(self, group: Group) -> list[Planned]:
        """What to ask about a group.

        Raises:
            ConfigError, DataError: it cannot be judged in this way.
        """

    @abstractmethod
    def find(self, group: Group, asked: Sequence[Asked]) -> Found:
        """What the answers come to, none of which is an error."""

    def by(self, prompt: Prompt) -> Principle | None:
        """What a prompt's answers are judged by: of the constitution, of its own (``rubric_key``),
        or both.

        Raises:
            DataError: it has no text of its own, and should have.
        """
        principle, key = self.principles(prompt), self.spec.rubric_key
        if key is None:
            return principle
        text = prompt.meta.get(key)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"the prompt's meta has no text {key!r} to judge by (rubric_key)")
        digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]
        own = Principle(key, digest, criteria=text.strip())
        if principle is None:
            return own
        both = "\n".join(filter(None, [principle.criteria, own.criteria]))
        return Principle(f"{principle}+{own.name}", digest, principle.ask, both)

    def name_of(self, prompt: Prompt) -> str:
        """What a label says that it was judged by."""
        found = self.by(prompt)
        return "" if found is None else str(found)

    def _one(self, group: Group, principle: Principle | None, i: int, about: str = "") -> Planned:
        """A question about one answer."""
        text = conversation(group.prompt)
        question = self.template.question(text, group.responses[i].text, principle=principle)
        return Planned(about or str(i + 1), (i,), question)


class Scores(Way):
    """Each answer by itself, from 1 to 10: the mean under the probabilities."""

    def plan(self, group: Group) -> list[Planned]:
        by = self.by(group.prompt)
        return [self._one(group, by, i) for i in range(len(group.responses))]

    def find(self, group: Group, asked: Sequence[Asked]) -> Found:
        return Found(tuple(Score(self._value(a.reply)) for a in asked))

    def _value(self, reply: Reply) -> float:
        return sum(int(choice) * p for choice, p in reply.shares.items())


class Approval(Scores):
    """Each answer by itself, good or bad: the probability that it is good."""

    def _value(self, reply: Reply) -> float:
        return reply.shares.get("good", 0.0)


class Pairs(Way):
    """Pairs of answers in both orders."""

    def plan(self, group: Group) -> list[Planned]:
        pairs = self.pairs(group)
        count = len(group.responses)
        if count < 2:
            raise DataError(
                "it compares answers to the same prompt, and there is only one (mode: score?)"
            )
        if {i for pair in pairs for i in pair} != set(range(count)):
            raise ConfigError(
                f"pairs: {len(pairs)} leaves answers out; {count} answers need {count - 1}"
            )
        text, by = conversation(group.prompt), self.by(group.prompt)
        found = []
        for i, j in pairs:
            if group.responses[i].text == group.responses[j].text:
                continue
            for shown in ((i, j), (j, i)):
                answers = [group.responses[k].text for k in shown]
                question = self.template.question(text, *answers, principle=by)
                found.append(Planned(f"{i + 1} against {j + 1}", shown, question))
        return found

    def find(self, group: Group, asked: Sequence[Asked]) -> Found:
        verdicts = {a.planned.shown: a.verdict for a in asked}
        wins = {}
        comparisons = []
        for i, j in self.pairs(group):
            both = compared(verdicts.get((i, j)), verdicts.get((j, i)))
            mean = both.mean
            assert mean is not None
            wins[min(i, j), max(i, j)] = mean.win if i < j else 1.0 - mean.win
            comparisons.append(both.comparison(i, j))
        return Found(_scores(self.spec, wins, len(group.responses)), tuple(comparisons))

    def pairs(self, group: Group) -> list[tuple[int, int]]:
        """The pairs of a group to compare: all, or the ``pairs`` nearest ones on a ring in an order
        drawn from the seed, so that every answer is in about as many."""
        count, limit = len(group.responses), self.spec.pairs
        every = list(combinations(range(count), 2))
        if limit is None or limit >= len(every):
            return every
        order = list(range(count))
        random.Random(f"{self.spec.seed}/{group.prompt.id}").shuffle(order)
        ring = [
            (order[i], order[(i + step) % count])
            for step in range(1, count // 2 + 1)
            for i in range(count)
        ]
        distinct = dict.fromkeys((min(pair), max(pair)) for pair in ring)
        return sorted(list(distinct)[:limit])


class Ranking(Way):
    """All answers in one question, in several orders."""

    def plan(self, group: Group) -> list[Planned]:
        count = len(group.responses)
        texts = self._texts(group)
        if count < 2:
            raise DataError("it ranks answers to the same prompt, and there is only one")
        if count > MOST:
            raise DataError(f"it names answers by letters, at most {MOST}; there are {count}")
        if len(texts) < 2:
            return []
        text, by = conversation(group.prompt), self.by(group.prompt)
        seed = f"{self.spec.seed}/{group.prompt.id}"
        found = []
        for shown in ranking.showings(len(texts), self.spec.orders, seed):
            answers = [texts[k] for k in shown]
            question = self.template.question(text, *answers, principle=by)
            places = tuple(self._first(group, answer) for answer in answers)
            found.append(Planned(f"all {count}", places, question))
        return found

    def find(self, group: Group, asked: Sequence[Asked]) -> Found:
        wins = ranking.mean_wins([self._wins(a) for a in asked])
        first = [self._first(group, r.text) for r in group.responses]
        everyone = {
            (i, j): 0.5 if a == b else wins[a, b] if a < b else 1.0 - wins[b, a]
            for i, j in combinations(range(len(first)), 2)
            if (a := first[i]) == (b := first[j]) or (min(a, b), max(a, b)) in wins
        }
        if not everyone:
            return Found(error="its answers compare nothing")
        scores = _scores(self.spec, everyone, len(first))
        return Found(scores, ranking.compared(everyone))

    def _wins(self, asked: Asked) -> dict[tuple[int, int], float]:
        question, shown, reply = asked.planned.question, asked.planned.shown, asked.reply
        place = dict(zip(question.choices, shown, strict=True))
        if question.form == "order":
            order = read_order(str(reply.choice), _bare(question))
            assert order is not None
            return ranking.wins_of_order([[place[x] for x in rank] for rank in order])
        won = ranking.wins_of_best([reply.shares.get(x, 0.0) for x in question.choices])
        named = {(shown[i], shown[j]): p for (i, j), p in won.items()}
        return {(min(i, j), max(i, j)): p if i < j else 1.0 - p for (i, j), p in named.items()}

    def _texts(self, group: Group) -> list[str]:
        return list(dict.fromkeys(r.text for r in group.responses))

    def _first(self, group: Group, text: str) -> int:
        """The first answer of this text: equal ones are ranked as one."""
        return next(i for i, r in enumerate(group.responses) if r.text == text)


class Rubrics(Way):
    """Each answer by itself, by weighted criteria."""

    def plan(self, group: Group) -> list[Planned]:
        rubric = self.rubric_of(group.prompt)
        return [
            planned
            for i in range(len(group.responses))
            for planned in self._about(group, rubric, i)
        ]

    def _about(self, group: Group, rubric: Rubric, i: int) -> Iterator[Planned]:
        name = str(rubric)
        if self.spec.criteria == "each":
            for part, c in enumerate(rubric.criteria):
                by = Principle(name, "", EACH, c.text)
                found = self._one(group, by, i, f"{i + 1}, {c.name}")
                yield Planned(found.about, found.shown, found.question, part)
            return
        if self.spec.criteria == "overall":
            yield self._one(group, Principle(name, "", OVERALL, rubric.weighed()), i)
            return
        by = Principle(name, "", TOGETHER, rubric.numbered())
        keys = [str(k) for k in range(1, len(rubric.criteria) + 1)]
        text = conversation(group.prompt)
        answer = group.responses[i].text
        question = self.template.question(text, answer, principle=by, keys=keys)
        yield Planned(str(i + 1), (i,), question)

    def find(self, group: Group, asked: Sequence[Asked]) -> Found:
        rubric = self.rubric_of(group.prompt)
        scores = []
        for i in range(len(group.responses)):
            own = [a.reply for a in asked if a.planned.shown == (i,)]
            if self.spec.criteria == "overall":  # 1 to 10, as 0 to 1
                mean = sum(int(choice) * p for choice, p in own[0].shares.items())
                scores.append(Score((mean - 1.0) / 9.0))
            elif self.spec.criteria == "each":
                scores.append(rubric.score([reply.shares.get("yes", 0.0) for reply in own]))
            else:
                told = own[0].probabilities or {}
                keys = range(1, len(rubric.criteria) + 1)
                scores.append(rubric.score([told[str(key)] for key in keys]))
        return Found(tuple(scores))

    def rubric_of(self, prompt: Prompt) -> Rubric:
        """The prompt's own rubric, or the one that all share.

        Raises:
            DataError, ConfigError: there is none, or it cannot be used.
        """
        key = self.spec.rubric_key
        value = None if key is None else prompt.meta.get(key)
        if value is not None:
            return Rubric.parse(value, f"rubric of prompt {prompt.id}", str(key), own=True)
        if self.rubric is None:
            raise DataError(f"the prompt's meta has no rubric {key!r} (rubric_key)")
        return self.rubric

    def name_of(self, prompt: Prompt) -> str:
        return str(self.rubric_of(prompt))


WAYS: dict[str, type[Way]] = {
    "pairs": Pairs,
    "ranking": Ranking,
    "rubric": Rubrics,
    "score": Scores,
    "approval": Approval,
}
"""By mode."""


def _scores(spec: AIOptions, wins: ranking.Wins, count: int) -> tuple[Score, ...]:
    rate = ranking.bradley_terry if spec.scores == "bradley_terry" else ranking.shares
    return tuple(Score(value) for value in rate(wins, count))


def _bare(question: Question) -> Question:
    """The question as if no reason came first: what is kept of an order is the order alone."""
    return Question(question.system, question.user, question.choices, ties=question.ties)
