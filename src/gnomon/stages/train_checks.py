"""What a stage that trains refuses before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gnomon.algorithms.base import Algorithm
from gnomon.algorithms.offline_settings import TextMixSettings
from gnomon.algorithms.on_policy_settings import OnPolicySettings
from gnomon.errors import ConfigError
from gnomon.plugins import did_you_mean
from gnomon.recipe.rollout import RolloutSpec
from gnomon.recipe.schema import StageSpec
from gnomon.recipe.training import MonitorSpec
from gnomon.stages.evaluate import check_suites
from gnomon.stages.saved import check_averages


def check_training(spec: StageSpec, settings: Any, algorithm: type[Algorithm], base: Path) -> None:
    """Refuse what a stage that trains would leave unused, or cannot do.

    Args:
        settings: of the method.
        base: the recipe's own folder.

    Raises:
        ConfigError: there is such a thing.
    """
    samples = algorithm.data == "prompts"
    if not samples and (spec.reward or spec.observe):
        raise ConfigError(f"{spec.algorithm} trains on its data and uses no reward; remove it")
    if samples and not isinstance(settings, OnPolicySettings):
        raise ConfigError(
            f"{spec.algorithm} samples the policy, so its Settings must derive from "
            "gnomon.algorithms.on_policy_settings.OnPolicySettings"
        )
    if samples and spec.reward and not algorithm.rewarded:
        raise ConfigError(
            f"{spec.algorithm} learns from no reward: remove reward, or move it to observe, "
            "where it is logged"
        )
    least = algorithm.least_samples(settings)
    if samples and spec.rollout.samples < least:
        raise ConfigError(
            f"{spec.algorithm} compares responses to the same prompt: set rollout.samples to "
            f"at least {least} (it is {spec.rollout.samples})"
        )
    _check_rollout(spec, settings, algorithm)
    _check_peak(spec, samples)
    mix = isinstance(settings, TextMixSettings) and settings.pretraining_coef
    if mix and not spec.pretraining:
        raise ConfigError("settings.pretraining_coef needs text: give pretraining: [path: ...]")
    if spec.pretraining and not mix:
        raise ConfigError(
            "pretraining text is given but would not be used: set settings.pretraining_coef "
            "above 0, or remove it"
        )
    if spec.train.evals:
        _check_evals(spec, algorithm, base)
    check_averages(spec, algorithm.produces, settings)
    if spec.normalise_on and algorithm.produces != "reward_model":
        raise ConfigError(f"normalise_on is for reward models, and this is {spec.algorithm}")


def _check_evals(spec: StageSpec, algorithm: type[Algorithm], base: Path) -> None:
    if algorithm.produces != "policy":
        raise ConfigError(
            f"train.evals measure a policy, and {spec.algorithm} trains a "
            f"{algorithm.produces.replace('_', ' ')}: remove them"
        )
    check_suites(spec.train.evals, base)


def _check_rollout(spec: StageSpec, settings: Any, algorithm: type[Algorithm]) -> None:
    """Check that the method can learn from what is sampled ahead; refuse unused settings."""
    if algorithm.data != "prompts":
        plain = RolloutSpec()
        given = ", ".join(k for k, v in spec.rollout if v != getattr(plain, k))
        if given:
            raise ConfigError(f"{spec.algorithm} samples no responses: remove rollout ({given})")
        if spec.environment is not None:
            raise ConfigError(f"{spec.algorithm} plays no episodes; remove environment")
        return
    only = algorithm.only_temperature(settings)
    for key in ("temperature", "final_temperature"):
        asked = getattr(spec.rollout, key)
        if only is not None and asked is not None and asked != only[0]:
            raise ConfigError(f"rollout.{key} is {asked:g}, and {only[1]}: set it to {only[0]:g}")
    if spec.rollout.max_staleness:
        problem = algorithm.refuses_older_weights(settings)
        if problem is not None:
            raise ConfigError(f"rollout.max_staleness: {problem}")


def _check_peak(spec: StageSpec, samples: bool) -> None:
    """Check that there is a held-out judge whose peak can be seen; refuse unused monitors."""
    if not samples and spec.train.monitor != MonitorSpec():
        raise ConfigError(f"{spec.algorithm} samples no responses to look at: remove train.monitor")
    peak = spec.train.stop_at_peak
    if peak is None:
        return
    observed = [reward.label for reward in spec.observe]
    if peak.judge not in observed:
        near = did_you_mean(peak.judge, observed, "the stage observes")
        raise ConfigError(
            f"train.stop_at_peak: judge {peak.judge!r} is not an observed reward (a peak of "
            f"what is trained on says nothing); {near if observed else 'give it in observe'}"
        )
    if not (spec.holdout or spec.eval_data):
        raise ConfigError("train.stop_at_peak needs held-out prompts: give holdout or eval_data")
    if not spec.train.eval_every:
        raise ConfigError(
            "train.stop_at_peak looks at evaluations during training: set train.eval_every"
        )
