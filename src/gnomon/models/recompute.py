"""Gradient checkpointing that knows roles: layers are recomputed as they were first run.

transformers couples checkpointing to training mode, and so to dropout; and it recomputes a layer in
the backward pass under whatever adapter happens to be active by then. Both are wrong where several
roles share a trunk, so each layer gets a checkpoint function of its own here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from gnomon.errors import ModelError

Restore = Callable[[], AbstractContextManager[None]]


class Recompute:
    """Makes a model's layers forget their activations and recompute them in the backward pass.

    Args:
        model: its layers get their checkpoint functions; nothing changes until ``enabled``.
        remember: called with a layer that runs; returns a function whose context puts it back
            into the present state (adapter, mode) for the recomputation.

    Raises:
        ModelError: the architecture has no layers that transformers can checkpoint.
    """

    def __init__(self, model: PreTrainedModel, remember: Callable[[nn.Module], Restore]) -> None:
        self._remember = remember
        self._layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not self._layers:
            raise ModelError(
                f"{type(model).__name__} does not support gradient checkpointing; switch it off"
            )
        for layer in self._layers:
            layer._gradient_checkpointing_func = self._function_of(layer)

    @contextmanager
    def enabled(self) -> Iterator[None]:
        """Checkpoint every layer that runs in the block, in training mode or not."""
        if not torch.is_grad_enabled():
            yield
            return
        before = [(layer, layer.training) for layer in self._layers]
        try:
            for layer in self._layers:  # the flag alone, not its children's: it opens the gate
                layer.gradient_checkpointing = True
                layer.training = True
            yield
        finally:
            for layer, training in before:
                layer.gradient_checkpointing = False
                layer.training = training

    def _function_of(self, layer: nn.Module) -> Callable[..., Any]:
        def checkpointed(function: Callable[..., Any], *args: Any) -> Any:
            restore = self._remember(layer)

            def run(*inner: Any) -> Any:
                gate = layer.training
                try:
                    with restore():
                        # the gate above is not the mode: a layer may have dropout of its own
                        layer.training = any(child.training for child in layer.children())
                        return function(*inner)
                finally:
                    layer.training = gate

            return checkpoint(run, *args, use_reentrant=False)

        return checkpointed
