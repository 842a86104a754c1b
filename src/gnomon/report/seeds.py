"""The same recipe on several seeds, side by side: what holds on each of them and what was luck."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rich import box
from rich.table import Table
from rich.text import Text

from gnomon.errors import RunError
from gnomon.report.format import better_sign, count, number
from gnomon.runs.read import RunView, read_comparison, read_run
from gnomon.runs.records import COMPARISON
from gnomon.stats.intervals import Interval


@dataclass(frozen=True)
class Gain:
    """A reward less the reference's, over the seeds.

    Attributes:
        mean: of the seeds' mean differences.
        up, down: seeds on which the paired interval lies above, or below, zero.
        seeds: how many there are.
        n: prompts that each seed's interval is of; the fewest where they differ.
    """

    mean: float
    up: int
    down: int
    seeds: int
    n: float | None = None


@dataclass(frozen=True)
class SeedsRow:
    """One policy: a value per column and seed (``n``: the prompts that each is of, the fewest where
    they differ), its gains per reward, what its own stage took."""

    model: str
    values: tuple[tuple[float, ...], ...]
    n: tuple[float | None, ...]
    gains: tuple[Gain, ...]
    seconds: float | None
    cpu_seconds: float | None
    peak_gb: float | None


@dataclass(frozen=True)
class Seeds:
    """All policies of the runs; ``rewards`` is how many of the columns come first as rewards."""

    runs: tuple[str, ...]
    columns: tuple[str, ...]
    reference: str
    rewards: int
    rows: tuple[SeedsRow, ...]


def read_seeds(folders: Sequence[Path]) -> Seeds:
    """Join the comparisons of finished runs of one recipe.

    Raises:
        RunError: a run without a comparison, or runs that compare different things.
    """
    views = [read_run(folder) for folder in folders]
    for folder in folders:
        _check_compared(folder)
    first = views[0].comparison
    for view in views[1:]:
        same = view.comparison.columns == first.columns
        if not same or view.comparison.models != first.models:
            raise RunError(
                f"{view.path} and {views[0].path} compare different models or measures: they are "
                "not the same recipe. Run both again."
            )
    return Seeds(
        runs=tuple(view.name for view in views),
        columns=tuple(first.columns),
        reference=first.reference,
        rewards=len(first.rows[0].gains),
        rows=tuple(_row(model, place, views) for place, model in enumerate(first.models)),
    )


def _check_compared(folder: Path) -> None:
    file = folder / COMPARISON
    if not file.exists():
        raise RunError(f"{folder} has no {COMPARISON}: several seeds are compared by it")
    _, problem = read_comparison(folder)
    if problem is not None:
        raise RunError(
            f"{file}: {problem}. Remove it and run the seed again with --resume, which compares "
            "again."
        )


def _row(model: str, place: int, views: Sequence[RunView]) -> SeedsRow:
    seeds = [view.comparison.rows[place] for view in views]
    columns = [[row.value(c) for row in seeds] for c in range(len(views[0].comparison.columns))]
    values = tuple(tuple(m.value for m in column if m is not None) for column in columns)
    n = tuple(_fewest(column) for column in columns)
    gains = tuple(_gain(column) for column in zip(*(row.gains for row in seeds), strict=True))
    stages = [s.info for view in views for s in view.stages if s.name == model]
    seconds = [s.seconds for s in stages if s.seconds is not None]
    cpu_seconds = [s.cpu_seconds for s in stages if s.cpu_seconds is not None]
    peaks = [m.value for s in stages if (m := s.figures.get("peak_rss_gb")) is not None]
    return SeedsRow(
        model,
        values,
        n,
        gains,
        fmean(seconds) if seconds else None,
        fmean(cpu_seconds) if cpu_seconds else None,
        max(peaks) if peaks else None,
    )


def _gain(seeds: Sequence[Interval | None]) -> Gain:
    known = [m for m in seeds if m is not None]
    up, down = sum(m.low > 0 for m in known), sum(m.high < 0 for m in known)
    mean = fmean(m.value for m in known) if known else float("nan")
    return Gain(mean, up, down, len(known), _fewest(known))


def _fewest(figures: Iterable[Interval | None]) -> float | None:
    """The smallest number of observations that any of the figures is of."""
    return min((m.n for m in figures if m is not None and m.n), default=None)


# -- showing --------------------------------------------------------------------------------------


def _header(seeds: Seeds) -> list[str]:
    gains = [f"gain in {column}" for column in seeds.columns[: seeds.rewards]]
    own = ["seconds", "processor seconds", "peak memory, GB"]
    return ["model", *seeds.columns[: seeds.rewards], *gains, *seeds.columns[seeds.rewards :], *own]


def _cells(seeds: Seeds, row: SeedsRow) -> list[str]:
    spread = [_spread(values, n) for values, n in zip(row.values, row.n, strict=True)]
    own = [number(row.seconds), number(row.cpu_seconds), number(row.peak_gb)]
    gains = ["" if row.model == seeds.reference else _shown(g) for g in row.gains]
    return [row.model, *spread[: seeds.rewards], *gains, *spread[seeds.rewards :], *own]


def _spread(values: Sequence[float], n: float | None) -> str:
    """Mean (lowest to highest), and the prompts that each is of."""
    if not values:
        return "n/a"
    prompts = f" n={count(n)}" if n else ""
    return f"{number(fmean(values))} ({number(min(values))} to {number(max(values))}){prompts}"


def _shown(gain: Gain) -> str:
    """The mean gain, on how many seeds it is beyond noise, up or down, and on how many prompts."""
    sign = "+" if gain.mean >= 0 else ""
    parts = [f"{gain.up}/{gain.seeds} up"] if gain.up or not gain.down else []
    parts += [f"{gain.down}/{gain.seeds} down"] if gain.down else []
    prompts = f", n={count(gain.n)}" if gain.n else ""
    return f"{sign}{number(gain.mean)}, {', '.join(parts)}{prompts}"


def seeds_table(seeds: Seeds) -> Table:
    """For the terminal: means with the lowest and highest seed; green where all seeds gained."""
    title = f"{len(seeds.runs)} seeds: mean (lowest to highest); gains over {seeds.reference}"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(_header(seeds)):
        table.add_column(Text(column), justify="right" if i else "left")
    first_gain = 1 + seeds.rewards
    for row in seeds.rows:
        cells = [Text(cell) for cell in _cells(seeds, row)]
        for i, gain in enumerate(row.gains):
            sign = better_sign(seeds.columns[i])
            good, bad = (gain.up, gain.down) if sign >= 0 else (gain.down, gain.up)
            if sign and good == gain.seeds:
                cells[first_gain + i].stylize("bold green")
            elif sign and bad == gain.seeds:
                cells[first_gain + i].stylize("bold red")
        table.add_row(*cells)
    return table


def seeds_markdown(seeds: Seeds) -> str:
    """The same as a Markdown table, for a document."""
    header = _header(seeds)
    lines = [header, ["---"] * len(header), *(_cells(seeds, row) for row in seeds.rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
