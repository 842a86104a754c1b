"""``gnomon label spotcheck``: do people prefer what the trained reward prefers?"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gnomon.console import complain, say

if TYPE_CHECKING:
    from gnomon.runs.spotchecks import SpotCheck


def spotcheck(
    run: Annotated[Path, typer.Argument(help="A run's folder, as in runs/quickstart.")],
    stage: Annotated[
        str | None,
        typer.Option(help="Whose samples; the last stage with rewarded samples by default."),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Pairs to ask about; 40 by default. More than were asked before adds the others.",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=100,
            help="People who judge each pair, 1 by default; with 2 or more their noise is "
            "corrected for.",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Where the labels are kept: a file, or postgresql://USER@HOST/DATABASE; "
            "RUN/spotchecks/labels.db by default."
        ),
    ] = None,
    guideline: Annotated[
        Path | None,
        typer.Option(help="A Markdown file that people work by; a short one of ours by default."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of the pairs.")] = 0,
    read: Annotated[
        bool, typer.Option("--read", help="Only read the labels of a check that was begun.")
    ] = False,
) -> None:
    """Have people judge the policy's best-rewarded answers against ordinary ones, blind.

    The first call chooses the pairs, evenly from the beginning, the middle and the end of training,
    and puts them into a store of labels; people judge them in the labelling app. Every further call
    reads what they said so far: how often they agree with the trained reward, with its interval;
    whether that falls over the steps; and what so many labels could have shown. It is kept in
    RUN/spotchecks and audited: people who prefer the lower-rewarded answers are an alarm of reward
    hacking.

      gnomon label spotcheck runs/mine

      gnomon label serve runs/mine/spotchecks/labels.db

      gnomon label spotcheck runs/mine --read
    """
    from gnomon.feedback.spotchecking import ask, begun, look, place

    file, check = begun(run, stage)
    if not read:
        before = 0 if check is None else len(check.pairs)
        check = ask(run, stage, n=n, overlap=overlap, store=store, guideline=guideline, seed=seed)
        if new := len(check.pairs) - before:
            say(f"asked: {new} pairs of stage {check.stage}, in campaign {check.campaign!r}")
    check = look(run, file if check is None else check, store)
    for line in in_words(check):
        say(line)
    for problem in check.problems:
        complain("note", "yellow", problem)
    if check.answered < check.asked:
        say("people judge them at the link that this prints:")
        say(f"  gnomon label serve {shlex.quote(place(run, check))}")
        say(f"then: gnomon label spotcheck {shlex.quote(str(run))} --stage {check.stage} --read")
    if check.labels:
        _audit(run, check.stage)


def in_words(check: SpotCheck) -> list[str]:
    """A spot check for people to read, a line a figure."""
    from gnomon.report.format import duration, measured, number

    lines = [f"labels: {check.labels} on {check.answered} of {check.asked} pairs"]
    if check.agreement is None:
        return lines
    lines.append(
        f"people prefer the best-rewarded answer   {measured(check.agreement)}  (0.5 is chance)"
    )
    for phase, figure in check.phases.items():
        if figure is not None:
            lines.append(f"  {phase} in training   {measured(figure)}")
    if check.drift is not None:
        lines.append(f"drift, last less first   {measured(check.drift)}")
    if check.people is not None:
        lines.append(f"two people, with each other   {measured(check.people)}")
    if check.without_noise is not None:
        lines.append(f"agreement without people's noise   {measured(check.without_noise)}")
    for name, figure in check.labellers.items():
        if figure is not None and len(check.labellers) > 1:
            lines.append(f"  {name}   {measured(figure)}")
    shown = "none" if check.detectable is None else f"{number(check.detectable)} from 0.5"
    lines.append(f"smallest difference that this shows (80% of the time): {shown}")
    cost = f"cost: {duration(check.seconds)} of work"
    lines.append(cost + (f", {check.money:.2f} euros" if check.money else ""))
    return ["".join(c if c.isprintable() else " " for c in line) for line in lines]


def _audit(run: Path, stage: str) -> None:
    """Audit the run again, and say what the spot check has to do with it."""
    from gnomon.audit.detectors import audit_run
    from gnomon.report.findings import audit_lines
    from gnomon.runs.audit import Audit

    made = audit_run(run)
    own = [f for f in made.findings if f.stage == stage and f.detector.startswith("spotcheck")]
    for line in audit_lines(Audit(findings=own)):
        say(line, "bold red" if line.startswith("ALARM") else "")
    for problem in made.problems:
        complain("warning", "yellow", problem)
    say(f"audit: {run / 'audit.json'}; gnomon report {shlex.quote(str(run))} shows it")
