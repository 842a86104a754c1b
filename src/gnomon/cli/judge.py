"""``gnomon judge``: labels by language models, and why they are what they are."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from gnomon.cli.judge_given import judge_options
from gnomon.cli.mappings import parse_mapping
from gnomon.console import complain, say
from gnomon.errors import ConfigError, DataError, RunError, RunStopped

if TYPE_CHECKING:
    from gnomon.feedback.ailabels import Sink, Summary
    from gnomon.judges.ai import AIJudge
    from gnomon.judges.panel import Panel


class _LabelFirst(TyperGroup):
    """``gnomon judge FILE`` is ``gnomon judge label FILE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["label", *args]
        return super().parse_args(ctx, args)


judge_app = typer.Typer(
    cls=_LabelFirst,
    no_args_is_help=True,
    help="Labels by language models: gnomon judge FILE --judge model=NAME ... --out labels.jsonl, "
    "and gnomon judge explain labels.jsonl ID.",
)


@judge_app.command("label")
def label(
    data: Annotated[
        str,
        typer.Argument(
            help="Answers to judge: a file of prompts and responses, in any format that data is "
            "read in (they need no verdict); a run's or a stage's folder (its samples); a store."
        ),
    ],
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="A YAML file of the judge's options, or KEY=VALUE, as in model=NAME "
            "url=http://HOST/v1 mode=ranking; see docs/judges.md. Repeatable."
        ),
    ] = None,
    out: Annotated[
        str, typer.Option(help="Where labels go: a .jsonl file, a store's file (.db) or its URL.")
    ] = "labels.jsonl",
    name: Annotated[str | None, typer.Option(help="The judge's name in its labels.")] = None,
    budget: Annotated[
        float | None, typer.Option(help="Euros that all its answers may cost; then it stops.")
    ] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="The same in tokens.", min=1)] = None,
    patience: Annotated[
        float, typer.Option(help="Seconds that an endpoint which is gone is waited for.", min=0)
    ] = 600.0,
    campaign: Annotated[
        str | None, typer.Option(help="Of a store: only its items; else what labels belong to.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Of a run: only this stage's samples.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option(help="GNOMON=FILE names of the data's columns.")
    ] = None,
    format: Annotated[str, typer.Option(help="The data's format, when not detected.")] = "auto",
    limit: Annotated[int | None, typer.Option(help="Judge at most this many.", min=1)] = None,
    sample_seed: Annotated[
        int | None, typer.Option(help="With --limit: a random sample, not the first ones.")
    ] = None,
    max_failed: Annotated[
        float, typer.Option(help="The share of items it may fail on before that is an error.")
    ] = 0.05,
    work: Annotated[
        Path | None,
        typer.Option(help="Where questions and answers are kept; by default OUT.asked."),
    ] = None,
) -> None:
    """Have a language model, or a panel of them, label answers. The word label may be left out.

    It compares them in pairs and in both orders (mode=pairs), ranks all at once (ranking), judges
    each by a rubric (rubric), from 1 to 10 (score), or as good or bad (approval). Labels are soft
    where the endpoint gives log-probs. The file it writes is data that any stage reads.

    Stopped, killed or over its budget, the same command goes on where it was, and pays for no
    answer twice. What it failed on gets no label; the next run asks about it again. The exit code
    is 5 where the budget ended it, and 1 where the endpoint did or too much failed.

      gnomon judge pairs.jsonl --judge model=NAME --judge url=http://localhost:8000/v1

      gnomon judge runs/mine --judge judge.yaml --budget 2.50 --out labels.db
    """
    from gnomon.feedback.ailabels import label_items, spent_error
    from gnomon.feedback.judged_data import items_of
    from gnomon.training.progress import Progress

    folder = work or work_of(out)
    caps = {"budget": budget, "budget_tokens": budget_tokens}
    asked = make_judge(judge or [], name, folder, caps, patience)
    found = items_of(
        data,
        campaign=campaign,
        stage=stage,
        limit=limit,
        sample_seed=sample_seed,
        columns=parse_mapping("--columns", columns or []),
        format=format,
    )
    if found.note:
        say(found.note)
    with _stoppable(), _sink(out) as sink, Progress("judge", len(found.items)) as progress:
        _hear(asked, progress.note)

        def show(done: int, summary: Summary) -> None:
            spent = {"tokens": summary.spent.tokens, "euros": summary.spent.money or None}
            progress.update(done, {"failed": summary.failed or None, **spent})

        summary = label_items(asked, found.items, sink, folder, progress=show)
    _say_summary(summary, asked, folder, out)
    if summary.over:
        raise spent_error(summary, out)
    tried = summary.labelled + summary.failed
    if summary.failed > max_failed * tried:
        raise RunError(
            f"the judge failed on {summary.failed} of {tried} items, more than the "
            f"{max_failed:.0%} allowed (--max-failed). The first: {summary.first_error}\n"
            f"All of them: {folder / 'failed.jsonl'}. The same command asks about them again."
        )


