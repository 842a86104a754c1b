"""The torch engine on a copy of the policy of its own, so that it can sample while that trains."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gnomon.models.roles import Role, Trunk
from gnomon.rollout.protocol import Completion, Request, SamplingParams
from gnomon.rollout.replica import Progress, Snapshot, StaleWeightsError
from gnomon.rollout.torch_engine import TorchEngine

MakeEngine = Callable[[PreTrainedModel, Callable[[], AbstractContextManager[Any]]], TorchEngine]


@dataclass(frozen=True)
class TensorSnapshot:
    """The policy's trained tensors at one time, in memory."""

    version: str
    tensors: dict[str, Tensor]


class TorchReplica:
    """A second copy of the policy's trunk that only samples.

    Memory: one copy of the model, and one of the trained tensors for each snapshot that is kept.

    Args:
        policy: whose weights are followed; with LoRA only the adapter's are copied.
        make: builds the torch engine from a model and the context that activates its adapter.
    """

    def __init__(self, policy: Role, make: MakeEngine) -> None:
        self._policy = policy
        self._twin = policy.trunk.copy(gradient_checkpointing=False)
        self._twin.model.requires_grad_(False)
        self._adapter = policy.adapter
        self._engine = make(self._twin.model, lambda: self._twin.active(self._adapter))
        self._versions = itertools.count(1)
        self._version = "the start weights"

    @torch.no_grad()
    def capture(self) -> TensorSnapshot:
        tensors = _trained(self._policy.trunk, self._adapter)
        kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        return TensorSnapshot(str(next(self._versions)), kept)

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

    def close(self) -> None:
        """Nothing to do: the copy goes with this object."""


def _trained(trunk: Trunk, adapter: str | None) -> dict[str, Tensor]:
    """What training the policy moves: its adapter, or all weights where it has none."""
    if adapter is not None:
        return dict(trunk.adapter_parameters(adapter))
    return dict(trunk.model.named_parameters())
