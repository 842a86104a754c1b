"""What a run's command says last: what it bought and cost, whether the model may ship, and the exit
code where that is asked for."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gnomon.console import complain, say, show
from gnomon.errors import ConfigError

if TYPE_CHECKING:
    from gnomon.report.ship import Answer, Kind

HELD = 6
"""The exit code of a command that --fail-on ends so."""
FAILS: dict[str, tuple[str, ...]] = {"hold": ("hold",), "not-shown": ("hold", "not shown")}
"""By a value of --fail-on: the answers that it is about."""
FailOn = Annotated[
    str | None,
    typer.Option(
        help="Exit with 6 where the answer is hold; with not-shown, where it is anything but ship. "
        "Without it the exit code says nothing of the answer."
    ),
]


def check_fail_on(value: str | None) -> None:
    """Refuse what --fail-on cannot be.

    Raises:
        ConfigError: it is none of its values.
    """
    if value is not None and value not in FAILS:
        raise ConfigError(f"--fail-on is {' or '.join(FAILS)}, not {value}")


def fail(answers: Sequence[Kind], fail_on: str | None, of: str = "") -> None:
    """End the command with :data:`HELD` where one of the answers is such as ``fail_on`` names.

    Args:
        of: what they are the answers of, where it is not one run's answer.
    """
    if fail_on is None:
        return
    kinds = [kind for kind in answers if kind in FAILS[fail_on]]
    if kinds:
        named = " and ".join(dict.fromkeys(kind.upper() for kind in kinds))
        why = f"since the answer{of} is {named} (--fail-on)"
        complain("held", "red", f"exit code {HELD}, {why}{_in_place()}")
        raise typer.Exit(HELD)


def _in_place() -> str:
    """What a script sees in place of the exit code where torchrun started this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    return ". torchrun itself exits with 1, whatever its processes exit with"


def finish(folder: Path, rebuild: bool = False, fail_on: str | None = None) -> None:
    """Print the comparison, if there is one, what each stage bought and cost, whether the model may
    ship, where the report and the plots are, what the audit is alarmed by, and last of all what
    decides that the model should not ship.

    Raises:
        typer.Exit: with :data:`HELD`, where ``fail_on`` asks for it.
    """
    from gnomon.report.bought import bought
    from gnomon.report.bought_table import bought_tables
    from gnomon.report.html import write_report
    from gnomon.report.ship import answer
    from gnomon.report.table import answer_lines, comparison_table, samples_panel
    from gnomon.runs.audit import AUDIT, Audit
    from gnomon.runs.read import read_comparison, read_run

    page = folder / "report.html"
    if rebuild or not page.is_file():
        page = write_report(folder)
    comparison, problem = read_comparison(folder)
    if problem is not None:
        complain("warning", "yellow", problem)
    if comparison:
        for table in [comparison, *comparison.tables]:
            show(comparison_table(table))
        samples = samples_panel(comparison)
        if samples is not None:
            show(samples)
    run = read_run(folder)
    for part in bought_tables(bought(run)):
        show(part)
    found = answer(run)
    first, *reasons = answer_lines(found)
    say(first, "bold")
    for line in reasons:
        say(line)
    say(f"report: {page}")
    say(f"plots:  {folder / 'plots'}")
    alarms = Audit.read_or_empty(folder / AUDIT).alarms
    if alarms:
        names = dict.fromkeys(f"{alarm.name} (stage {alarm.stage})" for alarm in alarms)
        say(f"ALARM: {', '.join(names)}; gnomon audit {folder} shows why", "bold red")
    say_held(folder, found, fail_on)
    fail([found.kind], fail_on)


def say_held(folder: Path, found: Answer, fail_on: str | None, name: str = "") -> None:
    """Say what decides that a model should not ship, and how a script learns of it; nothing of
    another answer."""
    from gnomon.report.table import holding

    decided = holding(found)
    if decided:
        script = f"gnomon report {shlex.quote(str(folder))} --fail-on hold"
        how = "" if fail_on else f"; for scripts, {script} exits with {HELD}"
        say(f"{name + ': ' if name else ''}HOLD, decided by: {decided}{how}", "bold red")
