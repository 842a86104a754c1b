"""What each stage bought and cost as tables: for the terminal, the card, and over several seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from rich import box
from rich.table import Table
from rich.text import Text

from gnomon.report import markdown as md
from gnomon.report.bought import Bought, Cost, Gain, measures, total
from gnomon.report.format import count, duration, interval, number, value

BOUGHT, COST = "What each stage bought", "What each stage cost"
NOTE = (
    "Each policy less the model it was trained from, with the 95% interval: paired by prompt where "
    "the comparison keeps its scores. A win rate is over that model; 0.5 is no difference. What no "
    "interval leaves out is not shown. In no stage's cost: the comparison, the audit, and the "
    "tokens of evals."
)
_STYLES = {"better": "bold green", "worse": "bold red", "not shown": "dim"}


def signed(gain: Gain) -> str:
    """The figure: a difference with its sign."""
    plus = "+" if gain.nothing == 0 and gain.figure.value > 0 else ""
    return plus + value(gain.figure)


def told(gain: Gain) -> str:
    """The figure, its interval and what it shows, in words."""
    return f"{signed(gain)} {interval(gain.figure)}: {gain.shown}".replace("  ", " ")


def verdict(row: Bought) -> str:
    """Whether a policy was kept, and by what."""
    if row.state == "kept":
        return "kept by its gates" if row.gates else "kept: no gate asked"
    if row.state == "held back":
        return "held back"
    return "beside the line of the last policy"


def costs(cost: Cost) -> dict[str, str]:
    """A cost's columns; empty where there is none of it."""
    about = "about " if cost.estimated else ""
    return {
        "time": duration(cost.seconds),
        "processor time": duration(cost.cpu_seconds),
        "tokens": amount(cost.tokens),
        "of them trained": amount(cost.trained),
        "labels": ", ".join(f"{count(n)} {what}" for what, n in cost.labels.items()),
        "euros": number(cost.money) if cost.money else "",
        "energy": "not known" if cost.joules is None else f"{about}{energy_text(cost.joules)}",
    }


def amount(n: float | None) -> str:
    """1 234, 56.7 k, 1.2 M."""
    if n is None:
        return "not known"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if n >= size:
            return f"{n / (1e3 if size == 1e4 else size):.3g}{unit}"
    return count(n)


def energy_text(joules: float) -> str:
    """In Wh: 0.54 Wh, 1.2 kWh."""
    wh = joules / 3600
    return f"{wh / 1000:.3g} kWh" if wh >= 1000 else f"{wh:.3g} Wh"


def cost_rows(rows: Sequence[Bought]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the cost table, the sum last; columns that are empty throughout are
    left out."""
    named = [(row.policy, ", ".join(row.stages), costs(row.cost)) for row in rows]
    if len(rows) > 1:
        named.append(("together", "", costs(total(rows))))
    heads = [head for head in named[0][2] if any(cells[head] for _, _, cells in named)]
    return (
        ["stage", "counted here", *heads],
        [[name, stages, *(cells[head] for head in heads)] for name, stages, cells in named],
    )


def bought_tables(rows: Sequence[Bought]) -> list[Table]:
    """For the terminal: what was bought, but of one policy that nothing compared; and the cost."""
    if not rows:
        return []
    names = measures(rows)
    first = _table(BOUGHT, ["stage", "over", *names, ""])
    for row in rows:
        cells = [_cell(row.gain(name)) for name in names]
        first.add_row(Text(row.policy), Text(row.before), *cells, Text(verdict(row)))
    heads, lines = cost_rows(rows)
    second = _table(COST, [heads[0], *heads[2:]])  # the page says which stages are counted where
    for line in lines:
        second.add_row(*map(Text, [line[0], *line[2:]]))
    return [first, second] if names or len(rows) > 1 else [second]


def _table(title: str, heads: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for head in heads:
        table.add_column(Text(head))
    return table


def _cell(gain: Gain | None) -> Text:
    if gain is None:
        return Text("")
    style = _STYLES.get(gain.shown, "")
    return Text().append(signed(gain), style=style).append(f" {interval(gain.figure)}", style="dim")


def bought_markdown(rows: Sequence[Bought]) -> str:
    """For the model card; empty without rows."""
    if not rows:
        return ""
    names = measures(rows)
    first = [
        [row.policy, row.before, *(told(g) if (g := row.gain(n)) else "" for n in names),
         verdict(row)]
        for row in rows
    ]  # fmt: skip
    heads, lines = cost_rows(rows)
    return "\n\n".join([_lines(["stage", "over", *names, ""], first), _lines(heads, lines), NOTE])


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return md.table([md.text(h) for h in heads], [tuple(map(md.text, row)) for row in rows])


# -- several seeds --------------------------------------------------------------------------------


def seeds_cells(runs: Sequence[Sequence[Bought]]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of what each stage bought and cost over the seeds of a recipe: means with the
    lowest and highest seed, and on how many of them the interval shows it."""
    names = list(dict.fromkeys(name for rows in runs for name in measures(rows)))
    policies = list(dict.fromkeys(row.policy for rows in runs for row in rows))
    cells = []
    for policy in policies:
        own = [row for rows in runs for row in rows if row.policy == policy]
        over = " or ".join(dict.fromkeys(row.before for row in own))
        kept = sum(row.state == "kept" for row in own)
        gained = [_over_seeds([g for row in own if (g := row.gain(name))]) for name in names]
        cells.append([policy, over, *gained, f"{kept}/{len(own)}", *_mean_cost(own)])
    heads = ["stage", "over", *names, "kept on", "time", "processor time", "tokens"]
    return heads, cells


def _over_seeds(gains: Sequence[Gain]) -> str:
    """Mean (lowest to highest), and on how many seeds it is shown."""
    if not gains:
        return ""
    values = [gain.figure.value for gain in gains]
    plus = "+" if gains[0].nothing == 0 and fmean(values) > 0 else ""
    parts = [f"{plus}{number(fmean(values))} ({number(min(values))} to {number(max(values))})"]
    parts += [f"{word} on {n}/{len(gains)}" for word, n in _shown(gains)] or ["not shown"]
    return ", ".join(parts)


def _shown(gains: Sequence[Gain]) -> Iterator[tuple[str, int]]:
    said = [gain.shown for gain in gains]
    for word in ("better", "worse", "more", "less"):
        if word in said:
            yield word, said.count(word)


def _mean_cost(rows: Sequence[Bought]) -> list[str]:
    def mean(values: Sequence[float | None]) -> float | None:
        known = [x for x in values if x is not None]
        return fmean(known) if known else None

    return [
        duration(mean([row.cost.seconds for row in rows])),
        duration(mean([row.cost.cpu_seconds for row in rows])),
        amount(mean([row.cost.tokens for row in rows])),
    ]


def seeds_bought_table(runs: Sequence[Sequence[Bought]]) -> Table:
    """For the terminal."""
    heads, cells = seeds_cells(runs)
    table = _table(f"{BOUGHT}, over {len(runs)} seeds: mean (lowest to highest)", heads)
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def seeds_bought_markdown(runs: Sequence[Sequence[Bought]]) -> str:
    """For a page."""
    return _lines(*seeds_cells(runs))
