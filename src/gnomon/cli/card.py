"""``gnomon card``: a run's model card, and how far it fills an authority's form."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gnomon.console import err, say

if TYPE_CHECKING:
    from gnomon.recipe.card import CardSpec


class FormName(StrEnum):
    """The forms that there are."""

    eu = "eu"
    uk = "uk"


def card(
    run: Annotated[Path, typer.Argument(help="A run's folder, as in runs/quickstart.")],
    stage: Annotated[
        str | None,
        typer.Option(help="The stage whose model it is of; by default the last policy."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write it here; with --form, .json writes JSON. - prints it."
        ),
    ] = None,
    form: Annotated[
        FormName | None,
        typer.Option(
            help="Instead of the card, a form field by field: filled, partial or missing, with "
            "where the value is from. eu: the Model Documentation Form of the Code of Practice for "
            "general-purpose AI. uk: what the Code of Practice for the Cyber Security of AI asks "
            "developers to disclose."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --form: print JSON.")] = False,
    statements: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file with the keys of a recipe's card (licence, provider, data, ...), "
            "used in place of the recipe's own."
        ),
    ] = None,
) -> None:
    """Write a run's model card from its records, for people and for the Hugging Face hub.

    It writes model_card.md in the run's folder, and the same as README.md in the folder of every
    model that the run left; gnomon run does so at its end. With --stage or --output one card is
    written, to --output or to the terminal. What no record says and nobody stated is
    listed as missing: state it in the recipe under card. See docs/card.md.
    """
    from gnomon.errors import ConfigError
    from gnomon.files import write_text
    from gnomon.report.card import run_card, write_cards
    from gnomon.report.facts import read_facts

    if as_json and form is None:
        raise ConfigError("--json goes with --form: the card itself is Markdown")
    stated = None if statements is None else _statements(statements)
    if form is not None:
        from gnomon.report.eu_form import EU_FORM
        from gnomon.report.forms import form_json, form_markdown
        from gnomon.report.uk_form import UK_FORM

        chosen = {FormName.eu: EU_FORM, FormName.uk: UK_FORM}[form]
        facts = read_facts(run, stage, stated)
        plain = as_json or (output is not None and output.suffix == ".json")
        text = (
            json.dumps(form_json(chosen, facts), indent=2, ensure_ascii=False) + "\n"
            if plain
            else form_markdown(chosen, facts)
        )
    elif stage is None and output is None:
        for file in write_cards(run, stated):
            say(str(file))
        return
    else:
        text = run_card(run, stage, stated)
    if output is None or str(output) == "-":
        typer.echo(text, nl=False)
        return
    write_text(output, text)
    err.print(str(output), markup=False, highlight=False, soft_wrap=True)


def _statements(file: Path) -> CardSpec:
    """The statements in a YAML file.

    Raises:
        ConfigError: an unknown key, with the nearest known one.
        DataError: the file cannot be read.
    """
    from gnomon.errors import DataError
    from gnomon.recipe.card import CardSpec
    from gnomon.recipe.load import validate_as
    from gnomon.runs.records import read_recipe

    try:
        raw = read_recipe(file)
    except ValueError as error:
        raise DataError(str(error)) from error
    return validate_as(CardSpec, raw.get("card", raw), str(file))
