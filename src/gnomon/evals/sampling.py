"""The options of suites whose models answer."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from gnomon.evals.asking import Ask
from gnomon.evals.suite import Options


class SampleOptions(Options):
    """How answers are sampled."""

    max_new_tokens: int | None = Field(
        None, ge=1, description="of an answer; default: 256, or half of a small model's window"
    )
    temperature: float = Field(0.0, ge=0, description="0 takes the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1)
    samples: int = Field(1, ge=1, description="answers to each prompt")

    def ask(self) -> Ask:
        """The same for a subject."""
        return Ask(self.max_new_tokens, self.temperature, self.top_p, self.samples, self.seed)

    def resolved(self, window: int | None) -> dict[str, Any]:
        return {} if window is None else {"max_new_tokens": self.ask().tokens(window)}
