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

    from gnomon.feedback.plan import Forecast, Prices, Wish
    from gnomon.feedback.records import Vote
    from gnomon.feedback.worlds import Population


def plan(
    store: Annotated[
        str | None,
        typer.Argument(
            help="A store with labels of a pilot, some pairs judged by two people or more: the "
            "forecast is made from how far those people agree."
        ),
    ] = None,
    items: Annotated[
        int | None,
        typer.Option(help="How many pairs of responses are labelled: asks what that shows.", min=2),
    ] = None,
    labellers: Annotated[int, typer.Option(help="How many people there are.", min=1)] = 10,
    per_item: Annotated[
        int | None,
        typer.Option(
            help="With --items: how many of them judge each pair; without it 1, 2, 3, ... "
            "are compared.",
            min=1,
        ),
    ] = None,
    accuracy: Annotated[
        float | None,
        typer.Option(
            help="Without a pilot: how often a person names the better response. [default: 0.8]"
        ),
    ] = None,
    spread: Annotated[
        float | None,
        typer.Option(
            help="Without a pilot: standard deviation of that accuracy between people. "
            "[default: 0.05]"
        ),
    ] = None,
    ties: Annotated[
        float | None,
        typer.Option(help="Without a pilot: share of labels that say equal. [default: 0]"),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option(help="Euros that one label costs; a pilot's own unless given.", min=0),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Seconds that one label takes; a pilot's own unless given.", min=0),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Euros that the study may cost.", min=0)
    ] = None,
    alpha_width: Annotated[
        float | None,
        typer.Option(
            help="Wish: know the agreement this well: a 95% interval of Krippendorff's alpha of at "
            "most this width."
        ),
    ] = None,
    difference: Annotated[
        float | None,
        typer.Option(
            help="Wish: see a win rate that is this far from one half, as 0.05 for 55%, in 4 of 5 "
            "studies."
        ),
    ] = None,
    sure: Annotated[
        float | None,
        typer.Option(help="Wish: labels of a pair, taken together, are right this often."),
    ] = None,
    level: Annotated[
        str,
        typer.Option(
            help="How alpha counts a tie: nominal (as far from a side as the sides are from each "
            "other), ordinal or interval (nearer)."
        ),
    ] = "nominal",
    campaign: Annotated[
        str | None, typer.Option(help="Of the store: only this campaign's labels.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Plan a labelling study before paying for it. People compare pairs of responses; the question
    is how many pairs, and how many people on each.

    Say how many pairs you have (--items), and it says what labels of them show. Or say what you
    want to know (--difference, --alpha-width, --sure) or may spend (--budget), and it says which
    study gives that for the fewest labels. It simulates such studies: of people as accurate as you
    say, or with a STORE as the people of a pilot were. It proposes none of more than 100,000 pairs,
    and says where no number of labels would help.

      gnomon label plan --items 500 --labellers 8 --per-item 3 --price 0.4 --seconds 40

      gnomon label plan labels.db --difference 0.05 --alpha-width 0.1 --price 0.4
    """
    from gnomon.feedback.plan import Prices, Wish, contradictory, out_of_reach
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
        said = _as_json(world, wish, found) | {"contradictory": contradictory(world)}
        say(json.dumps(said, indent=2))
        return
    for line in _assumed(world, store, votes if store is not None else []):
        say(line)
    if found:
        show(_table(found, wish, prices))
    how: Any = level  # checked above
    why = [] if found else out_of_reach(world, wish, labellers=labellers, level=how, seed=seed)
    for line in _advice(found, wish, items, why, contradictory(world)):
        say(line)


def _check(**wanted: float | None) -> None:
    for name, value in wanted.items():
        low, high = (0.5, 1.0) if name == "sure" else (0.0, 2.0 if name == "alpha_width" else 0.5)
        if value is not None and not low < value < high:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} is {value:g}; give a number between {low:g} and {high:g}")


def _pilot(store: str, campaign: str | None) -> tuple[list[Vote], float, float]:
    """A store's votes, and what a label cost on average in euros and seconds; what is skipped
    takes time, and is no label."""
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
    n = sum(label.kind != "skip" for label in labels)
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


def _assumed(world: Population, store: str | None, votes: list[Vote]) -> list[str]:
    """What the forecast rests on, and how far the pilot shows anything at all."""
    ties = f", and calls {world.ties:.0%} of the pairs equal" if world.ties else ""
    about = f"a person who names a side names the better one in {world.accuracy:.0%} of pairs{ties}"
    if store is None:
        return [f"Assumed: {about} (--accuracy, --spread, --ties; or give a pilot's STORE)."]
    from gnomon.feedback.agreement import alpha, vote_units
    from gnomon.report.format import measured

    seen = alpha(vote_units(votes), "nominal")
    lines = [
        f"From the pilot's {len(votes)} labels of pairs in {store}: {about}, where better is what "
        "most people would say.",
        f"Its labellers' agreement: Krippendorff's alpha {measured(seen)} (0 is chance, 1 is "
        "perfect; n: pairs with two labels or more).",
    ]
    if seen.known and seen.high <= 0.0:
        lines.append(f"Those labels contradict each other: {_HOPELESS}")
    elif not seen.known or seen.low <= 0.0:
        lines.append(
            "That is not shown to be more than chance, so what follows may be made of noise: have "
            "more pairs of the pilot judged by two people."
        )
    return lines


_HOPELESS = (
    "no number of such labels shows which response is better. Look at the pairs on which people "
    "differ (gnomon label believe STORE) and at the guidelines before you pay for more."
)


def _table(found: list[Forecast], wish: Wish, prices: Prices) -> Table:
    """A column for each design, the one to take first."""
    from rich.table import Table

    table = Table(title="The first column is the one to take" if len(found) > 1 else None)
    table.add_column("pairs to label")
    for f in found:
        table.add_column(f"{f.design.items:,}", justify="right")
    rows: list[tuple[str, list[str]]] = [
        ("people on each", [str(f.design.per_item) for f in found]),
        ("labels in all", [f"{f.labels:,}" for f in found]),
        ("labels a person", [f"{f.labels_each:,.0f}" for f in found]),
        ("euros", [f"{f.money:,.0f}" for f in found] if prices.price else []),
        ("hours of work", [f"{f.hours:,.1f}" for f in found] if prices.seconds else []),
        ("agreement (alpha)", [_text(f.alpha, _TWO) for f in found]),
        ("  known to within ±", [_text(f.alpha_width / 2.0, _TWO) for f in found]),
        ("smallest win rate seen", [_win(f.win_difference) for f in found]),
        ("smallest change of agreement seen", [_text(f.agreement_difference, _TWO) for f in found]),
        ("pairs right, labels weighed", [f"{f.sure:.1%}" for f in found]),
        ("pairs right, by majority", [f"{f.majority:.1%}" for f in found]),
        ("a person's accuracy known to ±", [_text(2 * f.ability_error, _TWO) for f in found]),
        ("gives what was asked", ["no" if wish.missed(f) else "yes" for f in found]),
    ]
    for name, cells in rows:
        if cells and (name != "gives what was asked" or len(found) > 1):
            table.add_row(name, *cells)
    return table


_TWO = "takes 2 people"


def _text(x: float, otherwise: str) -> str:
    return f"{x:.3f}" if math.isfinite(x) else otherwise


def _win(difference: float) -> str:
    return f"{0.5 + difference:.1%}" if math.isfinite(difference) else "not even 100%"


def _advice(
    found: list[Forecast], wish: Wish, items: int | None, why: list[str], contradictory: bool
) -> list[str]:
    """What to do, in words.

    Args:
        why: where there is no design, what stands in the way.
    """
    from gnomon.feedback.plan import Wish

    if contradictory:
        return [f"These labels contradict each other: {_HOPELESS}"]
    good = [f for f in found if not wish.missed(f)]
    lines = []
    if not found:
        reason = f": {'; '.join(why)}" if why else " so small"
        lines.append(
            f"No study gives what was asked{reason}. More people on each pair (--labellers), "
            "people who are more often right, or a smaller wish would."
        )
        return lines
    if not good and wish != Wish():
        lines.append(f"No study here gives what was asked. The nearest: "
                     f"{'; '.join(wish.missed(found[0]))}.")  # fmt: skip
    elif items is None:
        for name, f in zip(("Take", "Next best"), good, strict=False):
            euros = f", {f.money:,.0f} euros" if f.money else ""
            people = "person" if f.design.per_item == 1 else "people"
            lines.append(
                f"{name}: {f.design.items:,} pairs, {f.design.per_item} {people} on each "
                f"({f.labels:,} labels{euros})."
            )
    lines.append(
        'Seen: in 4 of 5 such studies, by a test at 5%. "Smallest win rate seen": where one side '
        "is truly better on that share of the pairs, the study shows that it is not one half."
    )
    if math.isfinite(found[0].alpha_others):
        lines.append(
            f"Other people of the same kind would move alpha by {found[0].alpha_others:.3f} more "
            "(standard deviation), which no interval over pairs shows."
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
