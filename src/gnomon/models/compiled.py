"""torch.compile of a model's decoder layers, one graph for all layers of a kind.

Each layer is compiled by itself ("regional compilation"), so that a model of 30 layers takes as
long to compile as one of a single layer. Sizes stay symbolic: batches of any length run the same
graph. The packed attention is left out of it, since its pieces differ from batch to batch. Which
adapter is active, training mode, gradients on or off are conditions of a graph: torch checks them
at each call and compiles once more where they are new.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from gnomon.errors import RunError

_GRAPHS = 64
"""Graphs of one piece of a layer (adapters, modes, windows) before torch gives up on it."""


class CompiledLayers:
    """A model's layers, compiled; nothing changes until ``enabled``.

    What cannot be compiled runs as it is, with one warning that says why.

    Args:
        model: a transformers model, with adapters or without.
        backend: of ``torch.compile``.

    Attributes:
        trouble: why layers run uncompiled, or None.
    """

    def __init__(self, model: PreTrainedModel | nn.Module, backend: str = "inductor") -> None:
        import torch._dynamo  # here and not above: it takes a second
        import torch._inductor.exc as inductor

        self.trouble: str | None = None
        self._failures = (
            torch._dynamo.exc.TorchDynamoException,
            inductor.CppCompileError,
            inductor.InvalidCxxCompiler,
        )
        limit = torch._dynamo.config.recompile_limit
        torch._dynamo.config.recompile_limit = max(limit, _GRAPHS)
        self._compile = partial(torch.compile, dynamic=True, backend=backend)
        self._functions: dict[Callable[..., Any], Callable[..., Any]] = {}
        self._running = False
        self._layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not self._layers:
            self._give_up(f"{type(model).__name__} has no layers that transformers marks as such")

    @contextmanager
    def enabled(self) -> Iterator[None]:
        """Run compiled layers in the block, and when what ran in it is recomputed later.

        Raises:
            RunError: later, in the backward pass: a recomputed layer has to be compiled anew, and
                cannot be. What it kept belongs to the compiled layer, so no other can stand in.
        """
        if self.trouble is not None:
            yield
            return
        try:
            self._running = True
            for layer in self._layers:
                layer.forward = MethodType(self._forward, layer)
            with _failing_early():
                yield
        finally:
            self._running = False
            for layer in self._layers:
                layer.__dict__.pop("forward", None)

    def _forward(self, layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        plain = type(layer).forward
        if self.trouble is None:
            try:
                return self._run(layer, *args, **kwargs)
            except self._failures as error:
                self._give_up(_words(error))
        return plain(layer, *args, **kwargs)

    def _run(self, layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        own = inspect.unwrap(type(layer).forward)  # without transformers' gate to checkpointing
        function = self._functions.get(own)
        if function is None:
            function = self._functions[own] = self._compile(own)
        run = partial(self._compiled, function, layer, **kwargs)
        if layer.gradient_checkpointing and layer.training:
            return layer._gradient_checkpointing_func(run, *args)  # type: ignore[operator]
        return run(*args)

    def _compiled(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with nullcontext() if self._running else _failing_early():
            try:
                return function(*args, **kwargs)
            except self._failures as error:
                if self._running:
                    raise
                raise RunError(
                    "torch.compile cannot compile a layer in the backward pass, where it is "
                    f"computed again: {_words(error)}. The weights are those before this step, and "
                    "what is saved is whole: resume without it (--resume with this stage's "
                    "train.compile=false), or without train.gradient_checkpointing"
                ) from error

    def _give_up(self, reason: str) -> None:
        self.trouble = reason
        warnings.warn(
            f"torch.compile cannot compile the layers, which run as they are: {reason}. Results "
            "are the same to rounding; leave train.compile out to do without this attempt.",
            stacklevel=2,
        )


@contextmanager
def _failing_early() -> Iterator[None]:
    """Compile a backward pass with its forward pass, where a failure can be mended, and raise what
    TORCHDYNAMO_SUPPRESS_ERRORS would keep among torch's logs."""
    with (
        torch._functorch.config.patch(force_non_lazy_backward_lowering=True),
        torch._dynamo.config.patch(suppress_errors=False),
    ):
        yield


def _words(error: Exception) -> str:
    """The first line of the innermost cause that says something."""
    cause = getattr(error, "inner_exception", None) or error.__cause__ or error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else 'no message'}"
