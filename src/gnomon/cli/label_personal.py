"""``gnomon label personal | erase``: what labellers told about themselves."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gnomon.cli.label_store import Where
from gnomon.cli.mappings import parse_mapping
from gnomon.console import say
from gnomon.errors import ConfigError

Who = Annotated[str, typer.Argument(help="The labeller's pseudonym.")]


def personal(
    store: Where,
    labeller: Who,
    name: Annotated[str | None, typer.Option(help="Their name.")] = None,
    contact: Annotated[str | None, typer.Option(help="How to reach them.")] = None,
    told: Annotated[
        list[str] | None,
        typer.Option(help="FIELD=VALUE that they agreed to tell, as in age=30-39; repeatable."),
    ] = None,
    consent: Annotated[
        list[str] | None,
        typer.Option(help="WHAT=WHEN they agreed to, as in card=2026-03-01; repeatable."),
    ] = None,
) -> None:
    """Give out all that a store holds about a labeller, as JSON; or note what they told.

      gnomon label personal labels.db kim > kim.json

      gnomon label personal labels.db kim --told age=30-39 --consent card=2026-03-01

    One table holds names, contacts and what labellers told about themselves; nothing is noted
    without consent.
    """
    from dataclasses import replace

    from gnomon.feedback.opening import open_store
    from gnomon.feedback.people import Personal
    from gnomon.feedback.rows import now

    with open_store(store) as opened:
        if name is None and contact is None and not told and not consent:
            about = opened.people.everything_about(labeller)
            typer.echo(json.dumps(about, indent=2))
            return
        before = opened.people.personal(labeller) or Personal()
        change = replace(
            before,
            name=before.name if name is None else name,
            contact=before.contact if contact is None else contact,
            demographics={**before.demographics, **parse_mapping("--told", told or [])},
            consent={**before.consent, **parse_mapping("--consent", consent or [])},
            at=now(),
        )
        opened.people.set_personal(labeller, change)
        say(f"noted for {labeller!r}; gnomon label erase removes it")


def erase(
    store: Where,
    labeller: Who,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: it cannot be undone.")] = False,
) -> None:
    """Erase what is personal of a labeller; their labels stay, under the pseudonym.

      gnomon label erase labels.db kim --yes

    Gone are their name, contact, what they told about themselves, their drafts, their tokens and
    the comments on their labels. They are given no more items.
    """
    from gnomon.feedback.opening import open_store

    if not yes:
        raise ConfigError(
            f"this erases what is personal of {labeller!r} for good; give --yes to do it"
        )
    with open_store(store) as opened:
        erased = opened.people.erase(labeller)
        parts = ", ".join(f"{n} {what}" for what, n in erased.items())
        say(f"erased of {labeller!r}: {parts}; the labels stay")
        copies = opened.db.copies()
        if copies:
            say(
                f"copies of older schemas still hold it: {', '.join(map(str, copies))}. Remove them"
            )
