"""What every rollout engine offers: prompts in, sampled tokens with their log-probs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from gnomon.records import Group, Message, Prompt, Response

FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class SamplingParams:
    """How to sample.

    Attributes:
        max_new_tokens: most tokens per response, EOS included.
        temperature: logits are divided by it; 0 means greedy.
        top_p, top_k, min_p: the usual truncations, applied after temperature in the order top-k,
            top-p, min-p; 1.0, 0 and 0.0 switch them off.
        stop: strings that end a response; the text is cut before the string and the tokens end
            with the token that completed it.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One prompt and n samples of it; ``seed`` fixes the samples whatever shares the batch."""

    id: str
    prompt_ids: Sequence[int]
    n: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """One sampled response.

    Attributes:
        ids: T sampled tokens; ends with an EOS token when ``finish_reason`` is "eos".
        logprobs: [T] log-probability (nats) of each token under the distribution it was sampled
            from before truncation: softmax(logits / temperature) (temperature 1 when greedy).
        finish_reason: "eos", "stop" (a stop string) or "length" (cut off: not finished).
        text: the decoded response, without special tokens and without the stop string.
    """

    ids: tuple[int, ...]
    logprobs: Tensor
    finish_reason: FinishReason
    text: str

    @property
    def finished(self) -> bool:
        return self.finish_reason != "length"


def sampled_group(
    prompt: Prompt, prompt_ids: Sequence[int], completions: Sequence[Completion]
) -> Group:
    """A prompt with what was sampled for it, as judges see it."""
    responses = tuple(
        Response((Message("assistant", c.text),), ids=c.ids, finished=c.finished)
        for c in completions
    )
    return Group(prompt, responses, prompt_ids=prompt_ids)


class Engine(Protocol):
    """Anything that samples from the policy."""

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        """Sample ``request.n`` completions of each request, in the order of the requests.

        ``progress`` is called with (finished sequences, all sequences) as they finish.
        """
        ...

    def sync_weights(self) -> None:
        """Sample from the policy's current weights from now on (nothing to do if shared)."""
        ...
