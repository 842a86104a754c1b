"""``gnomon label new | add | people | show | import | export``: what is in a store of labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gnomon.cli.mappings import parse_mapping
from gnomon.console import complain, say
from gnomon.console import show as render
from gnomon.errors import ConfigError

if TYPE_CHECKING:
    from gnomon.feedback.exchange import Imported
    from gnomon.feedback.store import Store

Where = Annotated[
    str, typer.Argument(help="The store: a file, or postgresql://USER@HOST/DATABASE.")
]
Columns = Annotated[
    list[str] | None,
    typer.Option(help="GNOMON=FILE names of columns, as in prompt=question; may be repeated."),
]
Meanings = Annotated[
    list[str] | None,
    typer.Option("--labels", help="What a preference column's values mean, as in 0=a,1=b,2=tie."),
]
Format = Annotated[str, typer.Option(help="The file's format by name, when it is not detected.")]
Limit = Annotated[int | None, typer.Option(help="Read at most this many rows.", min=1)]


def new(
    store: Where,
    campaign: Annotated[str, typer.Argument(help="Its name, as in pilot.")],
    overlap: Annotated[
        int | None, typer.Option(help="Labellers for each item; 1 by default.", min=1)
    ] = None,
    gold_rate: Annotated[
        float | None,
        typer.Option(help="Share of questions whose answer is known; 0 by default.", min=0, max=1),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="How long an item is kept for who was given it; 60 by default.", min=0.1),
    ] = None,
    guideline: Annotated[
        Path | None,
        typer.Option(help="A text or Markdown file that labellers go by; its version is its name."),
    ] = None,
    ask: Annotated[
        str | None, typer.Option(help="ranking (the default), rating, approval or edit.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="What the page asks, in words.")] = None,
    scale: Annotated[
        int | None, typer.Option(help="How many ratings there are; 5 by default.", min=2, max=11)
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="A reason that can be ticked; may be repeated.")
    ] = None,
    closed: Annotated[
        bool | None, typer.Option("--closed/--open", help="Hand out no items; or do so again.")
    ] = None,
) -> None:
    """Make a store and a campaign in it, or change how a campaign is run.

      gnomon label new labels.db pilot --overlap 3 --gold-rate 0.1 --guideline rules-v1.md

    A campaign is a collection of items that people are asked about in the same way. Of one that is
    there, what is not given stays. Labels that were given stay as they are, with the guideline that
    they were given under.
    """
    from gnomon.feedback.answers import Task
    from gnomon.feedback.opening import open_store
    from gnomon.feedback.store import Campaign, Guideline

    given: dict[str, Any] = {"overlap": overlap, "gold_rate": gold_rate, "minutes": minutes}
    asked = {"ask": ask, "question": question, "scale": scale, "tags": tag}
    with open_store(store, create=True) as opened:
        before = {c.name: c for c in opened.campaigns()}.get(campaign)
        made = replace(
            before or Campaign(campaign), **{k: v for k, v in given.items() if v is not None}
        )
        settings = {**made.settings, **{k: v for k, v in asked.items() if v is not None}}
        Task.of(settings, campaign)
        made = replace(made, settings=settings)
        if guideline is not None:
            opened.add_guideline(Guideline(guideline.stem, _text(guideline)))
            made = replace(made, guideline=guideline.stem)
        opened.set_campaign(made if closed is None else replace(made, open=not closed))
        say(f"campaign {campaign!r} {'made' if before is None else 'changed'} in {opened.where}")
        if before is None:
            say(f"next: gnomon label add {store} {campaign} FILE")


def add(
    store: Where,
    campaign: Annotated[str, typer.Argument(help="The campaign that the items belong to.")],
    file: Annotated[
        Path, typer.Argument(help="Prompts with responses, in any format that data is read in.")
    ],
    gold: Annotated[
        bool, typer.Option("--gold", help="What the file says is right: gold questions.")
    ] = False,
    columns: Columns = None,
    meanings: Meanings = None,
    format: Format = "auto",
    limit: Limit = None,
) -> None:
    """Add items to be judged. What the file says of them is left out, or is gold (--gold).

      gnomon label add labels.db pilot pairs.jsonl

      gnomon label add labels.db pilot checked.jsonl --gold

    An item that is there already is not added again, so a command that was stopped is simply given
    again. In an item the responses are in an order that tells nothing of which is better.
    """
    from gnomon.feedback.opening import open_store

    read = _read_options(columns, meanings, format, limit)
    with open_store(store) as opened:
        opened.campaign(campaign)
        use: Any = "gold" if gold else "items"
        _report(_import(opened, file, f"add to {campaign}", campaign=campaign, use=use, **read))


def people(
    store: Where,
    names: Annotated[
        list[str] | None, typer.Argument(help="Pseudonyms to add; none lists who is there.")
    ] = None,
    kind: Annotated[str, typer.Option(help="person, model, program or simulated.")] = "person",
    role: Annotated[str, typer.Option(help="labeller, adjudicator or admin.")] = "labeller",
    stop: Annotated[
        bool, typer.Option("--stop", help="Give them no more items; their labels stay.")
    ] = False,
) -> None:
    """List labellers, add some, or give some no more items.

      gnomon label people labels.db

      gnomon label people labels.db kim lee

    A name is a pseudonym: names and addresses go into `gnomon label personal`, if anywhere.
    """
    from rich.table import Table

    from gnomon.feedback.opening import open_store

    with open_store(store) as opened:
        for name in names or ():
            if stop:
                opened.people.set_active(name, False)
            else:
                opened.people.add(name, kind, role)  # type: ignore[arg-type]  # checked there
                opened.people.set_active(name, True)
        table = Table("labeller", "kind", "role", "active", "since")
        for one in opened.people.all():
            active = "yes" if one.active else "no"
            table.add_row(_plain(one.name), one.kind, one.role, active, one.at[:10])
        render(table)


def show(store: Where) -> None:
    """Show what a store holds: its campaigns, how far each is, and its labellers.

    gnomon label show labels.db
    """
    from rich.table import Table

    from gnomon.feedback.opening import open_store

    with open_store(store) as opened:
        table = Table("campaign", "items", "complete", "labels", "open", "overlap", "guideline")
        for c in opened.campaigns():
            done = opened.queue.progress(c.name)
            figures = [done.items, done.complete, done.labels, done.open, c.overlap]
            table.add_row(_plain(c.name), *map(str, figures), _plain(c.guideline))
        render(table)
        say(f"{opened.where}: {len(opened.labellers())} labellers")


def import_labels(
    store: Where,
    file: Annotated[
        Path,
        typer.Argument(
            help="Labels: a store's own export, the labels of a run's human stage "
            "(RUN/stages/*/queue/round-001.labels.jsonl), or any file of comparisons, rankings, "
            "ratings or good/bad that data is read from."
        ),
    ],
    campaign: Annotated[str, typer.Option(help="The campaign that the items belong to.")] = "",
    labeller: Annotated[
        str, typer.Option(help="Whose the judgements are that name nobody: a pseudonym.")
    ] = "",
    kind: Annotated[
        str, typer.Option(help="What added labellers are: person, model, program, simulated.")
    ] = "person",
    add_labellers: Annotated[
        bool, typer.Option("--add-labellers", help="Add labellers that the store does not know.")
    ] = False,
    columns: Columns = None,
    meanings: Meanings = None,
    format: Format = "auto",
    limit: Limit = None,
) -> None:
    """Bring labels in: each judgement of each labeller, with what it is about.

      gnomon label import labels.db old.jsonl --campaign pilot --labeller kim

      gnomon label import labels.db pandalm.json --campaign pandalm --add-labellers

    Columns such as annotator1, labeller or evaluator say whose a judgement is. Unknown labellers
    are an error unless --add-labellers is given. Judgements that are there already are not added
    again: a command that was stopped is simply given again.
    """
    from typing import get_args

    from gnomon.feedback.opening import open_store
    from gnomon.feedback.records import LabellerKind
    from gnomon.plugins import check_known

    check_known(kind, get_args(LabellerKind), "kind of labeller", own=False)
    read = _read_options(columns, meanings, format, limit)
    with open_store(store, create=True) as opened:
        done = _import(
            opened, file, "import", campaign=campaign, labeller=labeller, kind=kind,
            add_labellers=add_labellers, **read,
        )  # fmt: skip
    _report(done)


def export(
    store: Where,
    file: Annotated[Path, typer.Argument(help="A .jsonl, .jsonl.gz or .parquet file to write.")],
    form: Annotated[
        str,
        typer.Option(
            "--as",
            help="labels (everything, to be imported again); or to learn from: groups (gnomon's), "
            "preference (TRL's DPO and reward trainers), unpaired (KTO), demonstrations (SFT).",
        ),
    ] = "labels",
    campaign: Annotated[
        str | None, typer.Option(help="Only this campaign; all where none is given.")
    ] = None,
    votes: Annotated[
        str,
        typer.Option(
            help="calibrated: labellers weighed by how far they can be believed; majority; or "
            "each: every vote by itself."
        ),
    ] = "calibrated",
    good_from: Annotated[
        float | None, typer.Option(help="Mean ratings from here on count as good.")
    ] = None,
) -> None:
    """Write labels to a file: all of them, or what they say, as data to learn from.

      gnomon label export labels.db backup.jsonl

      gnomon label export labels.db pairs.parquet --as preference --votes majority

    Personal data is never in it. A recipe can read the store itself: data: {path:
    "feedback:labels.db"}.
    """
    from typing import get_args

    from gnomon.feedback.exchange import own_rows, write_rows
    from gnomon.feedback.groups import Votes, learned_groups
    from gnomon.feedback.opening import open_store
    from gnomon.feedback.training_rows import AS_JSON, FORMS, training_rows
    from gnomon.plugins import check_known

    check_known(form, ("labels", *FORMS), "form", own=False)
    check_known(votes, get_args(Votes), "way to count votes", own=False)
    skipped: list[Any] = []
    with open_store(store) as opened:
        if campaign is not None:
            opened.campaign(campaign)
        if form == "labels":
            count = write_rows(file, own_rows(opened, campaign), texts=("body",))
        else:
            items, labels = list(opened.items(campaign)), list(opened.labels(campaign))
            marks = form == "unpaired"
            how: Any = votes
            good = form == "demonstrations"
            groups = learned_groups(items, labels, how, marks=marks, good=good)
            wanted: Any = form
            rows = training_rows(groups, wanted, skipped, good_from)
            count = write_rows(file, rows, texts=AS_JSON)
            if not count:
                complain("warning", "yellow", f"no labels that make {form} rows")
    say(f"{count} rows written to {file}")
    _skips(skipped)


# -- what the commands share ----------------------------------------------------------------------


def _read_options(
    columns: list[str] | None, meanings: list[str] | None, format: str, limit: int | None
) -> dict[str, Any]:
    return {
        "columns": parse_mapping("--columns", columns or []) or None,
        "labels": parse_mapping("--labels", meanings or []) or None,
        "format": format,
        "limit": limit,
    }


def _import(store: Store, file: Path, title: str, **options: Any) -> Imported:
    from gnomon.feedback.exchange import import_file
    from gnomon.training.progress import Progress

    bar: list[Progress] = []

    def advance(done: int, total: int) -> None:
        if not bar:
            bar.append(Progress(title, total))
            bar[0].__enter__()
        bar[0].update(done, {})

    try:
        return import_file(store, file, progress=advance, **options)
    finally:
        if bar:
            bar[0].__exit__(None, None, None)


def _report(done: Imported) -> None:
    known = f" ({done.items.known} were there)" if done.items.known else ""
    say(f"{done.items.new} items added{known}")
    if done.labellers:
        known = f" ({done.labels.known} were there)" if done.labels.known else ""
        say(f"{done.labels.new} labels added{known}, of {len(done.labellers)} labellers")
    _skips(done.skipped)


def _skips(skipped: Any) -> None:
    from gnomon.data.values import summarise_skipped

    if skipped:
        complain("warning", "yellow", summarise_skipped(skipped))


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read as text ({error}); give a UTF-8 file") from error
