"""Who samples, with which weights: prompts in, sampled tokens with their log-probs out.

Engine   what an algorithm holds: the torch engine on the policy itself, or one on a copy of it
Replica  a copy of the policy that samples, in this process or behind a host
Host     a model outside the trainer (vLLM, here or behind a URL) that takes weights over
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from gnomon.errors import EngineError
from gnomon.records import Group, Message, Prompt, Response
from gnomon.rollout.sums import Sums

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
    """One prompt and n samples of it; ``seed`` fixes the samples whatever shares the batch.

    ``first`` is the number of the first of them: samples 4 and 5 of a prompt (``n=2, first=4``) are
    the same wherever and with whatever they are drawn.
    """

    id: str
    prompt_ids: Sequence[int]
    n: int = 1
    seed: int = 0
    first: int = 0


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

    def state_dict(self) -> dict[str, Any]:
        """The weights as a checkpoint can hold them; see :meth:`Engine.restored`."""
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

    def restored(self, state: Mapping[str, Any]) -> Snapshot:
        """The snapshot that a checkpoint holds (:meth:`Snapshot.state_dict`)."""
        raise EngineError(f"a {type(self).__name__} has no weights of its own")

    def pinned(
        self, snapshot: Snapshot, progress: Progress | None = None
    ) -> AbstractContextManager[None]:
        """Within the block, sample from ``snapshot`` and report to ``progress`` alone."""
        raise EngineError(f"a {type(self).__name__} has no weights of its own")

    def rest(self) -> None:
        """Nothing is sampled for a while: training needs the memory."""
        return

    def close(self) -> None:
        """Give back memory, files and connections."""
        return


class StaleWeightsError(Exception):
    """The replica serves other weights than those asked for; loading them again may help."""


class Replica(Protocol):
    """A copy of the policy that samples."""

    def capture(self, kept: bool = True) -> Snapshot:
        """The policy's weights now. Called while nothing trains them.

        Args:
            kept: they are loaded after training has gone on; otherwise they are loaded at once, and
                need no copy.
        """
        ...

    def restored(self, state: Mapping[str, Any]) -> Snapshot:
        """The snapshot that a checkpoint holds."""
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

    def keeping(self) -> AbstractContextManager[None]:
        """See :meth:`Engine.keeping`."""
        return nullcontext()

    def rest(self) -> None:
        """Nothing is sampled for a while."""
        ...

    def close(self) -> None:
        """Give back memory, files and connections."""
        ...


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """A safetensors file, with the sums of its tensors in its header.

    Attributes:
        path: where it is.
        version: of its sums (:attr:`gnomon.rollout.sums.Sums.version`).
    """

    path: Path
    version: str


@dataclass(frozen=True, eq=False)
class WeightsHere:
    """Weights in this process's memory.

    Attributes:
        version: of their sums.
        sums: of the tensors as they are sent.
        tensors: gives them by name, in a fixed order; called for each time they are sent.
    """

    version: str
    sums: Sums
    tensors: Callable[[], Iterable[tuple[str, Tensor]]]


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
        transfers: how it takes weights: "file", and others of :mod:`gnomon.rollout.transfer`.
        gpus: identifiers (UUIDs) of the GPUs that its workers are on, a worker each; none on a CPU.
        max_lora_rank: of an adapter that it can put on its weights; 0: none.
        base: version of the weights that adapters are put on; "" where they are not.
    """

    kind: str
    program: str
    dtype: str
    version: str
    window: int
    vocabulary: int
    config: Mapping[str, Any]
    shapes: Mapping[str, Sequence[int]]
    transfers: Sequence[str] = ("file",)
    gpus: Sequence[str] = ()
    max_lora_rank: int = 0
    base: str = ""


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

    def connect(self, transfer: str, device: torch.device) -> str:
        """Agree on how whole weights come (:func:`gnomon.rollout.transfer.choose`).

        Args:
            transfer: what is asked for.
            device: of the policy.

        Returns:
            "file", or how tensors cross.

        Raises:
            ConfigError: it cannot be so.
        """
        return "file"

    def load(
        self,
        weights: WeightsFile | WeightsHere,
        probe: Sequence[int],
        wanted: Callable[[], None] | None = None,
    ) -> Sequence[float]:
        """Serve these weights, and score ``probe`` (T ids): T - 1 log-probs at temperature 1.

        A file is checked before any of it is taken over, tensors from memory as they come; where
        it fails half-way, the host serves no version at all until it is sent one again.

        Args:
            weights: a safetensors file, of a whole model or an adapter; or tensors in memory, where
                the host was given a way to take them.
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

    def rest(self) -> None:
        """Nothing is sampled for a while; memory may be given back."""
        return

    def close(self) -> None: ...
