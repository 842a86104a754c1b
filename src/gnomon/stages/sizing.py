"""A stage of a recipe as a job for the planner: its shapes, roles and lengths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from transformers import PretrainedConfig

from gnomon.algorithms.on_policy_settings import OnPolicySettings
from gnomon.algorithms.registry import METHODS, find_method
from gnomon.models.adapters import LoraSettings
from gnomon.models.load import fetch, read_config
from gnomon.models.memory import RoleNeed, adapter_count
from gnomon.plan.job import Job, Lengths, Precision
from gnomon.plan.shapes import Shape, shape_of_config
from gnomon.stages.encoder import LENGTH, context_of
from gnomon.stages.names import origin_of, other_model, reward_folder
from gnomon.stages.roles import lora_settings
from gnomon.stages.sampler import gpu_bytes_of
from gnomon.stages.stage import Stage


def stage_job(stage: Stage, lengths: Lengths | None = None) -> Job:
    """What the stage is in numbers; the lengths are those of its data.

    Args:
        lengths: of its data; without them rows are as long as the recipe allows.

    Raises:
        ModelError, ConfigError: a model that cannot be read, or has no shape.
    """
    spec, settings = stage.spec, stage.settings
    train, rollout = spec.train, spec.rollout
    config = read_config(fetch(stage.origin))
    needs = stage.needs()
    ours = [need for need in needs if need.model is None]
    frozen = [need for need in ours if not need.trainable]
    lora = lora_settings(spec)
    lengths = lengths or _allowed(stage, config)
    passes = settings if isinstance(settings, OnPolicySettings) else OnPolicySettings()
    name = stage.precision.name
    narrow = stage.precision.frozen != "float32"
    return Job(
        method=_method(stage),
        model=shape_of_config(config, stage.origin),
        prompts=train.batch_size,
        samples=lengths.samples,
        prompt_tokens=lengths.prompt,
        response_tokens=lengths.response,
        mean_prompt=lengths.mean_prompt,
        mean_response=lengths.mean_response,
        microbatch=train.tokens_per_microbatch,
        reward=_reward(stage),
        lora=lora.rank if lora is not None else 0,
        precision=cast(Precision, name),
        recompute=train.gradient_checkpointing,
        rows=rollout.max_rows,
        epochs=passes.epochs,
        engine="torch" if rollout.url is not None else rollout.engine,
        minibatches=passes.minibatches,
        device="cpu" if stage.device.type == "cpu" else "cuda",
        device_bytes=gpu_bytes_of(stage.device),
        critics=sum(need.trainable for need in ours) - 1,
        references=sum(not need.moves for need in frozen),
        followers=sum(need.moves for need in frozen),
        averages=sum(need.averaged for need in frozen) * narrow,
        others=tuple(_other(stage, need) for need in needs if need.model is not None),
        ahead=bool(rollout.max_staleness) and rollout.engine == "torch",
        adapter=_adapter(config, lora),
    )


def _method(stage: Stage) -> str:
    """The method, or the one of ours that a user's own is like; what only writes, collects."""
    if not stage.trains:
        return "collect"
    if stage.spec.algorithm in METHODS:
        return stage.spec.algorithm
    if find_method(stage.spec.algorithm, stage.base).algorithm.produces == "reward_model":
        return "reward_model"
    return "grpo" if stage.samples else "sft"


def _allowed(stage: Stage, config: PretrainedConfig) -> Lengths:
    """The longest rows that the recipe allows: they fill the window, the half of it their prompt
    where the policy does not write the rest."""
    spec = stage.spec
    window = stage.recipe.max_length or min(context_of(config) or LENGTH, LENGTH)
    response, samples = window // 2, 1
    if stage.samples:
        response, samples = spec.response_tokens, spec.rollout.samples
    elif stage.data_kind in ("preferences", "rankings"):
        samples = 2
    prompt = max(1, window - response)
    return Lengths(prompt, response, prompt, response, samples)


def _reward(stage: Stage) -> Shape | None:
    """The reward model's shape, where one judges; of a stage to come, that of what it starts from.
    One in workers that Ray places is on other devices."""
    elsewhere = stage.recipe.ray is not None
    here = (r.model for r in stage.spec.reward if r.model and not (r.workers and elsewhere))
    name = next(here, None)
    if name is None:
        return None
    folder = reward_folder(stage.recipe, stage.run, stage.base, name)
    ours = name in {s.name for s in stage.recipe.stages}
    origin = _origin_of_stage(stage, name) if ours else stage.origin
    if not (folder / "config.json").is_file():
        return shape_of_config(read_config(fetch(origin)), origin)
    return replace(shape_of_config(read_config(folder)), name=origin)


def _other(stage: Stage, need: RoleNeed) -> Shape:
    """The shape of a role's own model; of a stage that is to come, that of what it starts from."""
    recipe, model = stage.recipe, str(need.model)
    place = other_model(recipe, stage.run, stage.base, model)
    to_come = model in {s.name for s in recipe.stages} and not Path(place).is_dir()
    place = _origin_of_stage(stage, model) if to_come else place
    return shape_of_config(read_config(fetch(place)), place)


def _origin_of_stage(stage: Stage, name: str) -> str:
    """The model that another stage's weights come from in the end."""
    other = next(s for s in stage.recipe.stages if s.name == name)
    return origin_of(stage.recipe, other, stage.base)


def _adapter(config: PretrainedConfig, lora: LoraSettings | None) -> int:
    """Parameters of an adapter that is not on every linear layer; 0: it is."""
    if lora is None or lora.targets == "all-linear":
        return 0
    return adapter_count(config, lora)
