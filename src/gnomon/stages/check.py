"""Check what can be checked without reading a recipe's data: settings, models, rewards, references.

A run checks all of it before its first stage, so that a misspelt setting of the last stage is not
found out after hours of training the first.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import safe_open

from gnomon.agents.load import environment_factory
from gnomon.algorithms.collect_settings import COLLECT
from gnomon.data.encode import Encoder
from gnomon.data.formats import READABLE_AS
from gnomon.errors import ConfigError, GnomonError, ModelError
from gnomon.judges.build import AI, ASK_PEOPLE, one_judge
from gnomon.judges.function import function_reward
from gnomon.judges.workers import check_workers
from gnomon.models.load import fetch, read_model, reading, weight_files
from gnomon.models.save import load_reward_model
from gnomon.plan.ranges import check_declared
from gnomon.plugins import is_own
from gnomon.recipe.schema import DataSpec, EnvironmentSpec, Recipe, RewardSpec
from gnomon.runs.folder import RunFolder
from gnomon.stages.engines import check_engine
from gnomon.stages.gate_names import check_gates
from gnomon.stages.names import (
    check_specs,
    policy_stages,
    produces,
    reward_folder,
    stage_data,
    stage_evals,
)
from gnomon.stages.other_models import check_compared_tokens, check_other_models
from gnomon.stages.sources import (
    check_source,
    context_of,
    recipe_encoder,
    resolve_path,
)
from gnomon.stages.stage import Stage, open_stage, pick_device, recipe_precision
from gnomon.tasks.sources import BUILTIN, GENERATED
from gnomon.training.callbacks import callback_maker
from gnomon.training.sinks import check_sinks


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


def check_machine(recipe: Recipe) -> None:
    """Check the device and the place of the run's folder.

    Raises:
        ConfigError: either cannot be used, with the cure; both are listed, one a line.
    """
    problems: list[str] = []
    try:
        recipe_precision(recipe)
    except ConfigError as error:
        problems.append(str(error))
    problem = RunFolder(recipe).place_problem()
    if problem is not None:
        problems.append(f"output: {problem}; choose another place (output=FOLDER)")
    if problems:
        raise ConfigError("\n".join(problems))


def check_tools(recipe: Recipe, base: Path, code: bool = True) -> None:
    """Check that the device is available, the packages of the sinks are installed and the callbacks
    are there.

    Args:
        code: whether the Python that the recipe names may be imported.

    Raises:
        ConfigError: one is not.
    """
    recipe_precision(recipe)
    check_order(recipe, pick_device(recipe.device))
    check_placement(recipe)
    for spec in recipe.callbacks if code else ():
        callback_maker(spec.callback, spec.options, base)
    if recipe.sinks:
        check_sinks(recipe.sinks)


def check_order(recipe: Recipe, device: torch.device) -> None:
    """Check that nothing uses the GPU beside a backward pass that adds up in a fixed order.

    Raises:
        ConfigError: a stage samples in a thread of its own meanwhile.
    """
    ahead = [stage.name for stage in recipe.stages if stage.rollout.max_staleness]
    if recipe.deterministic and ahead and device.type == "cuda":
        raise ConfigError(
            f"deterministic: stage {ahead[0]!r} samples and judges while it trains "
            "(rollout.max_staleness), and torch's switch to fixed orders is one for the whole "
            "process: what samples would run under it now and then. Remove one of the two"
        )


def check_placement(recipe: Recipe) -> None:
    """Check that what Ray is to place is there, and Ray too.

    Raises:
        ConfigError: it is not.
    """
    if recipe.ray is None:
        return
    if not any(
        [*(s.rollout.workers for s in recipe.stages), *(r.workers for r in _judges(recipe))]
    ):
        raise ConfigError(
            "ray (--ray) places workers, and neither a rollout nor a reward asks for any: set "
            "STAGE.rollout.workers=2, say"
        )
    if find_spec("ray") is None:
        from gnomon.workers.cluster import import_ray

        import_ray()


def _judges(recipe: Recipe) -> list[RewardSpec]:
    """Every reward of a recipe, observed and compared ones among them."""
    found = [r for s in recipe.stages for r in (*s.reward, *s.observe)]
    return found + (recipe.compare.rewards if recipe.compare is not None else [])


def own_code(recipe: Recipe) -> list[str]:
    """The author's Python that a recipe runs: methods, reward functions, verifiers, suites,
    environments and callbacks."""
    named = [s.algorithm for s in recipe.stages if is_own(s.algorithm)]
    named += [function for r in _judges(recipe) if (function := own_function(r)) is not None]
    suites = [e.suite for s in recipe.stages for e in stage_evals(s)]
    named += [suite for suite in suites if is_own(suite)]
    played = [s.environment for s in recipe.stages]
    played += [recipe.compare.environment] if recipe.compare is not None else []
    places = [place.name for place in played if place is not None]
    named += [spec.callback for spec in recipe.callbacks]
    return list(dict.fromkeys([*named, *(name for name in places if ":" in name)]))


def own_function(reward: RewardSpec) -> str | None:
    """The function of the recipe's author that a reward runs, in this process or a verifier's."""
    if reward.builtin == "verifier":
        return str(reward.options.get("function", "")) or None
    return reward.function


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
    _check_judging(stage)
    if spec.holdout and spec.eval_data:
        raise ConfigError("give either holdout or eval_data, not both")
    _check_environment(stage, code)
    _check_kinds(stage)
    position = [s.name for s in recipe.stages].index(spec.name)
    check_labels(spec.reward, spec.observe, stage.metrics())
    _check_rewards([*spec.reward, *spec.observe], recipe, position, stage.run, stage.base, code)
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


def _check_judging(stage: Stage) -> None:
    """Check that the engine is available, what is sampled is judged, and people judge alone."""
    spec = stage.spec
    if not stage.samples:
        return
    if not stage.judged:
        raise ConfigError(
            "it samples its own responses and needs a reward: reward: [{model: STAGE}], "
            "[{function: file.py:name}] or [{builtin: gold}], or "
            + ("an environment" if stage.trains else "settings.labellers")
        )
    check_engine(spec.rollout, spec.lora.rank if spec.lora is not None else 0)
    queued = [reward for reward in spec.reward if reward.builtin in ASK_PEOPLE]
    asks = queued[0].builtin if queued else ""
    if queued and (len(spec.reward) > 1 or queued[0].weight != 1.0):
        raise ConfigError(f"{asks} judges alone, with weight 1; observe other rewards instead")
    for reward in spec.observe:
        if reward.builtin in ASK_PEOPLE:
            raise ConfigError(
                f"{reward.builtin} cannot be observed: it would stop the run; make it the reward"
            )
    if queued and (spec.holdout or spec.eval_data):
        raise ConfigError(
            f"people ({asks}) judge the rounds, not held-out prompts: remove holdout and "
            "eval_data, and let the recipe's compare look at the result"
        )
    if queued and spec.rollout.max_staleness:
        raise ConfigError(f"{asks} judges in rounds: remove rollout.max_staleness")
    if queued and spec.environment is not None:
        raise ConfigError(f"{asks} judges answers, not episodes: remove it or environment")
    if any(map(compares, spec.reward)) and (spec.holdout or spec.eval_data):
        raise ConfigError(
            f"reward {AI} compares answers to the same prompt, and held-out prompts are answered "
            "once: set its options to mode: score, rubric or approval, or remove holdout and "
            "eval_data"
        )
    if any(map(compares, [*spec.reward, *spec.observe])):
        _check_several(spec.rollout.samples)


def compares(reward: RewardSpec) -> bool:
    """Whether a reward is an AI judge that compares answers."""
    return reward.builtin == AI and reward.options.get("mode", "pairs") in ("pairs", "ranking")


def _check_several(samples: int) -> None:
    if samples < 2:
        raise ConfigError(
            f"reward {AI} compares answers to the same prompt: set rollout.samples to at least 2, "
            "or its options to mode: score, rubric or approval"
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


def _check_rewards(
    rewards: Sequence[RewardSpec],
    recipe: Recipe,
    position: int,
    run: RunFolder,
    base: Path,
    code: bool,
) -> None:
    """Check that every reward is a file that imports, a folder, or an earlier reward-model
    stage."""
    earlier = {s.name: s for s in recipe.stages[:position]}
    for reward in rewards:
        check_workers(reward)
        if reward.function is not None and code:
            function_reward(reward.function, base, reward.options, reward.label)
        elsewhere = reward.workers and recipe.ray  # where there may be a sandbox
        tried = reward.builtin is not None and not elsewhere
        if tried and (code or own_function(reward) is None):
            one_judge(reward, base=base, load=load_reward_model)
        if reward.model is None:
            continue
        if reward.model in earlier:
            if produces(earlier[reward.model], base) != "reward_model":
                raise ConfigError(
                    f"reward {reward.model!r} is a stage that trains no reward model "
                    f"(it is {earlier[reward.model].algorithm})"
                )
        elif reward.model in {s.name for s in recipe.stages}:
            raise ConfigError(f"reward {reward.model!r} is a stage that comes later")
        else:
            _check_reward_folder(reward_folder(recipe, run, base, reward.model))


def check_labels(
    rewards: Sequence[RewardSpec], observers: Sequence[RewardSpec], metrics: Collection[str]
) -> None:
    """Check that every reward of a stage is logged under a name of its own.

    Args:
        metrics: what the stage logs anyway.

    Raises:
        ConfigError: a name that is used twice, or that is another metric's.
    """
    for specs in (rewards, observers):
        labels = [spec.label for spec in specs]
        for label in labels:
            if not label or labels.count(label) > 1:
                raise ConfigError(f"two rewards are called {label!r}; give each a name: name: ...")
    for spec in observers:
        if spec.label in metrics:
            raise ConfigError(
                f"an observed reward cannot be called {spec.label!r}, which is a metric already; "
                f"give it another name: name: my_{spec.label}"
            )


def _check_reward_folder(folder: Path) -> None:
    for member in sorted(folder.glob("member-*")) or [folder]:
        keys: set[str] = set()
        for file in weight_files(member):
            with reading(file), safe_open(file, "pt") as tensors:
                keys |= set(tensors.keys())
        if "score.weight" not in keys:
            raise ModelError(f"{member} is not a reward model: its weights have no score.weight")


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
        _check_several(rollout.samples)
    check_labels(spec.rewards, (), ())
    if spec.environment is not None:
        _check_place(spec.environment, spec.prompts, spec.rewards, base, code)
    config, tokenizer = read_model(recipe.model)
    recipe_encoder(recipe, tokenizer, context=context_of(config), new_tokens=spec.response_tokens)
    policies = policy_stages(recipe, base)
    check_compared_tokens(recipe, policies, tokenizer, base)
    _check_rewards(spec.rewards, recipe, after, run, base, code)
    _check_sources(spec.prompts, recipe, after, base)
    names = ["base", *(stage.name for stage in policies)]
    if spec.reference is not None and spec.reference not in names:
        raise ConfigError(
            f"reference {spec.reference!r} is not a policy; the policies are {', '.join(names)}"
        )
