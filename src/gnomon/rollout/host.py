"""A model that lives outside the trainer's weights, and the replica that keeps it in step.

A :class:`Host` (vLLM in this process, or any host behind a URL) takes weights as a safetensors
file and samples tokens; :class:`HostReplica` writes the file, has it loaded, and checks by numbers
that what is served is what was written: after each load the host scores a few tokens, and the
log-probs must be the policy's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gnomon.errors import ConfigError, EngineError
from gnomon.models.roles import Role
from gnomon.rollout.protocol import Completion, FinishReason, Request, SamplingParams
from gnomon.rollout.replica import Snapshot, StaleWeightsError
from gnomon.rollout.text import StopText
from gnomon.rollout.weights import PolicyWriter, WeightsFile, check_shapes

PROBE_TOKENS = 24
TOLERANCE = {"float32": 0.02, "bfloat16": 0.25, "float16": 0.1}
"""Mean gap (nats a token) between the policy's log-probs of the probe and the host's."""
_SAME = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps"),
    *("rope_theta", "rope_parameters", "rope_scaling", "sliding_window", "tie_word_embeddings"),
)
"""What the configurations of policy and host must agree on, where both say it."""


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
    """Requests that are sampled alike, from the weights ``version``; ``eos`` ids end a response."""

    version: str
    requests: Sequence[Request]
    params: SamplingParams
    eos: Sequence[int]


@dataclass(frozen=True)
class Sampled:
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

    def sample(
        self, job: Job, progress: Callable[[int, int], None] | None
    ) -> Sequence[Sequence[Sampled]]:
        """Raises StaleWeightsError when other weights are served than the job asks for."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class FileSnapshot:
    """The policy's weights in a file, and its own log-probs of the probe."""

    weights: WeightsFile
    probe: tuple[float, ...] = field(repr=False)

    @property
    def version(self) -> str:
        return self.weights.version


class HostReplica:
    """Keeps a host in step with the policy.

    Args:
        policy: whose weights are sent, its adapter merged.
        host: where they are sampled from.
        tokenizer: decodes responses.
        eos: token ids that end a response.
        folder: where weights are written before they are sent.

    Raises:
        ConfigError: the host's model is not the policy's: other shapes, vocabulary, settings.
    """

    def __init__(
        self,
        policy: Role,
        host: Host,
        tokenizer: PreTrainedTokenizerBase,
        eos: Sequence[int],
        folder: Path,
    ) -> None:
        self._policy = policy
        self._host = host
        self._tokenizer = tokenizer
        self._eos = tuple(eos)
        about = host.about()
        check_same_model(policy.trunk.model.config.to_dict(), about)
        self._shapes: Mapping[str, Sequence[int]] | None = about.shapes
        self._tolerance = TOLERANCE.get(about.dtype, max(TOLERANCE.values()))
        known = int(policy.trunk.model.config.get_text_config().vocab_size)
        self._vocabulary = min(known, about.vocabulary)
        self._probe = probe_ids(self._vocabulary, about.window)
        self._writer = PolicyWriter(policy, folder)

    @torch.no_grad()
    def capture(self) -> FileSnapshot:
        trunk = self._policy.trunk
        with trunk.running(self._policy.adapter):
            ids = torch.tensor([self._probe], device=trunk.model.device)
            logits: Tensor = trunk.model(input_ids=ids, use_cache=False).logits[0, :-1]
        scores = logits.float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        return FileSnapshot(self._writer.write(), tuple(scores.tolist()))

    def load(self, snapshot: Snapshot, wanted: Callable[[], None] | None = None) -> None:
        assert isinstance(snapshot, FileSnapshot)
        if self._shapes is not None:  # once, before anything is sent
            check_shapes(snapshot.weights, self._shapes)
            self._shapes = None
        seen = self._host.load(snapshot.weights, self._probe, wanted)
        if len(seen) != len(snapshot.probe):
            raise EngineError(
                f"the sampler scored {len(seen)} tokens of a test sequence, not "
                f"{len(snapshot.probe)}"
            )
        gaps = [abs(a - b) for a, b in zip(seen, snapshot.probe, strict=True)]
        gap = sum(gaps) / len(gaps)
        if not gap <= self._tolerance:
            raise EngineError(
                f"weights were sent to {self._host.about().program}, but what it serves is not the "
                f"policy: its log-probs of a test sequence differ by {gap:.3g} nats a token "
                f"(at most {self._tolerance} is rounding). The sampler did not take all of the "
                "weights over; use engine: torch, or another version of it."
            )

    def sample(
        self,
        version: str,
        requests: Sequence[Request],
        params: SamplingParams,
        progress: Callable[[int, int], None] | None,
    ) -> list[list[Completion]]:
        job = Job(version, requests, params, self._eos)
        rows = self._host.sample(job, progress)
        self._check(job, rows)
        text = StopText(self._tokenizer, params.stop, frozenset(self._eos))
        return [
            [
                Completion(
                    tuple(s.ids),
                    torch.tensor(s.logprobs, dtype=torch.float32),
                    s.finish_reason,
                    text.text(s.ids),
                )
                for s in row
            ]
            for row in rows
        ]

    def close(self) -> None:
        self._host.close()
        self._writer.close()

    def _check(self, job: Job, rows: Sequence[Sequence[Sampled]]) -> None:
        """See that an answer is one to this job; what is trained on must not rest on trust."""
        if [len(row) for row in rows] != [r.n for r in job.requests]:
            raise EngineError("the sampler gave another number of responses than it was asked for")
        for sampled in (s for row in rows for s in row):
            if sampled.version != job.version:
                raise StaleWeightsError(
                    f"a response came from the weights {sampled.version[:12]}, not "
                    f"{job.version[:12]}"
                )
            ids, logprobs = sampled.ids, sampled.logprobs
            if not ids or len(ids) != len(logprobs) or len(ids) > job.params.max_new_tokens:
                raise EngineError(
                    f"the sampler gave {len(logprobs)} log-probs for {len(ids)} tokens, of at most "
                    f"{job.params.max_new_tokens}"
                )
            if min(ids) < 0 or max(ids) >= self._vocabulary:
                raise EngineError(
                    f"the sampler gave token ids outside 0..{self._vocabulary - 1}, the policy's "
                    "vocabulary"
                )
            if not all(map(math.isfinite, logprobs)):
                raise EngineError(
                    "the sampler gave a log-prob that is no finite number: the policy's weights "
                    "lead nowhere. Lower the learning rate, or start again from an earlier "
                    "checkpoint"
                )


def probe_ids(vocabulary: int, window: int) -> list[int]:
    """Token ids from all over the vocabulary, always the same; fewer where the window is small.

    Raises:
        ConfigError: a window that nothing can be scored in.
    """
    if window < 3:
        raise ConfigError(f"the sampler's window of {window} tokens is too small to sample in")
    return [(7 + i * 2_654_435_761) % vocabulary for i in range(min(PROBE_TOKENS, window - 1))]


def check_same_model(config: Mapping[str, Any], about: About) -> None:
    """Raise ConfigError unless the host's model has the policy's configuration."""
    differ = [
        f"{key} is {about.config[key]} there, {config[key]} here"
        for key in _SAME
        if key in config and key in about.config and about.config[key] != config[key]
    ]
    if differ:
        raise ConfigError(
            f"the model on the sampler ({about.program}) is not the policy: {'; '.join(differ)}. "
            "Start it with the model that this stage starts from."
        )
