"""Check who judges: rewards that exist, may be asked so, and are logged under their own names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from safetensors import safe_open

from gnomon.errors import ConfigError, ModelError
from gnomon.judges.build import AI, ASK_PEOPLE, one_judge
from gnomon.judges.function import function_reward
from gnomon.judges.workers import check_workers
from gnomon.models.load import reading, weight_files
from gnomon.models.save import load_reward_model
from gnomon.recipe.schema import Recipe, RewardSpec
from gnomon.runs.folder import RunFolder
from gnomon.stages.engines import check_engine
from gnomon.stages.names import produces, reward_folder
from gnomon.stages.own_code import own_function
from gnomon.stages.stage import Stage


def check_judging(stage: Stage) -> None:
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
        check_several(spec.rollout.samples)


def compares(reward: RewardSpec) -> bool:
    """Whether a reward is an AI judge that compares answers."""
    return reward.builtin == AI and reward.options.get("mode", "pairs") in ("pairs", "ranking")


def check_several(samples: int) -> None:
    if samples < 2:
        raise ConfigError(
            f"reward {AI} compares answers to the same prompt: set rollout.samples to at least 2, "
            "or its options to mode: score, rubric or approval"
        )


def check_rewards(
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
