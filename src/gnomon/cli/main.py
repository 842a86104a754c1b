"""The ``gnomon`` command: parse, call, render."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from gnomon.atomic import write_text
from gnomon.console import make_console
from gnomon.errors import GnomonError, RunPaused, RunStopped

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""From raw feedback to a model that is safe to ship.

New here: [bold]gnomon quickstart[/]. With data of your own: [bold]gnomon data inspect FILE[/], then
[bold]gnomon run recipe.yaml --dry-run[/], then the same without --dry-run.
""",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at data before training on it.")
app.add_typer(data_app, name="data")
out = make_console()
err = make_console(stderr=True)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML); see docs/recipes.md.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value, as in seed=1 or ppo.settings.beta=0.05 (STAGE.KEY=VALUE)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and print the plan; train nothing.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with this run from its last checkpoint.")
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Run it once for each of these seeds (0,1,2), as NAME-seed0 and so on, and show "
            "what holds on all of them. With --resume, those done already are kept."
        ),
    ] = None,
) -> None:
    """Run a recipe's stages in order and write its report.

    Everything lands in OUTPUT/NAME (runs/NAME unless the recipe says otherwise): metrics, samples,
    checkpoints, models that plain transformers loads, and report.html. A killed run goes on with
    --resume and ends with the same weights as if it had never stopped.
    """
    from gnomon.pipeline.plan import render_plan
    from gnomon.pipeline.run import run_recipe
    from gnomon.recipe.load import load_recipe

    parsed = load_recipe(recipe, overrides or [])
    base = recipe.resolve().parent
    if seeds is None:
        if dry_run:
            out.print(render_plan(parsed, base))
        else:
            finish(run_recipe(parsed, base=base, resume=resume, announce=announce))
        return
    from gnomon.pipeline.seeds import run_seeds, seeded_recipes
    from gnomon.report.seeds import read_seeds, seeds_markdown, seeds_table

    if dry_run:
        first, *others = seeded_recipes(parsed, seeds)
        out.print(render_plan(first, base))
        for other in others:
            announce(f"{other.name}: the same with seed={other.seed}")
        return
    folders = run_seeds(parsed, seeds, base=base, resume=resume, announce=announce)
    together = read_seeds(folders)
    out.print(seeds_table(together))
    file = folders[0].parent / f"{parsed.name}-seeds.md"
    write_text(file, seeds_markdown(together))
    out.print(f"table: {file}")


@app.command()
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
        bool, typer.Option("--resume", help="Go on with an interrupted one.")
    ] = False,
) -> None:
    """The whole pipeline in a built-in world, with nothing to download: a few minutes on 2 cores.

    A small pretrained model learns from demonstrations (SFT), a reward model learns from simulated
    labellers, PPO optimises it, and a program that knows the true preference says how well it went.
    """
    from gnomon.pipeline.run import run_recipe
    from gnomon.recipe.presets import load_preset

    changes = overrides or []
    if "=" in preset:  # no preset was named, only changes to the usual one
        preset, changes = "quickstart", [preset, *changes]
    recipe = load_preset(preset, changes)
    finish(run_recipe(recipe, base=Path.cwd(), resume=resume, announce=announce))


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(help="A run's folder, as in runs/quickstart.")],
) -> None:
    """Build a run's report and plots again from what the run left."""
    finish(run_folder, rebuild=True)


@data_app.command("inspect")
def inspect_data(
    file: Annotated[Path, typer.Argument(help="A .jsonl, .json, .parquet or .csv file (or .gz).")],
    against: Annotated[
        Path | None, typer.Option(help="Another split: are prompts shared between the two?")
    ] = None,
    format: Annotated[
        str, typer.Option(help="The format by name, when it is not detected.")
    ] = "auto",
    limit: Annotated[int | None, typer.Option(help="Read at most this many rows.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a PNG of the distributions here.")
    ] = None,
) -> None:
    """Say what a data file holds: format, counts, lengths, duplicates, contradictions, leakage."""
    from gnomon.data.inspect import inspect

    inspection = inspect(file, other=against, format=format, limit=limit)
    out.print(inspection.render())
    if plot is not None:
        inspection.plot(plot)
        out.print(f"plot: {plot}")


@app.command("serve-rollouts")
def serve_rollouts(
    model: Annotated[str, typer.Argument(help="What the stage starts from: a folder or a name.")],
    engine: Annotated[str, typer.Option(help="vllm or torch.")] = "vllm",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8300,
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the engine, as in dtype=float32.")
    ] = None,
) -> None:
    """Sample for a trainer from a process of its own, which may have another Python.

    Give the printed address to a recipe as rollout.url; see docs/engines.md. Beyond this machine a
    secret in GNOMON_ROLLOUT_TOKEN is needed, here and where the trainer runs.
    """
    from gnomon.rollout.serve import parse_options, serve

    serve(model, engine, host, port, parse_options(option or []))


@app.command()
def algorithms() -> None:
    """List the algorithms a recipe can name, with their settings and defaults."""
    from rich.table import Table

    from gnomon.algorithms.registry import ALGORITHMS
    from gnomon.pipeline.collect import COLLECT, CollectSettings

    listed = [(a.name, a.summary, a.Settings) for a in ALGORITHMS.values()]
    listed.append((COLLECT, "sample responses and have a judge rank them", CollectSettings))
    for name, summary, settings in listed:
        table = Table(title=f"{name}: {summary}", title_justify="left", title_style="bold")
        for column in ("setting", "default", "meaning"):
            table.add_column(column)
        for key, field in settings.model_fields.items():
            default = field.get_default(call_default_factory=True)
            table.add_row(key, str(default), field.description or "")
        out.print(table)


def announce(message: str) -> None:
    """Tell how a stage went."""
    out.print(f"[bold]{escape(message)}[/]")


def finish(folder: Path, rebuild: bool = False) -> None:
    """Print the comparison, if there is one, and where everything lies."""
    from gnomon.report.html import write_report
    from gnomon.report.read import read_comparison
    from gnomon.report.table import comparison_table, further_tables, samples_panel

    page = folder / "report.html"
    if rebuild or not page.is_file():
        page = write_report(folder)
    comparison, problem = read_comparison(folder)
    if problem is not None:
        err.print(f"[bold yellow]warning:[/] {escape(problem)}", highlight=False)
    if comparison:
        out.print(comparison_table(comparison))
        for table in further_tables(comparison):
            out.print(table)
        samples = samples_panel(comparison)
        if samples is not None:
            out.print(samples)
    out.print(f"report: {page}")
    out.print(f"plots:  {folder / 'plots'}")


def main() -> None:
    """Entry point: errors that a user can mend are printed without a traceback (exit code 1); a run
    that waits for people says for what (3); one that was asked to stop says what is saved (130
    after Ctrl-C, 143 after SIGTERM)."""
    try:
        app()
    except RunPaused as pause:
        err.print(f"[bold yellow]paused:[/] {escape(str(pause))}", highlight=False)
        sys.exit(3)
    except RunStopped as stopped:
        err.print(escape(str(stopped)), highlight=False, soft_wrap=True)  # a command to copy
        sys.exit(128 + stopped.signal)
    except GnomonError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("stopped; nothing was being saved")
        sys.exit(130)
