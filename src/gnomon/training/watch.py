"""What is watched while a stage runs: requests to stop, iterations that train nothing, peak memory.

The first Ctrl-C or SIGTERM stops a run where it can be resumed, the second at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch

from gnomon.algorithms.base import Algorithm
from gnomon.errors import RunStopped

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTE = b"\nstopping: what is done is saved first; once more (Ctrl-C) stops at once\n"


class Stop:
    """Whether the run was asked to stop; long work checks it wherever it can be left.

    Attributes:
        signal: the number of the signal that asked, or None.
        reason: why, where it was not the user at the keyboard.
        quiet: whether it says nothing of being asked.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.reason: str | None = None
        self.quiet = False

    def ask(self, reason: str) -> None:
        """Stop, as SIGTERM asks for it."""
        self.signal = self.signal or signal.SIGTERM
        self.reason = reason

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM within the block, in the main thread (in others they are left
        alone, and so is a signal that is ignored)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {}
        for number in map(int, _SIGNALS):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, self._asked)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self, what: str = "") -> None:
        """Stop here, if the run was asked to.

        Raises:
            RunStopped: it was; the message is ``what``, which says what is saved.
        """
        if self.signal is not None:
            raise RunStopped(what, self.signal)

    def watching(self, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """``progress`` with a :meth:`check` in the main thread only: what another thread samples
        ahead has to be finished for the checkpoint."""

        def report(done: int, total: int) -> None:
            progress(done, total)
            if threading.current_thread() is threading.main_thread():
                self.check()

        return report

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        if self.quiet:
            return
        with contextlib.suppress(OSError):
            os.write(2, _NOTE)


class IdleWatch:
    """Warns of iterations that trained nothing, since a loss of 0 looks like success: of the first
    in a row, the tenth, the hundredth, ...

    Args:
        algorithm: says why (:meth:`~gnomon.algorithms.base.Algorithm.why_idle`).
        iterations: of the whole stage.
        tell: shows a line to the user.

    Attributes:
        count: how many there were; set by :meth:`sum_up`.
        reason: of the last of them.
    """

    def __init__(self, algorithm: Algorithm, iterations: int, tell: Callable[[str], None]) -> None:
        self.algorithm = algorithm
        self.iterations = iterations
        self.tell = tell
        self.count = 0
        self.reason = ""
        self._in_a_row = 0
        self._tell_at = 1

    def see(self, iteration: int, row: Mapping[str, Any]) -> None:
        """Check the row of an iteration."""
        why = self.algorithm.why_idle(row)
        if why is None:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row < self._tell_at:
            return
        self._tell_at *= 10
        before = f" (and {self._in_a_row - 1} before it)" if self._in_a_row > 1 else ""
        self.tell(f"warning: iteration {iteration}{before} trained nothing: {why}")

    def sum_up(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Say how many of the stage's iterations trained nothing, from all its rows."""
        trained = [row for row in rows if row.get("grad_norm") is not None]  # not an evaluation's
        reasons = [why for row in trained if (why := self._why(row))]
        self.count = len(reasons)
        self.reason = reasons[-1] if reasons else ""
        if self.count == self.iterations:
            self.tell(
                f"warning: the stage trained nothing in any of its {self.count} iterations: "
                f"{self.reason}. Its model is the one it started from."
            )
        elif self.count:
            self.tell(
                f"warning: {self.count} of {self.iterations} iterations trained nothing; the last "
                f"of them: {self.reason}"
            )

    def _why(self, row: Mapping[str, Any]) -> str | None:
        return self.algorithm.why_idle({k: v for k, v in row.items() if v is not None})


class PeakMemory:
    """Peaks since it was made, in GB (1e9 bytes).

    On Linux the kernel's high-water mark is reset, so that what an earlier stage of the same
    process held does not count, and peaks within a step do. Elsewhere it is the highest value at
    the moments when it was asked.
    """

    def __init__(self) -> None:
        self._highest = 0.0
        self._highest_gpu = 0.0
        with contextlib.suppress(OSError, AttributeError):  # return what earlier stages freed
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
        """Continue from the peaks of an earlier part of the same stage."""
        self._highest = max(self._highest, seen["peak_rss_gb"])
        self._highest_gpu = max(self._highest_gpu, seen.get("peak_gpu_gb", 0.0))

    def _resident(self) -> float:
        if self._own_mark:
            with contextlib.suppress(OSError):
                for line in STATUS.read_text(encoding="utf-8").splitlines():
                    if line.startswith("VmHWM:"):
                        return int(line.split()[1]) * 1024 / 1e9
        return float(psutil.Process().memory_info().rss) / 1e9
