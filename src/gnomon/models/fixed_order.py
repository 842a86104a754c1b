"""Attention whose gradients a GPU adds up in a fixed order, so that runs repeat to the last bit.

In FlashAttention's backward pass, and in torch's memory-efficient one, each block of keys adds its
part to the gradients of the queries when it is done, and which is done first differs from call to
call. Both add in a fixed order, slower, where torch's deterministic algorithms are strictly asked
for; cuDNN's does not, so it is left out.

That switch is one for the whole process, and while it is on, operations raise that have no such
form, matrix products among them unless CUBLAS_WORKSPACE_CONFIG was set before. So it is on only
while one of those kernels' nodes runs in a backward pass: a hook before the node turns it on, one
after it puts back what was set. Whatever follows attention in a layer reads what it saved before
the node runs, so a layer that is recomputed is recomputed with the switch off.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

_BACKENDS = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
_KERNELS = ("ScaledDotProduct", "varlen_attn")
"""Parts of the names of nodes that are one kernel; the plain formula's many need no switch."""
_STRICT = 2  # of torch's debug modes: off, warn, raise


class _Switch:
    """torch's strict deterministic algorithms, on while any node needs them.

    The switch's modes, not ``use_deterministic_algorithms``, which changes the compiler's settings
    too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # autograd has a thread for each device
        self._nodes = self._before = 0

    def begin(self, *_: Any) -> None:
        with self._lock:
            if not self._nodes:
                self._before = torch.get_deterministic_debug_mode()
                torch.set_deterministic_debug_mode(_STRICT)
            self._nodes += 1

    def end(self, *_: Any) -> None:
        with self._lock:
            if self._nodes:
                self._nodes -= 1
                if not self._nodes:
                    torch.set_deterministic_debug_mode(self._before)

    def reset(self) -> None:
        """Put back what was set, if a node raised: autograd leaves out the hook after it then."""
        with self._lock:
            if self._nodes:
                self._nodes = 0
                torch.set_deterministic_debug_mode(self._before)


_SWITCH = _Switch()
reset = _SWITCH.reset


@contextmanager
def backward_pass() -> Iterator[None]:
    """Leave torch's switch as it was before a backward pass, also where a kernel raises."""
    try:
        yield
    finally:
        reset()


def in_fixed_order(out: Tensor) -> Tensor:
    """What an attention kernel gave, with the gradients of its inputs added up in a fixed order."""
    node = out.grad_fn
    while node is not None and node.name().startswith("Slice"):  # of heads that torch padded
        node = node.next_functions[0][0]
    if node is not None and any(kernel in node.name() for kernel in _KERNELS):
        node.register_prehook(_SWITCH.begin)
        node.register_hook(_SWITCH.end)
    return out


def attention(query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:
    """``scaled_dot_product_attention`` by kernels that have a fixed order, in it."""
    with sdpa_kernel(_BACKENDS):
        return in_fixed_order(F.scaled_dot_product_attention(query, key, value, **how))
