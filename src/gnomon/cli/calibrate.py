"""``gnomon calibrate``: how far a judge agrees with people."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gnomon.cli.mappings import parse_mapping
from gnomon.console import complain, say
from gnomon.errors import ConfigError, RunStopped

if TYPE_CHECKING:
    from gnomon.judges.protocol import Judge
    from gnomon.models.save import LoadedReward
    from gnomon.records import Group
    from gnomon.runs.evals import Calibration


def calibrate(
    labels: Annotated[
        Path,
        typer.Argument(help="A file of people's comparisons, in any format that data is read in."),
    ],
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE of the AI judge, as in model=NAME url=http://HOST/v1, or "
            "local=FOLDER; or reward_model=FOLDER; or builtin=NAME and its options. Repeatable."
        ),
    ] = None,
    recorded: Annotated[
        Path | None, typer.Option(help="Instead of asking a judge: a file of its past verdicts.")
    ] = None,
    verdict: Annotated[
        str, typer.Option(help="With --recorded: the column with the verdict.")
    ] = "verdict",
    key: Annotated[
        str, typer.Option(help="With --recorded: the column that both files share.")
    ] = "id",
    verdicts: Annotated[
        list[str] | None,
        typer.Option(help="With --recorded: what its verdicts mean, as in 1=a,2=b,0=tie."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The judge's name in the record.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option(help="GNOMON=FILE names of the labels' columns.")
    ] = None,
    meanings: Annotated[
        list[str] | None,
        typer.Option("--labels", help="What the labels' values mean, as in 0=a,1=b,2=tie."),
    ] = None,
    format: Annotated[str, typer.Option(help="The labels' format, when not detected.")] = "auto",
    limit: Annotated[int | None, typer.Option(help="Read at most this many rows.", min=1)] = None,
    sample_seed: Annotated[
        int | None, typer.Option(help="With --limit: a random sample, not the first rows.")
    ] = None,
    output: Annotated[
        Path, typer.Option(help="A run's folder, or another: calibrations/ in it is written.")
    ] = Path(),
) -> None:
    """Measure how far a judge agrees with people, and where it is biased.

    The judge sees every pair that people labelled, in both orders. What it says is compared with
    what they said: agreement beside people's own, position and length bias, by category, and the
    smallest difference of a win rate that this judge can show. A gate on a judge opens only with
    such a record, of 50 labels or more, of this very judge: same model, same prompt, same options.

    Answers are kept beside the record: a run that is stopped continues where it was, and pays for
    none twice.

      gnomon calibrate labels.jsonl --judge model=NAME --judge url=http://localhost:8000/v1

      gnomon calibrate labels.jsonl --recorded past.jsonl --verdict winner --key id
    """
    from gnomon.data.readers import read_groups
    from gnomon.data.values import summarise_skipped
    from gnomon.evals.calibration import write_calibration

    if (recorded is None) == (not judge):
        raise ConfigError("give a judge to ask (--judge KEY=VALUE ...) or --recorded FILE")
    if recorded is not None:
        from gnomon.judges.recorded import RecordedJudge

        said: Any = parse_mapping("--verdicts", verdicts or [])
        asked: Judge = RecordedJudge(recorded, verdict, key, said, name or verdict)
    else:
        asked = _judge(judge or [], name, output)
    read = read_groups(
        labels,
        kind="rankings",
        format=format,
        limit=limit,
        sample_seed=sample_seed,
        columns=parse_mapping("--columns", columns or []),
        labels=parse_mapping("--labels", meanings or []),  # type: ignore[arg-type]
    )
    if read.skipped:
        say(summarise_skipped(read.skipped))
    record, rows = _measure(asked, read.groups, labels.name)
    file = write_calibration(output, record, rows)
    for line in in_words(record):
        say(line)
    for warning in record.warnings:
        complain("warning", "yellow", warning)
    say(f"calibration: {file}")


def _judge(given: list[str], name: str | None, output: Path) -> Judge:
    """The judge of ``--judge`` options."""
    from gnomon.judges.build import AI, one_judge
    from gnomon.recipe.load import validate_as
    from gnomon.recipe.schema import RewardSpec
    from gnomon.runs.evals import CALIBRATION_FOLDER

    options = dict(option(text) for text in given)

    def load(model: str) -> LoadedReward:
        from gnomon.models.save import load_reward_model

        return load_reward_model(model)

    if "reward_model" in options:
        raw = {"model": options.pop("reward_model"), "name": name, **options}
    else:
        raw = {"builtin": options.pop("builtin", AI), "name": name, "options": options}
    spec = validate_as(RewardSpec, raw, "--judge")
    answers = output / CALIBRATION_FOLDER / "answers"
    return one_judge(spec, base=Path.cwd(), load=load, answers=answers, texts=True)


def option(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``; numbers, truth values, null, lists and objects are read as YAML, all else is
    text as it stands."""
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--judge {text!r}: write KEY=VALUE, as in --judge model=NAME")
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError as error:
        if value.lstrip()[:1] in ("[", "{"):
            raise ConfigError(f"--judge {text!r}: {value!r} is no list or object") from error
        return key.strip(), value
    plain = read is None or isinstance(read, bool | int | float)
    return key.strip(), read if plain or value.lstrip()[:1] in ("[", "{") else value


def _measure(
    judge: Judge, groups: list[Group], source: str
) -> tuple[Calibration, list[dict[str, Any]]]:
    from gnomon.evals.calibration import calibrate as measure
    from gnomon.evals.calibration import labelled_pairs
    from gnomon.train.progress import Progress

    total = len(labelled_pairs(groups))
    try:
        with Progress(f"calibrate {judge.name}", total) as progress:
            return measure(judge, groups, source, lambda done: progress.update(done, {}))
    except KeyboardInterrupt:
        raise RunStopped(
            "stopped: the answers so far are kept, and the same command continues from them",
            signal.SIGINT,
        ) from None


def in_words(found: Calibration) -> list[str]:
    """A calibration for people to read, a line a figure."""
    from gnomon.report.format import duration, measured, number

    lines = [
        f"{found.judge}: {found.labels} pairs with people's labels"
        + (f", {found.errors} more on which it failed" if found.errors else ""),
        f"version: {found.version or 'none'}",
        f"agreement with people   {measured(found.agreement)}  (0.5 is a coin; a tie is half)",
    ]
    if found.people is not None:
        lines.append(f"two people, with each other   {measured(found.people)}")
    lines.append(f"kappa   {measured(found.kappa)}  (0 is chance, 1 is people's very words)")
    if found.first is not None:
        lines.append(f"wins of the answer shown first   {measured(found.first)}  (0.5 is fair)")
    if found.flips is not None:
        lines.append(f"verdicts that change with the order   {measured(found.flips)}")
    if found.longer is not None:
        lines.append(f"wins of the longer answer, beyond people's   {measured(found.longer)}")
    lines.append(f"share of a difference that it keeps   {measured(found.attenuation)}")
    shown = "none" if found.detectable is None else f"{number(found.detectable)} from 0.5"
    lines.append(
        f"smallest difference of a win rate over {found.labels} prompts that it shows (80% of the "
        f"time, test at 5%): {shown}"
    )
    for category, figure in sorted(found.by_category.items()):
        lines.append(f"  {category}   {measured(figure)}")
    cost = f"cost: {duration(found.seconds)} of judging, {found.tokens} tokens"
    lines.append(cost + (f", {found.money:.2f} euros" if found.money else ""))
    return lines
