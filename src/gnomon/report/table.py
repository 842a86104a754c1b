"""The comparison and its samples for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gnomon.report.format import better_sign, interval
from gnomon.report.format import value as figure
from gnomon.report.ship import Answer
from gnomon.runs.comparison import Comparison
from gnomon.stats.intervals import Interval


def comparison_table(view: Comparison) -> Table:
    """A comparison, or a further table of one: a row per model, each value with its interval.

    The best value of each column that has a better direction is bold, unless its interval overlaps
    the runner-up's.
    """
    table = Table(
        box=box.SIMPLE_HEAD, title=Text(view.title), title_justify="left", title_style="bold"
    )
    table.add_column("model")
    for column in view.columns:
        table.add_column(Text(column), justify="right")
    best = [_clear_best([row.value(i) for row in view.rows], c) for i, c in enumerate(view.columns)]
    for r, (model, row) in enumerate(zip(view.models, view.rows, strict=True)):
        cells = [Text(model)]
        for i in range(len(view.columns)):
            value = row.value(i)
            if value is None:
                cells.append(Text("n/a", style="dim"))
                continue
            cell = Text().append(figure(value), style="bold green" if best[i] == r else "")
            cells.append(cell.append(f" {interval(value)}".rstrip(), style="dim"))
        table.add_row(*cells)
    return table


def samples_panel(comparison: Comparison, *, limit: int = 3, max_chars: int = 400) -> Panel | None:
    """The first ``limit`` prompts with each model's response; None without samples.

    Texts are shown as they are: no markup or control sequence of theirs reaches the terminal.
    """
    samples = comparison.samples[:limit]
    if not samples:
        return None
    blocks: list[Table] = []
    for sample in samples:
        block = Table(box=None, show_header=False, padding=(0, 1), expand=True)
        block.add_column(style="bold cyan", no_wrap=True)
        block.add_column(ratio=1)
        for name, text in sample.items():
            block.add_row(Text(name), Text(_shown(text, max_chars)))
        block.add_row("", "")
        blocks.append(block)
    return Panel(Group(*blocks), title="Samples", title_align="left", box=box.ROUNDED)


def _clear_best(values: Sequence[Interval | None], column: str) -> int | None:
    known = [(v.value, i, v) for i, v in enumerate(values) if v is not None]
    sign = better_sign(column)
    if sign == 0 or len(known) < 2:
        return None
    known.sort(key=lambda item: -sign * item[0])
    first, second = known[0][2], known[1][2]
    if first.value == second.value:
        return None
    (worse, better) = (second, first) if sign > 0 else (first, second)
    return None if better.low <= worse.high else known[0][1]


def _shown(text: str, limit: int) -> str:
    clean = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def holding(found: Answer) -> str:
    """What decided that a model should not ship, by name; empty where nothing did."""
    if found.kind != "hold":
        return ""
    names = list(dict.fromkeys(reason.name for reason in found.reasons if reason.name))
    more = [f"{found.more} more"] if found.more else []
    return _shown(", ".join([*names, *more]), 500).replace("\n", " ")


def answer_lines(found: Answer) -> list[str]:
    """The answer to whether a run's model may ship, with its reasons and what is missing."""
    lines = [f"{found.kind.upper()}: {found.sentence}"]
    lines += [f"  {i}. {reason.text}" for i, reason in enumerate(found.reasons, start=1)]
    if found.more:
        lines.append(f"  and {found.more} more, in the report")
    for need in found.needs:
        lines.append(f"  missing: {need.text}" + (f" {need.command}" if need.command else ""))
    return [_shown(line, 2000).replace("\n", " ") for line in lines]
