"""What the names in a recipe mean: stages, their settings, start models, reward models.

Nothing here imports torch before it is asked for a method's class, so that a misspelt name is
reported at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon.algorithms.average_settings import AVERAGE, AVERAGE_SUMMARY, AverageSettings
from gnomon.algorithms.collect_settings import COLLECT, COLLECT_SUMMARY, CollectSettings
from gnomon.algorithms.control_settings import CONTROL, CONTROL_SUMMARY, ControlSettings
from gnomon.algorithms.eval_settings import EVAL, EVAL_SUMMARY, EvalSettings
from gnomon.algorithms.offline_settings import Settings
from gnomon.algorithms.registry import METHODS, find_method
from gnomon.algorithms.revise_settings import REVISE, REVISE_SUMMARY, ReviseSettings
from gnomon.data.rows import SUFFIXES, iter_rows
from gnomon.errors import ConfigError, GnomonError
from gnomon.judges.ai import check_options
from gnomon.judges.build import AI, CORRECTED, check_builtin
from gnomon.plugins import check_known, did_you_mean, is_own
from gnomon.recipe.load import validate_as
from gnomon.recipe.schema import DataSpec, Recipe, RewardSpec, StageSpec
from gnomon.recipe.training import EvalSpec

if TYPE_CHECKING:
    from gnomon.runs.folder import RunFolder


@dataclass(frozen=True)
class StageKind:
    """A kind of stage other than training a method; it is named where a method's name is.

    Attributes:
        where: import path of its :class:`~gnomon.stages.stage.Stage`.
        settings: its own settings.
        summary: one line for lists and help.
        writes_groups: whether later stages can read what it writes (``stage:NAME``).
        produces: what its model folder holds; None where it has none.
    """

    where: str
    settings: type[Settings]
    summary: str
    writes_groups: bool = False
    produces: str | None = None


KINDS = {
    COLLECT: StageKind("gnomon.stages.collect:Collect", CollectSettings, COLLECT_SUMMARY, True),
    REVISE: StageKind("gnomon.stages.revise:Revise", ReviseSettings, REVISE_SUMMARY, True),
    EVAL: StageKind("gnomon.stages.evaluate:Evaluate", EvalSettings, EVAL_SUMMARY),
    AVERAGE: StageKind(
        "gnomon.stages.average:Average", AverageSettings, AVERAGE_SUMMARY, produces="policy"
    ),
    CONTROL: StageKind("gnomon.control.stage:Control", ControlSettings, CONTROL_SUMMARY),
}
"""What a stage can do other than training."""
TRAIN = "gnomon.stages.train:Train"
"""The stage that trains a method."""


def describe(name: str, base: Path | None = None) -> tuple[type[Settings], str]:
    """The settings and the one-line summary of a method, or of another kind of stage.

    Args:
        base: the folder that a user's own method is looked up in.

    Raises:
        ConfigError: unknown name, with the nearest known one.
    """
    check_known(name, (*METHODS, *KINDS), "algorithm")
    if name in KINDS:
        return KINDS[name].settings, KINDS[name].summary
    method = find_method(name, base)
    return method.settings, method.summary


def stage_settings(stage: StageSpec, base: Path | None = None) -> Any:
    """The stage's own settings, validated.

    Raises:
        ConfigError: unknown algorithm or setting, with a suggestion.
    """
    settings, _ = describe(stage.algorithm, base)
    return validate_as(settings, stage.settings, f"stage {stage.name!r}, settings")


def resolve_start(recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path) -> str:
    """Where a stage starts: its ``from``, else the last policy before it, else the model.

    In place of a policy that a gate before the stage held back it is what that policy started from.

    Raises:
        ConfigError: its ``from`` is a later stage.
    """
    start = start_of(recipe, stage, run, base)
    return start if isinstance(start, str) else str(run.stage(start.name).model)


def start_of(recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path) -> StageSpec | str:
    """The stage whose policy a stage starts from, or another model; see :func:`resolve_start`."""
    place = [s.name for s in recipe.stages].index(stage.name)
    held = held_back(recipe, run, base, recipe.stages[:place])
    start = _asked_start(recipe, stage, base)
    while isinstance(start, StageSpec) and start.name in held:
        start = start_of(recipe, start, run, base)
    return start


def _asked_start(recipe: Recipe, stage: StageSpec, base: Path) -> StageSpec | str:
    """What the recipe says that a stage starts from, whatever gates decided."""
    names = [s.name for s in recipe.stages]
    index = names.index(stage.name)
    if stage.from_ is None:
        earlier = [s for s in policy_stages(recipe, base) if names.index(s.name) < index]
        return earlier[-1] if earlier else recipe.model
    if stage.from_ not in names:
        return recipe.model if stage.from_ == "model" else stage.from_
    if names.index(stage.from_) >= index:
        raise ConfigError(f"stage {stage.name!r} starts from {stage.from_!r}, a later stage")
    return recipe.stages[names.index(stage.from_)]


def origin_of(recipe: Recipe, stage: StageSpec, base: Path) -> str:
    """The model that a stage's weights come from in the end, by way of whatever stages: theirs are
    its shape, its window and its tokens.

    Raises:
        ConfigError: a stage's ``from`` is a later stage.
    """
    start = _asked_start(recipe, stage, base)
    return start if isinstance(start, str) else origin_of(recipe, start, base)


def gated_policy(recipe: Recipe, stage: StageSpec, run: RunFolder, base: Path) -> StageSpec | None:
    """The policy that a stage's gates are about: what it trains, or where it trains nothing, what
    it starts from; None where that is no stage's, or the stage trains something else."""
    made = produces(stage, base)
    if made is not None:
        return stage if made == "policy" else None
    start = start_of(recipe, stage, run, base)
    return start if isinstance(start, StageSpec) else None


