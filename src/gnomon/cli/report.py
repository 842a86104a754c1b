"""``gnomon report``: one run's page, or several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gnomon.cli.console import say, show
from gnomon.cli.run import finish


def report(
    run_folders: Annotated[
        list[Path],
        typer.Argument(help="A run's folder, as in runs/quickstart; or several, to compare them."),
    ],
) -> None:
    """Build a run's report and plots again from what the run left; or compare several runs.

    Of several runs, the last stage's figures and what each run compared stand side by side, with
    the difference from the first run and its interval where there are intervals.
    """
    if len(run_folders) == 1:
        finish(run_folders[0], rebuild=True)
        return
    from gnomon.report.runs import compare_runs

    comparison = compare_runs(run_folders)
    for table in comparison.tables:
        show(table)
    for note in comparison.notes:
        say(note)
