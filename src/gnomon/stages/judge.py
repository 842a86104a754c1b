"""Whether the builtin rewards of a stage can judge its prompts: tried on a few of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gnomon.algorithms.rollouts import EncodedPrompt
from gnomon.errors import ConfigError
from gnomon.judges.builtins import HUMAN
from gnomon.judges.guard import score_safely
from gnomon.judges.protocol import Sample
from gnomon.models.save import load_reward_model
from gnomon.recipe.schema import RewardSpec, StageSpec
from gnomon.stages.rewards import one_reward

TRIED = 8
TRIED_CODE = 2
"""Prompts that a reward is tried on; a program takes a sandbox each."""
ANSWER = "0"


def check_judging(stage: StageSpec, prompts: Sequence[EncodedPrompt], base: Path) -> None:
    """See that each builtin reward finds in the prompts what it needs (a reference answer, tests).

    Rewards of the recipe's own and reward models are not called.

    Raises:
        ConfigError: it fails on more prompts than ``max_reward_errors`` allows.
    """
    for spec in [*stage.reward, *stage.observe]:
        if spec.builtin not in (None, HUMAN):
            tried = prompts[: TRIED_CODE if spec.builtin == "code" else TRIED]
            _check(spec, tried, base, stage.max_reward_errors)


def _check(spec: RewardSpec, prompts: Sequence[EncodedPrompt], base: Path, allowed: float) -> None:
    reward = one_reward(spec, base=base, load=load_reward_model)
    samples = [Sample(p.prompt, ANSWER, p.ids, p.ids[-1:], True) for p in prompts]
    said = [score.error or "" for score in score_safely(reward, samples) if score.value is None]
    errors = [error for error in said if "took longer" not in error]  # a slow machine, not the data
    if samples and len(errors) > allowed * len(samples):
        raise ConfigError(
            f"reward {spec.label!r} cannot judge {len(errors)} of {len(samples)} prompts it was "
            f"tried on: {errors[0]}"
        )
