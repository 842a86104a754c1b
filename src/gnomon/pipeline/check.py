"""What can be said of a recipe without reading its data: settings, models, rewards, references.

A run checks all of it before its first stage, so that a misspelt setting of the last stage is not
found out after hours of training the first.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from gnomon.agents.load import environment_factory
from gnomon.algorithms.base import Algorithm
from gnomon.algorithms.collect_settings import COLLECT
from gnomon.algorithms.on_policy import OnPolicy
from gnomon.algorithms.registry import find_algorithm
from gnomon.errors import ConfigError, GnomonError, ModelError
from gnomon.models.load import fetch, load_tokenizer, reading, weight_files
from gnomon.models.save import load_reward_model
from gnomon.pipeline.engines import check_engine
from gnomon.pipeline.resolve import policy_stages, resolve_start, reward_folder, stage_settings
from gnomon.pipeline.rewards import HUMAN, check_labels, one_reward
from gnomon.pipeline.rundir import RunFolder
from gnomon.pipeline.sources import check_source
from gnomon.recipe.schema import DataSpec, Recipe, RewardSpec, StageSpec
from gnomon.rewards.function import function_reward


def check_recipe(recipe: Recipe, run: RunFolder, base: Path) -> None:
    """Check every stage and the comparison.

    Raises:
        ConfigError: everything that is wrong, one problem a line.
    """
    problems: list[str] = []
    for stage in recipe.stages:
        if run.stage(stage.name).done():
            continue
        try:
            check_stage(recipe, stage, run, base)
        except GnomonError as error:
            problems.append(f"stage {stage.name!r}: {error}")
    try:
        check_compare(recipe, run, base)
    except GnomonError as error:
        problems.append(f"compare: {error}")
    if problems:
        raise ConfigError("\n".join(problems))


def check_stage(recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path) -> None:
    """Check one stage; see :func:`check_recipe`."""
    stage_settings(stage)
    _check_start(recipe, stage, run)
    _check_sense(stage)
    _check_environment(stage, base)
    position = [s.name for s in recipe.stages].index(stage.name)
    check_labels(stage.reward, stage.observe)
    _check_rewards([*stage.reward, *stage.observe], recipe, position, run, base)
    if not stage.data:
        raise ConfigError("it has no data: give data: [path: ...]")
    everything = [*stage.data, *stage.eval_data, *stage.pretraining, *stage.normalise_on]
    _check_sources(everything, recipe, position, base)


def _check_start(recipe: Recipe, stage: StageSpec, run: RunFolder) -> None:
    start = resolve_start(recipe, stage, run)
    folders = {str(run.stage(s.name).model): s for s in recipe.stages}
    if start in folders:
        earlier = folders[start]
        if earlier not in policy_stages(recipe):
            raise ConfigError(
                f"it starts from {earlier.name!r}, which trains no policy (it is "
                f"{earlier.algorithm})"
            )
        return
    try:
        folder = fetch(start)
    except ModelError as error:
        near = difflib.get_close_matches(start, [s.name for s in recipe.stages], n=1)
        if stage.from_ is None or not near:
            raise
        raise ConfigError(f"from {start!r}: did you mean the stage {near[0]!r}? {error}") from error
    weight_files(folder)
    load_tokenizer(folder)


def _check_sense(stage: StageSpec) -> None:
    """Refuse what would be left unused without a word."""
    settings = stage_settings(stage)
    algorithm = None if stage.algorithm == COLLECT else find_algorithm(stage.algorithm)
    samples = algorithm is None or algorithm.data == "prompts"
    judged = bool(stage.reward or stage.environment or getattr(settings, "labellers", None))
    if samples and not judged:
        raise ConfigError(
            "it samples its own responses and needs a reward: reward: [{model: STAGE}], "
            "[{function: file.py:name}] or [{builtin: gold}], or an environment"
            + (", or settings.labellers" if algorithm is None else "")
        )
    if not samples and (stage.reward or stage.observe):
        raise ConfigError(f"{stage.algorithm} trains on its data and uses no reward; remove it")
    needed = getattr(algorithm, "min_samples", 1)
    if stage.rollout.samples < needed:
        raise ConfigError(
            f"{stage.algorithm} compares responses to the same prompt: set rollout.samples to at "
            f"least {needed} (it is {stage.rollout.samples})"
        )
    _check_people(stage)
    _check_rollout(stage, algorithm, settings)
    if algorithm is None and (stage.holdout or stage.eval_data or stage.lora):
        raise ConfigError(
            "a collect stage trains and evaluates nothing: remove holdout, eval_data and lora"
        )
    if stage.holdout and stage.eval_data:
        raise ConfigError("give either holdout or eval_data, not both")
    coefficient = getattr(settings, "pretraining_coef", 0.0)
    if coefficient and not stage.pretraining:
        raise ConfigError("settings.pretraining_coef needs text: give pretraining: [path: ...]")
    if stage.pretraining and not coefficient:
        raise ConfigError(
            "pretraining text is given but would not be used: set settings.pretraining_coef above "
            "0, or remove it"
        )
    if stage.normalise_on and (algorithm is None or algorithm.produces != "reward_model"):
        raise ConfigError(f"normalise_on is for reward models, and this is {stage.algorithm}")


def _check_rollout(stage: StageSpec, algorithm: type[Algorithm] | None, settings: Any) -> None:
    """The engine can be had, and the method can learn from what it samples ahead."""
    if algorithm is not None and algorithm.data != "prompts":
        given = ", ".join(sorted(stage.rollout.model_fields_set))
        if given:
            raise ConfigError(f"{stage.algorithm} samples no responses: remove rollout ({given})")
        return
    check_engine(stage.rollout)
    if not stage.rollout.max_staleness:
        return
    if algorithm is None:
        raise ConfigError("a collect stage trains nothing: remove rollout.max_staleness")
    if any(spec.builtin == HUMAN for spec in stage.reward):
        raise ConfigError(f"{HUMAN} judges in rounds: remove rollout.max_staleness")
    assert issubclass(algorithm, OnPolicy)
    problem = algorithm.stale_problem(settings)
    if problem is not None:
        raise ConfigError(f"rollout.max_staleness: {problem}")


def _check_environment(stage: StageSpec, base: Path) -> None:
    """It exists, and the stage can play it."""
    spec = stage.environment
    if spec is None:
        return
    if stage.algorithm == COLLECT or find_algorithm(stage.algorithm).data != "prompts":
        raise ConfigError(f"{stage.algorithm} plays no episodes; remove environment")
    if any(reward.builtin == HUMAN for reward in stage.reward):
        raise ConfigError(f"{HUMAN} judges answers, not episodes: remove it or environment")
    if stage.rollout.max_staleness:
        raise ConfigError(
            "episodes are not sampled ahead of training: remove rollout.max_staleness, or the "
            "environment"
        )
    if any(text.as_text for text in [*stage.data, *stage.eval_data]):
        raise ConfigError("an environment needs conversations: remove as_text from the data")
    if any(reward.label == spec.label for reward in stage.reward):
        raise ConfigError(
            f"a reward has the environment's name, {spec.label!r}; give it another: name: ..."
        )
    environment_factory(spec.name, spec.options, base)


def _check_people(stage: StageSpec) -> None:
    """People judge the responses of each round, alone, and nothing else."""
    queued = [spec for spec in stage.reward if spec.builtin == HUMAN]
    if queued and (len(stage.reward) > 1 or queued[0].weight != 1.0):
        raise ConfigError(f"{HUMAN} judges alone, with weight 1; observe other rewards instead")
    if any(spec.builtin == HUMAN for spec in stage.observe):
        raise ConfigError(f"{HUMAN} cannot be observed: it would stop the run; make it the reward")
    if queued and (stage.holdout or stage.eval_data):
        raise ConfigError(
            f"people ({HUMAN}) judge the rounds, not held-out prompts: remove holdout and "
            "eval_data, and let the recipe's compare look at the result"
        )


def _check_rewards(
    rewards: Sequence[RewardSpec], recipe: Recipe, position: int, run: RunFolder, base: Path
) -> None:
    """Every reward exists: a file that imports, a folder, or an earlier reward-model stage."""
    earlier = {s.name: s.algorithm for s in recipe.stages[:position]}
    for reward in rewards:
        if reward.function is not None:
            function_reward(reward.function, base, reward.options, reward.label)
        if reward.builtin is not None:
            one_reward(reward, base=base, load=load_reward_model)
        if reward.model is None:
            continue
        if reward.model in earlier:
            if earlier[reward.model] != "reward_model":
                raise ConfigError(
                    f"reward {reward.model!r} is a stage that trains no reward model "
                    f"(it is {earlier[reward.model]})"
                )
        elif reward.model in {s.name for s in recipe.stages}:
            raise ConfigError(f"reward {reward.model!r} is a stage that comes later")
        else:
            _check_reward_folder(reward_folder(recipe, run, base, reward.model))


def _check_reward_folder(folder: Path) -> None:
    for member in sorted(folder.glob("member-*")) or [folder]:
        keys: set[str] = set()
        for file in weight_files(member):
            with reading(file), safe_open(file, "pt") as tensors:
                keys |= set(tensors.keys())
        if "score.weight" not in keys:
            raise ModelError(f"{member} is not a reward model: its weights have no score.weight")


def _check_sources(specs: Sequence[DataSpec], recipe: Recipe, position: int, base: Path) -> None:
    """Files are there, and stages that write data come earlier."""
    collecting = [s.name for s in recipe.stages if s.algorithm == COLLECT]
    earlier = [s.name for s in recipe.stages[:position]]
    for spec in specs:
        name = spec.path.removeprefix("stage:")
        if name == spec.path:
            check_source(spec, base)
        elif name not in collecting:
            known = ", ".join(collecting) or "none"
            raise ConfigError(f"data {spec.path!r}: no such collect stage; there are: {known}")
        elif name not in earlier:
            raise ConfigError(f"data {spec.path!r}: that stage comes later")


def check_compare(recipe: Recipe, run: RunFolder, base: Path) -> None:
    """Check the comparison; see :func:`check_recipe`."""
    spec = recipe.compare
    if spec is None:
        return
    rollout = spec.rollout
    if rollout.engine != "torch" or rollout.url or rollout.options or rollout.max_staleness:
        raise ConfigError(
            "rollout: the comparison samples with the torch engine, one policy after the other; "
            "remove engine, url, options and max_staleness"
        )
    after = len(recipe.stages)
    if any(reward.builtin == HUMAN for reward in spec.rewards):
        raise ConfigError(f"{HUMAN} judges a stage's rounds and cannot be a column here; remove it")
    check_labels(spec.rewards, ())
    _check_rewards(spec.rewards, recipe, after, run, base)
    _check_sources(spec.prompts, recipe, after, base)
    names = ["base", *(stage.name for stage in policy_stages(recipe))]
    if spec.reference is not None and spec.reference not in names:
        raise ConfigError(
            f"reference {spec.reference!r} is no policy; there are {', '.join(names)}"
        )
