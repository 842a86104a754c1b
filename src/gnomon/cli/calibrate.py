"""``gnomon calibrate``: how far a judge agrees with people."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gnomon.cli.judge_given import as_written, judge_entry
from gnomon.cli.mappings import parse_mapping
from gnomon.console import complain, say
from gnomon.errors import ConfigError, RunStopped

if TYPE_CHECKING:
    from gnomon.evals.calibration import Options
    from gnomon.judges.protocol import Judge
    from gnomon.models.save import LoadedReward
    from gnomon.records import Group
    from gnomon.runs.evals import Calibration


Labels = Annotated[
    str,
    typer.Argument(
        help="A file of people's comparisons, in any format that data is read in, or "
        "feedback:FILE, a store of labels."
    ),
]
AskedJudge = Annotated[
    list[str] | None,
    typer.Option(
        help="KEY=VALUE of the AI judge, as in model=NAME url=http://HOST/v1, or local=FOLDER; or "
        "reward_model=FOLDER; or builtin=NAME and its options; or a YAML file of them. Repeatable."
    ),
]
Recorded = Annotated[
    Path | None, typer.Option(help="Instead of asking a judge: a file of its past verdicts.")
]
VerdictColumn = Annotated[str, typer.Option(help="With --recorded: the column with the verdict.")]
KeyColumn = Annotated[str, typer.Option(help="With --recorded: the column that both files share.")]
VerdictMeanings = Annotated[
    list[str] | None,
    typer.Option(help="With --recorded: what its verdicts mean, as in 1=a,2=b,0=tie."),
]
JudgeName = Annotated[str | None, typer.Option(help="The judge's name in the record.")]
Columns = Annotated[
    list[str] | None, typer.Option(help="GNOMON=FILE names of the labels' columns.")
]
Meanings = Annotated[
    list[str] | None,
    typer.Option("--labels", help="What the labels' values mean, as in 0=a,1=b,2=tie."),
]
StoreOptions = Annotated[
    list[str] | None,
    typer.Option(help="KEY=VALUE of a store, as in campaign=pilot,votes=calibrated."),
]
Format = Annotated[str, typer.Option(help="The labels' format, when not detected.")]
Limit = Annotated[int | None, typer.Option(help="Read at most this many rows.", min=1)]
SampleSeed = Annotated[
    int | None, typer.Option(help="With --limit: a random sample, not the first rows.")
]
Controls = Annotated[
    int,
    typer.Option(
        help="Answers set against edits of themselves (bullets, bold, padding, flattery, ...), "
        "and pairs asked about again; 0 asks about the labels alone.",
        min=0,
    ),
]
Own = Annotated[
    list[str] | None,
    typer.Option(help="What the labels call the judge's own model. Repeatable."),
]
Authors = Annotated[
    str | None,
    typer.Option(help="COLUMN,COLUMN: who wrote a row's first and second answer."),
]
Paraphrase = Annotated[
    Path | None,
    typer.Option(help="The judge's own prompt in other words: does it say the same?"),
]
GoodFrom = Annotated[
    float | None,
    typer.Option(
        help="The labels call single answers good or bad, and the judge calls good what it scores "
        "from here on."
    ),
]
Before = Annotated[
    Path | None, typer.Option(help="An earlier calibration (.json): what has changed since?")
]
Round = Annotated[str, typer.Option(help="A name for asking everything anew, as in 2027-05.")]
Output = Annotated[
    Path, typer.Option(help="A run's folder, or another: calibrations/ in it is written.")
]


def calibrate(
    labels: Labels,
    judge: AskedJudge = None,
    recorded: Recorded = None,
    verdict: VerdictColumn = "verdict",
    key: KeyColumn = "id",
    verdicts: VerdictMeanings = None,
    name: JudgeName = None,
    columns: Columns = None,
    meanings: Meanings = None,
    options: StoreOptions = None,
    format: Format = "auto",
    limit: Limit = None,
    sample_seed: SampleSeed = None,
    controls: Controls = 40,
    own: Own = None,
    authors: Authors = None,
    paraphrase: Paraphrase = None,
    good_from: GoodFrom = None,
    before: Before = None,
    round: Round = "",
    output: Output = Path(),
) -> None:
    """Measure how far a judge agrees with people, and where it is biased.

    The judge sees every pair that people labelled, in both orders. What it says is compared with
    what they said: agreement beside people's own, kappa, position, length and, where the labels say
    who wrote an answer, its own model's; whether its probabilities come true, and the map that
    makes them; the smallest difference of a win rate that it can show. Then it is asked what it
    thinks of answers beside edits of themselves that add nothing, and about some pairs again. Of
    every bias the record says how small a one would have been seen.

    A gate on a judge opens only with such a record, of 50 labels or more, of this very judge: same
    model, same prompt, same options.

    Answers are kept beside the record: a run that is stopped continues where it was, and pays for
    none twice. To see whether a judge has drifted, ask anew under a name and compare:

      gnomon calibrate labels.jsonl --judge model=NAME --judge url=http://localhost:8000/v1

      gnomon calibrate labels.jsonl --judge ... --round may --before calibrations/ai-1a2b3c4d.json

      gnomon calibrate labels.jsonl --recorded past.jsonl --verdict winner --key id
    """
    from gnomon.evals.calibration import Options

    if (recorded is None) == (not judge):
        raise ConfigError("give a judge to ask (--judge KEY=VALUE ...) or --recorded FILE")
    if recorded is not None and labels.startswith("feedback:"):
        raise ConfigError(
            "--recorded says which of a file's answers is a, and a store keeps no such order: give "
            "the file that the labels came from, or --judge"
        )
    if good_from is not None and recorded is not None:
        raise ConfigError("--good-from is for a judge that scores; --recorded holds verdicts")
    how = Options(controls, tuple(own or ()), _two_columns(authors), paraphrase)
    if recorded is not None:
        from gnomon.judges.recorded import RecordedJudge

        said: Any = parse_mapping("--verdicts", verdicts or [])
        asked: Judge = RecordedJudge(recorded, verdict, key, said, name or verdict)
    else:
        asked = _judge(judge or [], name, output, round)
    reading = Reading(
        labels,
        format,
        limit,
        sample_seed,
        parse_mapping("--columns", columns or []),
        parse_mapping("--labels", meanings or []),
        parse_mapping("--options", options or []),
        good_from,
    )
    _calibrate(asked, reading, how, before, round, output, _learned(judge or [], name))


@dataclass(frozen=True)
class Reading:
    """Where people's labels are, and how they are read."""

    labels: str
    format: str
    limit: int | None
    sample_seed: int | None
    columns: dict[str, str]
    meanings: dict[str, str]
    options: dict[str, str]
    good_from: float | None = None

    @property
    def kind(self) -> str:
        """What the labels are read as: comparisons, or single answers."""
        return "rankings" if self.good_from is None else "unpaired"

    @property
    def name(self) -> str:
        """What the record calls them."""
        where, colon, path = self.labels.partition(":")
        return (
            f"{where}:{Path(path).name}"
            if colon and not Path(self.labels).exists()
            else (Path(self.labels).name)
        )

    def groups(self) -> list[Group]:
        """The labels as groups.

        Raises:
            ConfigError, DataError: they cannot be read.
        """
        from gnomon.data.readers import read_groups
        from gnomon.data.values import summarise_skipped
        from gnomon.stages.sources import is_made

        if is_made(self.labels):
            return self._made()
        if self.options:
            raise ConfigError("--options are of a store (feedback:FILE); a file has none")
        read = read_groups(
            self.labels,
            kind=self.kind,  # type: ignore[arg-type]
            format=self.format,
            limit=self.limit,
            sample_seed=self.sample_seed,
            columns=self.columns,
            labels=self.meanings,  # type: ignore[arg-type]
        )
        if read.skipped:
            say(summarise_skipped(read.skipped))
        if any(_by_model(group.prompt.meta.get("labels")) for group in read.groups):
            raise ConfigError(
                f"{self.labels} holds labels by language models (gnomon judge wrote it), and a "
                "calibration is of agreement with people: give people's labels"
            )
        return read.groups

    def _made(self) -> list[Group]:
        """From a store: each person's labels, unless the options say otherwise."""
        from gnomon.recipe.load import validate_as
        from gnomon.recipe.schema import DataSpec
        from gnomon.stages.sources import DataReport, check_source, read_specs

        own = {"votes": "each", "by": "people"} if self.labels.startswith("feedback:") else {}
        raw = {
            "path": self.labels,
            "limit": self.limit,
            "sample_seed": self.sample_seed,
            "options": own | {key: as_written(value) for key, value in self.options.items()},
        }
        spec = validate_as(DataSpec, raw, "labels")
        check_source(spec, Path())
        here, report = Path(), DataReport()
        how: Any = {"base": here, "stage_groups": lambda name: here, "kind": self.kind}
        return read_specs([spec], report=report, **how)


