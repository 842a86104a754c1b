"""What a recipe says of the way to its sampler: how weights are sent, memory, sleep, adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnomon.errors import ConfigError
from gnomon.plan.fit import HEADROOM, vllm_share
from gnomon.plan.job import Job
from gnomon.recipe.rollout import RolloutSpec
from gnomon.rollout.transfer import check_kind

LEAST = 0.05
"""Of a GPU: what vLLM is given at least, for what it computes."""
SHARE, TRANSFER, RANK = "gpu_memory_utilization", "transfer", "max_lora_rank"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def transfer_of(spec: RolloutSpec) -> str:
    """How whole weights are sent: ``rollout.options.transfer``."""
    return str(spec.options.get(TRANSFER, "auto"))


def theirs(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are the sampler's own."""
    return {key: value for key, value in options.items() if key != TRANSFER}


def check_sampler(spec: RolloutSpec, lora_rank: int = 0) -> None:
    """Refuse what cannot be, before anything is loaded.

    Args:
        spec: the stage's rollout section.
        lora_rank: of the policy's adapter; 0: all weights are trained.

    Raises:
        ConfigError: a way that weights cannot take, an adapter that the sampler cannot take.
    """
    outside = spec.url is not None or bool(spec.workers)
    if spec.engine == "torch" and not outside:
        return
    if TRANSFER in spec.options:
        kind, several = transfer_of(spec), bool(spec.workers) or isinstance(spec.url, list)
        check_kind(kind, outside, torch.cuda.is_available())
        if several and kind not in ("auto", "file"):
            raise ConfigError(
                f"rollout.options.{TRANSFER} is {kind!r}, and several servers are sent files: "
                "leave it out, or give one url"
            )
    if spec.url is not None:
        return
    _check_adapters(spec, lora_rank)
    if spec.engine == "torch":
        return
    sleep = spec.options.get("sleep", False)
    if not isinstance(sleep, bool):
        raise ConfigError(f"rollout.options.sleep is {sleep!r}: use true or false")
    if sleep and not torch.cuda.is_available():
        raise ConfigError("rollout.options.sleep gives a GPU's memory back, and there is no GPU")


def adapters_alone(spec: RolloutSpec) -> bool:
    """Whether the sampler that is started for the stage takes adapters, and never whole weights."""
    return bool(spec.options.get("enable_lora" if spec.engine == "vllm" else RANK))


def _check_adapters(spec: RolloutSpec, lora_rank: int) -> None:
    most = spec.options.get(RANK)
    wrong = isinstance(most, bool) or not isinstance(most, int) or most < 0
    if most is not None and wrong:
        raise ConfigError(f"rollout.options.{RANK} is {most!r}: use a number of ranks")
    if not adapters_alone(spec):
        if most:
            raise ConfigError(f"rollout.options.{RANK} goes with enable_lora: true")
    elif not lora_rank:
        key = "enable_lora" if spec.engine == "vllm" else RANK
        raise ConfigError(
            f"rollout.options.{key} sends adapters, and this stage trains all weights: remove "
            "it, or give the stage lora: {rank: ...}"
        )
    elif most is not None and most < lora_rank:
        raise ConfigError(
            f"rollout.options.max_lora_rank is {most}, below the adapter's rank of {lora_rank}"
        )


def vllm_options(
    spec: RolloutSpec, device: torch.device, share: float | None, lora_rank: int = 0
) -> dict[str, Any]:
    """The settings of a vLLM in the trainer's process.

    Args:
        spec: the stage's rollout section; what it says goes before what is chosen here.
        device: of the policy.
        share: of the GPU (:func:`gpu_share`), where it is known.
        lora_rank: of the policy's adapter.
    """
    chosen: dict[str, Any] = {"max_num_seqs": spec.max_rows}
    if device.type == "cuda":
        chosen["sleep"] = not spec.max_staleness  # while training samples ahead it is never idle
        if share is not None:
            chosen[SHARE] = share
    if spec.options.get("enable_lora"):
        chosen[RANK] = fitting_rank(lora_rank)
    return chosen | theirs(spec.options)


def fitting_rank(lora_rank: int) -> int:
    """The smallest ``max_lora_rank`` of vLLM's that an adapter fits."""
    return next((r for r in RANKS if r >= lora_rank), lora_rank)


def gpu_share(spec: RolloutSpec, job: Job | None, gpu_bytes: float) -> float | None:
    """The share of a GPU that vLLM in the trainer's process is given, from the plan's numbers.

    Returns:
        None where the recipe says it itself, vLLM has no part, or the model has no known shape.
    """
    if job is None or SHARE in spec.options:
        return None
    share = vllm_share(job, gpu_bytes)
    return min(HEADROOM, max(LEAST, round(share + 0.005, 2))) if share else None


def gpu_bytes_of(device: torch.device) -> float:
    """All memory of a GPU; 0 where the device is none."""
    if device.type != "cuda":
        return 0.0
    return float(torch.cuda.get_device_properties(device).total_memory)


def share_line(spec: RolloutSpec, job: Job | None, gpu_bytes: float) -> str | None:
    """What the plan says of it."""
    if not gpu_bytes or (share := gpu_share(spec, job, gpu_bytes)) is None:
        return None
    return (
        f"vLLM is given {share:.0%} of the GPU ({share * gpu_bytes / 1e9:.1f} of "
        f"{gpu_bytes / 1e9:.1f} GB): its weights, the cache of the rows written at once, and a "
        f"tenth for what it computes. rollout.options.{SHARE} sets another share"
    )
