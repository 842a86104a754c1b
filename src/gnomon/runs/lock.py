"""One process at a time works in a run's folder: the lock, and who holds it."""

from __future__ import annotations

import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import psutil

from gnomon.errors import RunError
from gnomon.files import make_folder, plain_errors
from gnomon.runs.records import Record

LOCK, HOLDER = ".lock", ".lock.json"


class _Holder(Record):
    """.lock.json: the process that works in a run's folder."""

    pid: int = -1
    host: str = ""
    since: str = ""
    command: str = ""
    born: float = 0.0

    @classmethod
    def me(cls) -> _Holder:
        return cls(
            pid=os.getpid(),
            host=socket.gethostname(),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            command=" ".join(sys.argv)[:200],
            born=psutil.Process().create_time(),
        )

    def is_dead(self) -> bool:
        """Whether it is known to have ended: it ran on this machine, and its id is free or another
        process has it."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            return abs(process.create_time() - self.born) > 2
        except psutil.NoSuchProcess:
            return True
        except (psutil.Error, ValueError):
            return False

    def __str__(self) -> str:
        if not self.host:
            return "another process"
        return f"process {self.pid} on {self.host}, since {self.since} ({self.command})"


def is_worked_on(folder: Path) -> bool:
    """Whether a process works in a run's folder, as far as this machine can tell."""
    holder = _Holder.read_or_empty(folder / HOLDER)
    return bool(holder.host) and not holder.is_dead()


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder within the block; the folder is made if it is missing.

    The lock is the operating system's and dies with the process, so a killed one blocks nobody.
    ``.lock.json`` next to it says who holds it.

    Raises:
        RunError: another process works in the folder; the message says which, and where.
    """
    make_folder(folder)
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    if not _take(lock, folder):
        yield
        return
    try:
        _Holder.me().write(folder / HOLDER)
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _take(lock: filelock.BaseFileLock, folder: Path) -> bool:
    """Whether the lock could be taken; False where the file system has none."""
    for last in (False, True):
        try:
            with plain_errors(folder / LOCK):
                lock.acquire()
            return True
        except filelock.Timeout:
            holder = _Holder.read_or_empty(folder / HOLDER)
            if last or not holder.is_dead():
                raise RunError(
                    f"{folder} is being worked on by {holder}. Wait until it ends, or stop it; two "
                    "at once would overwrite each other. To run both, give this one another name "
                    "(name=...)."
                ) from None
            # a process that the dead one left behind still has its lock open
            (folder / LOCK).unlink(missing_ok=True)
        except NotImplementedError:
            break
    warnings.warn(
        f"{folder} is on a file system without locks: make sure that no second process works in "
        "it.",
        stacklevel=4,
    )
    return False
