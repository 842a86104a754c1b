"""``gnomon label cost``: what labels cost, and what they say for it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gnomon.cli.mappings import parse_mapping
from gnomon.console import say, show
from gnomon.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from gnomon.runs.labels import CostLine, LabelCosts
    from gnomon.stats.intervals import Interval


def cost(
    place: Annotated[
        str, typer.Argument(metavar="STORE|RUN", help="A store of labels, or a run's folder.")
    ],
    price: Annotated[
        list[str] | None,
        typer.Option(
            help="WHO=EUROS: what a label costs, where it does not say itself; WHO is a labeller "
            "or a kind (person, model, program, simulated). Repeatable."
        ),
    ] = None,
    wage: Annotated[
        float,
        typer.Option(
            help="Euros an hour that people are paid, for their labels that have no other price.",
            min=0,
        ),
    ] = 0.0,
    campaign: Annotated[str | None, typer.Option(help="Of a store: one campaign only.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write the ledger into this folder too; in a run's, its model card shows it. Of a "
            "RUN it is written into that."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what labels cost and how much they tell, labeller by labeller and in sum.

    Costs are seconds, tokens and euros. How much a label tells is measured in bits, against what
    the other labellers say of the same pair (people, where there are any): 1 where it settles the
    question, 0 where a coin would do as well. Euros a bit compare a cheap label that tells little
    with a dear one that tells much. Of a run it shows what its judges took, and how many euros a
    point of its reward model's accuracy cost.

      gnomon label cost labels.db --price person=0.40 --price ai:my-judge=0.002

      gnomon label cost runs/feedback
    """
    from gnomon.feedback.ledger import Tariff, is_run, run_ledger, store_ledger
    from gnomon.feedback.opening import open_store
    from gnomon.runs.labels import LABEL_COSTS, STORE_COSTS

    tariff = Tariff(
        {who: _euros(who, x) for who, x in parse_mapping("--price", price or []).items()}, wage
    )
    file = LABEL_COSTS if is_run(place) else STORE_COSTS
    if is_run(place):
        from gnomon.runs.read import read_run

        if tariff.price or wage or campaign:
            raise ConfigError(
                "--price, --wage and --campaign are of a store; a run's judges have prices of "
                "their own"
            )
        found = run_ledger(read_run(place))
        output = output or Path(place)
    else:
        with open_store(place) as store:
            found = store_ledger(store, campaign, tariff)
    if output is not None:
        found.write(output / file)
    if as_json:
        say(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    if found.lines:
        show(_table(found))
        if any(line.bits is not None for line in found.lines):
            say(
                "bits a pair: how much one comparison tells of what the others say of the same "
                "pair (1: all of it, 0: nothing), with its 95% interval"
            )
    if found.accuracy is not None:
        say(f"the reward model's accuracy on held-out pairs: {_figure(found.accuracy)}")
    if found.per_point is not None:
        say(f"what each hundredth of it above one half cost, in euros: {_figure(found.per_point)}")
    for note in found.notes:
        say(note)
    if output is not None:
        say(f"written: {output / file}")


def _euros(who: str, given: str) -> float:
    try:
        euros = float(given)
    except ValueError:
        euros = math.nan
    if not 0 <= euros < math.inf:
        raise ConfigError(f"--price {who}={given}: give euros, as in --price {who}=0.40")
    return euros


def _table(found: LabelCosts) -> Table:
    from rich.markup import escape
    from rich.table import Table

    run = any(line.stage for line in found.lines)
    table = Table(title="What the run's judges took" if run else "What labels cost and tell")
    heads = ("judge" if run else "labeller", "kind", *(["stage"] if run else []),
             "judged" if run else "labels")  # fmt: skip
    for head in heads:
        table.add_column(head)
    rest = ("failed",) if run else ("pairs compared", "euros a pair", "bits a pair", "euros a bit")
    for head in ("seconds", "tokens", "euros", *rest):
        table.add_column(head, justify="right")
    for line in (*found.lines, *found.sums):
        table.add_row(
            escape(line.who), line.kind, *([escape(line.stage)] if run else []), str(line.labels),
            f"{line.seconds:.0f}", str(line.tokens),
            f"{line.money:.2f}" if line.money else "no price",
            *([str(line.errors)] if run else _pairs(line)),
        )  # fmt: skip
    return table


def _pairs(line: CostLine) -> tuple[str, str, str, str]:
    pair = "" if line.per_pair is None or not line.money else f"{line.per_pair:.4f}"
    pairs = "" if line.pairs is None else str(line.pairs)
    return pairs, pair, _figure(line.bits), _figure(line.per_bit)


def _figure(m: Interval | None) -> str:
    from gnomon.report.format import measured, number

    if m is None:
        return ""
    if not math.isfinite(m.value):
        return "tells nothing"
    if math.isinf(m.high):  # it may tell nothing at all
        return f"{number(m.value)} [{number(m.low)}, no limit]"
    return measured(m)
