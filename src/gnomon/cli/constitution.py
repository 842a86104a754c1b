"""``gnomon constitution``: check a file of principles, and show one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gnomon.console import say, show

if TYPE_CHECKING:
    from gnomon.feedback.constitution import Constitution

constitution_app = typer.Typer(
    no_args_is_help=True,
    help="Principles that answers are revised and judged by (constitutional AI).",
)
Where = Annotated[str, typer.Argument(help="A .yaml or .md file, or the name of one of gnomon's.")]


@constitution_app.command()
def check(where: Where) -> None:
    """Check a constitution: its keys, ids, weights, places and examples.

    All that is wrong is told at once, with the file, the principle and the cure (exit code 1). What
    is right is counted: which principles can revise an answer, and which can compare two.
    """
    from gnomon.feedback.constitution import read_constitution

    found = read_constitution(where)
    say(f"{found.file}: {found.name} {found.version}, {len(found.chosen)} principles")
    revise = [p for p in found.chosen if p.revises]
    prefer = [p for p in found.chosen if p.prefers]
    for what, able, needs in (
        ("to revise answers", revise, "a critique_request and a revision_request"),
        ("to compare answers", prefer, "a preference_question"),
    ):
        others = [p.id for p in found.chosen if p not in able]
        line = f"{what}: {len(able)} of {len(found.chosen)}"
        say(f"{line}; {', '.join(others)} would need {needs}" if others else line)


@constitution_app.command("show")
def show_constitution(
    where: Where = "gnomon",
    principle: Annotated[
        str | None, typer.Argument(help="The id of a principle, to show what it asks.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Print the file itself, to copy.")] = False,
) -> None:
    """Show a constitution's principles, or what one of them asks."""
    from gnomon.feedback.constitution import read_constitution

    found = read_constitution(where)
    if raw:
        typer.echo(Path(found.file).read_text(encoding="utf-8"), nl=False)
    elif principle is None:
        _table(found)
    else:
        _one(found, principle)


def _table(found: Constitution) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    total = sum(p.weight for p in found.chosen)
    table = Table(
        title=Text(f"{found.name} {found.version}"), title_justify="left", box=box.SIMPLE_HEAD
    )
    for column in ("principle", "category"):
        table.add_column(column, no_wrap=True)
    table.add_column("drawn", justify="right")
    table.add_column("asks")
    for p in found.chosen:
        asks = p.preference_question or p.critique_request
        share = f"{p.weight / total:.1%}"
        table.add_row(*(Text(cell) for cell in (p.id, p.category, share, asks)))
    if found.content.about:
        say(found.content.about)
    show(table, most=140)


def _one(found: Constitution, id: str) -> None:
    from gnomon.errors import ConfigError
    from gnomon.plugins import did_you_mean

    known = {p.id: p for p in found.chosen}
    if id not in known:
        hint = did_you_mean(id, known, "its principles are")
        raise ConfigError(f"{found.file}: no principle {id!r}; {hint}")
    p = known[id]
    say(f"{found.label(p)} ({p.category}, weight {p.weight:g})")
    for name in ("critique_request", "revision_request", "preference_question"):
        say(f"{name}: {getattr(p, name) or '(none)'}")
    for example in found.content.examples:
        if example.principle == id:
            say(f"example: {example.question} -> {example.answer}")
            say(f"  critique: {example.critique}")
            say(f"  revision: {example.revision}")
