"""The torch engine as a host: the same server where vLLM is not at hand, and for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from gnomon.models import load
from gnomon.rollout.host import About, Job, Sampled
from gnomon.rollout.replica import StaleWeightsError
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.rollout.weights import WeightsFile, check_content, check_shapes, shapes_in


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
        loaded = load.load_causal_lm(str(folder), dtype=dtype, device=torch.device(device))
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
            config=config.to_dict(),
            shapes=self._shapes,
        )

    @torch.no_grad()
    def load(self, weights: WeightsFile, probe: Sequence[int]) -> list[float]:
        check_content(weights)
        check_shapes(weights, self._shapes)
        self._version = "half loaded"
        self._model.load_state_dict(load_file(weights.path), strict=False)  # a tied head is absent
        self._version = weights.version
        ids = torch.tensor([list(probe)], device=self._model.device)
        logits: Tensor = self._model(input_ids=ids, use_cache=False).logits[0, :-1]
        return [
            float(row[i]) for row, i in zip(logits.float().log_softmax(-1), probe[1:], strict=True)
        ]

    def sample(self, job: Job, progress: Callable[[int, int], None] | None) -> list[list[Sampled]]:
        if job.version != self._version:
            raise StaleWeightsError(f"it serves {self._version[:12]}, not {job.version[:12]}")
        engine = TorchEngine(
            self._model, self._tokenizer, max_rows=self._max_rows, eos_token_ids=job.eos
        )
        return [
            [Sampled(c.ids, c.logprobs.tolist(), c.finish_reason, self._version) for c in row]
            for row in engine.generate(job.requests, job.params, progress)
        ]

    def close(self) -> None:
        """Nothing to do: the model goes with this object."""
