"""What a sweep tries: which overrides have several values, the runs that follow, and whether the
recipe takes all of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gnomon.errors import ConfigError, GnomonError
from gnomon.recipe.load import apply_override, parse_recipe
from gnomon.recipe.schema import LONGEST_NAME, Recipe
from gnomon.recipe.sweep import Axis, Range, as_override, parse_axis, short_keys, show
from gnomon.runs.records import recipe_hash
from gnomon.runs.sweeps import Sweep as SweepRecord
from gnomon.stages.names import check_names
from gnomon.stages.objective import Objective, find_objective
from gnomon.stages.search import Setting, grid, load_optuna

Make = Callable[[Sequence[str]], Recipe]
"""A recipe with overrides."""
OWN_KEYS = {
    "seed": "seeds are given as --seeds 0,1,2",
    "name": "the runs of a sweep are named by their settings",
    "output": "the runs of a sweep lie in one folder",
}
_SHOWN = 6
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: str) -> float:
    """``2h``, ``90m`` or ``1h30m`` in seconds.

    Raises:
        ConfigError: it is none of these, or nothing.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    parts = [float(part or 0) for part in found.groups()] if found else []
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not seconds:
        raise ConfigError(f"budget {text!r}: write it as 2h, 90m or 1h30m")
    return seconds


def maker(recipe: Recipe) -> Make:
    """A recipe that was parsed already, with overrides."""

    def make(overrides: Sequence[str]) -> Recipe:
        raw = recipe.model_dump(mode="json", by_alias=True, exclude_unset=True)
        for override in overrides:
            apply_override(raw, override)
        return parse_recipe(raw)

    return make


# -- what is tried --------------------------------------------------------------------------------


def read_axes(make: Make, base: Path, overrides: Sequence[str]) -> tuple[list[str], list[Axis]]:
    """Which overrides are one value, and which are tried; checked against the recipe.

    A list in brackets is tried where the key takes no list, and one value where it takes lists
    only. Where both could be meant, neither is guessed.

    Raises:
        ConfigError: a key twice, or one that cannot be varied; a list that could be either; or
            nothing to try.
    """
    found = [(override, parse_axis(override)) for override in overrides]
    fixed = [override for override, axis in found if axis is None]
    make(fixed)  # what is wrong without any sweep is said first
    axes: list[Axis] = []
    lists: list[str] = []
    for override, axis in found:
        if axis is None:
            continue
        _check_key(axis)
        same = [o for o, _ in found if o.partition("=")[0].strip() == axis.key]
        if len(same) > 1:
            raise ConfigError(f"{axis.key} is given twice")
        if not axis.marked and _is_one_value(make, base, fixed, axis):
            fixed.append(override)
            lists.append(f"{axis.key} takes a list, so {override.partition('=')[2]} is one value "
                         f"(to try each: {_marked(axis)})")  # fmt: skip
        else:
            axes.append(_numbers(make, base, fixed, axis))
    if not axes:
        more = "".join(f"\n{line}" for line in lists)
        raise ConfigError(
            "a sweep with no runs: nothing is varied. Give a key several values, as in "
            f"ppo.settings.beta=[0.01,0.05] or ppo.train.lr=log(1e-6,1e-4,5){more}"
        )
    return fixed, axes


def _check_key(axis: Axis) -> None:
    if axis.key in OWN_KEYS:
        raise ConfigError(f"{axis.key}: {OWN_KEYS[axis.key]}")


def _is_one_value(make: Make, base: Path, fixed: list[str], axis: Axis) -> bool:
    """Whether a list is one value of its key.

    Raises:
        ConfigError: it could be, and each of its items could be one too.
    """
    whole = as_override(axis.key, list(axis.values))
    if _problem(make, base, [*fixed, whole]):
        return False
    if any(_problem(make, base, [*fixed, as_override(axis.key, v)]) for v in axis.values):
        return True
    raise ConfigError(
        f"{axis.key}={json.dumps(list(axis.values))}: the key takes a list and single values, so "
        f"this could be one value or {len(axis.values)} to try. To try each: {_marked(axis)}. As "
        f"one value: {axis.key}=sweep({json.dumps(list(axis.values))})"
    )


def _marked(axis: Axis) -> str:
    return f"{axis.key}=sweep({', '.join(json.dumps(value) for value in axis.values)})"


def _numbers(make: Make, base: Path, fixed: list[str], axis: Axis) -> Axis:
    """An axis as it is, or in whole numbers where its key takes nothing else."""
    if axis.range is None:
        return axis
    between = axis.range.low + (axis.range.high - axis.range.low) / 3
    between = between + 0.25 if between.is_integer() else between
    fraction = _problem(make, base, [*fixed, as_override(axis.key, between)])
    number = _problem(make, base, [*fixed, as_override(axis.key, int(axis.range.low))])
    return axis.whole() if fraction and not number else axis