def policy_stages(recipe: Recipe, base: Path) -> list[StageSpec]:
    """The stages that train a policy, in order."""
    return [stage for stage in recipe.stages if produces(stage, base) == "policy"]


def produces(stage: StageSpec, base: Path) -> str | None:
    """What a stage's model folder holds: a policy or a reward model; None where it has none."""
    if stage.algorithm in KINDS:
        return KINDS[stage.algorithm].produces
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


def held_back(recipe: Recipe, run: RunFolder, base: Path, stages: Sequence[StageSpec]) -> list[str]:
    """The policies that gates after these stages held back (``on_fail: previous``)."""
    closed = [stage for stage in stages if run.holds_back(stage)]
    return [policy.name for s in closed if (policy := gated_policy(recipe, s, run, base))]


def other_model(recipe: Recipe, run: RunFolder, base: Path, name: str) -> str:
    """Where the weights are of a role that has its own: a stage's, ``model`` (what the recipe
    starts from), a folder's (beside the recipe, or not), or a model's by name."""
    if name in {stage.name for stage in recipe.stages}:
        return str(run.stage(name).model)
    if name == "model":
        return recipe.model
    return str(base / name) if (base / name).is_dir() else name


def stage_seed(recipe: Recipe, name: str) -> int:
    """The seed of a stage: the recipe's, and the stage's place in it."""
    return recipe.seed * 101 + [stage.name for stage in recipe.stages].index(name)


def check_names(recipe: Recipe, base: Path) -> None:
    """Check what a recipe names: algorithms, settings, stages, builtin rewards, files.

    This is what is most often misspelt, and it is answered before torch is imported; a run and a
    dry run check the rest.

    Args:
        base: the folder that the recipe's relative paths start from.

    Raises:
        ConfigError: all that is wrong, one line each.
    """
    problems = []
    for place, stage in enumerate(recipe.stages):
        for check in (_check_settings, _check_from, _check_data, _check_rewards):
            try:
                check(recipe, place, base)
            except GnomonError as error:
                problems.append(f"stage {stage.name!r}: {error}")
    if recipe.compare is not None:
        try:
            check_specs(recipe.compare.prompts, recipe, len(recipe.stages), base)
            _check_reward_names(recipe.compare.rewards, base)
        except GnomonError as error:
            problems.append(f"compare: {error}")
    if problems:
        raise ConfigError("\n".join(problems))