@judge_app.command("explain")
def explain(
    labels: Annotated[str, typer.Argument(help="What gnomon judge wrote: a file, or a store.")],
    id: Annotated[str, typer.Argument(help="Of a label, an item or a prompt, or its beginning.")],
    work: Annotated[
        Path | None,
        typer.Option(help="Where questions and answers are kept; by default LABELS.asked."),
    ] = None,
    questions: Annotated[
        bool, typer.Option("--questions/--no-questions", help="Show the questions in full.")
    ] = True,
) -> None:
    """Say why a label came out as it did: who gave it, by which principle or rubric and version,
    what was asked in each order, what was answered, with which probabilities, and what it cost.

      gnomon judge explain labels.jsonl 3f2a
    """
    from gnomon.cli.judge_words import exchange_lines, label_lines, labels_named, visible
    from gnomon.feedback.explained import exchanges

    found = list(labels_named(labels, id))
    if not found:
        raise DataError(f"{labels}: no label, item or prompt {id!r}")
    for one in found:
        for line in label_lines(one):
            say(visible(line))
        if not one.labeller.startswith("ai:"):  # a person's or a program's: nothing was asked
            continue
        for exchange in exchanges(one, work or work_of(labels)):
            for line in exchange_lines(exchange, questions):
                say(visible(line))


# -- the judge -------------------------------------------------------------------------------------


def make_judge(
    given: list[str],
    name: str | None,
    folder: Path,
    caps: Mapping[str, Any],
    patience: float = 0.0,
) -> AIJudge | Panel:
    """The judge of ``--judge`` options.

    Args:
        folder: where its answers are kept.
        caps: what its answers may cost; of options that are None, those of the judge hold.

    Raises:
        ConfigError: they are no judge's.
    """
    from gnomon.judges.panel import ai_judge

    options, base = judge_options(given)
    options |= {key: value for key, value in caps.items() if value is not None}
    if patience and "local" not in options:
        options.setdefault("patience_s", patience)
    if options.pop("builtin", "ai") != "ai":
        raise ConfigError("gnomon judge asks language models: remove builtin, give model or local")
    if options.pop("corrected", False):
        raise ConfigError(
            "corrected is for a recipe's reward: a label is what the judge itself says; remove it"
        )
    own = options.pop("name", None) or name
    found = ai_judge(base=base, answers=folder, **options)
    if own:
        found.name = str(own)
    return found


def _hear(judge: AIJudge | Panel, tell: Any) -> None:
    """Have endpoints say that they are waited for."""
    from gnomon.feedback.ailabels import members_of
    from gnomon.judges.endpoint import Endpoint

    for member in members_of(judge).values():
        if isinstance(member.answerer, Endpoint):
            member.answerer.tell = tell


# -- where labels go -------------------------------------------------------------------------------


def work_of(out: str) -> Path:
    """The folder beside labels in which what was asked is kept."""
    from gnomon.feedback.ailabels import WORK
    from gnomon.feedback.identity import digest

    if "://" in out:
        return Path(f"judge-{digest(out)[:8]}{WORK}")
    return Path(f"{out}{WORK}")


@contextmanager
def _sink(out: str) -> Iterator[Sink]:
    from gnomon.feedback.judged_data import is_store
    from gnomon.feedback.label_files import LabelFile, StoreSink

    if not is_store(out):
        with LabelFile(Path(out)) as file:
            yield file
        return
    from gnomon.feedback.opening import open_store

    with open_store(out, create=True) as store:
        yield StoreSink(store)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM stop it where it is: what was answered is kept."""

    def stop(number: int, frame: object) -> None:
        raise _Asked(number)

    before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _Asked as asked:
        raise RunStopped(
            "stopped: the labels and answers so far are kept, and the same command goes on from "
            "them",
            asked.number,
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Asked(KeyboardInterrupt):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


# -- in words --------------------------------------------------------------------------------------


def _say_summary(summary: Summary, judge: AIJudge | Panel, folder: Path, out: str) -> None:
    from gnomon.feedback.ailabels import members_of
    from gnomon.feedback.explained import costs, disagreement, habits
    from gnomon.report.format import duration, measured

    done = summary.before + summary.labelled
    say(
        f"{done} of {summary.items} items labelled"
        + (f" ({summary.before} before)" if summary.before else "")
        + (f", {summary.failed} failed" if summary.failed else "")
        + f": {out}"
    )
    for model, cost in costs(folder).items():
        money = f", {cost.money:.4f} euros" if cost.money else ""
        say(f"  {model}: {duration(cost.seconds)} of requests, {cost.tokens} tokens{money}")
    for who, member in members_of(judge).items():
        say(f"  {who} is {member.version}")
    apart = disagreement(folder)
    if apart is not None:
        say(f"  verdicts on which the panel's members differ   {measured(apart)}")
    for habit in habits(folder):
        say(f"  {habit.words}   {measured(habit.share)}")
        if habit.warning is not None:
            complain("warning", "yellow", habit.warning)
