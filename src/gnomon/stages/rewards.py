"""What is checked of a stage's rewards beforehand: their names, and whether they can judge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gnomon.algorithms.base import EncodedPrompt
from gnomon.errors import ConfigError
from gnomon.judges.build import HUMAN, one_judge
from gnomon.judges.protocol import judged
from gnomon.models.save import load_reward_model
from gnomon.recipe.schema import RewardSpec, StageSpec
from gnomon.records import Group, Message, Response

RESERVED = (
    *("reward", "kl", "kl_k3", "length", "finished", "loss", "entropy", "beta", "lr", "step"),
    *("reward_std", "reward_errors", "grad_norm", "temperature", "mismatch", "iteration"),
    *("policy_loss", "value_loss", "clip_fraction", "update_kl", "seconds", "text_loss"),
    *("reward_best", "reward_worst", "reward_kept", "zero_spread", "pairs", "ties_dropped"),
    *("prompts_used", "replayed", "kept", "margin", "accuracy", "displacement", "nll"),
    *("groups_trained", "prompts_sampled", "solved", "unsolved", "clip_low", "clip_high"),
    *("shaped_reward", "reward_std_in_group", "length_correct", "length_incorrect"),
    *("staleness", "rollout_wait"),
    *("return", "turns", "tool_calls", "tool_errors", "episode_tokens"),
)
"""Names of metrics that a reward's own column must not take."""


def check_labels(rewards: Sequence[RewardSpec], observers: Sequence[RewardSpec]) -> None:
    """Every reward of a stage is logged under a name of its own.

    Raises:
        ConfigError: a name that is used twice, or that is another metric's.
    """
    for specs in (rewards, observers):
        labels = [spec.label for spec in specs]
        for label in labels:
            if not label or labels.count(label) > 1:
                raise ConfigError(f"two rewards are called {label!r}; give each a name: name: ...")
    for spec in observers:
        if spec.label in RESERVED:
            raise ConfigError(
                f"an observed reward cannot be called {spec.label!r}, which is a metric already; "
                f"give it another name: name: my_{spec.label}"
            )


TRIED = 8
TRIED_CODE = 2
"""Prompts that a reward is tried on; a program takes a sandbox each."""
ANSWER = "0"


def check_judging(stage: StageSpec, prompts: Sequence[EncodedPrompt], base: Path) -> None:
    """Check that each builtin reward finds in the prompts what it needs (an answer, tests).

    Rewards of the recipe's own and reward models are not called.

    Raises:
        ConfigError: it fails on more prompts than ``max_reward_errors`` allows.
    """
    for spec in [*stage.reward, *stage.observe]:
        if spec.builtin not in (None, HUMAN):
            tried = prompts[: TRIED_CODE if spec.builtin == "code" else TRIED]
            _check(spec, tried, base, stage.max_reward_errors)


def _check(spec: RewardSpec, prompts: Sequence[EncodedPrompt], base: Path, allowed: float) -> None:
    judge = one_judge(spec, base=base, load=load_reward_model)
    groups = [
        Group(
            p.prompt,
            (Response((Message("assistant", ANSWER),), ids=p.ids[-1:]),),
            prompt_ids=p.ids,
        )
        for p in prompts
    ]
    scores = [score for judgement in judged(judge, groups) for score in judgement.scores]
    said = [score.error for score in scores if score.error is not None]
    errors = [error for error in said if "took longer" not in error]  # a slow machine, not the data
    if groups and len(errors) > allowed * len(groups):
        raise ConfigError(
            f"reward {spec.label!r} cannot judge {len(errors)} of {len(groups)} prompts it was "
            f"tried on: {errors[0]}"
        )
