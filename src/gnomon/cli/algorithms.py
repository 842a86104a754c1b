"""``gnomon algorithms``: what a recipe can name, and what each setting means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gnomon.console import say, show

if TYPE_CHECKING:
    from pydantic import BaseModel


def algorithms(
    name: Annotated[
        str | None, typer.Argument(help="The one to explain; without it, all are listed.")
    ] = None,
    setting: Annotated[str | None, typer.Argument(help="Explain only this setting.")] = None,
) -> None:
    """List the algorithms a recipe can name, or explain the settings of one."""
    from gnomon.algorithms.collect_settings import COLLECT, LabellerSpec
    from gnomon.algorithms.registry import METHODS
    from gnomon.algorithms.revise_settings import REVISE, CriticSpec
    from gnomon.stages.names import KINDS, describe

    if name is None:
        _list([(n, *describe(n)) for n in (*METHODS, *KINDS)])
        say("gnomon algorithms NAME explains the settings; docs/recipes.md has all of them.")
        return
    settings, summary = describe(name)
    explain_settings(f"{name}: {summary}", settings, setting)
    if name == COLLECT and setting is None:
        explain_settings("a labeller", LabellerSpec, None)
    if name == REVISE and setting is None:
        explain_settings("a critic", CriticSpec, None)


def _list(listed: list[tuple[str, type[BaseModel], str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("algorithm", no_wrap=True)
    table.add_column("what it is")
    table.add_column("settings", style="dim")
    for name, settings, summary in listed:
        family = next((n for n, s, _ in listed if n != name and s in settings.__mro__), None)
        own = f"those of {family}" if family else ", ".join(settings.model_fields)
        table.add_row(name, summary, own)
    show(table, most=140)


def explain_settings(title: str, settings: type[BaseModel], only: str | None) -> None:
    """Print a table of settings: type and range, default, meaning.

    Raises:
        ConfigError: no setting called ``only``, with the nearest there is.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from gnomon.algorithms.collect_settings import LabellerSpec
    from gnomon.algorithms.revise_settings import CriticSpec
    from gnomon.errors import ConfigError
    from gnomon.plugins import did_you_mean
    from gnomon.recipe.reference import default_of, type_of

    fields = settings.model_fields
    if only is not None and only not in fields:
        raise ConfigError(f"no setting {only!r}; {did_you_mean(only, fields)}")
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("setting", no_wrap=True)
    for column in ("type and range", "default", "meaning"):
        table.add_column(column)
    for key, field in fields.items():
        if only in (None, key):
            cells = (
                key,
                type_of(field, {LabellerSpec: "labeller", CriticSpec: "critic"}),
                default_of(field),
                field.description or "",
            )
            table.add_row(*(Text(cell.replace("`", "")) for cell in cells))
    show(table, most=140)
