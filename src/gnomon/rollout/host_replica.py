"""A replica behind a host: it is sent weights, and what it serves is compared with the policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gnomon.errors import ConfigError, EngineError
from gnomon.models.load import dtype_of
from gnomon.models.roles import Role
from gnomon.rollout.protocol import (
    About,
    Completion,
    Host,
    Job,
    Progress,
    RawCompletion,
    Replica,
    Request,
    SamplingParams,
    Snapshot,
    StaleWeightsError,
    WeightsFile,
    WeightsHere,
)
from gnomon.rollout.replica import ELSEWHERE
from gnomon.rollout.sampling import StopText
from gnomon.rollout.sums import Sums
from gnomon.rollout.weights import PolicyWriter, check_shapes, sent_sums

PROBE_TOKENS = 24
TOLERANCE = {"float32": 0.02, "bfloat16": 0.25, "float16": 0.1}
"""Mean gap (nats a token) between the policy's log-probs of the probe and the host's."""
_SAME = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps"),
    *("rope_theta", "rope_parameters", "rope_scaling", "sliding_window", "tie_word_embeddings"),
)
"""Settings that the configurations of policy and host must share, where both have them."""


@dataclass(frozen=True)
class SentSnapshot:
    """The policy's weights, in a file or in memory, and its own log-probs of the probe."""

    weights: WeightsFile | WeightsHere
    probe: tuple[float, ...] = field(repr=False)

    @property
    def version(self) -> str:
        return self.weights.version

    def state_dict(self) -> dict[str, Any]:
        state = {"version": self.version, "probe": list(self.probe)}
        if isinstance(self.weights, WeightsHere):
            return state | {"tensors": dict(self.weights.tensors())}
        content = torch.from_numpy(np.fromfile(self.weights.path, dtype=np.uint8))
        return state | {"file": content}


class HostReplica(Replica):
    """Keeps a host in step with the policy.

    A host that was started with LoRA is sent the adapter alone, as a file, if its own weights are
    those below the adapter; any other is sent whole weights, the adapter merged.

    Args:
        policy: whose weights are sent.
        host: where they are sampled from.
        tokenizer: decodes responses.
        eos: token ids that end a response.
        folder: where weights are written before they are sent.
        transfer: how whole weights are sent (:mod:`gnomon.rollout.transfer`).

    Raises:
        ConfigError: the host's model is not the policy's: other shapes, vocabulary, settings; or
            it takes adapters, and not this one; or weights cannot be sent so.
    """

    def __init__(
        self,
        policy: Role,
        host: Host,
        tokenizer: PreTrainedTokenizerBase,
        eos: Sequence[int],
        folder: Path,
        transfer: str = "auto",
    ) -> None:
        self._policy = policy
        self._host = host
        self._tokenizer = tokenizer
        self._eos = tuple(eos)
        about = host.about()
        check_same_model(policy.trunk.model.config.to_dict(), about)
        self._shapes: Mapping[str, Sequence[int]] | None = about.shapes
        self._dtype = dtype_of(about.dtype)
        self._tolerance = TOLERANCE.get(about.dtype, max(TOLERANCE.values()))
        known = int(policy.trunk.model.config.get_text_config().vocab_size)
        self._vocabulary = min(known, about.vocabulary)
        self._probe = probe_ids(self._vocabulary, about.window)
        self._base = about.base
        self._transfer = "file"
        if about.max_lora_rank:
            check_lora(policy, about, transfer)
        else:
            self._transfer = host.connect(transfer, policy.trunk.model.device)
        self._writer = PolicyWriter(policy, folder)
        if self._base and self._base != self._writer.base_version(self._dtype):
            raise ConfigError(
                f"the weights in {about.program} are not those below the policy's adapter, so the "
                "adapter alone cannot be sent: start it with the model that this stage starts from "
                "and in its dtype, or without LoRA"
            )

    @torch.no_grad()
    def capture(self, kept: bool = True) -> SentSnapshot:
        trunk = self._policy.trunk
        with trunk.running(self._policy.adapter):
            ids = torch.tensor([self._probe], device=trunk.model.device)
            logits: Tensor = trunk.model(input_ids=ids, use_cache=False).logits[0, :-1]
        scores = logits.float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        return SentSnapshot(self._weights(kept), tuple(scores.tolist()))

    def _weights(self, kept: bool) -> WeightsFile | WeightsHere:
        if self._base:
            return self._writer.write_adapter(self._base)
        if self._transfer == "file":
            return self._writer.write(self._dtype)
        return self._writer.here(self._dtype, kept)

    def restored(self, state: Mapping[str, Any]) -> SentSnapshot:
        """The snapshot; as a file, where the host takes no tensors any more."""
        if "version" not in state:
            raise ConfigError(ELSEWHERE.format("the trainer's own process", "without url"))
        version, probe = str(state["version"]), tuple(state["probe"])
        if "tensors" not in state:
            return SentSnapshot(self._writer.again(version, state["file"]), probe)
        tensors = dict(state["tensors"])
        if self._transfer == "file":
            return SentSnapshot(self._writer.of(tensors), probe)
        return SentSnapshot(WeightsHere(version, Sums.of(tensors.items()), tensors.items), probe)

    def load(self, snapshot: Snapshot, wanted: Callable[[], None] | None = None) -> None:
        assert isinstance(snapshot, SentSnapshot)
        weights = snapshot.weights
        if self._shapes is not None and not self._base:  # once, before anything is sent
            sums = weights.sums if isinstance(weights, WeightsHere) else sent_sums(weights)
            check_shapes({n: e.shape for n, e in sums.entries.items()}, self._shapes)
            self._shapes = None
        seen = self._host.load(weights, self._probe, wanted)
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
        progress: Progress | None,
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

    def rest(self) -> None:
        self._host.rest()

    def close(self) -> None:
        self._host.close()
        self._writer.close()

    def _check(self, job: Job, rows: Sequence[Sequence[RawCompletion]]) -> None:
        """Check that an answer fits the job: nothing is trained on unchecked."""
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
                    "the sampler gave a log-prob that is not a finite number: the policy's "
                    "weights are broken. Lower the learning rate, or start again from an earlier "
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


def check_lora(policy: Role, about: About, transfer: str) -> None:
    """Raise ConfigError unless a host that takes adapters can be sent the policy's."""
    if policy.adapter is None:
        raise ConfigError(
            f"{about.program} was started with LoRA and takes adapters only, and this stage trains "
            "all weights: start it without, or give the stage lora: {rank: ...}"
        )
    if transfer not in ("auto", "file"):
        raise ConfigError(
            f"rollout.options.transfer is {transfer}, and {about.program} was started with LoRA: "
            "adapters are sent as files; leave it out"
        )
    config = policy.trunk.model.peft_config[policy.adapter]
    rank = max([config.r, *config.rank_pattern.values()])
    if rank > about.max_lora_rank:
        raise ConfigError(
            f"the policy's adapter has rank {rank}, and {about.program} was started for at most "
            f"{about.max_lora_rank}: start it with --option max_lora_rank={rank}"
        )


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
