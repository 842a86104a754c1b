"""Processes forked from the server that has imported everything and computed nothing."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["gnomon.stages.run", "gnomon.cli.main", "transformers"])


def start_command(folder: Path, *arguments: str) -> ForkServerProcess:
    """Starts ``gnomon ARGUMENTS`` in ``folder``, for somebody to kill; it says nothing."""
    process = CONTEXT.Process(target=_command, args=(folder, arguments))
    process.start()
    return process


def _command(folder: Path, arguments: tuple[str, ...]) -> None:
    from gnomon.cli.main import main

    settle()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.chdir(folder)
    sys.argv = ["gnomon", *arguments]
    main()


def settle() -> None:
    """Begin such a process as the tests' own begins: on one thread, waiting for no disk, and with a
    collector that never walks, and so copies, all that was imported before the fork."""
    gc.freeze()
    gc.set_threshold(20_000)
    os.fsync = lambda fd: None  # who is killed leaves what it wrote in the system's hands
    torch.set_num_threads(1)
