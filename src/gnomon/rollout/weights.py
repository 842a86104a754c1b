"""The policy's weights as one safetensors file with a checksum, and the checks of a receiver."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from gnomon.errors import EngineError
from gnomon.files import clean_temporaries, write_folder
from gnomon.models import load, merge
from gnomon.models.roles import Role
from gnomon.rollout.protocol import WeightsFile

_NAME = "model.safetensors"
_FLOATS = {"F64", "F32", "F16", "BF16"}
DAMAGED = (
    "the weights were damaged on the way: their checksum is not the sender's. Look at the disk and "
    "the network between trainer and sampler, and resume with --resume."
)


class PolicyWriter:
    """Writes a policy's weights, its adapter merged, under the names of its own checkpoints.

    A file is deleted as soon as nothing refers to it any more. The live weights are not touched.

    Args:
        policy: whose weights are written.
        folder: for the files; emptied first.
    """

    def __init__(self, policy: Role, folder: Path) -> None:
        self._policy = policy
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        clean_temporaries(folder)
        for left in folder.iterdir():  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        model = policy.trunk.model
        self._shell = load.shell(AutoModelForCausalLM, merge.plain_config(model), model.dtype)
        self._shell.generation_config = GenerationConfig()
        self._count = itertools.count()

    def write(self) -> WeightsFile:
        """Write the weights as they are now.

        Raises:
            RunError: the disk is full.
        """
        state = merge.merged_state(self._policy.trunk.model, self._policy.adapter)
        need = sum(t.numel() * t.element_size() for t in state.values())
        target = self._folder / f"{next(self._count):06d}"
        with write_folder(target, need=need) as tmp, load.quietly():
            self._shell.save_pretrained(tmp, state_dict=state, max_shard_size="100TB")
        file = WeightsFile(target / _NAME, digest(target / _NAME))
        weakref.finalize(file, shutil.rmtree, target, ignore_errors=True)
        return file

    def close(self) -> None:
        """Remove the folder with all that is left in it."""
        shutil.rmtree(self._folder, ignore_errors=True)


def digest(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def shapes_in(files: Sequence[Path]) -> dict[str, list[int]]:
    """Names and shapes of the tensors in safetensors files, read from their headers."""
    found: dict[str, list[int]] = {}
    for file in files:
        with load.reading(file), safe_open(file, "pt") as tensors:
            found |= {key: list(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    return found


def check_weights(
    file: WeightsFile, expected: Mapping[str, Sequence[int]], dtype: torch.dtype
) -> None:
    """Check that a whole file can be loaded, before any of it is.

    Args:
        file: as it came.
        expected: names and shapes of the tensors that the model has.
        dtype: which the numbers are to be stored in.

    Raises:
        EngineError: it was damaged on the way, or holds other tensors, or numbers that are not
            finite in ``dtype``.
        ModelError: it is not a safetensors file.
    """
    if not file.intact and digest(file.path) != file.version:
        raise EngineError(DAMAGED)
    check_shapes(file, expected)
    largest = torch.finfo(dtype).max
    with load.reading(file.path), safe_open(file.path, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a mapping
            kind = tensors.get_slice(name).get_dtype()
            if kind not in _FLOATS:
                raise EngineError(f"{name} holds {kind}, not floating-point numbers")
            _check_finite(name, tensors.get_tensor(name), largest, dtype)


def _check_finite(name: str, tensor: Tensor, largest: float, dtype: torch.dtype) -> None:
    if not tensor.numel():
        return
    low, high = (float(x) for x in tensor.aminmax())  # NaN when any number is
    if not (-largest <= low and high <= largest):
        raise EngineError(
            f"the policy's weights are not finite numbers of {str(dtype).removeprefix('torch.')}: "
            f"{name} goes from {low:.3g} to {high:.3g}. The training diverged, or the sampler's "
            "dtype is too small for it; the old weights are still loaded."
        )


def check_shapes(file: WeightsFile, expected: Mapping[str, Sequence[int]]) -> None:
    """Raise EngineError unless the file holds tensors of the names and shapes ``expected``."""
    shapes = shapes_in([file.path])
    tied = {"lm_head.weight"}  # some checkpoints store a tied head as well
    problems = [f"{n} is missing" for n in expected if n not in shapes and n not in tied]
    problems += [f"{n} is unknown there" for n in shapes if n not in expected and n not in tied]
    problems += [
        f"{n} is {list(shapes[n])}, not {list(expected[n])}"
        for n in shapes
        if n in expected and list(shapes[n]) != list(expected[n])
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise EngineError(
            f"the policy's weights do not fit the sampler's model: {'; '.join(problems[:4])}{more}."
            " Start the sampler with the model that this stage starts from."
        )
