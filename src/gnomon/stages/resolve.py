"""What the names in a recipe mean: models, reward models, settings, devices."""

from __future__ import annotations

from pathlib import Path

import torch

from gnomon.algorithms.base import Sampling
from gnomon.algorithms.collect_settings import COLLECT
from gnomon.algorithms.registry import find_algorithm
from gnomon.errors import ConfigError
from gnomon.recipe.schema import Recipe, RolloutSpec, StageSpec
from gnomon.rollout.protocol import SamplingParams
from gnomon.runs.folder import RunFolder
from gnomon.stages.settings import stage_settings as stage_settings

DATA_KIND = {
    "demonstrations": "demonstrations",
    "comparisons": "rankings",
    "unpaired": "unpaired",
    "prompts": "prompts",
}
"""What an algorithm's data is called in the readers."""


def resolve_start(recipe: Recipe, stage: StageSpec, run: RunFolder) -> str:
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
    for earlier in reversed(recipe.stages[:index]):
        if earlier.algorithm != COLLECT and find_algorithm(earlier.algorithm).produces == "policy":
            return str(run.stage(earlier.name).model)
    return recipe.model


def policy_stages(recipe: Recipe) -> list[StageSpec]:
    """The stages that train a policy, in order."""
    return [
        stage
        for stage in recipe.stages
        if stage.algorithm != COLLECT and find_algorithm(stage.algorithm).produces == "policy"
    ]


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


def samples_responses(stage: StageSpec) -> bool:
    """Whether the stage learns from, or collects, what a policy writes."""
    return stage.algorithm == COLLECT or find_algorithm(stage.algorithm).data == "prompts"


def check_machine(recipe: Recipe) -> None:
    """Check the device and the place of the run's folder.

    Raises:
        ConfigError: either cannot be used, with the cure; both are named, one a line.
    """
    problems: list[str] = []
    try:
        pick_device(recipe.device)
    except ConfigError as error:
        problems.append(str(error))
    problem = RunFolder(recipe).place_problem()
    if problem is not None:
        problems.append(f"output: {problem}; choose another place (output=FOLDER)")
    if problems:
        raise ConfigError("\n".join(problems))
