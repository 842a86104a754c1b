"""The projections of a model on a CPU, for the few rows that a decoding step has.

A step of a few dozen rows waits for the weights more than it computes. A linear layer's weight lies
transposed in memory, which BLAS reorders with every product of so few rows; and where it lies as
the product wants it, but is wide, each row of a panel is on a page of its own. So a step is served
from copies: in oneDNN's own layout where its products are the faster ones, and transposed and cut
into blocks of columns for BLAS elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

_MEMORY_SHARE = 0.25  # copies may take this much of the memory that is free
_MIN_SIZE = 1 << 14  # smaller weights gain nothing
_COLUMNS = 512  # of a block: a row of it, and the next, lie on one page
_FEWEST, _FEW_ROWS = 3, 128  # fewer are dot products, more are bound by arithmetic


@cache
def onednn_is_faster() -> bool:
    """Whether products in oneDNN's layout beat BLAS: with AVX-512 on processors that Intel did not
    make. (MKL, which is torch's BLAS on x86, is the faster of the two on Intel's own.)"""
    try:
        intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    layout = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
    product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return has_avx512 and not intel and layout is not None and product is not None


def _packable(module: nn.Linear) -> bool:
    weight = module.weight
    return (
        type(weight) is nn.Parameter
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() >= _MIN_SIZE
    )


def _in_onednn_layout(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    """A replacement for ``module.forward`` that multiplies by a copy in oneDNN's layout, which
    serves any number of rows."""
    weight, bias = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach()), module.bias

    def forward(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out

    return forward


def _in_blocks(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    """A replacement for ``module.forward`` that serves few rows from transposed blocks."""
    weight, bias, plain = module.weight.detach(), module.bias, module.forward
    blocks = [block.t().contiguous() for block in torch.split(weight, _COLUMNS)]

    def forward(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if not _FEWEST <= len(rows) <= _FEW_ROWS:
            return plain(x)
        out = rows.new_empty(len(rows), len(weight))
        for block, columns in zip(blocks, torch.split(out, _COLUMNS, dim=1), strict=True):
            torch.mm(rows, block, out=columns)
        if bias is not None:
            out += bias
        return out.view(*x.shape[:-1], -1)

    return forward


@contextmanager
def packed_linears(model: nn.Module) -> Iterator[int]:
    """Serve the float32 CPU projections of ``model`` from reordered weights inside the block.

    Yields the number of projections served so: 0 on other devices, under autocast (which has narrow
    copies of its own), or when the copies would take too much of the free memory. No gradient flows
    through a served projection.
    """
    linears = (module for module in model.modules() if type(module) is nn.Linear)
    modules = [module for module in linears if _packable(module)]
    size = sum(4 * module.weight.numel() for module in modules)
    narrow = torch.is_autocast_enabled("cpu")
    if narrow or size > _MEMORY_SHARE * psutil.virtual_memory().available:
        modules = []
    # A module may already carry its own ``forward`` (a hook library's, say): leave those alone.
    modules = [module for module in modules if "forward" not in vars(module)]
    packed_forward = _in_onednn_layout if onednn_is_faster() else _in_blocks
    try:
        for module in modules:
            vars(module)["forward"] = packed_forward(module)
        yield len(modules)
    finally:
        for module in modules:
            vars(module).pop("forward", None)
