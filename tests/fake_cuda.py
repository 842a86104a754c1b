"""Tensors on a GPU that is not there: what runs, on which device, and where the host would wait.

``FakeTensorMode`` computes shapes, dtypes and devices and no numbers. Two things that it lacks in a
torch build without CUDA are added here: a device guard, which indexing and autograd ask for, and
answers where the host reads a number, so that the code goes on. A tensor on the wrong device raises
as it would on a GPU. The forward pass builds its graph; the backward pass cannot run.
"""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import gnomon

DEVICE = torch.device("cuda:0")
SOURCE = Path(gnomon.__file__).parent
_CUDA, _META = 1, 14  # their places among c10::DeviceType
_aten = torch.ops.aten


class FakeCuda(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Entered above a FakeTensorMode.

    Attributes:
        syncs: each wait of the host for the device: what, and the line that asks for it.
    """

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fake = fake
        self.syncs: list[str] = []
        self.pinned: list[Tensor] = []  # kept alive, so that no other storage takes its address

    def of(self, value: Any, device: torch.device = DEVICE) -> Any:
        """A fake of a real tensor, or of the tensors in dataclasses, lists and dicts (a batch, a
        plan). A module gets fake parameters and buffers itself, as by ``Module.to``."""
        if isinstance(value, Tensor):
            with torch.no_grad():
                fake = torch.empty_like(self.fake.from_tensor(value), device=device)
            parameter = isinstance(value, nn.Parameter)
            return nn.Parameter(fake, value.requires_grad) if parameter else fake
        if isinstance(value, nn.Module):
            for part in value.modules():
                for held in (part._parameters, part._buffers):
                    held.update({k: self.of(v, device) for k, v in held.items() if v is not None})
            return value
        if isinstance(value, Mapping):
            return {k: self.of(v, device) for k, v in value.items()}
        if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
            return type(value)(self.of(v, device) for v in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = [f.name for f in dataclasses.fields(value)]
            twin = copy.copy(value)
            twin.__dict__.update({f: self.of(getattr(value, f), device) for f in fields})
            return twin
        return value

    @staticmethod
    def aside() -> AbstractContextManager[Any]:
        """Within it tensors are real again, on the CPU."""
        return _disable_current_modes()

    def wait(self, what: str) -> None:
        """Count a wait of the host, with the line of gnomon that asks for it."""
        ours = [f for f in traceback.extract_stack() if SOURCE in Path(f.filename).parents]
        where = f" ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""
        self.syncs.append(what + where)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = dict(kwargs or {}), func.overloadpacket
        if str(kwargs.get("device")).startswith("meta"):  # torch's own answer to a plain "cuda"
            kwargs["device"] = DEVICE
        first: Any = args[0] if args and isinstance(args[0], Tensor) else None
        if packet is _aten._local_scalar_dense:
            return self._read(first)
        if packet in (_aten._pin_memory, _aten.is_pinned):
            return self._pin(packet, first)
        if packet in (_aten._to_copy, _aten.copy_):
            self._copied(packet, args, kwargs)
        if packet in (_aten.nonzero, _aten.masked_select) and _on_gpu(first):
            self.wait(packet.__name__)  # the host has to learn how many there are; here: all
            shape = (first.numel(), first.dim()) if packet is _aten.nonzero else (first.numel(),)
            dtype = torch.int64 if packet is _aten.nonzero else first.dtype
            return first.new_empty(shape, dtype=dtype)
        if packet in (_aten.index, _aten.index_put, _aten.index_put_) and _on_gpu(first):
            args = self._indexed(packet, args)
        counts = packet is _aten.repeat_interleave and kwargs.get("output_size") is None
        if counts and _on_gpu(first):
            self.wait("repeat_interleave without output_size")
        return func(*args, **kwargs)

    def _read(self, value: Any) -> Any:
        if _on_gpu(value):
            self.wait("a number is read")
        if value.dtype is torch.bool:
            return True
        return 1.0 if value.dtype.is_floating_point else 1

    def _pin(self, packet: Any, value: Any) -> Any:
        if packet is _aten.is_pinned:
            place = value.untyped_storage()._cdata
            return any(p.untyped_storage()._cdata == place for p in self.pinned)
        self.pinned.append(torch.empty_like(value))
        return self.pinned[-1]

    def _copied(self, packet: Any, args: Any, kwargs: Any) -> None:
        to_gpu = _on_gpu(args[0]) if packet is _aten.copy_ else _on_gpu(kwargs, args[0])
        source = args[1] if packet is _aten.copy_ else args[0]
        if to_gpu == _on_gpu(source) or (packet is _aten.copy_ and not source.dim()):
            return
        free = kwargs.get("non_blocking") or (packet is _aten.copy_ and args[2:3] == (True,))
        if not free or (to_gpu and not self._pin(_aten.is_pinned, source)):
            pageable = " from pageable memory" if free else ""
            self.wait(("host to device" if to_gpu else "device to host") + pageable)

    def _indexed(self, packet: Any, args: Any) -> Any:
        index = [i for i in args[1] if i is not None]
        if any(not _on_gpu(i) for i in index):
            raise RuntimeError("an index on the CPU into a tensor on cuda:0")
        masks = [i for i in index if i.dtype is torch.bool]
        if masks and (packet is _aten.index or args[2].numel() != 1):
            self.wait("a mask as index")
        if not masks or packet is not _aten.index:
            return args
        assert len(index) == 1, "only a mask by itself"
        rows = masks[0].new_empty(masks[0].numel(), dtype=torch.int64)
        return args[0].flatten(0, masks[0].dim() - 1), [rows]


def _on_gpu(value: Any, default: Any = None) -> bool:
    """Whether a tensor, or what the options of a copy say, is on the GPU."""
    if isinstance(value, Mapping):
        device = value.get("device")
        return _on_gpu(default) if device is None else torch.device(device).type == "cuda"
    return isinstance(value, Tensor) and value.device.type == "cuda"


def _tolist(tensor: Tensor) -> Any:
    """One transfer, however many numbers."""
    tensor.to("cpu")
    with FakeCuda.aside():
        return torch.ones(tuple(tensor.shape), dtype=tensor.dtype).tolist()


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Run the block on a fake GPU; tensors made in it hold no numbers."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    name = "_ZN3c104impl26device_guard_impl_registryE"
    guards = (ctypes.c_void_p * 21).in_dll(library, name)
    before, guards[_CUDA] = guards[_CUDA], guards[_CUDA] or guards[_META]
    try:
        with (
            FakeTensorMode(allow_non_fake_inputs=False) as fake,
            mock.patch.object(FakeTensor, "tolist", _tolist),
            FakeCuda(fake) as cuda,
        ):
            yield cuda
    finally:
        guards[_CUDA] = before
