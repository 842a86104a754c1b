"""``gnomon.sweep``: a recipe with several settings, as the command runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.api.run import plainly
from gnomon.console import announce as say
from gnomon.errors import ConfigError
from gnomon.recipe import schema
from gnomon.recipe.load import load_recipe, parse_recipe
from gnomon.recipe.sweep import axis_of
from gnomon.report.sweeps import SweepView, read_sweep
from gnomon.stages.sweep import run_sweep
from gnomon.stages.sweep_plan import maker, parse_duration, plan_sweep


@plainly
def sweep(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | schema.Recipe,
    values: Mapping[str, Any],
    *overrides: str,
    base: str | os.PathLike[str] | None = None,
    seeds: Sequence[int] = (),
    trials: int | None = None,
    objective: str | None = None,
    direction: str = "auto",
    budget: float | str | None = None,
    max_runs: int | None = None,
    resume: bool = False,
    announce: Callable[[str], None] = say,
) -> SweepView:
    """Run a recipe with several settings, and return them best first (docs/sweeps.md).

    Args:
        recipe: a file, a recipe, or a dict with a recipe's keys.
        values: by key, as on the command line, the values to try: a list of them, or a range as
            text (``"log(1e-6,1e-4,5)"``).
        overrides: ``key=value`` of all runs.
        base: the folder that relative paths start from: the file's, or else the current one.
        seeds: run every setting with each of these; none: with the recipe's own.
        trials: how many settings Optuna draws; None tries every combination.
        objective: what to rank by, as gates name it; None: what the policy is not trained on.
        direction: ``max`` or ``min``; ``auto`` where the objective's name says it.
        budget: time that this call may take: seconds, or text ("2h", "90m", "1h30m").
        max_runs: how many runs this call may start.
        resume: go on with a sweep that is there.

    Returns:
        Its ``rows``, the ``best`` of them and ``notes`` in words; table and plot are in ``path``.

    Raises:
        GnomonError: whatever is in your hands, in words; finished runs are kept.
    """
    for override in overrides:
        if not isinstance(override, str) or "=" not in override:
            raise ConfigError(f"{override!r}: an override is key=value, as in seed=1")
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"values is a {type(values).__name__}; it is a dict, as in {{'train.lr': [1e-5, 1e-4]}}"
        )
    if not values:
        raise ConfigError("a sweep with no runs: give values, as in {'train.lr': [1e-5, 1e-4]}")
    if not isinstance(recipe, str | os.PathLike | Mapping | schema.Recipe):
        raise ConfigError(f"a recipe is a file, a recipe or a dict, not a {type(recipe).__name__}")
    if isinstance(recipe, str | os.PathLike):
        file = Path(recipe)
        start, make = file.absolute().parent, lambda changes: load_recipe(file, changes)
    else:
        parsed = recipe if isinstance(recipe, schema.Recipe) else parse_recipe(dict(recipe))
        start, make = getattr(parsed, "_base", None) or Path.cwd(), maker(parsed)
    _check_numbers(seeds, trials=trials, max_runs=max_runs)
    seconds = _seconds(budget)
    plan = plan_sweep(
        make,
        start if base is None else Path(base),
        overrides,
        axes=[axis_of(key, given) for key, given in values.items()],
        seeds=seeds,
        trials=trials,
        objective=objective,
        direction=direction,
    )
    folder = run_sweep(plan, resume=resume, budget=seconds, max_runs=max_runs, announce=announce)
    return read_sweep(folder)


def _check_numbers(seeds: Any, **counts: Any) -> None:
    """Check that seeds are different whole numbers, and counts whole numbers above 0."""
    listed = list(seeds) if isinstance(seeds, Sequence) else None
    if listed is None or not all(map(_is_whole, listed)) or len({*listed}) != len(listed):
        raise ConfigError(f"seeds={seeds!r}: it is a list of different seeds, as in [0, 1, 2]")
    for name, count in counts.items():
        if count is not None and not (_is_whole(count) and count > 0):
            raise ConfigError(f"{name}={count!r}: it is a whole number above 0")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _seconds(budget: Any) -> float | None:
    if isinstance(budget, str):
        return parse_duration(budget)
    number = isinstance(budget, int | float) and not isinstance(budget, bool)
    if budget is not None and not (number and budget > 0):
        raise ConfigError(f"budget={budget!r}: it is seconds, or text as 2h, 90m or 1h30m")
    return None if budget is None else float(budget)
