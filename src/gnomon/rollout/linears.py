"""The projections of a model on a CPU, served from reordered copies of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_ROWS_HINT = 32  # the batch the layout is chosen for; it serves any other
_MEMORY_SHARE = 0.25  # copies may take this much of the memory that is free
_MIN_SIZE = 1 << 14  # smaller weights gain nothing


def _packable(module: nn.Module) -> bool:
    if type(module) is not nn.Linear and type(module) is not Conv1D:
        return False
    weight = module.weight
    return (
        type(weight) is nn.Parameter
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() >= _MIN_SIZE
    )


def _packed_forward(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """A replacement for ``module.forward`` that uses a reordered copy of the weight."""
    weight, bias = module.weight.detach(), module.bias  # type: ignore[operator]
    dense = weight.t().contiguous() if isinstance(module, Conv1D) else weight
    packed = torch.ops.mkldnn._reorder_linear_weight(dense, _ROWS_HINT)
    product = torch.ops.mkldnn._linear_pointwise

    def forward(x: Tensor) -> Tensor:
        out: Tensor = product(x, packed, bias, "none", [], "")
        return out

    return forward


@contextmanager
def packed_linears(model: nn.Module) -> Iterator[int]:
    """Serve the float32 CPU projections of ``model`` from reordered weights inside the block.

    Yields the number of projections served so: 0 on other devices, without oneDNN, or when the
    copies would take too much of the free memory. No gradient flows through a served projection.
    """
    modules = [module for module in model.modules() if _packable(module)]
    size = sum(4 * parameter.numel() for m in modules for parameter in m.parameters(recurse=False))
    usable = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not usable or size > _MEMORY_SHARE * psutil.virtual_memory().available:
        modules = []
    # A module may already carry its own ``forward`` (a hook library's, say): leave those alone.
    modules = [module for module in modules if "forward" not in vars(module)]
    try:
        for module in modules:
            module.forward = _packed_forward(module)
        yield len(modules)
    finally:
        for module in modules:
            vars(module).pop("forward", None)