def _by_model(labels: Any) -> bool:
    """Whether a row's labels are what ``gnomon judge`` keeps of its judges."""
    own = labels if isinstance(labels, list) else []
    return any(isinstance(x, dict) and str(x.get("labeller")).startswith("ai:") for x in own)


OWN_LABELS = (
    "the judge learned from these very labels, so that it agrees with them says nothing, and no "
    "gate believes it: calibrate on labels that were kept back"
)


def _same(record: Calibration, learned: Path) -> bool:
    """Whether a reward model learned from the labels of the record."""
    from gnomon.audit.same_labels import labels_learned

    return bool({about["sha256"] for about in record.data.values()} & labels_learned(learned))


def _calibrate(
    judge: Judge,
    reading: Reading,
    how: Options,
    before: Path | None,
    round: str,
    output: Path,
    learned: Path | None,
) -> None:
    """Measure, compare with an earlier record, write and show.

    Args:
        learned: the folder of a judge that is a reward model.
    """
    from gnomon.evals.calibration import write_calibration
    from gnomon.evals.calibration_drift import drift, drift_words, read_calibration
    from gnomon.report.calibration import in_words

    earlier = None if before is None else read_calibration(before)
    record, rows = _measure(judge, reading, how)
    record.note(round=round)
    if learned is not None and _same(record, learned):
        record.note(learned=True, warnings=[OWN_LABELS, *record.warnings])
    file = write_calibration(output, record, rows)
    if earlier is not None and before is not None:
        found = drift(earlier, read_calibration(file), before.name)
        record.note(drift=found, warnings=[*drift_words(found), *record.warnings])
        record.write(file)
    for line in in_words(record):
        say(line)
    for warning in record.warnings:
        complain("warning", "yellow", warning)
    say(f"calibration: {file}")


