"""The folder of a run that is about to begin: taken, or made free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gnomon.errors import ConfigError, RunError
from gnomon.files import make_folder, plain_errors, remove_folder
from gnomon.runs.folder import is_worked_on
from gnomon.runs.records import MANIFEST


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
    _check_place(folder, overwrite, resume)
    aside: Path | None = None
    if not resume and _holds_run(folder):
        aside = folder.with_name(f".{folder.name}.overwritten-{os.getpid()}")
        with plain_errors(folder):
            folder.rename(aside)
    before = set(folder.iterdir()) if folder.is_dir() else None
    make_folder(folder)
    settled: list[bool] = []

    def settle() -> None:
        settled.append(True)
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
        return
    if before is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for made in set(folder.iterdir()) - before:
        remove_folder(made) if made.is_dir() else made.unlink(missing_ok=True)


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
