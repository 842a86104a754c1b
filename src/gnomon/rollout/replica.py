"""Sampling from a copy of the policy: weights are kept aside, loaded, and checked.

    capture()  the policy's weights as they are now, with a version that names them
    load()     the replica takes them over, in place
    sample()   refuses to serve any other version

A replica is the copy: in this process, or in vLLM, here or behind a URL.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gnomon.errors import ConfigError, EngineError
from gnomon.models.roles import Role, Trunk
from gnomon.rollout import finished
from gnomon.rollout.protocol import (
    Completion,
    Engine,
    Progress,
    Replica,
    Request,
    SamplingParams,
    Snapshot,
    StaleWeightsError,
)
from gnomon.rollout.torch_engine import TorchEngine

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
        """Sample ``request.n`` completions of each request, in the order of the requests; what is
        kept of them already (:mod:`gnomon.rollout.finished`) is not sampled again.

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
        kept = finished.now()
        known = None if kept is None else kept.call(requests, params)
        if known is not None:
            return [list(row) for row in known]
        problem = ""
        for _ in range(_LOADS):
            self._load(wanted)
            try:
                rows = self.replica.sample(wanted.version, requests, params, progress)
            except StaleWeightsError as stale:
                self._loaded, problem = None, str(stale)
                continue
            if kept is not None:
                kept.add_call(requests, params, rows)
            return rows
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
            raise ConfigError(ELSEWHERE.format("a server or vLLM", "as it was then"))
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


ELSEWHERE = (
    "the checkpoint holds weights that {} was to sample from, and this run samples elsewhere: "
    "resume with rollout {}"
)


def _trained(trunk: Trunk, adapter: str | None) -> dict[str, Tensor]:
    """What training the policy moves: its adapter, or all weights where it has none."""
    if adapter is not None:
        return dict(trunk.adapter_parameters(adapter))
    return dict(trunk.model.named_parameters())
