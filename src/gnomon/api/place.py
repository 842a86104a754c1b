"""The folder of a run that is about to begin: taken, or made free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gnomon.api.inputs import INPUTS
from gnomon.errors import ConfigError, RunError
from gnomon.files import make_folder, plain_errors, remove_folder
from gnomon.runs.folder import is_worked_on


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
    make_folder(folder)
    settled: list[bool] = []

    def settle() -> None:
        settled.append(True)
        if aside is not None:
            remove_folder(aside)

    try:
        yield settle
    finally:
        remove_if_empty_handed(folder)
        if aside is not None and not settled:
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)


def remove_if_empty_handed(folder: Path) -> None:
    """Remove a folder in which no run has begun."""
    if not _holds_run(folder):
        shutil.rmtree(folder, ignore_errors=True)


def _holds_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("recipe.yaml", "stages"))


def _check_place(folder: Path, overwrite: bool, resume: bool) -> None:
    if overwrite and resume:
        raise ConfigError("overwrite starts again and resume goes on: give one of them")
    there = _holds_run(folder)
    others = folder.iterdir() if folder.is_dir() else [folder] if folder.exists() else []
    if not there and any(p.name != INPUTS and not p.name.startswith(".") for p in others):
        raise ConfigError(f"{folder} is there and holds no run: choose another name (name=...)")
    if there and not overwrite and not resume:
        raise ConfigError(
            f"{folder} already holds a run. Give resume=True to go on with it, overwrite=True to "
            "remove it and start again, or another name (name=...)"
        )
    if there and overwrite and is_worked_on(folder):
        raise RunError(f"{folder} is being worked on by another process; stop that one first")
