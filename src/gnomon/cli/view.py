"""``gnomon view``: the runs of a folder in a browser, live."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from gnomon.console import say


def view(
    folder: Annotated[
        Path, typer.Argument(help="The folder that your runs are in; or one run's folder.")
    ] = Path("runs"),
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.")] = 8400,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on. One that others can reach, such as 0.0.0.0, asks "
            "everybody for the token in the link that is printed."
        ),
    ] = "127.0.0.1",
    open_link: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the link in a browser.")
    ] = True,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another name of this machine, such as a proxy's; may be repeated."),
    ] = None,
) -> None:
    """Look at runs while they train and after: may this one ship, its alarms, curves and samples.

    The page of a run says ship, hold or not shown, as report.html does, with the alarms on the time
    axis. Runs can be compared, samples filtered, and two models judged blind: each choice is kept
    in FOLDER/preferences as a preference that a stage can train on. Nothing else is written, and
    the pages ask nothing of any other machine. See docs/view.md. Stop it with Ctrl-C.
    """
    from gnomon.view.serve import ViewServer

    server = ViewServer(folder, host, port, allow_host or [])
    say(f"{folder} at {server.link}")
    say("Stop with Ctrl-C.")
    server.run(lambda: webbrowser.open(server.link) if open_link else None)
