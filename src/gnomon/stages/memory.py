"""What a stage needs of memory, with its roles on one shared trunk and on separate copies."""

from __future__ import annotations

from gnomon.algorithms.base import Settings
from gnomon.algorithms.registry import find_algorithm
from gnomon.models.load import fetch, read_config
from gnomon.models.memory import MemoryEstimate, RoleNeed, estimate, human
from gnomon.models.roles import LoraSettings
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.stages.resolve import stage_settings
from gnomon.stages.roles import lora_settings


def stage_memory(recipe: Recipe, stage: StageSpec) -> MemoryEstimate:
    """What a training stage needs, with its roles on one shared trunk and on separate copies."""
    algorithm = find_algorithm(stage.algorithm)
    settings = stage_settings(stage)
    needs = [need for name in algorithm.roles_for(settings) for need in _needs(name, settings)]
    if any(reward.model for reward in stage.reward):
        needs.append(RoleNeed("reward_model", outputs=1))
    rollout = stage.rollout.max_rows * stage.response_tokens
    return estimate(
        read_config(fetch(recipe.model)),
        roles=needs,
        tokens_per_microbatch=stage.train.tokens_per_microbatch,
        lora=lora_settings(stage) or LoraSettings(),
        dtype=recipe.dtype,
        gradient_checkpointing=stage.train.gradient_checkpointing,
        rollout_tokens=rollout if algorithm.data == "prompts" else 0,
    )


def memory_info(recipe: Recipe, stage: StageSpec) -> dict[str, str]:
    """The totals in words, for stage.json and the terminal."""
    needed = stage_memory(recipe, stage)
    return {
        "runs as": "shared trunk (LoRA)" if stage.lora else "separate copies (full)",
        "shared trunk (LoRA)": human(needed.shared.total),
        "separate copies (full)": human(needed.separate.total),
    }


def _needs(name: str, settings: Settings) -> list[RoleNeed]:
    """What a role needs: an ensemble of whole models is several roles."""
    members = int(getattr(settings, "members", 1))
    if name == "reward_model" and members > 1 and not getattr(settings, "share_trunk", True):
        return [RoleNeed(f"{name}_{m}", trainable=True, outputs=1) for m in range(members)]
    outputs = {"value_model": 1, "reward_model": members}
    return [RoleNeed(name, trainable=name != "reference", outputs=outputs.get(name, 0))]
