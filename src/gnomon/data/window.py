"""Whether a group's tokens fit and can be trained on: what is cut, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gnomon.data.chat import NOTHING
from gnomon.data.tokenise import Tokens
from gnomon.data.values import RowError
from gnomon.recipe.schema import Truncation
from gnomon.records import Comparison


@dataclass(frozen=True, slots=True)
class Window:
    """How many tokens fit, and what is cut when there are more (see ``Encoder``)."""

    max_length: int
    max_prompt_length: int
    truncation: Truncation

    def fit(
        self, prompt: list[int], responses: list[Tokens], bos: int | None
    ) -> tuple[list[int], list[Tokens]]:
        """The prompt and responses, cut as ``truncation`` says.

        Raises:
            RowError: they do not fit and may not be cut.
        """
        longest = max((len(r.ids) for r in responses), default=0)
        room = min(self.max_prompt_length, self.max_length - longest)
        if len(prompt) <= room:
            return prompt, responses
        if self.truncation == "left" and room >= 1:
            keeps_bos = room > 1 and prompt[0] == bos
            return (prompt[:1] + prompt[1 - room :] if keeps_bos else prompt[-room:]), responses
        if len(prompt) > self.max_prompt_length:
            raise RowError(
                f"the prompt is longer than {self.max_prompt_length} tokens",
                "raise max_prompt_length or max_length, or cut prompts with truncation: left",
            )
        if self.truncation == "right":
            left = self.max_length - len(prompt)
            return prompt, [Tokens(r.ids[:left], r.mask[:left]) for r in responses]
        raise RowError(
            f"prompt and response are longer than {self.max_length} tokens",
            "raise max_length, or cut with truncation: left (prompts) or right (responses)",
        )


def first_token_out(responses: list[Tokens]) -> tuple[list[int], list[Tokens]]:
    """A document without BOS: its first token is the prompt."""
    if len(responses) != 1 or len(responses[0].ids) < 2:
        raise RowError("empty prompt", "fill it in or remove the row")
    only = responses[0]
    return only.ids[:1], [Tokens(only.ids[1:], only.mask[1:])]


def check_tokens(responses: Sequence[Tokens], comparisons: Sequence[Comparison]) -> None:
    """Check tokens before they are trained on.

    Raises:
        RowError: a response without a trained token, or a better one equal to a worse one.
    """
    if any(not any(r.mask) for r in responses):
        raise RowError(*NOTHING)
    for c in comparisons:
        if not c.tie and responses[c.better].ids == responses[c.worse].ids:
            raise RowError(
                "chosen and rejected come out as the same tokens",
                "they differ only where they were cut or trimmed; raise max_length or remove it",
            )
