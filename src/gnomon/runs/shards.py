"""Tensors that are spread over processes, on disk: each process writes and reads its own part.

By torch.distributed.checkpoint with its safetensors storage. Its own storage is not used: that
keeps a pickle (``.metadata``) beside the weights, and gnomon unpickles nothing. A part may be read
by any number of processes, or one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import tensor as spread
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.device_mesh import DeviceMesh

from gnomon.errors import RunError
from gnomon.files import fingerprint
from gnomon.models.ranks import Ranks, heard
from gnomon.models.sharded import is_spread

SHARDS = "shards"
"""The folder of the parts in a checkpoint's."""


def split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Those that each process holds whole, and those that are spread."""
    whole = {name: t for name, t in tensors.items() if not is_spread(t)}
    return whole, {name: t for name, t in tensors.items() if is_spread(t)}


def describe(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Shapes and types, as JSON has them."""
    return {
        name: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
        for name, t in tensors.items()
    }


def write(folder: Path, tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Any]:
    """Write this process's parts into ``folder``/shards; every process does so.

    Returns:
        Fingerprints of all processes' files, by their names in ``folder``.
    """
    to = folder / SHARDS
    writer = HuggingFaceStorageWriter(str(to), save_distributed=True)
    given = {name: t.detach() for name, t in tensors.items()}
    with _said("written"):
        state_dict_saver.save(given, storage_writer=writer, process_group=ranks.control)
    mine = sorted(to.glob(f"shard-{ranks.rank + 1:05d}-*"))
    files = {p.relative_to(folder).as_posix(): fingerprint(p) for p in mine}
    return {name: print_ for found in ranks.gather(files) for name, print_ in found.items()}


@contextmanager
def _said(done: str) -> Iterator[None]:
    """What failed in any process, in words; every process raises it.

    Raises:
        RunError: it failed.
    """
    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        raise heard(
            RunError(
                f"a part of the checkpoint could not be {done}: process {rank} says: {cause}. The "
                "checkpoints before it are intact: mend that (free disk space, or the shared file "
                "system), and resume with --resume"
            )
        ) from None


def read(
    folder: Path, described: Mapping[str, Any], mesh: DeviceMesh | None, ranks: Ranks
) -> dict[str, Tensor]:
    """The tensors: this process's parts of them on ``mesh``, or all of them without one."""
    out: dict[str, Tensor] = {}
    for name, about in described.items():
        shape, dtype = about["shape"], getattr(torch, about["dtype"])
        if mesh is None:
            out[name] = torch.zeros(shape, dtype=dtype)
        else:
            placed = [spread.Shard(0)]
            out[name] = spread.zeros(shape, dtype=dtype, device_mesh=mesh, placements=placed)
    if not out:
        return out
    reader = HuggingFaceStorageReader(str(folder / SHARDS))
    alone = mesh is None
    with warnings.catch_warnings(), _said("read"):
        warnings.simplefilter("ignore")  # that it reads alone
        group = None if alone else ranks.control
        state_dict_loader.load(out, storage_reader=reader, process_group=group, no_dist=alone)
    return out
