"""What a judge is, and how it is asked: its failures are kept with their samples, never lost and
never zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gnomon.errors import RunError
from gnomon.records import Group, Judgement, Prompt
from gnomon.records import Score as Score
from gnomon.usercode import is_interrupt, said, settled

LARGEST = 1e18
"""The largest reward that can be trained on: float32 holds its square, and sums of such squares."""


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


class Reward(Protocol):
    """Scores a batch of samples; one Score per sample, in order."""

    name: str

    def __call__(self, samples: Sequence[Sample]) -> list[Score]: ...


class Judge(Protocol):
    """Anything that says how good responses are: learned models, verifiers, functions, mixtures,
    people, simulated labellers.

    Attributes:
        name: what its figures are logged under.
        version: of its weights, its prompt or its code; empty where there is nothing to tell apart.
    """

    name: str
    version: str

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        """One judgement for each group, in order.

        Raises:
            Pending: people have not answered yet.
        """
        ...


def judged(judge: Reward, groups: Sequence[Group]) -> list[Judgement]:
    """Ask a judge about groups; whatever goes wrong is an error in the judgement it went wrong for.

    Raises:
        RunError: the judge itself says that the run must stop, or pause for people.
        KeyboardInterrupt: somebody stops the program.
    """
    samples = [
        Sample(group.prompt, r.text, group.prompt_ids, r.ids, r.finished)
        for group in groups
        for r in group.responses
    ]
    scores = iter(score_safely(judge, samples))
    return [Judgement(judge.name, tuple(next(scores) for _ in group.responses)) for group in groups]


def score_safely(reward: Reward, samples: Sequence[Sample]) -> list[Score]:
    """Score ``samples``; whatever goes wrong becomes the error of the samples it went wrong for.

    A reward that raises on the whole batch is asked again sample by sample, so that one bad sample
    does not take the others with it; ``sys.exit`` counts as raising. NaN, infinities, None and
    anything that is not one Score per sample are errors. A coroutine is awaited.

    Raises:
        RunError: the reward itself says that the run must stop, or pause for people.
        KeyboardInterrupt: somebody stops the program.
    """
    if not samples:
        return []
    try:
        scores = list(settled(reward(samples)))
    except BaseException as error:
        if isinstance(error, RunError) or is_interrupt(error):
            raise
        if len(samples) == 1:
            return [Score(None, error=f"{reward.name}: {said(error)}")]
        return [score_safely(reward, [sample])[0] for sample in samples]
    if len(scores) != len(samples):
        message = f"{reward.name}: returned {len(scores)} scores for {len(samples)} samples"
        return [Score(None, error=message) for _ in samples]
    return [checked(reward.name, score) for score in scores]


def checked(name: str, score: Any) -> Score:
    """The score in plain Python numbers (parts of numpy's or torch's cannot be stored), its error
    named; one whose value is no finite number becomes an error."""
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


def number(value: Any) -> float:
    """``value`` as a float: of Python's, numpy's and torch's numbers, and of arrays of one.

    Raises:
        TypeError, ValueError, OverflowError: it is none (text is none either).
    """
    if isinstance(value, str | bytes | bytearray):
        raise TypeError("text is no number")
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
    """The error with the reward's name in front, once."""
    return error if error.startswith(f"{name}: ") else f"{name}: {error}"
