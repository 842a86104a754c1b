"""The folder of a run that is about to begin: taken, or made free.

What a call that was killed before its run began had made is known by :data:`BEGUN`, which says who
it was, and is cleared away; nothing else is.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from gnomon.api.inputs import INPUTS
from gnomon.errors import ConfigError, RunError
from gnomon.files import make_folder, plain_errors, read_object, remove_folder, write_json
from gnomon.runs.lock import is_worked_on
from gnomon.runs.manifest import MANIFEST

BEGUN = ".begun.json"
"""In a folder in which no run has begun yet: the process that is about to begin one."""
_ASIDE = ".overwritten-"


@contextmanager
def room_for(folder: Path, overwrite: bool, resume: bool) -> Iterator[Callable[[], None]]:
    """Room for a run in ``folder``; what to call once it is sure that a run begins there.

    A run that is to be overwritten is put aside until then, and comes back where the block fails
    before.

    Raises:
        ConfigError: a run is there and neither of the two was asked for; or both were; or what is
            there is no run.
        RunError: a process works in it.
    """
    clear_leftovers(folder)
    _check_place(folder, overwrite, resume)
    aside: Path | None = None
    if not resume and _holds_run(folder):
        aside = folder.with_name(f".{folder.name}{_ASIDE}{os.getpid()}")
        with plain_errors(folder):
            folder.rename(aside)
    before = set(folder.iterdir()) if folder.is_dir() else None
    make_folder(folder)
    note_begun(folder)
    settled: list[bool] = []

    def settle() -> None:
        settled.append(True)
        (folder / BEGUN).unlink(missing_ok=True)
        if aside is not None:
            remove_folder(aside)

    try:
        yield settle
    finally:
        remove_if_empty_handed(folder, before)
        if aside is not None and not settled:
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)


def remove_if_empty_handed(folder: Path, before: set[Path] | None = None) -> None:
    """Remove what a call made in a folder in which no run has begun.

    Args:
        before: what was in it already, and stays; None where the folder was not there.
    """
    if _holds_run(folder):
        (folder / BEGUN).unlink(missing_ok=True)
        return
    if before is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for made in set(folder.iterdir()) - before:
        remove_folder(made) if made.is_dir() else made.unlink(missing_ok=True)


def note_begun(folder: Path) -> None:
    """Say in a folder which process is about to begin a run there."""
    write_json(folder / BEGUN, {"pid": os.getpid(), "born": psutil.Process().create_time()})


def clear_leftovers(folder: Path) -> bool:
    """Clear away what calls that were killed before their run began had made in a folder, and put
    back the run that one of them was to overwrite; whether there was anything."""
    dead = is_left_over(folder)
    if dead:
        if (folder / INPUTS).is_dir():
            remove_folder(folder / INPUTS)
        (folder / BEGUN).unlink(missing_ok=True)
    if not _holds_run(folder):
        for aside in folder.parent.glob(f".{glob.escape(folder.name)}{_ASIDE}*"):
            owner = aside.name.rpartition("-")[2]
            if owner.isdecimal() and not psutil.pid_exists(int(owner)) and _holds_run(aside):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
                if not folder.exists():
                    aside.rename(folder)
                    return True
    return dead


def is_left_over(folder: Path) -> bool:
    """Whether a call that was killed has left a folder in which no run has begun."""
    if _holds_run(folder) or not (folder / BEGUN).is_file():
        return False
    try:
        about = read_object(folder / BEGUN)
        return abs(psutil.Process(int(about["pid"])).create_time() - float(about["born"])) > 1
    except psutil.NoSuchProcess:
        return True
    except (ValueError, KeyError, TypeError, psutil.Error):
        return False


def _holds_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("recipe.yaml", "stages"))


def _check_place(folder: Path, overwrite: bool, resume: bool) -> None:
    if overwrite and resume:
        raise ConfigError("overwrite starts again and resume goes on: give one of them")
    there = _holds_run(folder)
    others = folder.iterdir() if folder.is_dir() else [folder] if folder.exists() else []
    foreign = any(not path.name.startswith(".") for path in others) and not there
    if foreign or (there and overwrite and not (folder / MANIFEST).is_file()):
        raise ConfigError(
            f"{folder} is there and holds no run: choose another name (name=...), or remove it "
            "where nothing in it is wanted"
        )
    if there and not overwrite and not resume:
        raise ConfigError(
            f"{folder} already holds a run. Give resume=True to go on with it, overwrite=True to "
            "remove it and start again, or another name (name=...)"
        )
    if there and overwrite and is_worked_on(folder):
        raise RunError(f"{folder} is being worked on by another process; stop that one first")
