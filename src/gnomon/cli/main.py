"""The ``gnomon`` command: parse, call, render."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import gnomon
from gnomon.cli.algorithms import algorithms
from gnomon.cli.audit import audit
from gnomon.cli.calibrate import calibrate
from gnomon.cli.card import card
from gnomon.cli.chat import chat
from gnomon.cli.constitution import constitution_app
from gnomon.cli.eval import eval_app
from gnomon.cli.export import export
from gnomon.cli.helping import flow_help
from gnomon.cli.imports import import_logs
from gnomon.cli.judge import judge_app
from gnomon.cli.label import label_app
from gnomon.cli.mappings import parse_mapping
from gnomon.cli.plan import plan
from gnomon.cli.run import quickstart, report, run
from gnomon.cli.sweep import sweep
from gnomon.cli.view import view
from gnomon.console import complain, err, out, say, show, visible
from gnomon.errors import BudgetSpent, GateClosed, GnomonError, Pending, RunStopped
from gnomon.files import first_line

ABOUT = """From raw feedback to a model that is safe to ship.

New here: [bold]gnomon quickstart[/]. With data of your own: [bold]gnomon data inspect FILE[/], then
[bold]gnomon run recipe.yaml --dry-run[/], then the same without --dry-run.
"""
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
data_app = typer.Typer(no_args_is_help=True, help="Look at data before training on it.")
app.add_typer(data_app, name="data")
app.add_typer(eval_app, name="eval")
app.add_typer(label_app, name="label")
app.add_typer(judge_app, name="judge")
app.add_typer(constitution_app, name="constitution")


@app.callback(help=ABOUT, invoke_without_command=True, no_args_is_help=True)
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print gnomon's version and exit.")
    ] = False,
) -> None:
    if version:
        say(f"gnomon {gnomon.__version__}")
        raise typer.Exit


app.command()(plan)
app.command()(run)
app.command()(sweep)
app.command()(quickstart)
app.command()(report)
app.command()(audit)
app.command("import")(import_logs)
app.command()(algorithms)
app.command()(calibrate)
app.command()(view)
app.command()(card)
app.command()(chat)
app.command()(export)


@data_app.command("inspect")
def inspect_data(
    file: Annotated[
        Path,
        typer.Argument(help="A .jsonl, .json, .parquet, .arrow, .csv or .tsv file, or a folder."),
    ],
    against: Annotated[
        Path | None, typer.Option(help="Another split, to see whether the two share prompts.")
    ] = None,
    kind: Annotated[
        str, typer.Option(help="Read it as demonstrations, preferences, ..., as a stage would.")
    ] = "auto",
    format: Annotated[
        str, typer.Option(help="The format by name, when it is not detected.")
    ] = "auto",
    columns: Annotated[
        list[str] | None,
        typer.Option(help="GNOMON=FILE names, as in prompt=question,chosen=good; may be repeated."),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(help="What a preference column's values mean, as in 0=a,1=b,2=tie."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Which split, of a folder or hub id with several.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Read at most this many rows.", min=1)] = None,
    sample_seed: Annotated[
        int | None, typer.Option(help="With --limit: a random sample, not the first rows.")
    ] = None,
    as_text: Annotated[
        bool, typer.Option("--as-text", help="Prompts are plain text for a base model.")
    ] = False,
    good_from: Annotated[
        float | None, typer.Option(help="Ratings from here on count as good.")
    ] = None,
    max_gb: Annotated[float, typer.Option(help="GB a file may hold once unpacked.")] = 1.0,
    plot: Annotated[
        Path | None, typer.Option(help="Write a PNG of the distributions here.")
    ] = None,
) -> None:
    """Show what a data file holds: format, counts, lengths, duplicates, contradictions, leakage,
    answers that stand beside the wrong prompts.

    The options are a recipe's data keys, so that a file is read as the recipe would read it.
    """
    from gnomon.data.inspect import inspect
    from gnomon.recipe.load import validate_as
    from gnomon.recipe.schema import DataSpec
    from gnomon.stages.sources import read_options

    spec = {
        "path": str(file),
        "kind": kind,
        "format": format,
        "columns": parse_mapping("--columns", columns or []),
        "labels": parse_mapping("--labels", labels or []),
        "split": split,
        "limit": limit,
        "sample_seed": sample_seed,
        "as_text": as_text,
        "good_from": good_from,
        "max_gb": max_gb,
    }
    checked = validate_as(DataSpec, spec, "data inspect")
    options = {**read_options(checked), "max_skipped": 1.0}
    inspection = inspect(file, other=against, **options)
    show(inspection.render())
    if plot is not None:
        inspection.plot(plot)
        say(f"plot: {plot}")


@app.command("serve-rollouts")
def serve_rollouts(
    model: Annotated[
        str, typer.Argument(help="The model that the stage starts from: a folder or a name.")
    ],
    engine: Annotated[str, typer.Option(help="vllm or torch.")] = "vllm",
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.")] = 8300,
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the engine, as in dtype=float32.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name of this server, such as a proxy's."),
    ] = None,
) -> None:
    """Sample for a trainer in a separate process, which may have another Python.

    Give the printed address to a recipe as rollout.url; see docs/engines.md. Beyond this machine a
    secret in GNOMON_ROLLOUT_TOKEN is needed, here and where the trainer runs.
    """
    from gnomon.rollout.serve import parse_options, serve

    serve(model, engine, host, port, parse_options(option or []), names=allow_host or [])


flow_help(app)


def _check_torchrun(arguments: list[str]) -> None:
    """Refuse a command that torchrun starts several times, but for a run; and keep the processes
    after the first from saying what it says."""
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world in (None, "1"):
        return
    first = rank == "0"
    out.quiet = not first
    err.quiet = not first and os.environ.get("LOCAL_RANK", "0") != "0"  # one of each machine
    several = {"--seeds", "--wait"} & {a.partition("=")[0] for a in arguments}
    if arguments[:1] == ["run"] and not several:
        return
    if first:
        what = " ".join(["gnomon", *arguments[:1], *sorted(several)])
        complain("error", "red", f"torchrun shares a run's training (gnomon run), not {what}")
    sys.exit(1)


def _is_out_of_memory(error: BaseException) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from gnomon.models.instants import is_out_of_memory

    return is_out_of_memory(error)


def main() -> None:
    """Entry point. Errors that a user can fix are printed without a traceback (exit code 1); a run
    that waits for people exits with 3; one whose gates did not all open with 4; one whose judge
    spent its budget with 5; one whose model should not ship with 6, where --fail-on asks for it
    (``cli/finish.py``); one that was asked to stop with 130 (Ctrl-C) or 143 (SIGTERM), after a
    message about what is saved."""
    _check_torchrun(sys.argv[1:])
    try:
        app()
    except Pending as pause:
        complain("paused", "yellow", str(pause))
        sys.exit(3)
    except GateClosed as gate:
        complain("gate", "red", str(gate))
        sys.exit(gate.code)
    except BudgetSpent as spent:
        complain("budget", "yellow", str(spent))
        sys.exit(spent.code)
    except RunStopped as stopped:
        text = visible(str(stopped))  # it has a command to copy
        err.print(text, soft_wrap=True, markup=False, highlight=False)
        sys.exit(128 + stopped.signal)
    except GnomonError as error:
        complain("error", "red", str(error))
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:  # outside of a stage: a report, an eval
        if not _is_out_of_memory(error):
            raise
        said = f"out of memory ({first_line(error)})"
        complain("error", "red", f"{said}. What is saved is whole: a run goes on with --resume")
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("stopped; nothing was being saved")
        sys.exit(130)
