"""``gnomon label plan``: how many labels, of how many people, at what cost."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gnomon.console import say, show
from gnomon.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from gnomon.feedback.plan import Forecast, Wish
    from gnomon.feedback.records import Vote
    from gnomon.feedback.worlds import Population


def plan(
    store: Annotated[
        str | None,
        typer.Argument(help="A store with a pilot's labels: the simulation is fitted to them."),
    ] = None,
    items: Annotated[
        int | None, typer.Option(help="Items (pairs of responses) to label.", min=2)
    ] = None,
    labellers: Annotated[int, typer.Option(help="People who label.", min=1)] = 10,
    per_item: Annotated[int | None, typer.Option(help="People who judge each item.", min=1)] = None,
    accuracy: Annotated[
        float | None,
        typer.Option(help="How often a labeller names the better side: 0.8 without a pilot."),
    ] = None,
    spread: Annotated[
        float | None,
        typer.Option(help="Standard deviation of accuracies between labellers: 0.05 unless given."),
    ] = None,
    ties: Annotated[
        float | None, typer.Option(help="Share of labels that call a pair equal: 0 unless given.")
    ] = None,
    price: Annotated[float | None, typer.Option(help="Euros a label.", min=0)] = None,
    seconds: Annotated[float | None, typer.Option(help="Seconds a label takes.", min=0)] = None,
    budget: Annotated[float | None, typer.Option(help="Euros at most.", min=0)] = None,
    alpha_width: Annotated[
        float | None,
        typer.Option(help="Wanted: a 95% interval of Krippendorff's alpha no wider than this."),
    ] = None,
    difference: Annotated[
        float | None,
        typer.Option(help="Wanted: a win rate this far from 0.5 is seen 4 times in 5."),
    ] = None,
    sure: Annotated[
        float | None, typer.Option(help="Wanted: a consensus that is right this often.")
    ] = None,
    level: Annotated[
        str, typer.Option(help="Of alpha: nominal, ordinal or interval; it matters with ties.")
    ] = "nominal",
    campaign: Annotated[str | None, typer.Option(help="Of the store: one campaign only.")] = None,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Plan a labelling study: what a design shows, or the cheapest design that shows what you want.

    With --items, what that many items show, with --per-item labels on each or with 1, 2, 3, ...
    With a wish (--alpha-width, --difference, --sure) or a --budget instead, the cheapest design
    that meets it, and the next best. Studies are simulated; with a STORE the simulated items and
    labellers are fitted to the labels in it.

      gnomon label plan --items 500 --labellers 8 --per-item 3 --price 0.4 --seconds 40

      gnomon label plan labels.db --difference 0.05 --alpha-width 0.1 --price 0.4
    """
    from gnomon.feedback.plan import Prices, Wish
    from gnomon.feedback.worlds import World, fit_pilot

    if level not in ("nominal", "ordinal", "interval"):
        raise ConfigError(f"--level is nominal, ordinal or interval, not {level!r}")
    _check(alpha_width=alpha_width, difference=difference, sure=sure)
    given = {"accuracy": accuracy, "spread": spread, "ties": ties}
    known = {key: value for key, value in given.items() if value is not None}
    paid, took = price, seconds
    if store is not None:
        if known:
            raise ConfigError(
                f"--{next(iter(known))} is fitted to the pilot's labels; leave it or STORE out"
            )
        votes, mean_price, mean_seconds = _pilot(store, campaign)
        paid = mean_price if price is None else price
        took = mean_seconds if seconds is None else seconds
        world: Population = fit_pilot(votes)
    else:
        world = World(**known)
    prices = Prices(paid or 0.0, took or 0.0)
    wish = Wish(alpha_width, difference, sure, budget)
    found = _found(world, wish, prices, items, labellers, per_item, level, seed)
    if as_json:
        say(json.dumps(_as_json(world, wish, found), indent=2))
        return
    source = "as given" if store is None else f"fitted to {len(votes)} votes in {store}"
    say(
        f"labellers right in {world.accuracy:.3f} of what they decide, {world.ties:.0%} ties: "
        f"{source}"
    )
    show(_table(found, wish, bool(prices.seconds)))
    for line in _advice(found, wish, items):
        say(line)


def _check(**wanted: float | None) -> None:
    for name, value in wanted.items():
        low, high = (0.5, 1.0) if name == "sure" else (0.0, 2.0 if name == "alpha_width" else 0.5)
        if value is not None and not low < value < high:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} is {value:g}; give a number between {low:g} and {high:g}")


