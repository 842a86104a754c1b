"""What gnomon adds to vLLM's workers; vLLM imports this by name, in the worker's own process.

Only paths and numbers cross over to it, never pickled objects.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

QUALNAME = "gnomon.rollout.vllm_worker.PolicyWorker"
ENGINE = "gnomon"
"""The name of gnomon's way among vLLM's transfers of weights."""


def register() -> None:
    """Make gnomon's way of receiving weights known to the vLLM of this process."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory as Factory

    if ENGINE not in Factory._registry:
        Factory.register_engine(ENGINE, "gnomon.rollout.vllm_transfer", "PolicyTransfer")


if "vllm.distributed.weight_transfer" in sys.modules:  # in a worker
    register()


class PolicyWorker:
    """Mixed into vLLM's worker class (``worker_extension_cls``)."""

    model_runner: Any  # vLLM's own
    weight_transfer_engine: Any

    def gnomon_load(self, path: str) -> int:
        """Take over the weights in a safetensors file, in place; gives how many there were."""
        runner, count = self.model_runner, 0

        def tensors() -> Iterator[tuple[str, Tensor]]:
            nonlocal count
            with safe_open(Path(path), "pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    count += 1
                    yield name, file.get_tensor(name)

        reload = getattr(runner, "reload_weights", None)
        with torch.no_grad():
            if reload and "weights_iterator" in inspect.signature(reload).parameters:
                reload(weights_iterator=tensors())
            else:
                runner.model.load_weights(tensors())
            pack_again(runner.model)
        return count

    def gnomon_gpu(self) -> str:
        """The UUID of the GPU that this worker is on."""
        device = self.model_runner.device
        cuda = device.type == "cuda"
        return str(torch.cuda.get_device_properties(device).uuid) if cuda else ""

    def gnomon_abandon(self) -> None:
        """End a transfer that was begun and not finished, so that another can begin."""
        engine = self.weight_transfer_engine
        if engine.under_way:
            try:
                self.finish_weight_update()  # type: ignore[attr-defined]
            except RuntimeError:  # an update failed, and vLLM ended it by half
                engine.finish_weight_update()

    def gnomon_received(self) -> list[int]:
        """The sums of the tensors of the last update, as they arrived here."""
        return list(self.weight_transfer_engine.sums)

    def gnomon_score_at(self, temperature: float | None) -> str | None:
        """Report log-probs of softmax(logits / temperature) before top-k, top-p and min-p.

        vLLM's ``processed_logprobs`` come after truncation and its ``raw_logprobs`` before the
        temperature; this makes the raw ones what is wanted. None undoes it.

        Returns:
            None, or why this version of vLLM cannot do so.
        """
        sampler: Any = getattr(self.model_runner, "sampler", None)
        inner: Any = getattr(sampler, "topk_topp_sampler", None)
        parts = (
            hasattr(sampler, "compute_logprobs"),
            hasattr(sampler, "logprobs_mode"),
            hasattr(inner, "logprobs_mode"),
        )
        if sampler is None or not all(parts):
            return f"its sampler is a {type(sampler).__module__}.{type(sampler).__name__}"
        vars(sampler).pop("compute_logprobs", None)
        mode = "processed_logprobs" if temperature is None else "raw_logprobs"
        sampler.logprobs_mode = inner.logprobs_mode = mode
        if temperature is not None:
            divisor = temperature

            def tempered(logits: Tensor) -> Tensor:
                return (logits.float() / divisor).log_softmax(dim=-1)

            vars(sampler)["compute_logprobs"] = tempered
        return None


def pack_again(model: Any) -> None:
    """Renew copies that a layer made of its weight when vLLM loaded it first.

    On a CPU a head that is tied to the embedding multiplies by a packed copy, which vLLM 0.32
    does not renew when the embedding is loaded again: every log-prob would be of the old head.
    """
    for module in model.modules():
        weight: Tensor | None = getattr(module, "weight", None)
        if hasattr(module, "cpu_linear") and weight is not None and weight.numel():
            module.quant_method.process_weights_after_loading(module)
