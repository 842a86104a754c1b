"""How many kernels torch launches for a layer, which is what few tokens take on a GPU.

Launching costs some tens of microseconds a kernel, with the modules and the autograd graph between;
a GPU that computes a layer of few tokens in less waits for the next. Counted are the operations of
transformers' layers that are no views (``tests/plan/test_kernels.py`` counts them on a CPU).
"""

from __future__ import annotations

from dataclasses import dataclass

from gnomon.plan.shapes import Shape


@dataclass(frozen=True)
class Kernels:
    """Of a layer's forward pass, and of its backward pass."""

    forward: float
    backward: float

    def __add__(self, other: Kernels) -> Kernels:
        return Kernels(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: float) -> Kernels:
        return Kernels(self.forward * times, self.backward * times)


PLAIN = Kernels(38, 78)
"""A Llama's layer in bfloat16: seven matrices, two norms, rotation, attention, a gated MLP."""
NORM = Kernels(8, 16)
"""One more norm, whose statistics are float32."""
CAST = Kernels(10, 16)
"""Narrow copies of float32 weights, and their gradients made wide again."""
ADAPTER = Kernels(6, 7)
"""The adapter of one matrix."""
SLOW = 2.5
"""An adapter's kernel is launched in so much of the time of another: its products are operations of
gnomon's own (:class:`gnomon.models.precision.TF32Linear`)."""
_MATRICES = 7


def layer_launches(shape: Shape, *, cast: bool = False, adapters: bool = False) -> Kernels:
    """What launching the kernels of one layer takes, in the time of a plain layer's kernel."""
    slow = ADAPTER * (_MATRICES * (SLOW - 1) * adapters)
    return layer_kernels(shape, cast=cast, adapters=adapters) + slow


def layer_kernels(shape: Shape, *, cast: bool = False, adapters: bool = False) -> Kernels:
    """Kernels of one layer.

    Args:
        cast: float32 weights are multiplied in bfloat16.
        adapters: each matrix has one.
    """
    found = PLAIN + NORM * (shape.norms - 2 + 2 * shape.qk_norm)
    if cast:
        found += CAST
    return found + ADAPTER * _MATRICES if adapters else found
