"""The one reward protocol: samples in, scores out, and an error never becomes a silent zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gnomon.records import Group, Judgement, Prompt
from gnomon.records import Score as Score


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
