"""What a stage needs of memory, with its roles on one shared trunk and on separate copies."""

from __future__ import annotations

from gnomon.models.load import fetch, read_config
from gnomon.models.memory import MemoryEstimate, RoleNeed, estimate, human
from gnomon.models.roles import LoraSettings
from gnomon.stages.roles import lora_settings
from gnomon.stages.stage import Stage


def stage_memory(stage: Stage) -> MemoryEstimate:
    """What a training stage needs, with its roles on one shared trunk and on separate copies."""
    spec, recipe = stage.spec, stage.recipe
    needs = list(stage.needs())
    if any(reward.model for reward in spec.reward):
        needs.append(RoleNeed("reward_model", outputs=1))
    rollout = spec.rollout.max_rows * spec.response_tokens
    return estimate(
        read_config(fetch(recipe.model)),
        roles=needs,
        tokens_per_microbatch=spec.train.tokens_per_microbatch,
        lora=lora_settings(spec) or LoraSettings(),
        dtype=recipe.dtype,
        gradient_checkpointing=spec.train.gradient_checkpointing,
        rollout_tokens=rollout if stage.samples else 0,
    )


def memory_info(stage: Stage) -> dict[str, str]:
    """The totals in words, for stage.json and the terminal; nothing where nothing is trained."""
    if not stage.trains:
        return {}
    needed = stage_memory(stage)
    return {
        "runs as": "shared trunk (LoRA)" if stage.spec.lora else "separate copies (full)",
        "shared trunk (LoRA)": human(needed.shared.total),
        "separate copies (full)": human(needed.separate.total),
    }
