"""``gnomon audit``: what is wrong with a run, and what would have been seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gnomon.console import complain, say

if TYPE_CHECKING:
    from gnomon.recipe.schema import RewardSpec
    from gnomon.stages.policy_probes import Asked


def audit(
    runs: Annotated[
        list[Path],
        typer.Argument(help="A run's folder, as in runs/quickstart; several are audited in turn."),
    ],
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the findings as JSON: one object a run, by its folder."),
    ] = False,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Only this stage; may be repeated. audit.json is then left as it is."),
    ] = None,
    detector: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this detector, by name or as file.py:detector for one of your own; may be "
            "repeated. audit.json is then left as it is."
        ),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="First ask each policy of the run, and the model that its stage started from, "
            "questions with known answers: as they are, with a wrong opinion in them, put "
            "otherwise, cut in half. It loads the models and samples; see docs/probes.md.",
        ),
    ] = False,
    questions: Annotated[
        str | None,
        typer.Option(
            help="With --probe: a file of prompts with answers, for models that do not know the "
            "built-in world."
        ),
    ] = None,
    verifier: Annotated[
        str, typer.Option(help="With --questions: the builtin reward that grades the answers.")
    ] = "maths",
    safe: Annotated[
        str | None, typer.Option(help="With --probe: a file of prompts that should be answered.")
    ] = None,
    unsafe: Annotated[
        str | None, typer.Option(help="With --probe: a file of prompts that should be refused.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="With --safe and --unsafe: who says whether an answer refuses, by a score (1 "
            "refuses, 0 does not): file.py:name, a reward model's folder, or a mapping as in a "
            "recipe. Default: how answers open."
        ),
    ] = None,
    refuses_from: Annotated[
        float, typer.Option(help="With --judge: the score from which an answer is a refusal.")
    ] = 0.5,
    size: Annotated[int, typer.Option(min=8, help="With --probe: questions of each kind.")] = 200,
) -> None:
    """Look for reward hacking, collapse, length bias and more in a run's records.

    It prints a line for each alarm, with the figure that decided, its interval and what to try;
    then what was looked for and not found, with the size that would have been seen; then what could
    not be looked for. The exit code is 1 where there is an alarm, 0 where there is none and 2 where
    a run could not be read. audit.json in the run's folder keeps it all. No true reward is read:
    see docs/audit.md, which also says how often each detector is right.
    """
    from gnomon.audit.detectors import audit_run, load_detectors
    from gnomon.errors import ConfigError, DataError
    from gnomon.report.findings import audit_lines

    if probe:
        from gnomon.stages.policy_probes import Asked
    try:
        if not probe and (questions or safe or unsafe):
            raise ConfigError("--questions, --safe and --unsafe go with --probe")
        if judge and not (safe or unsafe):
            raise ConfigError("--judge says which answers refuse: it goes with --safe or --unsafe")
        if probe and stage:
            raise ConfigError("--probe asks the last policy: leave --stage out")
        chosen = load_detectors(detector) if detector else None
        who = None if judge is None else _judge(judge)
    except ConfigError as error:  # its usual exit code, 1, means something else here
        complain("error", "red", str(error))
        raise typer.Exit(2) from None
    found, unread = {}, False
    for run in runs:
        try:
            if probe:
                asked = Asked(questions, verifier, safe, unsafe, who, refuses_from, size)
                _probe(run, asked)
            found[str(run)] = audit_run(run, stages=stage or (), detectors=chosen)
        except DataError as error:
            unread = True
            complain("error", "red", str(error))
            continue
        if not as_json:
            if len(runs) > 1:
                say(f"{run}:", "bold")
            for line in audit_lines(found[str(run)]):
                say(line, "bold red" if line.startswith("ALARM") else "")
    if as_json:
        plain = {run: made.model_dump() for run, made in found.items()}
        say(json.dumps(plain, indent=2, ensure_ascii=False))
    if any(made.alarms for made in found.values()):
        raise typer.Exit(1)
    if unread:
        raise typer.Exit(2)


def _judge(text: str) -> RewardSpec:
    """A judge as the command line names it.

    Raises:
        ConfigError: it cannot be read as one.
    """
    from gnomon.evals.judging import as_spec
    from gnomon.recipe.load import validate_as
    from gnomon.recipe.schema import RewardSpec

    return validate_as(RewardSpec, as_spec(text), "--judge")


def _probe(run: Path, asked: Asked) -> None:
    from gnomon.console import announce
    from gnomon.runs.read import read_run
    from gnomon.stages.policy_probes import probe_run

    read_run(run)  # which says what is wrong with a folder that holds no run
    probe_run(run, asked, announce=announce)
