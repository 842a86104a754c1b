"""``gnomon run`` and ``gnomon quickstart``."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gnomon.cli.finish import FailOn, check_fail_on, fail, finish, say_held
from gnomon.console import announce, complain, say, show
from gnomon.errors import ConfigError, GateClosed, GnomonError, Pending
from gnomon.files import first_line
from gnomon.recipe.sweep import is_marked

if TYPE_CHECKING:
    from gnomon.recipe.schema import Recipe
    from gnomon.report.sweeps import SweepView


WAIT_SECONDS = 5.0
"""Between two looks at whether people have answered."""


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML); see docs/recipes.md.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value, as in seed=1 or ppo.settings.beta=0.05 (STAGE.KEY=VALUE)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the plan; train nothing.")
    ] = False,
    no_code: Annotated[
        bool,
        typer.Option(
            "--no-code",
            help="With --dry-run: import none of the recipe's own Python (methods, rewards, "
            "environments), for a recipe that you do not trust.",
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume this run from its last checkpoint.")
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Run it once for each of these seeds (0,1,2), as NAME-seed0 and so on, and show "
            "what holds on all of them. With --resume, those done already are kept."
        ),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Where people judge: wait until their labels are there and go on, instead of "
            "pausing. Ctrl-C pauses.",
        ),
    ] = False,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Place workers by Ray, on RAY_ADDRESS or a cluster of this machine's; see "
            "docs/workers.md. ray.address=HOST:PORT names another.",
        ),
    ] = False,
    fail_on: FailOn = None,
) -> None:
    """Run a recipe's stages in order and write its report.

    Everything lands in OUTPUT/NAME (runs/NAME unless the recipe says otherwise): metrics, samples,
    checkpoints, models that plain transformers loads, and report.html. Resume a killed run with
    --resume: it ends with the same weights as if it had never stopped.

    A recipe runs its author's code: the Python files that its methods, rewards and environments
    name. They are imported by --dry-run too, unless --no-code is given.
    """
    from gnomon.stages.names import check_names

    if no_code and not dry_run:
        raise ConfigError("--no-code goes with --dry-run: a run needs the recipe's own code")
    check_fail_on(fail_on)
    parsed = _load(recipe, overrides or [])
    if ray:
        parsed = placed_by_ray(parsed)
    base = recipe.absolute().parent
    check_names(parsed, base)
    if wait and (dry_run or seeds is not None):
        raise ConfigError("--wait goes with a run of one seed")
    if seeds is not None:
        _run_seeds(parsed, seeds, base, dry_run, not no_code, resume, fail_on)
    elif dry_run:
        _plan(parsed, base, not no_code)
    else:
        folder = _run_and_wait(parsed, base, resume) if wait else _run(parsed, base, resume)
        if os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0":
            finish(folder, fail_on=fail_on)  # not in each of those that torchrun started


def quickstart(
    preset: Annotated[
        str,
        typer.Argument(
            help="quickstart: SFT, reward model, PPO. overoptimise: the same without KL penalty. "
            "hackable: GRPO against a verifier with a loophole."
        ),
    ] = "quickstart",
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, as for run: seed=1, name=mine.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted quickstart.")
    ] = False,
) -> None:
    """Run the whole pipeline in a built-in world, with nothing to download: a few minutes on 2
    cores.

    A small pretrained model learns from demonstrations (SFT), a reward model learns from simulated
    labellers, PPO optimises it, and a program that knows the true preference measures the result.
    """
    from gnomon.recipe.presets import load_preset
    from gnomon.stages.names import check_names

    changes = overrides or []
    if "=" in preset:  # no preset was named, only changes to the usual one
        preset, changes = "quickstart", [preset, *changes]
    recipe = load_preset(preset, changes)
    check_names(recipe, Path.cwd())
    finish(_run(recipe, Path.cwd(), resume))


def _load(recipe: Path, overrides: list[str]) -> Recipe:
    """The recipe with its overrides, each of which is one value: a list is one here.

    Raises:
        ConfigError: one stands for several, or something else is wrong.
    """
    from gnomon.recipe.load import load_recipe

    sweep = f"gnomon sweep {recipe} {' '.join(map(shlex.quote, overrides))}"
    for override in overrides:
        if is_marked(override):
            raise ConfigError(
                f"{override!r} stands for several values, and a run takes one of each key. To run "
                f"them all: {sweep}"
            )
    try:
        return load_recipe(recipe, overrides)
    except ConfigError as error:
        if any(o.partition("=")[2].lstrip().startswith("[") for o in overrides):
            raise ConfigError(f"{error}\nTo run each of several values: {sweep}") from error
        raise


def _run(recipe: Recipe, base: Path, resume: bool) -> Path:
    from gnomon.runs.folder import RunFolder
    from gnomon.stages.run import run_recipe

    quiet()
    try:
        return run_recipe(recipe, base=base, resume=resume, announce=announce)
    except GateClosed:
        finish(RunFolder(recipe).path)
        raise


def _run_and_wait(recipe: Recipe, base: Path, resume: bool) -> Path:
    """Run it, waiting for people wherever it pauses for them; it is saved while it waits."""
    while True:
        try:
            return _run(recipe, base, resume)
        except Pending as pause:
            if pause.left is None:
                raise
            complain("waiting", "yellow", str(pause))
            wait_for(pause, pause.left, WAIT_SECONDS)
            resume = True


def wait_for(pause: Pending, left: Callable[[], str], every: float) -> None:
    """Return once nothing is left to answer; whenever what is left changes, say it.

    A store that cannot be reached for a while is asked again.

    Raises:
        Pending: Ctrl-C was pressed.
    """
    shown = None
    try:
        while now := _said(left):
            if now != shown:
                announce(f"left: {now}")
                shown = now
            time.sleep(every)
    except KeyboardInterrupt:
        raise pause from None


def _said(left: Callable[[], str]) -> str:
    try:
        return left()
    except GnomonError as error:
        return f"not known: {first_line(error)}"


def _plan(recipe: Recipe, base: Path, code: bool) -> None:
    from gnomon.stages.plan import plan_parts

    quiet()
    for part in plan_parts(recipe, base, code):
        show(part)


def _run_seeds(
    recipe: Recipe,
    seeds: str,
    base: Path,
    dry_run: bool,
    code: bool,
    resume: bool,
    fail_on: str | None,
) -> None:
    from gnomon.files import write_text
    from gnomon.report.bought import bought
    from gnomon.report.bought_table import seeds_bought_markdown, seeds_bought_table
    from gnomon.report.seeds import read_seeds, seeds_markdown, seeds_table
    from gnomon.report.ship import answer
    from gnomon.runs.read import read_run
    from gnomon.runs.records import COMPARISON
    from gnomon.stages.seeds import run_seeds, seeded_recipes

    if dry_run:
        first, *others = seeded_recipes(recipe, seeds)
        _plan(first, base, code)
        for other in others:
            announce(f"{other.name}: the same with seed={other.seed}")
        return
    quiet()
    folders, closed = run_seeds(recipe, seeds, base=base, resume=resume, announce=announce)
    if closed and not all((folder / COMPARISON).exists() for folder in folders):
        raise GateClosed("\n".join(closed))  # a gate stopped one before it was compared
    together = read_seeds(folders)
    show(seeds_table(together))
    stages = [bought(read_run(folder)) for folder in folders]
    show(seeds_bought_table(stages))
    file = folders[0].parent / f"{recipe.name}-seeds.md"
    write_text(file, f"{seeds_markdown(together)}\n{seeds_bought_markdown(stages)}\n")
    say(f"table: {file}")
    answers = {folder: answer(read_run(folder)) for folder in folders}
    for folder, found in answers.items():
        say_held(folder, found, fail_on, folder.name)
    if closed:
        raise GateClosed("\n".join(closed))
    fail([found.kind for found in answers.values()], fail_on)


def placed_by_ray(recipe: Recipe) -> Recipe:
    """The recipe with its workers placed by Ray."""
    from gnomon.recipe.placement import RaySpec

    return recipe if recipe.ray else recipe.model_copy(update={"ray": RaySpec()})


def quiet() -> None:
    """Keep the libraries' bars and notices off the console; gnomon has its own."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def report(
    run_folders: Annotated[
        list[Path],
        typer.Argument(help="A run's folder, as in runs/quickstart; or several, to compare them."),
    ],
    fail_on: FailOn = None,
) -> None:
    """Build a run's report and plots again from its folder; or compare several runs.

    Several runs are compared by their last stage's figures and their comparisons, side by side,
    with the difference from the first run and its interval where there are intervals. Of a sweep's
    folder, the table and the plot are made again.
    """
    from gnomon.report.sweep_files import write_sweep
    from gnomon.report.sweeps import is_sweep

    check_fail_on(fail_on)
    if fail_on is not None and len(run_folders) > 1:
        raise ConfigError("--fail-on is about the answer of one run: give one run's folder")
    if len(run_folders) == 1 and is_sweep(run_folders[0]):
        show_sweep(write_sweep(run_folders[0]), fail_on)
        return
    if len(run_folders) == 1:
        finish(run_folders[0], rebuild=True, fail_on=fail_on)
        return
    from gnomon.report.runs import compare_runs

    comparison = compare_runs(run_folders)
    for table in comparison.tables:
        show(table)
    for note in comparison.notes:
        say(note)


def show_sweep(view: SweepView, fail_on: str | None = None) -> None:
    """Print a sweep's table, what it does not say, and where its files are.

    Raises:
        typer.Exit: with :data:`HELD`, where ``fail_on`` asks for it.
    """
    from gnomon.report.sweeps import PLOT, TABLE, sweep_table

    show(sweep_table(view))
    for note in view.notes:
        say(note)
    say(f"table: {view.path / TABLE}")
    if (view.path / PLOT).is_file():
        say(f"plot:  {view.path / PLOT}")
    of = " for the first setting" if view.best else ", no setting coming first,"
    fail([view.answer], fail_on, of)
