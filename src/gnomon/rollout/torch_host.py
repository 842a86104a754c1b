"""The torch engine as a host: the same server where vLLM is not at hand, and for tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from gnomon.errors import ConfigError, EngineError
from gnomon.models import load
from gnomon.models.adapters import read_adapter
from gnomon.models.roles import Trunk
from gnomon.rollout.links import Inlet, Outlet
from gnomon.rollout.protocol import (
    About,
    Job,
    Progress,
    RawCompletion,
    StaleWeightsError,
    WeightsFile,
    WeightsHere,
)
from gnomon.rollout.sampling import check_probe
from gnomon.rollout.sums import Sums
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.rollout.transfer import Receiving, choose, send, sums_of
from gnomon.rollout.weights import (
    LORA,
    check_adapter,
    check_weights,
    shapes_in,
    start_version,
    write_adapter_folder,
)

_ADAPTER = "policy"


class TorchHost:
    """A model of its own in this process.

    Args:
        folder: the model, as a folder of safetensors with its tokenizer.
        dtype, device: of its weights.
        max_rows: most sequences decoded at once.
        max_lora_rank: of adapters, which it then takes instead of whole weights; 0: none.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        max_rows: int = 256,
        max_lora_rank: int = 0,
    ) -> None:
        for name, value, least in (("max_rows", max_rows, 1), ("max_lora_rank", max_lora_rank, 0)):
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} is {value!r}; use a number from {least}")
        try:
            loaded = load.load_causal_lm(str(folder), dtype=str(dtype), device=str(device))
        except (RuntimeError, AssertionError) as error:  # torch, of a device it does not have
            raise ConfigError(f"the model does not load on device {device!r}: {error}") from error
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        files = load.weight_files(folder)
        self._shapes = shapes_in(files)
        self._max_rows = max_rows
        self._max_lora_rank = max_lora_rank
        self._base = start_version(files, self._model.dtype) if max_lora_rank else ""
        self._trunk: Trunk | None = None  # once it has an adapter
        self._settings = ""  # of that adapter
        self._inlet = Inlet(self._model.device)
        self._receiving = Receiving()
        self._version = "the start weights"

    def about(self) -> About:
        config, device = self._model.config, self._model.device
        text = config.get_text_config()
        cuda = device.type == "cuda"
        ways = ("file", "memory", "gloo", *(("ipc", "nccl") if cuda else ()))
        return About(
            kind="torch",
            program=f"gnomon's torch engine (torch {torch.__version__})",
            dtype=str(self._model.dtype).removeprefix("torch."),
            version=self._version,
            window=int(getattr(text, "max_position_embeddings", 2**31)),
            vocabulary=int(self._model.get_input_embeddings().weight.shape[0]),
            config=config.to_dict(),
            shapes=self._shapes,
            transfers=ways,
            gpus=[str(torch.cuda.get_device_properties(device).uuid)] if cuda else [],
            max_lora_rank=self._max_lora_rank,
            base=self._base,
        )

    def connect(self, transfer: str, device: torch.device) -> str:
        found = choose(transfer, self.about(), device, url=False)
        if found == "memory":
            self.init_weight_transfer({"kind": found})
        return found

    def load(
        self,
        weights: WeightsFile | WeightsHere,
        probe: Sequence[int],
        wanted: Callable[[], None] | None = None,
    ) -> list[float]:
        about = self.about()
        check_probe(probe, about.vocabulary, about.window)
        if isinstance(weights, WeightsHere):
            return send(self, Outlet("memory", self._model.device), weights, probe, wanted)
        whole = not self._max_lora_rank
        sums = check_weights(weights, self._shapes if whole else None, self._model.dtype)
        if whole:
            with load.reading(weights.path), safe_open(weights.path, "pt") as tensors:
                self._take((n, tensors.get_tensor(n)) for n in self._known(list(tensors.keys())))
        else:
            check_adapter(sums, about)
            self._take_adapter(weights, sums)
        return self._serve(weights.version, probe)

    # -- the four phases of a transfer

    def init_weight_transfer(self, info: Mapping[str, Any]) -> None:
        self._inlet.open(info)

    def start_weight_update(self, version: str) -> None:
        if self._max_lora_rank:
            raise EngineError("this server was started with LoRA: it takes adapters only")
        self._receiving.start(version)
        self._version = "half loaded"  # until the last tensor is in its place

    def update_weights(self, version: str, bucket: Mapping[str, Any]) -> None:
        self._receiving.check(version)
        self._known(list(bucket["names"]))
        tensors = self._inlet.receive(bucket)
        self._receiving.take(bucket, [sums_of([tensor for _, tensor in tensors])])
        self._take(tensors)

    def finish_weight_update(self, version: str, probe: Sequence[int]) -> list[float]:
        about = self.about()
        check_probe(probe, about.vocabulary, about.window)
        self._receiving.finish(version)
        return self._serve(version, probe)

    # -- what both ways have in common

    def _known(self, names: list[str]) -> list[str]:
        state = self._model.state_dict().keys()
        strange = [name for name in names if name not in state]
        if strange:
            raise EngineError(
                f"this kind of model has other names in memory than in its files "
                f"({strange[0]}): it cannot be sampled behind a server with engine torch"
            )
        return names

    @torch.no_grad()
    def _take(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copy tensors into the model, one at a time."""
        state = self._model.state_dict()
        self._version = "half loaded"  # until the last one is in its place
        try:
            for name, tensor in tensors:
                if state[name].shape != tensor.shape:
                    raise ValueError(f"{name} is {[*tensor.shape]}, not {[*state[name].shape]}")
                state[name].copy_(tensor)
        except Exception as error:  # whatever a device raises
            raise EngineError(f"the weights were loaded only in part: {error}") from error

    @torch.no_grad()
    def _take_adapter(self, weights: WeightsFile, sums: Sums) -> None:
        """Put an adapter on the model, or its numbers in the place of the one before."""
        settings = sums.more[LORA]
        if self._trunk is not None and settings != self._settings:
            raise EngineError(
                "the adapter has other settings than the one before it: give each run a server of "
                "its own"
            )
        self._version = "half loaded"
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_adapter_folder(weights, sums, Path(scratch))
            if self._trunk is None:
                trunk = Trunk(self._model, self._tokenizer)
                trunk.add_adapter(_ADAPTER, init_from=folder)
                self._trunk, self._settings = trunk, settings
                return
            _, tensors = read_adapter(folder)
        for name, parameter in self._trunk.adapter_parameters(_ADAPTER).items():
            parameter.copy_(tensors[name])

    @torch.no_grad()
    def _serve(self, version: str, probe: Sequence[int]) -> list[float]:
        self._version = version
        ids = torch.tensor([list(probe)], device=self._model.device)
        with self._adapted():
            logits: Tensor = self._model(input_ids=ids, use_cache=False).logits[0, :-1]
        return [
            float(row[i]) for row, i in zip(logits.float().log_softmax(-1), probe[1:], strict=True)
        ]

    def _adapted(self) -> AbstractContextManager[None]:
        return nullcontext() if self._trunk is None else self._trunk.active(_ADAPTER)

    def sample(self, job: Job, progress: Progress | None) -> list[list[RawCompletion]]:
        if job.version != self._version:
            raise StaleWeightsError(f"it serves {self._version[:12]}, not {job.version[:12]}")
        engine = TorchEngine(
            self._model,
            self._tokenizer,
            activate=self._adapted,
            max_rows=self._max_rows,
            eos_token_ids=job.eos,
        )
        return [
            [RawCompletion(c.ids, c.logprobs.tolist(), c.finish_reason, self._version) for c in row]
            for row in engine.generate(job.requests, job.params, progress)
        ]

    def rest(self) -> None:
        """Nothing to do: it holds nothing but the model."""

    def close(self) -> None:
        """End transfers; the model goes with this object."""
        self._inlet.close()
