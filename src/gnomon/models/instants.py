"""What a run is doing when its device has no memory left."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from gnomon.errors import MemoryExhaustedError

SAMPLING, REFERENCE = "sampling", "the passes of {role}"
TRAINING, OPTIMIZER = "the forward and backward pass", "the optimizer's step"
EVALUATION, CHECKPOINT = "the evaluation", "writing the checkpoint"
LOADING = "loading the models"
_HOST = ("can't allocate memory", "not enough memory", "bad_alloc")
_SAID = ("out of memory", *_HOST)
_ASKED = re.compile(r"tried to allocate ([0-9.]+) (bytes|[KMGT]?i?B)", re.IGNORECASE)
_NOTABLE = 0.05
"""Of a GPU's memory: what others hold is said from there on; a context alone takes less."""
_UNIT = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@contextmanager
def instant(name: str) -> Iterator[None]:
    """Say that memory ran out in ``name``, if it does so in the block; the innermost says it.

    Raises:
        MemoryExhaustedError: no memory was left, on a GPU or for the process.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        used, free, place = _memory(error)
        raise MemoryExhaustedError(name, wanted_by(str(error)), used, free, place) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, CUDA's libraries or Python could not get memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(s in str(error).lower() for s in _SAID)


def wanted_by(message: str) -> int:
    """Bytes that an allocator says it was asked for; 0 where it does not."""
    found = _ASKED.search(message)
    if found is None:
        return 0
    unit = found[2].upper()
    return round(float(found[1]) * (1 if unit == "BYTES" else _UNIT[unit.rstrip("IB")]))


def _memory(error: BaseException) -> tuple[int, int, str]:
    """Bytes that this process has and that are free, and where: of the GPU, or of the machine where
    that is what ran out."""
    host = isinstance(error, MemoryError) or any(s in str(error).lower() for s in _HOST)
    if torch.cuda.is_available() and not host:
        (free, total), own = torch.cuda.mem_get_info(), torch.cuda.memory_reserved()
        size, others = f"{total / 2**30:.3g} GiB", total - free - own
        if others > _NOTABLE * total:
            size += f", of which other processes and CUDA hold {others / 2**30:.3g} GiB"
        return own, free, f"{torch.cuda.get_device_name()} ({size})"
    taken, free = psutil.Process().memory_info(), psutil.virtual_memory().available
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit - taken.vms >= free:
        return taken.rss, free, "this machine"
    return taken.rss, max(0, limit - taken.vms), "this machine for this process (ulimit -v)"
