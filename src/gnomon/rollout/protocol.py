"""Who samples, with which weights: prompts in, sampled tokens with their log-probs out.

Engine   what an algorithm holds: the torch engine on the policy itself, or one on a copy of it
Replica  a copy of the policy that samples, in this process or behind a host
Host     a model outside the trainer (vLLM, here or behind a URL) that takes weights as a file
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from gnomon.errors import EngineError
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
    prompt: Prompt,
    prompt_ids: Sequence[int],
    completions: Sequence[Completion],
    logprobs: bool = False,
) -> Group:
    """A prompt with what was sampled for it, as judges see it; with ``logprobs``, the sampler's are
    kept."""
    responses = tuple(
        Response(
            (Message("assistant", c.text),),
            ids=c.ids,
            finished=c.finished,
            logprobs=c.logprobs if logprobs else None,
        )
        for c in completions
    )
    return Group(prompt, responses, prompt_ids=prompt_ids)


Progress = Callable[[int, int], None]
"""Called with (finished sequences, all sequences); it raises when the caller no longer waits."""


class Snapshot(Protocol):
    """Weights kept aside until they are no longer needed."""

    @property
    def version(self) -> str:
        """Names the weights: equal versions are equal weights."""
        ...


class Engine(Protocol):
    """Who samples from the policy, and with which of its weights.

    Attributes:
        shares_weights: it samples from the very weights that are trained, so it always has the
            newest and cannot be pinned to earlier ones.
    """

    shares_weights: bool

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Sample ``request.n`` completions of each request, in the order of the requests.

        ``progress`` is called with (finished sequences, all sequences) as they finish.
        """
        ...

    def sync_weights(self) -> None:
        """Sample from the policy's current weights (or the pinned ones) from now on."""
        return

    def keeping(self) -> AbstractContextManager[None]:
        """Within the block, prompts begin with what was sampled before: keep what serves them."""
        return nullcontext()

    def capture(self) -> Snapshot:
        """The policy's weights now, for :meth:`pinned`. Called while nothing trains them."""
        raise EngineError(f"a {type(self).__name__} has no weights of its own")

    def pinned(
        self, snapshot: Snapshot, progress: Progress | None = None
    ) -> AbstractContextManager[None]:
        """Within the block, sample from ``snapshot`` and report to ``progress`` alone."""
        raise EngineError(f"a {type(self).__name__} has no weights of its own")

    def close(self) -> None:
        """Give back memory, files and connections."""
        return


class StaleWeightsError(Exception):
    """The replica serves other weights than those asked for; loading them again may help."""


class Replica(Protocol):
    """A copy of the policy that samples."""

    def capture(self) -> Snapshot:
        """The policy's weights now. Called while nothing trains them."""
        ...

    def load(self, snapshot: Snapshot, wanted: Callable[[], None] | None = None) -> None:
        """Sample from these weights from now on.

        ``wanted`` is called now and then where that can take long, and raises when the caller no
        longer waits for it.

        Raises:
            EngineError: they did not arrive whole, or do not fit.
        """
        ...

    def sample(
        self,
        version: str,
        requests: Sequence[Request],
        params: SamplingParams,
        progress: Progress | None,
    ) -> list[list[Completion]]:
        """Sample from the weights ``version``.

        Raises:
            StaleWeightsError: other weights are loaded.
            EngineError: the replica is gone.
        """
        ...

    def close(self) -> None:
        """Give back memory, files and connections."""
        ...


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """A safetensors file.

    Attributes:
        path: where it is.
        version: the SHA-256 of its content, in hex.
        intact: the content is known to be that; otherwise :func:`check_weights` reads it again.
    """

    path: Path
    version: str
    intact: bool = False


@dataclass(frozen=True)
class About:
    """What a host is.

    Attributes:
        kind: "vllm" or "torch".
        program: its name and version, for people.
        dtype: of its weights.
        version: of the weights it serves now.
        window: most tokens of a prompt with its response.
        vocabulary: how many token ids it knows.
        config: the model's configuration.
        shapes: names and shapes of the weights it takes.
    """

    kind: str
    program: str
    dtype: str
    version: str
    window: int
    vocabulary: int
    config: Mapping[str, Any]
    shapes: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Job:
    """Requests with one set of parameters, for the weights ``version``; ``eos`` ids end one."""

    version: str
    requests: Sequence[Request]
    params: SamplingParams
    eos: Sequence[int]


@dataclass(frozen=True)
class RawCompletion:
    """One response as a host gives it; ``version`` is of the weights that it was sampled from."""

    ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: FinishReason
    version: str


class Host(Protocol):
    """Holds a model of its own, takes weights for it, and samples from them."""

    def about(self) -> About: ...

    def load(
        self, weights: WeightsFile, probe: Sequence[int], wanted: Callable[[], None] | None = None
    ) -> Sequence[float]:
        """Serve these weights, and score ``probe`` (T ids): T - 1 log-probs at temperature 1.

        All is checked before any of it is taken over; where that then fails half-way, the host
        serves no version at all until it is sent one again.

        Args:
            weights: a safetensors file.
            probe: fewer ids than the window has places.
            wanted: called now and then where this can take long; raises when it is not wanted any
                more.

        Raises:
            EngineError: they were damaged on the way, do not fit, are not finite, or the host is
                gone.
        """
        ...

    def sample(self, job: Job, progress: Progress | None) -> Sequence[Sequence[RawCompletion]]:
        """Raises StaleWeightsError when other weights are served than the job asks for."""
        ...

    def close(self) -> None: ...
