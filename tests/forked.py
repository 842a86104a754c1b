"""Processes forked from the server that has imported everything and computed nothing."""

from __future__ import annotations

import gc
import os

import torch


def settle() -> None:
    """Begin such a process as the tests' own begins: on one thread, waiting for no disk, and with a
    collector that never walks, and so copies, all that was imported before the fork."""
    gc.freeze()
    gc.set_threshold(20_000)
    os.fsync = lambda fd: None  # who is killed leaves what it wrote in the system's hands
    torch.set_num_threads(1)
