"""The torch engine as a host: the same server where vLLM is not at hand, and for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from gnomon.errors import ConfigError, EngineError
from gnomon.models import load
from gnomon.rollout.protocol import (
    About,
    Job,
    Progress,
    RawCompletion,
    StaleWeightsError,
    WeightsFile,
)
from gnomon.rollout.sampling import check_probe
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.rollout.weights import check_weights, shapes_in


class TorchHost:
    """A model of its own in this process.

    Args:
        folder: the model, as a folder of safetensors with its tokenizer.
        dtype, device: of its weights.
        max_rows: most sequences decoded at once.
    """

    def __init__(
        self, folder: Path, *, dtype: str = "float32", device: str = "cpu", max_rows: int = 256
    ) -> None:
        if not isinstance(max_rows, int) or max_rows < 1:
            raise ConfigError(f"max_rows is {max_rows!r}; use a number from 1")
        try:
            loaded = load.load_causal_lm(str(folder), dtype=str(dtype), device=str(device))
        except (RuntimeError, AssertionError) as error:  # torch, of a device it does not have
            raise ConfigError(f"the model does not load on device {device!r}: {error}") from error
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._shapes = shapes_in(load.weight_files(folder))
        self._max_rows = max_rows
        self._version = "the start weights"

    def about(self) -> About:
        config = self._model.config
        text = config.get_text_config()
        return About(
            kind="torch",
            program=f"gnomon's torch engine (torch {torch.__version__})",
            dtype=str(self._model.dtype).removeprefix("torch."),
            version=self._version,
            window=int(getattr(text, "max_position_embeddings", 2**31)),
            vocabulary=int(self._model.get_input_embeddings().weight.shape[0]),
            config=config.to_dict(),
            shapes=self._shapes,
        )

    @torch.no_grad()
    def load(
        self, weights: WeightsFile, probe: Sequence[int], wanted: Callable[[], None] | None = None
    ) -> list[float]:
        about = self.about()
        check_probe(probe, about.vocabulary, about.window)
        check_weights(weights, self._shapes, self._model.dtype)
        self._take(weights.path)
        self._version = weights.version
        ids = torch.tensor([list(probe)], device=self._model.device)
        logits: Tensor = self._model(input_ids=ids, use_cache=False).logits[0, :-1]
        return [
            float(row[i]) for row, i in zip(logits.float().log_softmax(-1), probe[1:], strict=True)
        ]

    def _take(self, file: Path) -> None:
        """Copy a file into the model, one tensor at a time."""
        state = self._model.state_dict()
        with load.reading(file), safe_open(file, "pt") as tensors:
            names = list(tensors.keys())
            strange = [name for name in names if name not in state]
            if strange:
                raise EngineError(
                    f"this kind of model has other names in memory than in its files "
                    f"({strange[0]}): it cannot be sampled behind a server with engine torch"
                )
            self._version = "half loaded"  # until the last one is in its place
            try:
                for name in names:
                    state[name].copy_(tensors.get_tensor(name))
            except Exception as error:  # whatever a device raises
                raise EngineError(f"the weights were loaded only in part: {error}") from error

    def sample(self, job: Job, progress: Progress | None) -> list[list[RawCompletion]]:
        if job.version != self._version:
            raise StaleWeightsError(f"it serves {self._version[:12]}, not {job.version[:12]}")
        engine = TorchEngine(
            self._model, self._tokenizer, max_rows=self._max_rows, eos_token_ids=job.eos
        )
        return [
            [RawCompletion(c.ids, c.logprobs.tolist(), c.finish_reason, self._version) for c in row]
            for row in engine.generate(job.requests, job.params, progress)
        ]

    def close(self) -> None:
        """Nothing to do: the model goes with this object."""
