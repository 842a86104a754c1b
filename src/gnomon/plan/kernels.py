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
ADAPTER = Kernels(6, 6.2)
"""The adapter of one matrix; backward seven, less the sums that matrices of one input share."""
_MATRICES = 7


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
