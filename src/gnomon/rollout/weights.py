"""The policy's weights as they are sent, in a file or in memory, and the checks of a receiver."""

from __future__ import annotations

import itertools
import json
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from gnomon.errors import EngineError
from gnomon.files import clean_temporaries, write_folder
from gnomon.models import load, merge
from gnomon.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PEFT_PREFIX
from gnomon.models.roles import Role
from gnomon.rollout.protocol import About, WeightsFile, WeightsHere
from gnomon.rollout.sums import Entry, Sums, damaged, dtype_name, tensor_sum

_NAME = "model.safetensors"
_SUMS, LORA, BASE = "gnomon_sums", "lora", "base"
_TIED = {"lm_head.weight"}  # some checkpoints store a tied head as well


class PolicyWriter:
    """Gives a policy's weights under the names of its own checkpoints.

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
        self._count = itertools.count()

    def state(self, adapter: str | None) -> dict[str, Tensor]:
        """The tensors of a checkpoint, with the adapter merged; those without one are the model's
        own."""
        state = merge.merged_state(self._policy.trunk.model, adapter)
        for name in self._shell._keys_to_ignore_on_save or ():
            state.pop(name, None)
        with load.quietly():
            state = remove_tied_weights_from_state_dict(state, self._shell)
            return dict(revert_weight_conversion(self._shell, state))

    def write(self, dtype: torch.dtype) -> WeightsFile:
        """Write the weights as they are now, the adapter merged, for a sampler with ``dtype``.

        Wider numbers are rounded to it here as they would be there, so that half as much is sent.

        Raises:
            EngineError: numbers that ``dtype`` does not hold.
            RunError: the disk is full.
        """
        state = self.state(self._policy.adapter)
        for name, tensor in state.items():
            if tensor.is_floating_point() and tensor.itemsize > dtype.itemsize:
                _check_finite(name, tensor, torch.finfo(dtype).max, dtype)
                state[name] = tensor.to(dtype)
        return self.of(state)

    def of(self, state: Mapping[str, Tensor]) -> WeightsFile:
        """Write these tensors; raises RunError where the disk is full."""
        return self._write(state, lambda file: write_weights(file, state).version)

    def again(self, version: str, content: Tensor) -> WeightsFile:
        """Write a file of which ``content`` (uint8) is all; raises RunError likewise."""

        def copy(file: Path) -> str:
            content.numpy().tofile(file)
            return version

        return self._write({"": content}, copy)

    def write_adapter(self, base: str) -> WeightsFile:
        """Write the adapter alone, which belongs to the weights of version ``base``."""
        trunk, name = self._policy.trunk, self._policy.adapter
        assert name is not None
        config = trunk.model.peft_config[name].to_dict()
        settings = {key: value for key, value in config.items() if _plain(value)}
        targets = sorted(config["target_modules"])
        lora = {**settings, "target_modules": targets, "inference_mode": True}
        tensors = trunk.adapter_parameters(name)
        state = {PEFT_PREFIX + key: tensor.detach() for key, tensor in tensors.items()}
        more = {LORA: json.dumps(lora), BASE: base}
        return self._write(state, lambda file: write_weights(file, state, more).version)

    def here(self, dtype: torch.dtype, kept: bool) -> WeightsHere:
        """The weights as they are now, the adapter merged, to be sent from memory.

        Args:
            dtype: in which they are sent.
            kept: they are copied (to the CPU), for they are sent after training has gone on.

        Raises:
            EngineError: numbers that ``dtype`` does not hold.
        """
        state = self.state(self._policy.adapter)
        largest = torch.finfo(dtype).max
        for name, tensor in state.items():
            _check_finite(name, tensor, largest, dtype)
        if kept:
            state = {n: t.to("cpu", dtype, copy=True) for n, t in state.items()}

        def tensors() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in state.items():
                yield name, tensor.to(dtype).contiguous()

        sums = Sums.of(tensors())
        return WeightsHere(sums.version, sums, tensors)

    def base_version(self, dtype: torch.dtype) -> str:
        """The version of the weights below the adapter, as :func:`start_version` gives it."""
        return _version_in(self.state(None).items(), dtype)

    def _write(self, state: Mapping[str, Tensor], write: Callable[[Path], str]) -> WeightsFile:
        """A new file by ``write``, which gives its version; it holds ``state``."""
        need = sum(t.numel() * t.element_size() for t in state.values())
        target = self._folder / f"{next(self._count):06d}"
        with write_folder(target, need=need) as tmp:
            version = write(tmp / _NAME)
        file = WeightsFile(target / _NAME, version)
        weakref.finalize(file, shutil.rmtree, target, ignore_errors=True)
        return file

    def close(self) -> None:
        """Remove the folder with all that is left in it."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def write_weights(
    path: Path, state: Mapping[str, Tensor], more: Mapping[str, str] | None = None
) -> WeightsFile:
    """Write tensors with their sums, which are taken where the tensors are, before they go to disk.

    Args:
        path: of the safetensors file.
        state: the tensors by name.
        more: further metadata, which the version covers.
    """
    sums = Sums.of(state.items(), more)
    metadata = {"format": "pt", _SUMS: sums.to_json()}
    save_file({n: t.cpu().contiguous() for n, t in state.items()}, path, metadata)
    return WeightsFile(path, sums.version)


