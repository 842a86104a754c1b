"""One process at a time works in a run's folder; a killed one blocks nobody."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import psutil

from gnomon.errors import RunError
from gnomon.files import make_folder, plain_errors

LOCK, HOLDER = ".lock", ".lock.json"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder within the block; the folder is made if it is missing.

    The lock is the operating system's and dies with the process. ``.lock.json`` beside it says who
    holds it.

    Raises:
        RunError: another process works in the folder; the message says which, and where.
    """
    make_folder(folder)
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    if not _take(lock, folder):
        yield
        return
    try:
        with plain_errors(folder / HOLDER):
            (folder / HOLDER).write_text(json.dumps(_me()), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _take(lock: filelock.BaseFileLock, folder: Path) -> bool:
    """Whether the lock could be taken; False where the file system knows none."""
    for last in (False, True):
        try:
            with plain_errors(folder / LOCK):
                lock.acquire()
            return True
        except filelock.Timeout:
            holder = _holder(folder)
            if last or not _is_dead(holder):
                raise RunError(
                    f"{folder} is being worked on by {_who(holder)}. Wait until it ends, or stop "
                    "it; two at once would overwrite each other. To run the same beside it, give "
                    "this one another name (name=...)."
                ) from None
            # a process that the dead one left behind still has its lock open
            (folder / LOCK).unlink(missing_ok=True)
        except NotImplementedError:
            break
    warnings.warn(
        f"{folder} lies on a file system without locks: see to it that no second process works "
        "in it.",
        stacklevel=4,
    )
    return False


def _me() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join(sys.argv)[:200],
        "born": psutil.Process().create_time(),
    }


def _holder(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder is known to be no more: of this machine, and gone or another by now."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        process = psutil.Process(holder["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return abs(process.create_time() - float(holder.get("born", 0))) > 2
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError, TypeError):
        return False


def _who(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    return (
        f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')} "
        f"({holder.get('command')})"
    )
