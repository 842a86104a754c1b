"""What is asked of a model, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gnomon.errors import ConfigError
from gnomon.records import Group

if TYPE_CHECKING:
    from gnomon.rollout.protocol import SamplingParams

NEW_TOKENS = 256
"""Most tokens of an answer where a suite's options do not say; less in small windows."""
Watch = Callable[[int, int], None]


@dataclass(frozen=True)
class Unanswered:
    """Why there is no answer to a prompt."""

    reason: str


Answered = Group | Unanswered
"""A prompt with its answers, or why there is none."""


@dataclass(frozen=True)
class Ask:
    """How answers are sampled.

    Attributes:
        max_new_tokens: None for :data:`NEW_TOKENS`, or less where the window is small.
        temperature: 0 is greedy.
        samples: answers to each prompt.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    seed: int = 0

    def tokens(self, window: int) -> int:
        """Most tokens of an answer, of a model that takes ``window`` with the prompt.

        Raises:
            ConfigError: no room is left for a prompt.
        """
        tokens = self.max_new_tokens or min(NEW_TOKENS, max(1, window // 2))
        if tokens >= window:
            raise ConfigError(
                f"max_new_tokens is {tokens}, which leaves no room for a prompt in the {window} "
                "tokens that the model takes; lower it"
            )
        return tokens

    def params(self, window: int) -> SamplingParams:
        """The same for the engine."""
        from gnomon.rollout.protocol import SamplingParams

        return SamplingParams(self.tokens(window), self.temperature, self.top_p)
