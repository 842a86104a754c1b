"""``gnomon sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gnomon.cli.finish import FailOn, check_fail_on
from gnomon.cli.run import quiet, show_sweep
from gnomon.console import announce, say, show
from gnomon.errors import ConfigError, RunStopped

if TYPE_CHECKING:
    from gnomon.stages.sweep_plan import SweepPlan

_LISTED = 20


def sweep(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML); see docs/recipes.md.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value, as for run; several values make the sweep: key=[0.01,0.05], "
            "key=log(1e-6,1e-4,5), key=lin(0.9,1,3), key=sweep(a,b)."
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Run every setting with each of these seeds (0,1,2).")
    ] = None,
    search: Annotated[
        str, typer.Option(help="grid: every combination; optuna: draw --trials settings.")
    ] = "grid",
    trials: Annotated[
        int | None, typer.Option(help="With --search optuna: how many settings.", min=1)
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="The figure to rank by, as gates name it: eval/gold, gain/helpful."),
    ] = None,
    direction: Annotated[
        str, typer.Option(help="max or min: which way the objective is better.")
    ] = "auto",
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time that this call may take: 2h, 90m, 1h30m. A run is then stopped "
            "where it can be resumed."
        ),
    ] = None,
    max_runs: Annotated[
        int | None, typer.Option(help="Start at most so many runs in this call.", min=1)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and list the runs; train nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with this sweep: finished runs are kept.")
    ] = False,
    fail_on: FailOn = None,
) -> None:
    """Run a recipe with several settings, and rank them.

    The runs lie in OUTPUT/NAME-sweep, each an ordinary one. Early stages that the varied keys do
    not touch are trained once for each seed. At the end: a table (sweep.md, sweep.jsonl) and a plot
    (sweep.png), best first. Settings with an alarm or a closed gate come after all others. A run
    that fails is a row that says so.

    Without --objective, settings are ranked by what the policy is not trained on: a verifier or
    judge of compare or observe, or held-out rows. docs/sweeps.md says more.

    --fail-on goes by the setting that comes first, and takes none coming first, some being held,
    for hold.
    """  # fmt: skip
    from gnomon.recipe.load import load_recipe
    from gnomon.stages.seeds import parse_seeds
    from gnomon.stages.sweep_plan import parse_duration, plan_sweep

    if search not in ("grid", "optuna"):
        raise ConfigError(f"--search {search!r}: it is grid or optuna")
    if search == "optuna" and trials is None:
        raise ConfigError("--search optuna draws settings: say how many, as in --trials 20")
    if search == "grid" and trials is not None:
        raise ConfigError("--trials goes with --search optuna: a grid tries every combination")
    check_fail_on(fail_on)
    seconds = parse_duration(budget) if budget is not None else None
    plan = plan_sweep(
        lambda changes: load_recipe(recipe, changes), recipe.absolute().parent, overrides or [],
        seeds=parse_seeds(seeds) if seeds is not None else (), trials=trials,
        objective=objective, direction=direction,
    )  # fmt: skip
    if dry_run:
        _plan(plan, seconds, max_runs)
        return
    _run(plan, resume, seconds, max_runs, fail_on)


def _run(
    plan: SweepPlan, resume: bool, budget: float | None, max_runs: int | None, fail_on: str | None
) -> None:
    from gnomon.report.sweeps import read_sweep
    from gnomon.stages.sweep import run_sweep

    quiet()
    _say_plan(plan)
    try:
        run_sweep(plan, resume=resume, budget=budget, max_runs=max_runs, announce=announce)
    except RunStopped:
        show_sweep(read_sweep(plan.folder))
        raise
    show_sweep(read_sweep(plan.folder), fail_on)


def _say_plan(plan: SweepPlan) -> None:
    for axis in plan.axes:
        say(f"varied: {axis}")
    for override in plan.fixed:
        say(f"fixed:  {override}")
    count = len(plan.settings) if plan.trials is None else plan.trials
    runs = f"{count} settings x {len(plan.seeds)} seeds = {count * len(plan.seeds)} runs"
    say(f"{runs} in {plan.folder}")
    word = "higher" if plan.objective.sign > 0 else "lower"
    why = f" ({plan.objective.why})" if plan.objective.why else ""
    say(f"ranked by {plan.objective.name}, {word} is better{why}")


def _plan(plan: SweepPlan, budget: float | None, max_runs: int | None) -> None:
    """Check the first run as ``run --dry-run`` does, and list all of them."""
    from gnomon.report.format import duration
    from gnomon.stages.plan import plan_parts

    quiet()
    _say_plan(plan)
    if budget is not None:
        say(f"budget: {duration(budget)}")
    if max_runs is not None:
        say(f"at most {max_runs} runs in this call")
    recipes = plan.recipes()
    for one in recipes[:_LISTED]:
        say(f"  {one.name}")
    if len(recipes) > _LISTED:
        say(f"  and {len(recipes) - _LISTED} more")
    first = recipes[0] if recipes else plan.make(plan.fixed)
    for part in plan_parts(first, plan.base):
        show(part)
