"""How a recipe has its policy sampled."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from gnomon.recipe.spec import Spec


class RolloutSpec(Spec):
    """How the policy is sampled."""

    samples: int = Field(1, ge=1, description="responses per prompt")
    max_new_tokens: int = Field(64, ge=1)
    temperature: float = Field(1.0, gt=0)
    final_temperature: float | None = Field(
        None, gt=0, description="anneal linearly to this by the last iteration"
    )
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, lt=1)
    stop: list[str] = Field(default_factory=list)
    max_rows: int = Field(256, ge=1, description="responses generated at the same time")
    engine: Literal["torch", "vllm"] = Field(
        "torch", description="what samples: torch shares the trainer's weights; see engines.md"
    )
    url: str | list[str] | None = Field(
        None, description="of a server started with gnomon serve-rollouts, or of several"
    )
    workers: int = Field(
        0,
        ge=0,
        le=1024,
        description="rollout servers to start for the stage: processes on this machine, or placed "
        "by Ray; see [workers.md](workers.md)",
    )
    share: int | None = Field(
        None,
        ge=1,
        description="with several servers: most responses that one is asked for at a time; null: "
        "an eighth of them, at most 256",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="of engine vllm (as for vllm.LLM), of engine torch (cache_gib, kept_gib, "
        "cuda_graphs), of workers of engine torch (device, max_lora_rank), or with url: transfer, "
        "retries and timeout",
    )
    max_staleness: int = Field(
        0,
        ge=0,
        description="iterations by which sampling may run ahead of training; 0: in turns",
    )
