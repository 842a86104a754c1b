"""Whether a process on a CPU gives back what its tensors no longer need.

glibc cuts tensors of up to 32 MiB from one heap, and torch asks for them aligned: a freed piece
seldom fits the next tensor, and only the heap's end goes back to the system. So a process holds
more than its tensors take at any time, and how much more depends on what was freed before: the same
stage run twice holds more or less. Told to map each piece on its own (``GIVE_BACK``) it holds what
they take, and is slower by the pages that have to be cleared again; docs/plan-memory.md has both.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from functools import cache

THRESHOLD = "MALLOC_MMAP_THRESHOLD_"
GIVE_BACK = f"{THRESHOLD}=65536"
"""What to put before a command so that freed memory is given back."""
SLOWER = "10 to 40%"
"""Of the processor's time, what that costs."""
SEEN = "up to 2.9 times as much was measured with LoRA, up to 1.3 where all weights are trained"
"""Beside its tensors' peak, what such a process took (benchmarks/plan_held.py)."""
PROCESS = 0.55e9
"""Bytes of a process with torch and transformers before it has loaded a model."""
ADVICE = (
    "the C library keeps memory that tensors no longer need, so that the process takes more than "
    f"the peak: {SEEN}. With {GIVE_BACK} before the command it gives that back, for {SLOWER} more "
    "processor time"
)
_MOST = 4 * 2**20  # bytes of a piece; from here on too much is cut from the heap
_TUNABLE = "glibc.malloc.mmap_threshold="
_OTHERS = ("jemalloc", "tcmalloc", "mimalloc")


def keeps_freed(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this process's allocator holds on to freed memory: glibc's does, where nobody has
    told it to map pieces of a tensor's size on their own or put another allocator in its place."""
    told = os.environ if environment is None else environment
    if not _glibc() or any(name in told.get("LD_PRELOAD", "") for name in _OTHERS):
        return False
    threshold = told.get(THRESHOLD)
    for part in told.get("GLIBC_TUNABLES", "").split(":"):
        if part.startswith(_TUNABLE):
            threshold = part.removeprefix(_TUNABLE)
    try:
        return threshold is None or int(threshold, 0) > _MOST
    except ValueError:  # which glibc does not heed either
        return True


@cache
def _glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
