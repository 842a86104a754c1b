"""The one reward protocol: samples in, scores out, and an error never becomes a silent zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # it needs torch, which takes a second to load, and a verifier's worker does not
    from gnomon.records import Prompt


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


@dataclass(frozen=True)
class Score:
    """A reward with its named parts, or the error that took its place.

    Attributes:
        value: the reward, or None when ``error`` is set.
        parts: named components (of a mixture, of an ensemble), for the metrics.
        error: what went wrong with this one sample, or None.
    """

    value: float | None
    parts: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


class Reward(Protocol):
    """Scores a batch of samples; one Score per sample, in order."""

    name: str

    def __call__(self, samples: Sequence[Sample]) -> list[Score]: ...
