"""``gnomon import``: another trainer's logs as a run that gnomon audits and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gnomon.console import complain, say
from gnomon.errors import ConfigError


def import_logs(
    source: Annotated[
        Path, typer.Argument(help="TRL's output_dir, or the folder of verl's rollout_data_dir.")
    ],
    to: Annotated[Path, typer.Option(help="The run's folder to make, as in runs/theirs.")],
    trainer: Annotated[str | None, typer.Option(help="trl or verl; found out by default.")] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(help="trainer_state.json, or verl's metrics.jsonl, where it is elsewhere."),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=NUMBER of a reward function (TRL's reward_weights); 0 says that it was only "
            "logged, and makes it a held-out judge. May be repeated."
        ),
    ] = None,
    truth: Annotated[
        list[str] | None,
        typer.Option(help="A column that knows a simulation's true answer: no detector reads it."),
    ] = None,
    algorithm: Annotated[str, typer.Option(help="What was trained with.")] = "grpo",
) -> None:
    """Read the rollouts and metrics that TRL or verl logged, for gnomon audit and gnomon report.

    TRL logs them with log_completions=True, verl with trainer.rollout_data_dir=FOLDER and file
    among trainer.logger. Columns that are not known are kept; what is missing is said.
    """
    from gnomon.runs.foreign import Trainer
    from gnomon.runs.imported import import_run

    known: dict[str, Trainer] = {"trl": "trl", "verl": "verl"}
    if trainer is not None and trainer not in known:
        raise ConfigError(f"--trainer {trainer!r}: trl and verl are known")
    found = import_run(
        source,
        to,
        trainer=None if trainer is None else known[trainer],
        metrics=metrics,
        weights=_weights(weight or []),
        truths=truth or (),
        algorithm=algorithm,
    )
    rewards = ", ".join(f"{w:g} x {name}" for name, w in found.rewards.items()) or "none"
    say(f"{to}: {found.samples} answers and {found.rows} rows of metrics of {found.trainer}")
    say(f"reward: {rewards}; held-out judges: {', '.join(found.judges) or 'none'}")
    for note in found.notes:
        say(f"note: {note}")
    if found.skipped:
        more = f" and {len(found.skipped) - 1} more" if len(found.skipped) > 1 else ""
        complain("warning", "yellow", f"left out: {found.skipped[0]}{more}")
    say(f"next: gnomon audit {to}")


def _weights(given: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in given:
        name, equals, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise ConfigError(f"--weight {text!r}: write NAME=NUMBER, as in --weight format=0.5")
    return found
