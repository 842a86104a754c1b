"""Help texts that fill the terminal, however wide it is."""

from __future__ import annotations

import inspect

import typer


def flow_help(app: typer.Typer) -> None:
    """Let the help of an app's commands, and of its groups' commands, break where the terminal
    does, not where their docstrings do."""
    for command in app.registered_commands:
        command.help = flowed(command.help or inspect.getdoc(command.callback) or "")
    for about in (app.info, app.registered_callback):
        if about is not None and isinstance(about.help, str):
            about.help = flowed(about.help)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            flow_help(group.typer_instance)


def flowed(text: str) -> str:
    """A text with each paragraph on one line; one with an indented line (an example) as it is."""
    paragraphs = text.strip("\n").split("\n\n")
    return "\n\n".join(p if _is_set(p) else p.replace("\n", " ") for p in paragraphs)


def _is_set(paragraph: str) -> bool:
    return any(line.startswith((" ", "- ", "\b")) for line in paragraph.splitlines())