def check_specs(specs: Sequence[DataSpec], recipe: Recipe, place: int, base: Path) -> None:
    """Check that stages that are read from collect and come earlier, and that data files exist.

    Raises:
        ConfigError, DataError: one does not, with the nearest name.
    """
    writers = [name for name, kind in KINDS.items() if kind.writes_groups]
    collecting = [s.name for s in recipe.stages if s.algorithm in writers]
    earlier = [s.name for s in recipe.stages[:place]]
    for spec in specs:
        name = spec.path.removeprefix("stage:")
        if name == spec.path:
            file = Path(name)
            if name.lower().endswith(SUFFIXES) and not (_exists(base / file) or _exists(file)):
                iter_rows(base / file)  # which says what is there instead
        elif name not in collecting:
            known = ", ".join(collecting) or "none"
            raise ConfigError(
                f"data {spec.path!r}: no such collect or revise stage; known: {known}"
            )
        elif name not in earlier:
            raise ConfigError(f"data {spec.path!r}: that stage comes later")


def stage_data(stage: StageSpec) -> list[DataSpec]:
    """Every source that a stage reads."""
    return [*stage.data, *stage.eval_data, *stage.pretraining, *stage.normalise_on]


def stage_evals(stage: StageSpec) -> list[EvalSpec]:
    """Every suite that a stage measures with: on a schedule, or as its work."""
    given: list[EvalSpec] = list(stage.train.evals)
    if stage.algorithm == EVAL:
        given += stage_settings(stage).suites
    return given


def every_reward(recipe: Recipe) -> list[RewardSpec]:
    """Every reward of a recipe, observed and compared ones among them."""
    found = [r for s in recipe.stages for r in (*s.reward, *s.observe)]
    return found + (recipe.compare.rewards if recipe.compare is not None else [])


def _check_settings(recipe: Recipe, place: int, base: Path) -> None:
    stage = recipe.stages[place]
    if is_own(stage.algorithm):  # its code is imported later, when all else is checked
        _check_own_file(stage.algorithm, base, "algorithm")
        return
    try:
        stage_settings(stage)
    except ConfigError as error:
        lines = str(error).replace(f"stage {stage.name!r}, ", "").splitlines()
        raise ConfigError("; ".join(lines)) from error


def _check_from(recipe: Recipe, place: int, base: Path) -> None:
    start = recipe.stages[place].from_
    names = [stage.name for stage in recipe.stages]
    if start is None or start in (*names, "model", recipe.model) or _exists(Path(start)):
        return
    near = difflib.get_close_matches(start, names, n=1, cutoff=0.6)
    if near and "/" not in start:
        raise ConfigError(f"from {start!r}: did you mean the stage {near[0]!r}?")


def _check_data(recipe: Recipe, place: int, base: Path) -> None:
    check_specs(stage_data(recipe.stages[place]), recipe, place, base)


def _exists(path: Path) -> bool:
    """Whether such a file or folder exists.

    Raises:
        ConfigError: no file could have this name (one of 300 characters, say).
    """
    try:
        return path.expanduser().exists()
    except (OSError, RuntimeError, ValueError) as error:
        short = str(path) if len(str(path)) < 200 else f"{str(path)[:160]}..."
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{short}: cannot be looked up: {reason}") from error


def _check_rewards(recipe: Recipe, place: int, base: Path) -> None:
    stage = recipe.stages[place]
    _check_reward_names([*stage.reward, *stage.observe], base)


def _check_reward_names(rewards: Sequence[RewardSpec], base: Path) -> None:
    for reward in rewards:
        if reward.builtin is not None:
            check_builtin(reward.builtin)
        if reward.builtin == AI:
            check_options({k: v for k, v in reward.options.items() if k != CORRECTED}, base)
        if reward.function is not None:
            _check_own_file(reward.function, base, "reward function")


def _check_own_file(name: str, base: Path, what: str) -> None:
    """Check that the file of the user's own code exists; it is not imported."""
    where = name.rpartition(":")[0]
    if where.endswith(".py") and not (base / where).is_file():
        near = did_you_mean(where, [p.name for p in base.glob("*.py")], "its folder holds")
        raise ConfigError(f"{what} {name!r}: no file {base / where}; {near}")
