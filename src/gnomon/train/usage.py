"""The most memory a stage held: of the process, and of the GPU where there is one."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


class PeakMemory:
    """Peaks since it was made, in GB (1e9 bytes).

    On Linux the kernel's own high-water mark is set back, so that what an earlier stage of the same
    process held does not count, and peaks within a step do. Elsewhere it is the highest of what was
    seen at the moments it was asked.
    """

    def __init__(self) -> None:
        self._highest = 0.0
        self._highest_gpu = 0.0
        with contextlib.suppress(OSError, AttributeError):  # give back what earlier stages freed
            if sys.platform == "linux":
                ctypes.CDLL(None).malloc_trim(0)
        self._own_mark = False
        with contextlib.suppress(OSError):
            CLEAR.write_text("5")  # proc(5): set the high-water mark to the present size
            self._own_mark = True
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def metrics(self) -> dict[str, float]:
        """``peak_rss_gb`` of the process and, on CUDA, ``peak_gpu_gb`` that tensors took."""
        self._highest = max(self._highest, self._resident())
        out = {"peak_rss_gb": self._highest}
        if torch.cuda.is_available():
            taken = torch.cuda.max_memory_allocated() / 1e9
            out["peak_gpu_gb"] = self._highest_gpu = max(self._highest_gpu, taken)
        return out

    def restore(self, seen: Mapping[str, float]) -> None:
        """Go on from the peaks of an earlier part of the same stage."""
        self._highest = max(self._highest, seen["peak_rss_gb"])
        self._highest_gpu = max(self._highest_gpu, seen.get("peak_gpu_gb", 0.0))

    def _resident(self) -> float:
        if self._own_mark:
            with contextlib.suppress(OSError):
                for line in STATUS.read_text(encoding="utf-8").splitlines():
                    if line.startswith("VmHWM:"):
                        return int(line.split()[1]) * 1024 / 1e9
        return float(psutil.Process().memory_info().rss) / 1e9