def sent_sums(file: WeightsFile) -> Sums:
    """What the sender put into a file.

    Raises:
        EngineError: it is damaged, or nothing of gnomon.
        ModelError: it is not a safetensors file.
    """
    with load.reading(file.path), safe_open(file.path, "pt") as tensors:
        metadata = tensors.metadata() or {}
    sums = Sums.from_json(metadata.get(_SUMS, "null"))
    if sums.version != file.version:
        raise EngineError(damaged("the list of its tensors is not the sender's"))
    return sums


def start_version(files: Sequence[Path], dtype: torch.dtype) -> str:
    """The version that weights in files have as numbers of ``dtype``, as a sampler holds them."""

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for file in files:
            with load.reading(file), safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    yield name, opened.get_tensor(name)

    return _version_in(tensors(), dtype)


def _version_in(tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> str:
    kept = ((n, t.to(dtype)) for n, t in tensors if n not in _TIED and t.is_floating_point())
    return Sums.of(kept).version


def shapes_in(files: Sequence[Path]) -> dict[str, list[int]]:
    """Names and shapes of the tensors in safetensors files, read from their headers."""
    found: dict[str, list[int]] = {}
    for file in files:
        with load.reading(file), safe_open(file, "pt") as tensors:
            found |= {key: list(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    return found


def check_weights(
    file: WeightsFile, expected: Mapping[str, Sequence[int]] | None, dtype: torch.dtype
) -> Sums:
    """Check that a whole file can be loaded, before any of it is.

    Args:
        file: as it came.
        expected: names and shapes of the tensors that the model has; None for an adapter.
        dtype: which the numbers are to be stored in.

    Returns:
        What the sender says of it.

    Raises:
        EngineError: it was damaged on the way, or holds other tensors, or numbers that are not
            finite in ``dtype``.
        ModelError: it is not a safetensors file.
    """
    sums = sent_sums(file)
    if expected is not None:
        check_shapes({name: e.shape for name, e in sums.entries.items()}, expected)
    largest = torch.finfo(dtype).max
    found: dict[str, Entry] = {}
    with load.reading(file.path), safe_open(file.path, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a mapping
            tensor = tensors.get_tensor(name)
            kind = dtype_name(tensor.dtype)
            if not tensor.is_floating_point():
                raise EngineError(f"{name} holds {kind}, not floating-point numbers")
            found[name] = Entry(kind, tuple(tensor.shape), int(tensor_sum(tensor)))
            if found[name] == sums.entries.get(name):
                _check_finite(name, tensor, largest, dtype)
    sums.check(found)
    return sums


def _check_finite(name: str, tensor: Tensor, largest: float, dtype: torch.dtype) -> None:
    if not tensor.numel():
        return
    low, high = (float(x) for x in tensor.aminmax())  # NaN when any number is
    if not (-largest <= low and high <= largest):
        raise EngineError(
            f"the policy's weights are not finite numbers of {dtype_name(dtype)}: "
            f"{name} goes from {low:.3g} to {high:.3g}. The training diverged, or the sampler's "
            "dtype is too small for it; the old weights are still loaded."
        )


def check_shapes(
    shapes: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]
) -> None:
    """Raise EngineError unless there are tensors of the names and shapes ``expected``."""
    problems = [f"{n} is missing" for n in expected if n not in shapes and n not in _TIED]
    problems += [f"{n} is unknown there" for n in shapes if n not in expected and n not in _TIED]
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


def write_adapter_folder(file: WeightsFile, sums: Sums, folder: Path) -> Path:
    """Lay a checked adapter out as PEFT does; gives ``folder``."""
    (folder / ADAPTER_CONFIG).write_text(sums.more[LORA])
    shutil.copyfile(file.path, folder / ADAPTER_WEIGHTS)
    return folder


def check_adapter(sums: Sums, about: About) -> None:
    """Raise EngineError unless a host can put the adapter that ``sums`` tells of on its weights."""
    rank = max((min(e.shape) for e in sums.entries.values()), default=0)
    if LORA not in sums.more or BASE not in sums.more:
        raise EngineError(
            f"{about.program} was started with LoRA: it takes adapters only, not whole weights"
        )
    if rank > about.max_lora_rank:
        raise EngineError(
            f"the adapter has rank {rank} and {about.program} was started for at most "
            f"{about.max_lora_rank} (max_lora_rank)"
        )
    if sums.more[BASE] != about.base:
        raise EngineError(
            f"the adapter belongs to other weights than those in {about.program}: start it with "
            "the model that this stage starts from"
        )
