"""``gnomon label believe``: how far labellers agree, and how far each can be believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gnomon.cli.mappings import parse_mapping
from gnomon.console import complain, say
from gnomon.errors import ConfigError, DataError

if TYPE_CHECKING:
    from gnomon.feedback.flags import Sign
    from gnomon.feedback.labellers import LabellerReport, Report
    from gnomon.feedback.records import Item, Label, Vote

STORES = (".db", ".sqlite", ".sqlite3")
SHOWN = 10
"""Disputed pairs and signs that text shows; --json has them all."""


def believe(
    labels: Annotated[
        str,
        typer.Argument(
            help="A store of labels (a .db file or a postgresql:// URL), or a file of comparisons "
            "by named labellers, in any format that data is read in."
        ),
    ],
    campaign: Annotated[str | None, typer.Option(help="Of a store: one campaign alone.")] = None,
    method: Annotated[
        str, typer.Option(help="auto, dawid_skene, bradley_terry or majority.")
    ] = "auto",
    columns: Annotated[
        list[str] | None,
        typer.Option(help="Of a file: GNOMON=FILE names of columns, as in labeller=who."),
    ] = None,
    meanings: Annotated[
        list[str] | None,
        typer.Option("--labels", help="Of a file: what a verdict's values mean, as in 0=a,1=b."),
    ] = None,
    format: Annotated[str, typer.Option(help="Of a file: its format, when not detected.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Measure how far labellers agree and how far each can be believed.

    Krippendorff's alpha says how far they agree beyond chance. Each labeller's accuracy is
    estimated from what the others say of the same pairs, and measured on gold questions where there
    are any. Flags are signs of something else than judgement: a liking for length or for the answer
    shown first, labels given faster than they can be read. They change no weight; look at the
    labels.

      gnomon label believe labels.db --campaign helpful

      gnomon label believe votes.jsonl --json

    To train on what the labellers say together: data: {path: votes.jsonl, votes: calibrated}.
    """
    from gnomon.console import err
    from gnomon.feedback.labellers import report_on

    if labels.startswith(("postgresql:", "postgresql+", "sqlite:")) or _is_store(Path(labels)):
        items, given, votes = _from_store(labels, campaign)
    elif campaign is not None:
        raise ConfigError("--campaign is of a store; a file has none")
    else:
        how: dict[str, Any] = {
            "format": format,
            "columns": parse_mapping("--columns", columns or []) or None,
            "labels": parse_mapping("--labels", meanings or []) or None,
        }
        items, votes = _from_file(Path(labels), how)
        given = []
    if not given and not votes:
        raise DataError(f"{labels}: no labels")
    with err.status("") as status:
        found = report_on(
            items,
            given,
            votes=votes,
            method=method,  # type: ignore[arg-type]  # checked where it is used
            progress=lambda what: status.update(f"{what} ..."),
        )
    if json:
        from json import dumps

        print(dumps(found.to_dict(), indent=2))
        return
    for line in in_words(found):
        say(line)


def _is_store(path: Path) -> bool:
    """Whether a file is an SQLite database, by its name or its first bytes."""
    if not path.is_file():
        return path.suffix in STORES
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def _from_store(
    where: str, campaign: str | None
) -> tuple[list[Item], list[Label], list[Vote] | None]:
    from gnomon.feedback.opening import open_store

    with open_store(where) as store:
        if campaign is not None:
            store.campaign(campaign)
        return list(store.items(campaign)), list(store.labels(campaign)), None


def _from_file(path: Path, how: dict[str, Any]) -> tuple[list[Item], list[Vote]]:
    from gnomon.data.readers import read_groups
    from gnomon.data.values import summarise_skipped
    from gnomon.feedback.from_groups import voted

    read = read_groups(path, kind="rankings", **how)
    if read.skipped:
        complain("skipped", "yellow", summarise_skipped(read.skipped))
    found = voted(read.groups)
    return list(found.items), list(found.votes)


def in_words(found: Report) -> list[str]:
    """The report for people to read, a line a figure."""
    from gnomon.report.format import measured

    pairs = len(found.found.beliefs)
    lines = [f"{pairs} pairs compared by {len(found.labellers)} labellers"]
    for what, alphas in {"pairs": found.alphas, **found.rating_alphas}.items():
        for level, value in alphas.items():
            lines.append(f"Krippendorff's alpha of {what}, {level}   {measured(value)}")
    lines.append("(1 is agreement throughout, 0 is chance; n: items that two or more labelled)")
    lines.append(f"accuracy by {found.found.method}, on gold questions, time:")
    lines += [_line(report) for report in found.labellers]
    raised = [sign for sign in found.signs if sign.raised]
    if found.signs:
        lines.append(
            f"{len(raised)} flags among {len(found.signs)} signs (a report on honest labellers "
            "has one in about 1 of 20 cases)"
        )
    lines += [_flag(sign) for sign in raised]
    lines += _unseen(found.signs)
    if found.disputed:
        lines.append(f"{len(found.disputed)} pairs on which no side is sure; first of all:")
        for item, a, b in found.disputed[:SHOWN]:
            belief = found.found.beliefs[item, a, b]
            lines.append(
                f"  {item}: response {a} against {b}, {belief.votes} votes, "
                f"P({a} better) = {belief.probability:.2f}, P(tie) = {belief.tie:.2f}"
            )
    return lines + [f"note: {note}" for note in found.notes]


def _line(report: LabellerReport) -> str:
    from gnomon.report.format import duration, measured

    parts = [f"  {report.name}: {report.labels} labels"]
    ability = report.ability
    if ability is not None:
        word = (
            " (contrary)"
            if ability.adversarial
            else " (may be a guess)"
            if ability.guessing
            else ""
        )
        parts.append(
            f"accuracy {measured(ability.accuracy)}, standard error {ability.error:.3f}{word}"
        )
        parts.append(f"ties {ability.ties:.0%}")
    if report.gold.n:
        parts.append(f"gold {measured(report.gold)}")
    if report.seconds == report.seconds:
        parts.append(duration(report.seconds))
    return "; ".join(parts)


def _flag(sign: Sign) -> str:
    from gnomon.report.format import measured

    return f"  {sign.kind}: {sign.words} {measured(sign.figure)}"


def _unseen(signs: tuple[Sign, ...]) -> list[str]:
    """What the signs that raised nothing could have shown."""
    lines = []
    for kind in dict.fromkeys(sign.kind for sign in signs):
        quiet = [s for s in signs if s.kind == kind and not s.raised]
        seen = sorted(s.detectable for s in quiet)
        if quiet:
            middle = seen[len(seen) // 2]
            could = (
                f"a departure of {middle:.2f} from what is allowed would be seen (median labeller, "
                "80% of the time)"
                if middle < 1e9
                else "these labels are too few to show any"
            )
            lines.append(f"  {kind}: no flag on {len(quiet)} labellers; {could}")
    return lines
