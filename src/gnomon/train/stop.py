"""Ctrl-C and SIGTERM: the first one stops a run where it can be taken up, the second at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from gnomon.errors import RunStopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTE = b"\nstopping: what is done is saved first; once more (Ctrl-C) stops at once\n"


class Stop:
    """Whether the run was asked to stop; those who work long ask it at places where they can.

    Attributes:
        signal: the number of the signal that asked, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Answer SIGINT and SIGTERM within the block, in the main thread (elsewhere they are left
        as they are, and so is a signal that is being ignored)."""
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
        """Stop here, if that was asked for.

        Raises:
            RunStopped: it was; the message is ``what``, which says what is saved.
        """
        if self.signal is not None:
            raise RunStopped(what, self.signal)

    def watching(self, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """``progress``, and a stop where it was asked for; only in the main thread, since what is
        sampled ahead in another one has to be finished for the checkpoint."""

        def report(done: int, total: int) -> None:
            progress(done, total)
            if threading.current_thread() is threading.main_thread():
                self.check()

        return report

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        with contextlib.suppress(OSError):
            os.write(2, _NOTE)
