"""What a judge is, and the one way to ask it: what fails is kept as an error, never as a zero."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Protocol

from gnomon.errors import RunError
from gnomon.records import Comparison, Cost, Group, Judgement, Prompt
from gnomon.records import Score as Score
from gnomon.usercode import explain, is_interrupt, settled

SKIPPED = "nobody judged it: all who were asked skipped it"
"""In place of a score that people did not want to give, which is no failure of the judge."""
LARGEST = 1e18
"""The largest reward that can be trained on: float32 holds its square, and sums of such squares."""


def is_skipped(error: str | None) -> bool:
    """Whether a score's error, whoever's name is before it, says that people skipped it."""
    return error is not None and error.endswith(SKIPPED)


@dataclass(frozen=True)
class Sample:
    """A finished response to be scored.

    Attributes:
        prompt: the prompt with its ``meta`` (reference answers and the like).
        text: the response's text.
        prompt_ids, response_ids: the very tokens the policy saw and wrote.
        finished: False when the response was cut off at the length limit.
    """

    prompt: Prompt
    text: str
    prompt_ids: Sequence[int] = ()
    response_ids: Sequence[int] = ()
    finished: bool = True


class Judge(Protocol):
    """Anything that says how good responses are: learned models, verifiers, functions, mixtures,
    people, simulated labellers. A class that inherits from it has all but ``name`` and ``judge``.

    Attributes:
        name: what its figures are logged under.
        version: of its weights, its prompt or its code; empty where there is nothing to tell apart.
        groupwise: it judges responses by comparing them, so a group cannot be split.
        in_rounds: it is asked once a round, about everything in it (people are); so nothing can be
            sampled ahead of its answers.
        paid: each question costs money, so nothing is asked that training does not need.
        remembers: it keeps its answers on disk, and asked again it tells what they cost then.
    """

    name: str
    version: str = ""
    groupwise: bool = False
    in_rounds: bool = False
    paid: bool = False
    remembers: bool = False

    @abstractmethod
    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """One judgement for each group, in order.

        Raises:
            Pending: people have not answered yet.
        """

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Called before anything is sampled with all prompts of the data. Does nothing by default.

        Raises:
            ConfigError: what it judges by is in none of them.
        """
        return

    def begin(self, round: int) -> None:
        """Called as a round (from 1) begins, before anything is sampled. Does nothing by default.

        Raises:
            Pending: people were asked about this round, and have not answered yet.
        """
        return


class SampleJudge(Judge):
    """A judge that looks at each response by itself: called with samples, it scores each."""

    @abstractmethod
    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        """One score for each sample, in order (or a coroutine that gives them)."""

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        samples = [sample for group in groups for sample in samples_of(group)]
        found = list(settled(self(samples))) if samples else []
        if len(found) != len(samples):
            error = f"returned {len(found)} scores for {len(samples)} samples"
            found = [Score(None, error=error)] * len(samples)
        scores = iter(found)
        return [
            Judgement(self.name, tuple(next(scores) for _ in group.responses), version=self.version)
            for group in groups
        ]


def samples_of(group: Group) -> list[Sample]:
    """A group's responses one by one."""
    return [
        Sample(group.prompt, r.text, group.prompt_ids, r.ids, r.finished) for r in group.responses
    ]


def place_of(prompt: Prompt) -> str:
    """Which prompt, and from which row of which file."""
    return f"prompt {prompt.id}" + (f" ({prompt.source})" if prompt.source else "")


# -- asking ----------------------------------------------------------------------------------------


def judged(judge: Judge, groups: Sequence[Group]) -> list[Judgement]:
    """Ask a judge about groups; whatever goes wrong is an error in the judgement it went wrong for.

    Every judgement has a :class:`Score` for each response: a value or an error. Where the judge
    only compares, the value is the share of a response's comparisons that it won. A judge that
    raises is asked again group by group, and about a group's responses one by one unless it is
    groupwise, so that one bad sample does not take the others with it; ``sys.exit`` counts as
    raising. NaN, infinities, None and what is not a score are errors. A coroutine is awaited.
    A judge that does not count its own seconds is timed.

    Raises:
        RunError: the judge itself says that the run must stop, or (Pending) wait for people.
        KeyboardInterrupt: the user stops the program.
    """
    if not groups:
        return []
    began = time.perf_counter()
    try:
        found = list(settled(judge.judge(groups)))
    except BaseException as error:
        if isinstance(error, RunError) or is_interrupt(error):
            raise
        return _in_pieces(judge, groups, explain(error))
    if len(found) != len(groups):
        problem = f"returned {len(found)} judgements for {len(groups)} groups"
        return [_failed(judge, group, problem) for group in groups]
    each = (time.perf_counter() - began) / max(1, sum(len(g.responses) for g in groups))
    return [
        _complete(judge, group, judgement, each * len(group.responses))
        for group, judgement in zip(groups, found, strict=True)
    ]


def judged_by(judge: Judge, group: Group, found: Judgement) -> Judgement:
    """One judgement as :func:`judged` gives it: with a score or an error for each response."""
    return _complete(judge, group, found, 0.0)


def _in_pieces(judge: Judge, groups: Sequence[Group], problem: str) -> list[Judgement]:
    """Ask again about less at a time, down to what ``problem`` is about."""
    if len(groups) > 1:
        return [judged(judge, [group])[0] for group in groups]
    group = groups[0]
    if judge.groupwise or len(group.responses) < 2:
        return [_failed(judge, group, problem)]
    single = [replace(group, responses=(r,), comparisons=()) for r in group.responses]
    found = [judged(judge, [piece])[0] for piece in single]
    scores = tuple(score for judgement in found for score in judgement.scores)
    cost = total_cost(judgement.cost for judgement in found)
    return [Judgement(judge.name, scores, version=judge.version, cost=cost)]


