"""Sampling from a copy of the policy: weights are kept aside, loaded, and checked.

    capture()  the policy's weights as they are now, with a version that names them
    load()     the replica takes them over, in place
    sample()   refuses to serve any other version

A replica is the copy: in this process, or in vLLM, here or behind a URL.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gnomon.errors import ConfigError, EngineError
from gnomon.models.load import dtype_of
from gnomon.models.roles import Role, Trunk
from gnomon.rollout.protocol import (
    About,
    Completion,
    Engine,
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
from gnomon.rollout.sampling import StopText
from gnomon.rollout.sums import Sums
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.rollout.weights import PolicyWriter, check_shapes, sent_sums

_LOADS = 3  # per call of generate: the first one, and two after the server lost the weights


class ReplicaEngine(Engine):
    """The engine on top of a replica: it never samples from other weights than those asked for.

    Not for several threads at once. Under :meth:`pinned`, ``sync_weights`` means the pinned weights
    whatever the policy has become, which is how rollouts are sampled while the policy trains.
    """

    shares_weights = False

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self._wanted: Snapshot | None = None
        self._loaded: str | None = None
        self._pin: Snapshot | None = None
        self._pinned_progress: Progress | None = None

    def capture(self) -> Snapshot:
        return self.replica.capture()

    def restored(self, state: Mapping[str, Any]) -> Snapshot:
        return self.replica.restored(state)

    @contextmanager
    def pinned(self, snapshot: Snapshot, progress: Progress | None = None) -> Iterator[None]:
        self._pin, self._pinned_progress = snapshot, progress
        try:
            yield
        finally:
            self._pin = self._pinned_progress = self._wanted = None

    def sync_weights(self) -> None:
        self._wanted = self._pin or self.replica.capture(kept=False)
        self._load(self._wanted)

    def generate(
        self,
        requests: Sequence[Request],
        params: SamplingParams,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Sample ``request.n`` completions of each request, in the order of the requests.

        Raises:
            ConfigError, DataError: sampling parameters or prompts that cannot be used.
            EngineError: the replica is gone, or keeps serving other weights.
        """
        if self._wanted is None:
            self.sync_weights()
        wanted = self._wanted
        assert wanted is not None
        if self._pin is not None:
            progress = self._pinned_progress
        problem = ""
        for _ in range(_LOADS):
            self._load(wanted)
            try:
                return self.replica.sample(wanted.version, requests, params, progress)
            except StaleWeightsError as stale:
                self._loaded, problem = None, str(stale)
        raise EngineError(
            f"the weights were sent {_LOADS} times, and still {problem}. Is another run using the "
            "same server? Give each run its own, and resume with --resume."
        )

    def keeping(self) -> AbstractContextManager[None]:
        return self.replica.keeping()

    def rest(self) -> None:
        if self._pin is None:  # else sampling goes on beside training
            self.replica.rest()

    def close(self) -> None:
        self._wanted = None
        self.replica.close()

    def _load(self, snapshot: Snapshot) -> None:
        if self._loaded == snapshot.version:
            return
        self._loaded = None  # if loading fails, the old weights cannot be trusted either
        progress = self._pinned_progress
        self.replica.load(snapshot, None if progress is None else lambda: progress(0, 0))
        self._loaded = snapshot.version


MakeEngine = Callable[[PreTrainedModel, Callable[[], AbstractContextManager[Any]]], TorchEngine]


@dataclass(frozen=True)
class TensorSnapshot:
    """The policy's trained tensors at one time, in memory."""

    version: str
    tensors: dict[str, Tensor]

    def state_dict(self) -> dict[str, Any]:
        return {"tensors": self.tensors}


class TorchReplica(Replica):
    """A second copy of the policy's trunk that only samples.

    Memory: one copy of the model, and one of the trained tensors for each snapshot that is kept.

    Args:
        policy: whose weights are followed; with LoRA only the adapter's are copied.
        make: builds the torch engine from a model and the context that activates its adapter.
    """

    def __init__(self, policy: Role, make: MakeEngine) -> None:
        self._policy = policy
        self._twin = policy.trunk.frozen_copy()
        self._adapter = policy.adapter
        self._engine = make(self._twin.model, lambda: self._twin.active(self._adapter))
        self._versions = itertools.count(1)
        self._version = "the start weights"

    @torch.no_grad()
    def capture(self, kept: bool = True) -> TensorSnapshot:
        tensors = _trained(self._policy.trunk, self._adapter)
        copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        return TensorSnapshot(str(next(self._versions)), copies)

    def restored(self, state: Mapping[str, Any]) -> TensorSnapshot:
        if "version" in state:
            raise ConfigError(_ELSEWHERE.format("a server or vLLM", "as it was then"))
        return TensorSnapshot(str(next(self._versions)), dict(state["tensors"]))

    @torch.no_grad()
    def load(self, snapshot: Snapshot, wanted: Callable[[], None] | None = None) -> None:
        assert isinstance(snapshot, TensorSnapshot)
        for name, tensor in _trained(self._twin, self._adapter).items():
            tensor.copy_(snapshot.tensors[name])
        self._version = snapshot.version

    def sample(
        self,
        version: str,
        requests: Sequence[Request],
        params: SamplingParams,
        progress: Progress | None,
    ) -> list[list[Completion]]:
        if version != self._version:
            raise StaleWeightsError(f"the copy holds version {self._version}, not {version}")
        return self._engine.generate(requests, params, progress)

    def keeping(self) -> AbstractContextManager[None]:
        return self._engine.keeping()

    def rest(self) -> None:
        """Nothing to do: the copy has no memory besides its weights."""

    def close(self) -> None:
        """Nothing to do: the copy goes with this object."""


_ELSEWHERE = (
    "the checkpoint holds weights that {} was to sample from, and this run samples elsewhere: "
    "resume with rollout {}"
)


def _trained(trunk: Trunk, adapter: str | None) -> dict[str, Tensor]:
    """What training the policy moves: its adapter, or all weights where it has none."""
    if adapter is not None:
        return dict(trunk.adapter_parameters(adapter))
    return dict(trunk.model.named_parameters())


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
            return self._writer.write()
        return self._writer.here(self._dtype, kept)

    def restored(self, state: Mapping[str, Any]) -> SentSnapshot:
        """The snapshot; as a file, where the host takes no tensors any more."""
        if "version" not in state:
            raise ConfigError(_ELSEWHERE.format("the trainer's own process", "without url"))
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
