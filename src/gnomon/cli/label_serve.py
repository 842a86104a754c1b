"""``gnomon label serve`` and ``gnomon label invite``: people judge answers in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gnomon.console import say

PORT = 8410


def serve(
    store: Annotated[
        str, typer.Argument(help="The store: a file, or postgresql://USER@HOST/DATABASE.")
    ],
    campaign: Annotated[
        str | None, typer.Option(help="The only campaign to serve; all of them without it.")
    ] = None,
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.")] = PORT,
    host: Annotated[
        str,
        typer.Option(help="The address to listen on; 0.0.0.0 for people at other machines."),
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name of this machine, such as a proxy's; may be repeated."),
    ] = None,
    clips: Annotated[
        Path | None,
        typer.Option(help="The folder of clips' videos; STORE.clips by default (see clips)."),
    ] = None,
) -> None:
    """Serve a store's questions to people in a browser, and keep what they say.

    It prints a link for each role, good for 30 days. With the labellers' link anybody joins under a
    pseudonym of their own; gnomon label invite makes a link for one person. Every answer is on the
    disk before the next question is shown, so that the program can be stopped (Ctrl-C) or killed at
    any time. There is no encryption: beyond one machine use a private network or a proxy with TLS
    (and give its name with --allow-host). See docs/labelling.md.
    """
    from gnomon.feedback.serve import LabelServer

    server = LabelServer(store, campaign, host, port, allow_host or [], clips)
    for role, link in server.links:
        say(f"{role + ':':<13}{link}")
    say("Stop with Ctrl-C; answers are kept as they come in.")
    server.run()


def invite(
    store: Annotated[str, typer.Argument(help="The store, as for gnomon label serve.")],
    names: Annotated[list[str], typer.Argument(help="Pseudonyms, one for each person.")],
    role: Annotated[
        str, typer.Option(help="labeller; adjudicator: settles disagreements; admin: runs it.")
    ] = "labeller",
    campaign: Annotated[
        str | None, typer.Option(help="The only campaign that the link opens.")
    ] = None,
    many: Annotated[
        bool,
        typer.Option("--many", help="The link works more than once: on a phone and a computer."),
    ] = False,
    days: Annotated[float, typer.Option(help="How long it can be used.", min=0.001)] = 14,
    revoke: Annotated[
        bool,
        typer.Option("--revoke", help="End all links and sessions of these people instead."),
    ] = False,
    url: Annotated[
        str, typer.Option(help="How people reach the server, as in https://label.example.org.")
    ] = f"http://127.0.0.1:{PORT}",
) -> None:
    """Print a link for each of some people, or revoke what they have.

    Who is new is added to the store. A link works once unless --many is given: whoever opens it
    first is let in, and goes on in that browser. The store keeps no link that could be read back.
    """
    from gnomon.feedback.serve import invitation, revoke_all

    for name in names:
        if revoke:
            say(f"{name}: {revoke_all(store, name)} links and sessions ended")
        else:
            link = invitation(store, name, role, campaign=campaign, many=many, days=days, url=url)
            say(f"{name}: {link}")
