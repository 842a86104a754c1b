"""What the names in a recipe mean: models, reward models, settings, devices."""

from __future__ import annotations

from pathlib import Path

import torch

from gnomon.algorithms.registry import find_method
from gnomon.errors import ConfigError
from gnomon.recipe.schema import Recipe, RolloutSpec, StageSpec
from gnomon.rollout.protocol import SamplingParams
from gnomon.runs.folder import RunFolder
from gnomon.stages.settings import KINDS
from gnomon.stages.settings import stage_settings as stage_settings
from gnomon.train.sampled import Sampling


def resolve_start(recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path) -> str:
    """Where a stage starts: its ``from``, else the last policy before it, else the model."""
    names = [s.name for s in recipe.stages]
    index = names.index(stage.name)
    if stage.from_ is not None:
        if stage.from_ in names:
            if names.index(stage.from_) >= index:
                raise ConfigError(
                    f"stage {stage.name!r} starts from {stage.from_!r}, a later stage"
                )
            return str(run.stage(stage.from_).model)
        return recipe.model if stage.from_ == "model" else stage.from_
    earlier = [s.name for s in policy_stages(recipe, base) if names.index(s.name) < index]
    return str(run.stage(earlier[-1]).model) if earlier else recipe.model


def policy_stages(recipe: Recipe, base: Path) -> list[StageSpec]:
    """The stages that train a policy, in order."""
    return [stage for stage in recipe.stages if produces(stage, base) == "policy"]


def produces(stage: StageSpec, base: Path) -> str | None:
    """What a stage's model folder holds: a policy or a reward model; None where it has none."""
    if stage.algorithm in KINDS:
        return None
    return find_method(stage.algorithm, base).algorithm.produces


def reward_folder(recipe: Recipe, run: RunFolder, base: Path, name: str) -> Path:
    """The folder of a reward model: a stage of the recipe, or a path.

    Raises:
        ConfigError: it is neither.
    """
    if name in {stage.name for stage in recipe.stages}:
        return run.stage(name).model
    for candidate in (base / name, Path(name)):
        if candidate.is_dir():
            return candidate
    raise ConfigError(f"reward model {name!r} is neither a stage of this recipe nor a folder")


def stage_seed(recipe: Recipe, name: str) -> int:
    """The seed of a stage: the recipe's, and the stage's place in it."""
    return recipe.seed * 101 + [stage.name for stage in recipe.stages].index(name)


def sampling(spec: RolloutSpec) -> Sampling:
    """The rollout settings as the engine takes them."""
    params = SamplingParams(
        max_new_tokens=spec.max_new_tokens,
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        min_p=spec.min_p,
        stop=tuple(spec.stop),
    )
    return Sampling(params, spec.samples, spec.final_temperature, spec.max_staleness)


def pick_device(name: str) -> torch.device:
    """The device a recipe asks for; "auto" takes CUDA where there is one, else the CPU.

    Raises:
        ConfigError: CUDA where torch sees none; Apple's GPU, which has no float64.
    """
    if name == "mps":
        raise ConfigError(
            "device: mps cannot be used: Apple's GPU has no float64, in which gnomon adds up "
            "gradient norms and draws tokens. Set device: cpu, or leave device out"
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device: cuda, but torch sees no CUDA device here (nvidia-smi lists them; torch must "
            f"be a CUDA build, this one is {torch.__version__}). Set device: cpu, or leave it out"
        )
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