def _two_columns(given: str | None) -> tuple[str, str] | None:
    if given is None:
        return None
    names = [part.strip() for part in given.split(",")]
    if len(names) != 2 or not all(names):
        raise ConfigError(f"--authors {given!r}: write COLUMN,COLUMN, as in model_a,model_b")
    return names[0], names[1]


def _judge(given: list[str], name: str | None, output: Path, round: str) -> Judge:
    """The judge of ``--judge`` options."""
    from gnomon.judges.build import CORRECTED, one_judge
    from gnomon.recipe.load import validate_as
    from gnomon.recipe.schema import RewardSpec, check_name
    from gnomon.runs.evals import CALIBRATION_FOLDER

    raw, base = judge_entry(given, name)
    if raw.get("options", {}).get(CORRECTED):
        raise ConfigError(
            "corrected is for a recipe's reward: a calibration is of what the judge itself says, "
            "and its record is believed of both; remove it"
        )

    def load(model: str) -> LoadedReward:
        from gnomon.models.save import load_reward_model

        return load_reward_model(model)

    spec = validate_as(RewardSpec, raw, "--judge")
    answers = output / CALIBRATION_FOLDER / "answers"
    if round:
        try:
            answers = answers / check_name(f"round-{round}", "round")
        except ValueError as error:
            raise ConfigError(f"--round {round!r}: {error}") from error
    return one_judge(spec, base=base, load=load, answers=answers, texts=True)


def _learned(given: list[str], name: str | None) -> Path | None:
    """The folder of the reward model that ``--judge`` options name; None of another judge."""
    raw, base = judge_entry(given, name) if given else ({}, Path())
    return base / raw["model"] if "model" in raw else None


def _measure(
    judge: Judge, reading: Reading, how: Options
) -> tuple[Calibration, list[dict[str, Any]]]:
    from gnomon.evals.calibration import calibrate as measure
    from gnomon.evals.calibration_answers import calibrate_answers
    from gnomon.training.progress import Progress

    groups = reading.groups()

    try:
        with Progress(f"calibrate {judge.name}", len(groups)) as progress:

            def watch(done: int, total: int) -> None:
                progress.expect(total)
                progress.update(done, {})

            if reading.good_from is not None:
                return calibrate_answers(judge, groups, reading.name, watch, reading.good_from)
            return measure(judge, groups, reading.name, watch, how)
    except KeyboardInterrupt:
        raise RunStopped(
            "stopped: the answers so far are kept, and the same command continues from them",
            signal.SIGINT,
        ) from None