def _failed(judge: Judge, group: Group, problem: str, cost: Cost | None = None) -> Judgement:
    """No response of the group could be judged."""
    error = _named(judge.name, problem)
    scores = (Score(None, error=error),) * len(group.responses)
    return Judgement(judge.name, scores, version=judge.version, cost=cost or Cost(), error=error)


def _complete(judge: Judge, group: Group, found: Any, seconds: float) -> Judgement:
    """A judgement as it was given, with its scores checked, or made from its comparisons."""
    count = len(group.responses)
    if not isinstance(found, Judgement):
        return _failed(judge, group, f"gave a {type(found).__name__}, not a Judgement")
    cost = found.cost if isinstance(found.cost, Cost) else Cost()
    cost = cost if cost.seconds else replace(cost, seconds=seconds)
    if found.error is not None:
        return _failed(judge, group, str(found.error), cost)
    scores: Sequence[Any] = () if found.scores is None else tuple(found.scores)
    compared = None if found.comparisons is None else tuple(found.comparisons)
    problem = _unusable(compared or (), count)
    if problem is not None:
        return _failed(judge, group, problem, cost)
    if compared is not None:
        compared = tuple(c for c in compared if c.weight)  # a weight of 0 removes a comparison
    if not scores and compared is not None:
        scores = [Score(share) for share in win_shares(compared, count)]
    if len(scores) != count:
        return _failed(judge, group, f"gave {len(scores)} scores for {count} responses", cost)
    scored = tuple(checked(judge.name, s) for s in scores)
    reason = None if found.reason is None else str(found.reason)
    return replace(found, scores=scored, comparisons=compared, cost=cost, reason=reason)


def _unusable(compared: Sequence[Any], count: int) -> str | None:
    """Why these are no comparisons of ``count`` responses; None where they are."""
    for c in compared:
        if not isinstance(c, Comparison):
            return f"gave a {type(c).__name__}, not a Comparison"
        places = (c.better, c.worse)
        known = all(isinstance(i, Integral) and 0 <= i < count for i in places)
        if not known or c.better == c.worse:
            return f"compared what is no pair of the {count} responses"
        try:
            weight, margin, sure = number(c.weight), number(c.margin), number(c.probability)
        except (TypeError, ValueError, OverflowError):
            weight = margin = sure = math.nan
        if not (math.isfinite(margin) and 0 <= weight < math.inf and 0.5 <= sure <= 1):
            return (
                f"gave a comparison the weight {c.weight!r} and the margin {c.margin!r}, at the "
                f"probability {c.probability!r} (0.5 to 1)"
            )
    return None


def win_shares(comparisons: Sequence[Comparison], count: int) -> list[float]:
    """[count] the share of its comparisons that each response won, by their probability: 1/2 for a
    tie, or for none."""
    won: list[list[float]] = [[] for _ in range(count)]
    for c in comparisons:
        won[c.better].append(0.5 if c.tie else c.probability)
        won[c.worse].append(0.5 if c.tie else 1.0 - c.probability)
    return [sum(points) / len(points) if points else 0.5 for points in won]


def total_cost(costs: Iterable[Cost]) -> Cost:
    """The cost of several judgements together."""
    parts = list(costs)
    return Cost(
        sum(c.seconds for c in parts), sum(c.tokens for c in parts), sum(c.money for c in parts)
    )


# -- scores ----------------------------------------------------------------------------------------


def checked(name: str, score: Any) -> Score:
    """The score in plain Python numbers (parts of numpy's or torch's cannot be stored), its error
    named; one whose value is not a finite number becomes an error."""
    if not isinstance(score, Score):
        return Score(None, error=f"{name}: gave a {type(score).__name__}, not a Score")
    try:
        parts = {str(key): number(part) for key, part in score.parts.items()}
    except (TypeError, ValueError, AttributeError, OverflowError):
        return Score(None, error=f"{name}: the parts {score.parts!r} are not all numbers"[:500])
    if score.error is not None:
        return Score(None, parts, _named(name, score.error))
    try:
        value = None if score.value is None else number(score.value)
    except (TypeError, ValueError, OverflowError):
        text = f"{name}: the reward is {score.value!r}"[:300]
        return Score(None, parts, f"{text}, not a number that can be trained on")
    if value is None or not math.isfinite(value):
        return Score(None, parts, f"{name}: the reward is {value}")
    return Score(value, parts)


def as_score(item: Any) -> Score:
    """What a user's code returned for one response, a Score, a value or (value, {part: value}), as
    a Score; :func:`checked` then checks its numbers."""
    if isinstance(item, Score):
        return item
    if isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[1], Mapping):
        return Score(*item)
    return Score(item)


def number(value: Any) -> float:
    """``value`` as a float: of Python's, numpy's and torch's numbers, and of arrays of one.

    Raises:
        TypeError, ValueError, OverflowError: it is not one (nor is text).
    """
    if isinstance(value, str | bytes | bytearray):
        raise TypeError("text is not a number")
    return float(value.item() if hasattr(value, "item") else value)


def trainable(score: Score) -> Score:
    """The score; an error where its value is so large that training on it would overflow."""
    if score.value is None or abs(score.value) <= LARGEST:
        return score
    return Score(
        None,
        score.parts,
        f"the reward is {score.value:g}, and float32 cannot hold its square: scale it (to -1 .. 1, "
        f"say); at most {LARGEST:g} can be trained on",
    )


def _named(name: str, error: str) -> str:
    """The error with the judge's name in front, once."""
    return error if error.startswith(f"{name}: ") else f"{name}: {error}"
