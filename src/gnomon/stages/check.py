"""What can be said of a recipe without reading its data: settings, models, rewards, references.

A run checks all of it before its first stage, so that a misspelt setting of the last stage is not
found out after hours of training the first.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import safe_open

from gnomon.agents.load import environment_factory
from gnomon.algorithms.base import Algorithm
from gnomon.algorithms.collect_settings import COLLECT
from gnomon.algorithms.on_policy import OnPolicy
from gnomon.algorithms.registry import find_algorithm
from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError, GnomonError, ModelError
from gnomon.judges.builtins import HUMAN
from gnomon.judges.function import function_reward
from gnomon.models.load import fetch, read_model, reading, weight_files
from gnomon.models.save import load_reward_model
from gnomon.recipe.schema import DataSpec, Recipe, RewardSpec, StageSpec
from gnomon.runs.folder import RunFolder
from gnomon.stages.engines import check_engine
from gnomon.stages.resolve import (
    DATA_KIND,
    pick_device,
    policy_stages,
    resolve_start,
    reward_folder,
    samples_responses,
    stage_settings,
)
from gnomon.stages.rewards import check_labels, one_reward
from gnomon.stages.settings import check_specs, stage_data
from gnomon.stages.sources import (
    BUILTIN,
    check_source,
    context_of,
    recipe_encoder,
    resolve_path,
)
from gnomon.tasks.generated import GENERATED
from gnomon.train.sinks import check_sinks


def check_recipe(recipe: Recipe, run: RunFolder, base: Path) -> None:
    """Check every stage and the comparison.

    Raises:
        ConfigError: everything that is wrong, one problem a line.
    """
    problems: list[str] = []
    try:
        check_tools(recipe)
    except GnomonError as error:
        problems.append(str(error))
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


def check_tools(recipe: Recipe) -> None:
    """See that the device is there, and the packages of the sinks.

    Raises:
        ConfigError: one is not.
    """
    pick_device(recipe.device)
    check_sinks(recipe.sinks)


def own_code(recipe: Recipe) -> list[str]:
    """The Python of its author's that a recipe runs: reward functions and environments."""
    rewards = [r for s in recipe.stages for r in (*s.reward, *s.observe)]
    rewards += recipe.compare.rewards if recipe.compare is not None else []
    named = [r.function for r in rewards if r.function is not None]
    places = [s.environment.name for s in recipe.stages if s.environment is not None]
    return list(dict.fromkeys([*named, *(name for name in places if ":" in name)]))


def check_stage(
    recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path, code: bool = True
) -> None:
    """Check one stage; see :func:`check_recipe`.

    Args:
        code: whether the Python that the recipe names may be imported.
    """
    stage_settings(stage)
    _check_start(recipe, stage, run)
    _check_sense(stage)
    _check_environment(stage, base, code)
    _check_kinds(stage)
    position = [s.name for s in recipe.stages].index(stage.name)
    check_labels(stage.reward, stage.observe)
    _check_rewards([*stage.reward, *stage.observe], recipe, position, run, base, code)
    if not stage.data:
        raise ConfigError("it has no data: give data: [path: ...]")
    _check_sources(stage_data(stage), recipe, position, base)
    stage_encoder(recipe, stage)


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
    read_model(folder)


def stage_encoder(recipe: Recipe, stage: StageSpec) -> Encoder:
    """The encoder of a stage that has not loaded its model yet.

    Raises:
        ConfigError: prompts and responses cannot have the lengths that are asked for.
    """
    config, tokenizer = read_model(recipe.model)
    new_tokens = stage.response_tokens if samples_responses(stage) else 0
    return recipe_encoder(recipe, tokenizer, context=context_of(config), new_tokens=new_tokens)


def _check_sense(stage: StageSpec) -> None:
    """Refuse what would be left unused without a word."""
    settings = stage_settings(stage)
    algorithm = None if stage.algorithm == COLLECT else find_algorithm(stage.algorithm)
    samples = samples_responses(stage)
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


def _check_environment(stage: StageSpec, base: Path, code: bool) -> None:
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
    if code or ":" not in spec.name:
        environment_factory(spec.name, spec.options, base)


def _check_kinds(stage: StageSpec) -> None:
    """Built-in data is of the kind that the stage learns from."""
    kind = "prompts" if stage.algorithm == COLLECT else find_algorithm(stage.algorithm).data
    wanted: list[tuple[DataSpec, str]] = [(spec, kind) for spec in [*stage.data, *stage.eval_data]]
    wanted += [(spec, "text") for spec in stage.pretraining]
    wanted += [(spec, "demonstrations") for spec in stage.normalise_on]
    for spec, needed in wanted:
        where, colon, what = spec.path.partition(":")
        if not colon or where not in (*BUILTIN, *GENERATED):
            continue
        holds = "demonstrations" if what.endswith("demonstrations") else "prompts"
        holds = "text" if what == "text" else holds
        if holds != needed and (holds, needed) != ("demonstrations", "prompts"):
            needs = DATA_KIND.get(needed, needed)
            hint = "; take tunnel:" + needed if needed in ("demonstrations", "text") else ""
            raise ConfigError(f"data {spec.path!r} holds {holds}, and {needs} are needed{hint}")


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
    rewards: Sequence[RewardSpec],
    recipe: Recipe,
    position: int,
    run: RunFolder,
    base: Path,
    code: bool,
) -> None:
    """Every reward exists: a file that imports, a folder, or an earlier reward-model stage."""
    earlier = {s.name: s.algorithm for s in recipe.stages[:position]}
    for reward in rewards:
        if reward.function is not None and code:
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
    """Sources can be had, and stages that write data come earlier."""
    check_specs(specs, recipe, position, base)
    for spec in specs:
        if not spec.path.startswith("stage:"):
            check_source(spec, base)
            _check_hub(spec, base)


def _check_hub(spec: DataSpec, base: Path) -> None:
    """What is neither here nor built in is a hub id, which needs a package."""
    where = spec.path.partition(":")[0]
    if where in (*BUILTIN, *GENERATED) or isinstance(resolve_path(spec.path, base), Path):
        return
    if find_spec("datasets") is None:
        raise ConfigError(
            f"data {spec.path!r} is not here, and a hub id needs the datasets package: "
            "pip install 'gnomon-rlhf[hub]'"
        )


def check_compare(recipe: Recipe, run: RunFolder, base: Path, code: bool = True) -> None:
    """Check the comparison; see :func:`check_stage`."""
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
    _check_rewards(spec.rewards, recipe, after, run, base, code)
    _check_sources(spec.prompts, recipe, after, base)
    names = ["base", *(stage.name for stage in policy_stages(recipe))]
    if spec.reference is not None and spec.reference not in names:
        raise ConfigError(
            f"reference {spec.reference!r} is no policy; there are {', '.join(names)}"
        )
