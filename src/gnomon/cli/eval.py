"""``gnomon eval``: measure a model with suites of questions, and compare two results."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from typer.core import TyperGroup

from gnomon.cli.judge_given import judge_entry
from gnomon.console import out, say, show
from gnomon.errors import ConfigError, RunStopped

if TYPE_CHECKING:
    from rich.table import Table

    from gnomon.evals.compare import SuiteChange
    from gnomon.evals.suite import Suite
    from gnomon.evals.targets import Target
    from gnomon.runs.evals import EvalResult

RUN = "run"


class _ModelFirst(TyperGroup):
    """A group whose first argument may be a model: then it is asked to measure it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [RUN, *args]
        return super().parse_args(ctx, args)


ABOUT = """Measure a model with suites of questions, and compare results.

[bold]gnomon eval MODEL --suite NAME[/] measures; it is short for [bold]gnomon eval run[/].
MODEL is a run's folder (its last policy; --stage names another), a model's folder, a hub id, or a
file of answers that a model gave elsewhere.

  gnomon eval runs/mine --suite questions --data mine.jsonl --judge maths

  gnomon eval runs/mine --suite win_rate --data prompts.jsonl --against base --judge rm/model

  gnomon eval outputs.jsonl --suite refusal

  gnomon eval compare runs/before runs/after

Results are kept in RUN/evals/MODEL/SUITE.json, with a row for each item beside it; a killed eval
continues with the items that have none. See docs/evals.md.
"""
eval_app = typer.Typer(cls=_ModelFirst, help=ABOUT, no_args_is_help=True, rich_markup_mode="rich")


@eval_app.command(RUN)
def run(
    model: Annotated[
        str,
        typer.Argument(help="A run's folder, a model's folder, a hub id, or a file of answers."),
    ],
    suite: Annotated[
        list[str],
        typer.Option(help="What to measure (gnomon eval suites lists them); may be repeated."),
    ],
    option: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE of the suite, as in temperature=1; may be repeated."),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="A file of items; may be repeated.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Whom to compare with: a stage of the run, a model, a file of answers."),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="Who judges: a builtin reward's name, file.py:name or a reward model's folder; or "
            "an AI judge as gnomon judge and gnomon calibrate take it: KEY=VALUE, repeatable, or a "
            "YAML file of them; or a mapping as in a recipe: '{builtin: ai, options: {...}}'."
        ),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Of a run: which stage's model; base is the start model.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Keep results in OUTPUT/evals; default: the run's folder, or this one."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    template: Annotated[
        str | None, typer.Option(help="Chat template by name, where the model has none.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure anew what is measured already.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the records as JSON.")] = False,
) -> None:
    """Measure a model with one suite or several (gnomon eval MODEL ... is short for this)."""
    from gnomon.evals.table import make_suite
    from gnomon.evals.targets import open_target

    given = parse_options(option or [])
    for key, value in (("data", data), ("against", against), ("judge", _judge(judge or []))):
        if value:
            if key in given:
                raise ConfigError(f"{key} is given twice: --{key} and --option {key}=")
            given[key] = value
    suites = [make_suite(name, given, Path()) for name in suite]
    stored = model == "judge" or Path(model).is_file()  # without weights: torch is not needed yet
    how = {"device": "cpu" if stored else _device(device), "dtype": dtype, "template": template}
    target = open_target(model, stage, output, **how)
    results = [_measure(one, target, again, quiet=as_json) for one in suites]
    if as_json:
        records = [result.model_dump(mode="json") for result in results]
        out.print_json(json.dumps(records), indent=2, highlight=False)
        return
    for result in results:
        show(result_table(result))


@eval_app.command("suites")
def suites(
    name: Annotated[
        str | None, typer.Argument(help="The one to explain; without it, all are listed.")
    ] = None,
) -> None:
    """List the suites, or explain the options of one."""
    from rich.table import Table

    from gnomon.evals.table import SUITES, suite_class

    table = Table(box=None, pad_edge=False)
    if name is None:
        table.add_column("suite", no_wrap=True)
        table.add_column("what it measures")
        for title in SUITES:
            table.add_row(title, suite_class(title, Path()).summary)
        show(table, most=140)
        say("gnomon eval suites NAME explains the options; your own is named as file.py:Name.")
        return
    _explain(name)


