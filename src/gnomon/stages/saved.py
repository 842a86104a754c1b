"""What a training stage saves: its method's result, averaged where the recipe asks for it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

from torch import Tensor

from gnomon.algorithms.base import Algorithm, Settings
from gnomon.algorithms.policy_gradient_settings import PolicyGradientSettings
from gnomon.errors import ConfigError
from gnomon.judges.learned import LearnedReward
from gnomon.judges.protocol import Judge
from gnomon.models.average import average_role
from gnomon.models.merge import average_with_start
from gnomon.models.roles import Role
from gnomon.models.save import save_policy, save_reward_model
from gnomon.recipe.schema import StageSpec
from gnomon.recipe.training import TrainSpec
from gnomon.runs.checkpoint import CheckpointStore
from gnomon.stages.stage import Stage


def check_averages(spec: StageSpec, produces: str, settings: Settings) -> None:
    """Refuse to average what is no policy, or an adapter with another.

    Raises:
        ConfigError: it is asked for.
    """
    asked = {
        "average_with_reference": spec.train.average_with_reference > 0,
        "average_checkpoints": spec.train.average_checkpoints > 1,
    }
    for name, given in asked.items():
        if given and produces != "policy":
            raise ConfigError(
                f"train.{name} is for policies, and {spec.algorithm} trains a "
                f"{produces.replace('_', ' ')}: remove it"
            )
    moves = isinstance(settings, PolicyGradientSettings) and settings.sync_reference_alpha < 1
    if moves and spec.lora is not None:
        raise ConfigError(
            "sync_reference_alpha below 1 needs full fine-tuning: the mean of two adapters is not "
            "the adapter of the mean. Remove it, or lora"
        )


def check_checkpoints(train: TrainSpec, iterations: int) -> None:
    """Refuse to average more checkpoints than there will be.

    Raises:
        ConfigError: there will be too few.
    """
    there = math.ceil(iterations / train.checkpoint_every)
    if train.average_checkpoints > there:
        raise ConfigError(
            f"train.average_checkpoints is {train.average_checkpoints}, but {iterations} "
            f"iterations with a checkpoint every {train.checkpoint_every} leave {there}: set "
            "checkpoint_every lower"
        )


def start_weights(spec: StageSpec, roles: Mapping[str, Role]) -> dict[str, Tensor]:
    """The policy's weights before training, on the CPU, where it is averaged with them; a LoRA
    adapter starts at nothing and needs none."""
    if not spec.train.average_with_reference or spec.lora is not None:
        return {}
    return {
        name: p.detach().cpu().clone() for name, p in roles["policy"].named_parameters().items()
    }


def save_result(
    stage: Stage,
    algorithm: Algorithm,
    source: str,
    checkpoints: CheckpointStore,
    end: int,
    start: Mapping[str, Tensor],
) -> Judge | None:
    """Save what a method leaves; a reward model is returned as a judge.

    Args:
        source: where the stage's start model came from.
        checkpoints: of the stage, the last of them of its ``end``.
        start: from :func:`start_weights`.
    """
    result, train = algorithm.result(), stage.spec.train
    facts = {"algorithm": stage.spec.algorithm, "base": source, **result.facts}
    if result.normaliser is not None:
        save_reward_model(
            stage.folder.model, result.roles, normaliser=result.normaliser, facts=facts
        )
        return LearnedReward(result.roles, result.normaliser, name=stage.name)
    policy = result.roles[0]
    if train.average_checkpoints > 1:
        last = checkpoints.regular(end)[-train.average_checkpoints :]
        if len(last) < train.average_checkpoints:
            warnings.warn(
                f"{stage.name}: train.average_checkpoints is {train.average_checkpoints}, and "
                f"training ended at iteration {end} with {len(last)}: the saved policy is the "
                f"mean of those (of iterations {', '.join(map(str, last))})",
                stacklevel=2,
            )
        facts["averaged_checkpoints"] = last
        policy = average_role(policy, [checkpoints.read(i).tensors for i in last])
    if share := train.average_with_reference:
        average_with_start(policy.named_parameters(), start, share)
    save_policy(stage.folder.model, policy, facts=facts)
    return None
