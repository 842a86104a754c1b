"""What stands in for the system's part of multiprocessing in a program of one process: locks among
its threads, and memory that they share anyway.

A process of its own is all that a program gets, so the semaphores by which multiprocessing makes
its locks need not be the system's, for which a folder shared with others would have to be open.
Thread pools (``multiprocessing.pool.ThreadPool``), queues and locks then work as anywhere, and so
do ``Value`` and ``Array``, whose memory would be a file in ``/dev/shm``.
"""

from __future__ import annotations

import sys
import types

TYPE_CHECKING = False  # typing itself takes longer to import than a program takes to run
if TYPE_CHECKING:
    from typing import Any

_RECURSIVE = 0


class SemLock:
    """A semaphore, or a lock that its thread may take again, as ``_multiprocessing.SemLock`` is."""

    SEM_VALUE_MAX = 2**31 - 1

    def __init__(self, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> None:
        import threading

        self.kind, self.maxvalue, self.handle = kind, maxvalue, id(self)
        self.name = None  # there is none to be tracked
        self._value, self._taken, self._owner = value, 0, 0
        self._changed = threading.Condition(threading.Lock())
        self._me = threading.get_ident

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it; False if it was not free in time."""
        patience = (None if timeout is None else max(0.0, timeout)) if block else 0.0
        with self._changed:
            again = self.kind == _RECURSIVE and self._is_mine()
            if not again and not self._changed.wait_for(lambda: self._value > 0, patience):
                return False
            self._value -= not again
            self._owner = self._me()
            self._taken += 1
            return True

    def release(self) -> None:
        """Give it back.

        Raises:
            AssertionError: another thread has it.
            ValueError: nobody has it.
        """
        with self._changed:
            if self.kind == _RECURSIVE and not self._is_mine():
                raise AssertionError("attempt to release recursive lock not owned by thread")
            if self.kind != _RECURSIVE and self._value >= self.maxvalue:
                raise ValueError("semaphore or lock released too many times")
            self._taken -= 1
            if self.kind != _RECURSIVE or not self._taken:
                self._value += 1
                self._changed.notify()

    def _is_mine(self) -> bool:
        return self._taken > 0 and self._owner == self._me()

    def _count(self) -> int:
        return self._taken

    def _get_value(self) -> int:
        return self._value

    def _is_zero(self) -> bool:
        return self._value == 0

    def _after_fork(self) -> None:
        self._taken = 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: Any) -> None:
        self.release()


class BufferWrapper:
    """Zeroed memory, as ``multiprocessing.heap.BufferWrapper`` is."""

    def __init__(self, size: int) -> None:
        self._memory = bytearray(size)

    def create_memoryview(self) -> memoryview:
        """The memory itself."""
        return memoryview(self._memory)


def stand_in() -> None:
    """Let multiprocessing find these locks and this memory in place of the system's."""
    locks = types.ModuleType("_multiprocessing")
    vars(locks).update(SemLock=SemLock, sem_unlink=lambda name: None, flags={})
    memory = types.ModuleType("multiprocessing.heap")
    vars(memory).update(BufferWrapper=BufferWrapper)
    for module in (locks, memory):
        sys.modules[module.__name__] = module