def _problem(make: Make, base: Path, overrides: Sequence[str]) -> str:
    """What is wrong with a recipe; empty where nothing is."""
    try:
        check_names(make(overrides), base)
    except GnomonError as error:
        return str(error)
    return ""


# -- the runs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep tries.

    Attributes:
        make: the recipe, with overrides.
        fixed: the overrides that all runs have.
        settings: all of a grid; empty where a search draws them.
        folder: where its runs are.
    """

    make: Make
    base: Path
    fixed: tuple[str, ...]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    objective: Objective
    settings: tuple[Setting, ...]
    trials: int | None
    folder: Path

    def recipe(self, setting: Setting, seed: int, known: SweepRecord | None = None) -> Recipe:
        """The recipe of one run.

        Args:
            known: what was begun already: a run keeps its name, however many seeds there are now.

        Raises:
            ConfigError: a value that its key does not take.
        """
        values = [as_override(key, value) for key, value in setting]
        made = self.make([*self.fixed, *values])
        name = run_name([axis.key for axis in self.axes], setting)
        name += f"-seed{seed}" if len(self.seeds) > 1 else ""
        name = (known and known.name_of(dict(setting), seed)) or name
        return made.model_copy(update={"seed": seed, "name": name, "output": str(self.folder)})

    def recipes(self, known: SweepRecord | None = None) -> list[Recipe]:
        """Those of a grid, setting by setting."""
        return [self.recipe(s, seed, known) for s in self.settings for seed in self.seeds]

    @property
    def sha256(self) -> str:
        """Of what all runs have in common."""
        return recipe_hash(self.make(self.fixed), [*(a.key for a in self.axes), "name", "seed"])


def run_name(keys: Sequence[str], setting: Setting) -> str:
    """A folder's name that shows the setting, the same whatever else is tried."""
    names = short_keys(list(keys))
    parts = [f"{names[key]}{'-' * isinstance(value, str)}{show(value)}" for key, value in setting]
    text = "-".join(parts)
    clean = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")
    longest = LONGEST_NAME - 40
    if clean == text and len(text) <= longest:
        return text
    mark = hashlib.sha256(json.dumps(setting).encode()).hexdigest()[:6]
    return f"{clean[:longest] or 'run'}-{mark}"


def plan_sweep(
    make: Make,
    base: Path,
    overrides: Sequence[str] = (),
    *,
    axes: Sequence[Axis] = (),
    seeds: Sequence[int] = (),
    trials: int | None = None,
    objective: str | None = None,
    direction: str = "auto",
) -> SweepPlan:
    """Check a sweep, running nothing.

    Args:
        overrides: as on the command line, some of them with several values.
        axes: keys and values to try, instead of overrides with several values.
        seeds: every setting is run with each; none: the recipe's own.
        trials: how many settings Optuna draws; None for a grid.

    Raises:
        ConfigError: see :func:`read_axes` and :func:`find_objective`; values that keys do not
            take, all of them.
    """
    if axes:
        fixed = list(overrides)
        for axis in axes:
            _check_key(axis)
        varied = [_numbers(make, base, fixed, axis) for axis in axes]
    else:
        fixed, varied = read_axes(make, base, overrides)
    if trials is not None:
        load_optuna()
    first = make(fixed)
    settings = grid(varied) if trials is None else []
    plan = SweepPlan(
        make, base, tuple(fixed), tuple(varied), tuple(seeds) or (first.seed,), Objective("", 1),
        tuple(settings), trials, Path(first.output) / f"{first.name}-sweep",
    )  # fmt: skip
    _check_values(plan)
    return replace(plan, objective=find_objective(first, base, objective, direction))


def _check_values(plan: SweepPlan) -> None:
    """Check every setting of a grid, or of a search each value and the ends of each range.

    Raises:
        ConfigError: values that are not taken.
    """
    tried = list(plan.settings)
    if plan.trials is not None:
        start = {axis.key: (axis.values or _ends(axis.range))[0] for axis in plan.axes}
        tried = [
            tuple({**start, axis.key: value}.items())
            for axis in plan.axes
            for value in (axis.values or _ends(axis.range))
        ]
    problems: dict[str, str] = {}
    for setting in tried:
        overrides = [*plan.fixed, *(as_override(key, value) for key, value in setting)]
        found = _problem(plan.make, plan.base, overrides)
        if found:
            problems.setdefault(found, ", ".join(f"{key}={show(v)}" for key, v in setting))
    if problems:
        lines = [f"{at}: {problem}" for problem, at in problems.items()]
        more = f"\nand {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise ConfigError("\n".join(lines[:_SHOWN]) + more)


def _ends(span: Range | None) -> tuple[Any, ...]:
    if span is None:
        return ()
    return (int(span.low), int(span.high)) if span.whole else (span.low, span.high)