@eval_app.command("compare")
def compare(
    before: Annotated[
        Path, typer.Argument(help="A run's folder, RUN/evals/MODEL, or one result's file.")
    ],
    after: Annotated[Path, typer.Argument(help="The same of the other.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show what changed between two models' results of the same suites.

    Where the items are the same, the change is paired by item; else its interval is Newcombe's.
    """
    from gnomon.evals import compare as comparing

    changes = comparing.compare(before, after)
    if as_json:
        out.print_json(json.dumps(comparing.as_json(changes)), indent=2, highlight=False)
        return
    for change in changes:
        show(change_table(change))
        for note in change.notes:
            say(f"  {note}")


# -- parts -----------------------------------------------------------------------------------------


def parse_options(given: Sequence[str]) -> dict[str, Any]:
    """``["temperature=1", "stop=[a]"]`` as a mapping; values are YAML.

    Raises:
        ConfigError: an entry that is not KEY=VALUE, or a key given twice.
    """
    found: dict[str, Any] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--option {text!r}: write KEY=VALUE, as in temperature=1")
        if key.strip() in found:
            raise ConfigError(f"--option {key.strip()} is given twice")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--option {text!r}: the value is not YAML") from error
    return found


def _judge(given: Sequence[str]) -> Any:
    """The judge of ``--judge`` as a suite's option: its name, or an entry of its options."""
    if len(given) == 1 and (given[0].lstrip().startswith("{") or not _are_options(given[0])):
        return given[0]
    if not given:
        return None
    entry, base = judge_entry(given)
    return {**entry, "base": str(base)}


def _are_options(text: str) -> bool:
    return "=" in text or Path(text).suffix in (".yaml", ".yml")


def _device(name: str) -> str:
    if name == "cpu":
        return name
    from gnomon.stages.stage import pick_device

    return str(pick_device(name))


def _measure(suite: Suite, target: Target, again: bool, quiet: bool) -> EvalResult:
    from gnomon.evals.evaluate import evaluate
    from gnomon.training.progress import Progress
    from gnomon.training.watch import Stop

    stop = Stop()
    with stop.listening(), Progress(f"{suite.name} of {target.subject.name}", 1) as progress:

        def watch(done: int, total: int) -> None:
            progress.expect(total)
            progress.update(done, {})
            stop.check()

        try:
            return evaluate(
                suite,
                target.subject,
                target.run,
                watch=watch,
                tell=None if quiet else progress.note,
                again=again,
            )
        except RunStopped as stopped:
            text = "stopped; what is measured is kept, and the same command continues"
            raise RunStopped(text, stopped.signal) from None


def result_table(result: EvalResult) -> Table:
    """A result's scores with their intervals, the main one first."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from gnomon.report.format import interval, value

    about = [f"{result.suite} of {result.model}", f"n={result.n}"]
    about += [f"{result.errors} failed"] if result.errors else []
    about += [f"against {result.against}"] if result.against else []
    about += [f"judge {result.judge} {result.judge_version[:40]}".rstrip()] if result.judge else []
    about += [f"calibration {result.calibration}"] if result.calibration else []
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(", ".join(about)),
        title_justify="left",
        title_style="bold",
    )
    table.add_column("score")
    table.add_column("", justify="right")
    names = [result.main, *(name for name in result.scores if name != result.main)]
    for name in names:
        figure = result.scores.get(name)
        if figure is not None:
            style = "bold" if name == result.main else ""
            cell = Text(value(figure)).append(f" {interval(figure)}".rstrip(), style="dim")
            table.add_row(Text(name, style=style), cell)
    for category, scores in result.by_category.items():
        for name, figure in scores.items():
            if figure is not None:
                cell = Text(value(figure)).append(f" {interval(figure)}".rstrip(), style="dim")
                table.add_row(Text(f"  {category}: {name}", style="dim"), cell)
    return table


def change_table(change: SuiteChange) -> Table:
    """A suite's scores of two models and their change."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from gnomon.report.format import interval, number, value

    title = f"{change.suite}: {change.before.model}, then {change.after.model}"
    table = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left", title_style="bold")
    for column in ("score", "before", "after", "change", "", "would have shown"):
        table.add_column(column, justify="left" if column == "score" else "right")
    for score in change.scores:
        table.add_row(
            Text(score.name),
            Text(value(score.before)),
            Text(value(score.after)),
            Text(value(score.change), style="bold" if score.shown else "").append(
                f" {interval(score.change)}", style="dim"
            ),
            "paired" if score.paired else "unpaired",
            "" if score.shown else f"±{number(score.detectable)}",
        )
    return table


def _explain(name: str) -> None:
    from gnomon.cli.algorithms import explain_settings
    from gnomon.evals.table import suite_class

    kind = suite_class(name, Path())
    explain_settings(f"{kind.title or name}: {kind.summary}", kind.options_class, None)
    text = re.sub(r"(:\w+:)?`+([^`]*)`+", r"\2", inspect.getdoc(kind) or "")
    if text:
        say(text)
