"""The same recipe on several seeds, side by side: what holds on each of them and what was luck."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gnomon.errors import RunError
from gnomon.report.format import better_sign, count, number
from gnomon.report.read import (
    Comparison,
    Measured,
    RunView,
    parse_comparison,
    parse_measured,
    read_comparison,
    read_run,
)


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
    """Put the comparisons of finished runs of one recipe together.

    Raises:
        RunError: a run without a comparison, or runs that compare different things.
    """
    views = [read_run(folder) for folder in folders]
    raw = [_raw(folder) for folder in folders]
    first = views[0].comparison
    for view in views[1:]:
        same = view.comparison.columns == first.columns
        if not same or _models(view.comparison) != _models(first):
            raise RunError(
                f"{view.path} and {views[0].path} compare different models or measures: they are "
                "not the same recipe. Run both anew."
            )
    rewards = len(raw[0]["rows"][0].get("gains", []))
    rows = tuple(
        _row(model, r, views, [other["rows"][r] for other in raw])
        for r, model in enumerate(_models(first))
    )
    names = tuple(view.name for view in views)
    return Seeds(names, first.columns, str(raw[0].get("reference", "")), rewards, rows)


def _raw(folder: Path) -> dict[str, Any]:
    file = folder / "comparison.json"
    if not file.exists():
        raise RunError(f"{folder} has no comparison.json: several seeds are put together by it")
    raw, problem = read_comparison(folder)
    if problem is not None or not parse_comparison(raw).rows:
        raise RunError(
            f"{file}: {problem or 'it compares nothing'}. Remove it and run the seed again with "
            "--resume, which compares anew."
        )
    return raw


def _models(comparison: Comparison) -> tuple[str, ...]:
    return tuple(model for model, _ in comparison.rows)


def _row(
    model: str, place: int, views: Sequence[RunView], raw: Sequence[Mapping[str, Any]]
) -> SeedsRow:
    measured = [view.comparison.rows[place][1] for view in views]
    values = tuple(
        tuple(m.value for seed in measured if (m := seed[c]) is not None)
        for c in range(len(measured[0]))
    )
    n = tuple(_fewest(seed[c] for seed in measured) for c in range(len(measured[0])))
    gains = tuple(
        _gain(list(column)) for column in zip(*(r.get("gains", []) for r in raw), strict=True)
    )
    stages = [s for view in views for s in view.stages if s.name == model]
    seconds = [s.seconds for s in stages if s.seconds is not None]
    cpu_seconds = [s.cpu_seconds for s in stages if s.cpu_seconds is not None]
    peaks = [m.value for s in stages if (m := s.summary.get("peak_rss_gb")) is not None]
    return SeedsRow(
        model,
        values,
        n,
        gains,
        fmean(seconds) if seconds else None,
        fmean(cpu_seconds) if cpu_seconds else None,
        max(peaks) if peaks else None,
    )


def _gain(raw: Sequence[Any]) -> Gain:
    known = [m for r in raw if (m := parse_measured(r)) is not None]
    up = sum(m.low is not None and m.low > 0 for m in known)
    down = sum(m.high is not None and m.high < 0 for m in known)
    mean = fmean(m.value for m in known) if known else float("nan")
    return Gain(mean, up, down, len(known), _fewest(known))


def _fewest(figures: Iterable[Measured | None]) -> float | None:
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
