"""Check what can be checked without reading a recipe's data: settings, models, rewards, references.

A run checks all of it before its first stage, so that a misspelt setting of the last stage is not
found out after hours of training the first.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from gnomon.agents.load import environment_factory
from gnomon.algorithms.collect_settings import COLLECT
from gnomon.data.encode import Encoder
from gnomon.data.formats import READABLE_AS
from gnomon.errors import ConfigError, GnomonError, ModelError
from gnomon.judges.build import ASK_PEOPLE
from gnomon.models.load import fetch, read_model, weight_files
from gnomon.plan.ranges import check_declared
from gnomon.recipe.environment import EnvironmentSpec
from gnomon.recipe.schema import DataSpec, Recipe, RewardSpec
from gnomon.runs.folder import RunFolder
from gnomon.stages.encoder import context_of, recipe_encoder
from gnomon.stages.gate_names import check_gates
from gnomon.stages.machine_checks import check_tools
from gnomon.stages.names import check_specs, policy_stages, stage_data
from gnomon.stages.other_models import check_compared_tokens, check_other_models
from gnomon.stages.reward_checks import (
    check_judging,
    check_labels,
    check_rewards,
    check_several,
    compares,
)
from gnomon.stages.sources import check_source, resolve_path
from gnomon.stages.stage import Stage, open_stage
from gnomon.tasks.sources import BUILTIN, GENERATED


def check_recipe(recipe: Recipe, run: RunFolder, base: Path) -> None:
    """Check every stage and the comparison.

    Raises:
        ConfigError: everything that is wrong, one problem a line.
    """
    problems: list[str] = []
    try:
        check_tools(recipe, base)
    except GnomonError as error:
        problems.append(str(error))
    for stage in recipe.stages:
        if run.stage(stage.name).done():
            continue
        try:
            check_stage(open_stage(recipe, stage, run, base))
        except GnomonError as error:
            problems.append(f"stage {stage.name!r}: {error}")
    try:
        check_compare(recipe, run, base)
    except GnomonError as error:
        problems.append(f"compare: {error}")
    if not problems:  # what a stage can measure is known once it is all right itself
        check_gates(recipe, run, base)
    if problems:
        raise ConfigError("\n".join(problems))


def check_stage(stage: Stage, code: bool = True) -> None:
    """Check one stage; see :func:`check_recipe`.

    Args:
        code: whether the Python that the recipe names may be imported.
    """
    spec, recipe = stage.spec, stage.recipe
    if stage.reads_model:
        _check_start(stage)
    check_declared(spec.on_purpose)
    stage.check()
    check_other_models(stage)
    check_judging(stage)
    if spec.holdout and spec.eval_data:
        raise ConfigError("give either holdout or eval_data, not both")
    _check_environment(stage, code)
    _check_kinds(stage)
    position = [s.name for s in recipe.stages].index(spec.name)
    check_labels(spec.reward, spec.observe, stage.metrics())
    check_rewards([*spec.reward, *spec.observe], recipe, position, stage.run, stage.base, code)
    if stage.reads_data and not spec.data:
        raise ConfigError("it has no data: give data: [path: ...]")
    _check_sources(stage_data(spec), recipe, position, stage.base)
    if stage.reads_model:
        stage_encoder(stage)


def _check_start(stage: Stage) -> None:
    recipe, start = stage.recipe, stage.start_model()
    folders = {str(stage.run.stage(s.name).model): s for s in recipe.stages}
    if start in folders:
        earlier = folders[start]
        if earlier not in policy_stages(recipe, stage.base):
            raise ConfigError(
                f"it starts from {earlier.name!r}, which trains no policy (it is "
                f"{earlier.algorithm})"
            )
        return
    try:
        folder = fetch(start)
    except ModelError as error:
        named = stage.spec.from_
        near = difflib.get_close_matches(start, [s.name for s in recipe.stages], n=1)
        if named is None or not near:
            raise
        raise ConfigError(f"from {start!r}: did you mean the stage {near[0]!r}? {error}") from error
    weight_files(folder)
    read_model(folder)


def stage_encoder(stage: Stage) -> Encoder:
    """The encoder of a stage that has not loaded its model yet.

    Raises:
        ConfigError: prompts and responses cannot have the lengths that are asked for.
    """
    config, tokenizer = read_model(stage.origin)
    new_tokens = stage.spec.response_tokens if stage.samples else 0
    return recipe_encoder(
        stage.recipe, tokenizer, context=context_of(config), new_tokens=new_tokens
    )


def _check_environment(stage: Stage, code: bool) -> None:
    """Check that the environment exists and the stage can play it."""
    spec, place = stage.spec, stage.spec.environment
    if place is None:
        return
    if spec.rollout.max_staleness:
        raise ConfigError(
            "episodes are not sampled ahead of training: remove rollout.max_staleness, or the "
            "environment"
        )
    _check_place(place, [*spec.data, *spec.eval_data], spec.reward, stage.base, code)


def _check_place(
    place: EnvironmentSpec,
    data: Sequence[DataSpec],
    rewards: Sequence[RewardSpec],
    base: Path,
    code: bool,
) -> None:
    """Check that an environment exists, and that data and rewards fit it."""
    if any(text.as_text for text in data):
        raise ConfigError("an environment needs conversations: remove as_text from the data")
    if any(reward.label == place.label for reward in rewards):
        raise ConfigError(
            f"a reward has the environment's name, {place.label!r}; give it another: name: ..."
        )
    if code or ":" not in place.name:
        environment_factory(place.name, place.options, base)


def _check_kinds(stage: Stage) -> None:
    """Check that built-in data is of the kind that the stage learns from."""
    spec, kind = stage.spec, stage.data_kind
    wanted: list[tuple[DataSpec, str]] = [(one, kind) for one in [*spec.data, *spec.eval_data]]
    wanted += [(one, "text") for one in spec.pretraining]
    wanted += [(one, "demonstrations") for one in spec.normalise_on]
    for one, needed in wanted:
        where, colon, what = one.path.partition(":")
        if where == "stage" and needed in ("preferences", "rankings"):
            _check_compares(stage, what, needed)
        if not colon or where not in (*BUILTIN, *GENERATED):
            continue
        holds = "demonstrations" if what.endswith("demonstrations") else "prompts"
        holds = {"text": "text", "rankings": "rankings", "thumbs": "unpaired"}.get(what, holds)
        if needed == "text" and holds == "demonstrations":
            continue
        if holds != needed and needed not in READABLE_AS.get(holds, ()):
            hint = "; take tunnel:" + needed if needed in ("demonstrations", "text") else ""
            raise ConfigError(f"data {one.path!r} holds {holds}, and {needed} are needed{hint}")


def _check_compares(stage: Stage, source: str, needed: str) -> None:
    """Check that a collect stage keeps more than the best response where those are compared."""
    for other in stage.recipe.stages:
        keep = other.settings.get("keep")
        if other.name == source and other.algorithm == COLLECT and keep == "best":
            raise ConfigError(
                f"data 'stage:{source}' holds the best responses alone (keep: best), and {needed} "
                f"are needed: set {source}.settings.keep to all or best-worst"
            )


def _check_sources(specs: Sequence[DataSpec], recipe: Recipe, position: int, base: Path) -> None:
    """Check that sources exist, and that stages that write data come earlier."""
    check_specs(specs, recipe, position, base)
    for spec in specs:
        if not spec.path.startswith("stage:"):
            check_source(spec, base)
            _check_hub(spec, base)


def _check_hub(spec: DataSpec, base: Path) -> None:
    """Check that the package for hub ids is there for a source neither here nor built in."""
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
    apart = rollout.engine != "torch" or rollout.url or rollout.workers
    if apart or rollout.options or rollout.max_staleness:
        raise ConfigError(
            "rollout: the comparison samples with the torch engine, one policy after the other; "
            "remove engine, url, workers, options and max_staleness"
        )
    if rollout.final_temperature is not None and not run.path.exists():  # else begun before
        raise ConfigError(
            "rollout.final_temperature: the comparison trains nothing, so that there is no end for "
            "it; set temperature"
        )
    after = len(recipe.stages)
    for reward in spec.rewards:
        if reward.builtin in ASK_PEOPLE:
            raise ConfigError(
                f"{reward.builtin} judges a stage's rounds and cannot be a column here; remove it"
            )
    if any(map(compares, spec.rewards)):
        check_several(rollout.samples)
    check_labels(spec.rewards, (), ())
    if spec.environment is not None:
        _check_place(spec.environment, spec.prompts, spec.rewards, base, code)
    config, tokenizer = read_model(recipe.model)
    recipe_encoder(recipe, tokenizer, context=context_of(config), new_tokens=spec.response_tokens)
    policies = policy_stages(recipe, base)
    check_compared_tokens(recipe, policies, tokenizer, base)
    check_rewards(spec.rewards, recipe, after, run, base, code)
    _check_sources(spec.prompts, recipe, after, base)
    names = ["base", *(stage.name for stage in policies)]
    if spec.reference is not None and spec.reference not in names:
        raise ConfigError(
            f"reference {spec.reference!r} is not a policy; the policies are {', '.join(names)}"
        )