def _pilot(store: str, campaign: str | None) -> tuple[list[Vote], float, float]:
    """A store's votes, and what a label cost on average in euros and seconds."""
    from gnomon.feedback.adjudication import of_labellers
    from gnomon.feedback.ledger import check_campaign
    from gnomon.feedback.opening import open_store
    from gnomon.feedback.records import votes as votes_of

    with open_store(store) as opened:
        check_campaign(opened, campaign)
        labels = list(opened.labels(campaign=campaign))
    votes = votes_of(of_labellers(labels))
    if not votes:
        raise ConfigError(f"{store} has no labels that compare two responses: nothing to fit")
    n = len(labels)
    return votes, sum(x.cost.money for x in labels) / n, sum(x.cost.seconds for x in labels) / n


def _found(
    world: Population, wish: Wish, prices: Any, items: int | None, labellers: int,
    per_item: int | None, level: Any, seed: int,
) -> list[Forecast]:  # fmt: skip
    """The forecasts to show, the one to take first."""
    from gnomon.feedback.plan import MOST_PER_ITEM, Design, designs, forecast

    if items is None:
        if per_item is not None:
            raise ConfigError("--per-item describes a design, which needs --items")
        return designs(world, wish, prices, labellers=labellers, level=level, seed=seed)
    counts = range(1, min(labellers, MOST_PER_ITEM) + 1) if per_item is None else (per_item,)
    found = [
        forecast(world, Design(items, labellers, k), prices, level=level, seed=seed) for k in counts
    ]
    return sorted(found, key=lambda f: (bool(wish.missed(f)), f.labels))


def _table(found: list[Forecast], wish: Wish, hours: bool) -> Table:
    """A column for each design, the one to take first."""
    from rich.table import Table

    table = Table(title="The first column is the one to take" if len(found) > 1 else None)
    table.add_column("items")
    for f in found:
        table.add_column(str(f.design.items), justify="right")
    rows: list[tuple[str, list[str]]] = [
        ("labels on each", [str(f.design.per_item) for f in found]),
        ("labels", [str(f.labels) for f in found]),
        ("euros", [f"{f.money:.0f}" for f in found]),
        ("hours", [f"{f.hours:.1f}" for f in found]),
        ("alpha", [_text(f.alpha) for f in found]),
        ("width of its interval", [_text(f.alpha_width) for f in found]),
        ("win rate: shows", [_text(f.win_difference) for f in found]),
        ("agreement: shows", [_text(f.agreement_difference) for f in found]),
        ("consensus right", [_text(f.sure) for f in found]),
        ("majority right", [_text(f.majority) for f in found]),
        ("labels a person", [f"{f.labels_each:.0f}" for f in found]),
        ("error of their accuracy", [_text(f.ability_error) for f in found]),
        ("meets the wish", ["no" if wish.missed(f) else "yes" for f in found]),
    ]
    for name, cells in rows:
        if (name != "hours" or hours) and (name != "meets the wish" or len(found) > 1):
            table.add_row(name, *cells)
    return table


def _text(x: float) -> str:
    return f"{x:.3f}" if math.isfinite(x) else "none"


def _advice(found: list[Forecast], wish: Wish, items: int | None) -> list[str]:
    """What to do, in words."""
    from gnomon.feedback.plan import Wish

    good = [f for f in found if not wish.missed(f)]
    lines = []
    if not good and wish != Wish():
        least = found[0] if found else None
        why = "; ".join(wish.missed(least)) if least else "no design is that small"
        lines.append(f"no design meets the wish. The nearest: {why}")
    elif items is None:
        for name, f in zip(("take", "next best"), good, strict=False):
            lines.append(
                f"{name}: {f.design.items} items, {f.design.per_item} labels each "
                f"({f.labels} labels, {f.money:.0f} euros)"
            )
    lines.append(
        '"shows" is the smallest difference seen 4 times in 5 by a test at 5%: of a win rate from '
        "0.5, of agreement between two such studies. Intervals are over items."
    )
    if found and math.isfinite(found[0].alpha_others):
        lines.append(
            f"Another crew of such labellers moves alpha by {found[0].alpha_others:.3f} (standard "
            "deviation), which no interval over items shows."
        )
    return lines


def _as_json(world: Population, wish: Wish, found: list[Forecast]) -> dict[str, Any]:
    def plain(raw: dict[str, Any]) -> dict[str, Any]:
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in raw.items()
        }

    return {
        "world": plain({k: getattr(world, k) for k in ("accuracy", "spread", "ties")}),
        "wish": asdict(wish),
        "designs": [{**plain(asdict(f)), "misses": wish.missed(f)} for f in found],
    }
