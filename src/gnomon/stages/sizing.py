"""A stage of a recipe as a job for the planner: its shapes, roles and lengths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PretrainedConfig

from gnomon.algorithms.on_policy_settings import OnPolicySettings
from gnomon.algorithms.registry import METHODS
from gnomon.models.adapters import LoraSettings
from gnomon.models.load import fetch, read_config
from gnomon.models.memory import RoleNeed, adapter_count
from gnomon.plan.job import Job
from gnomon.plan.shapes import Shape, shape_of_config
from gnomon.stages.names import reward_folder
from gnomon.stages.roles import lora_settings
from gnomon.stages.sources import LENGTH, context_of

if TYPE_CHECKING:
    from gnomon.stages.train import Train
    from gnomon.stages.usable import Usable


def stage_job(stage: Train, usable: Usable | None = None) -> Job:
    """What the stage is in numbers; the lengths are those of its data.

    Args:
        usable: its data, tokenised; without it rows are as long as the recipe allows.

    Raises:
        ModelError, ConfigError: a model that cannot be read, or has no shape.
    """
    spec, recipe, settings = stage.spec, stage.recipe, stage.settings
    train, rollout = spec.train, spec.rollout
    config = read_config(fetch(recipe.model))
    needs = stage.needs()
    ours = [need for need in needs if need.model is None]
    frozen = [need for need in ours if not need.trainable]
    lora = lora_settings(spec)
    prompt, response, mean_prompt, mean_response, samples = _lengths(stage, config, usable)
    passes = settings if isinstance(settings, OnPolicySettings) else OnPolicySettings()
    narrow = recipe.dtype != "float32"
    return Job(
        method=_method(stage),
        model=shape_of_config(config, recipe.model),
        prompts=train.batch_size,
        samples=samples,
        prompt_tokens=prompt,
        response_tokens=response,
        mean_prompt=mean_prompt,
        mean_response=mean_response,
        microbatch=train.tokens_per_microbatch,
        reward=_reward(stage),
        lora=lora.rank if lora is not None else 0,
        precision="bfloat16" if narrow else "float32",
        recompute=train.gradient_checkpointing,
        rows=rollout.max_rows,
        epochs=passes.epochs,
        engine="torch" if rollout.url is not None else rollout.engine,
        minibatches=passes.minibatches,
        device="cpu" if stage.device.type == "cpu" else "cuda",
        critics=sum(need.trainable for need in ours) - 1,
        references=sum(not need.moves for need in frozen),
        followers=sum(need.moves for need in frozen),
        averages=sum(need.averaged for need in frozen) * narrow,
        others=tuple(_other(stage, need) for need in needs if need.model is not None),
        ahead=bool(rollout.max_staleness) and rollout.engine == "torch",
        adapter=_adapter(config, lora),
    )


def _method(stage: Train) -> str:
    """The method, or the one of ours that a user's own is like."""
    if stage.spec.algorithm in METHODS:
        return stage.spec.algorithm
    if stage.algorithm.produces == "reward_model":
        return "reward_model"
    return "grpo" if stage.samples else "sft"


def _lengths(
    stage: Train, config: PretrainedConfig, usable: Usable | None
) -> tuple[int, int, float, float, int]:
    """Tokens of the longest prompt and response, of usual ones, and responses to a prompt."""
    spec = stage.spec
    window = stage.recipe.max_length or min(context_of(config) or LENGTH, LENGTH)
    samples = spec.rollout.samples if stage.samples else 1
    response = spec.response_tokens if stage.samples else 0
    if usable is not None and usable.longest_prompt:
        if stage.samples:
            mean = usable.prompt_tokens
            return usable.longest_prompt, response, mean, float(response), samples
        samples = max(1, usable.responses)
        longest = usable.longest_prompt, usable.longest_response
        return *longest, usable.prompt_tokens, usable.response_tokens / samples, samples
    if not stage.samples:  # a row fills the window, the half of it its prompt
        samples = 2 if stage.data_kind in ("preferences", "rankings") else 1
        response = window // 2
    prompt = max(1, window - response)
    return prompt, response, float(prompt), float(response), samples


def _reward(stage: Train) -> Shape | None:
    """The reward model's shape, where one judges; of a stage to come, the recipe's own model's."""
    name = next((reward.model for reward in stage.spec.reward if reward.model), None)
    if name is None:
        return None
    recipe = stage.recipe
    folder = reward_folder(recipe, stage.run, stage.base, name)
    if not (folder / "config.json").is_file():
        return shape_of_config(read_config(fetch(recipe.model)), recipe.model)
    return replace(shape_of_config(read_config(folder)), name=recipe.model)


def _other(stage: Train, need: RoleNeed) -> Shape:
    """The shape of a role's own model; of a stage that is to come, the recipe's own model's."""
    place = stage.locate(str(need.model))
    to_come = need.model in {s.name for s in stage.recipe.stages} and not Path(place).is_dir()
    place = stage.recipe.model if to_come else place
    return shape_of_config(read_config(fetch(place)), place)


def _adapter(config: PretrainedConfig, lora: LoraSettings | None) -> int:
    """Parameters of an adapter that is not on every linear layer; 0: it is."""
    if lora is None or lora.targets == "all-linear":
        return 0
    return adapter_count(config, lora)
