"""The ``gnomon`` command: parse, call, render."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import gnomon
from gnomon.cli.algorithms import algorithms
from gnomon.cli.console import complain, err, out, say
from gnomon.cli.report import report
from gnomon.cli.run import quickstart, run
from gnomon.errors import GnomonError, RunPaused

ABOUT = """From raw feedback to a model that is safe to ship.

New here: [bold]gnomon quickstart[/]. With data of your own: [bold]gnomon data inspect FILE[/], then
[bold]gnomon run recipe.yaml --dry-run[/], then the same without --dry-run.
"""
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
data_app = typer.Typer(no_args_is_help=True, help="Look at data before training on it.")
app.add_typer(data_app, name="data")


@app.callback(help=ABOUT, invoke_without_command=True, no_args_is_help=True)
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Say which gnomon it is, and stop.")
    ] = False,
) -> None:
    if version:
        say(f"gnomon {gnomon.__version__}")
        raise typer.Exit


app.command()(run)
app.command()(quickstart)
app.command()(report)
app.command()(algorithms)


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


def main() -> None:
    """Entry point: errors that a user can mend are printed without a traceback (exit code 1); a run
    that waits for people says for what (3)."""
    try:
        app()
    except RunPaused as pause:
        complain("paused", "yellow", str(pause))
        sys.exit(3)
    except GnomonError as error:
        complain("error", "red", str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("stopped; go on with --resume")
        sys.exit(130)
