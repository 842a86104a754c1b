"""The samples of a stage: filtered, sorted and cut into pages before anything is shown."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gnomon.report.samples import is_held_out
from gnomon.runs.rows import COLUMNS, SampleRow, SampleStore, table_of
from gnomon.runs.sample_columns import checked
from gnomon.view.follow import Lines

PAGE = 25
ORDERS: Mapping[str, tuple[str, bool]] = {
    "worst": ("reward", False),
    "best": ("reward", True),
    "longest": ("length", True),
    "shortest": ("length", False),
    "latest": ("step", True),
    "earliest": ("step", False),
}
"""Name -> (column, whether from the highest)."""
_KEPT = 3  # stages whose samples are held in memory
_CATEGORIES = 200


@dataclass(frozen=True)
class Filter:
    """What to show. An empty field asks for nothing.

    Attributes:
        text: words that prompt and response together hold, whatever their case.
        first, last: steps, both included.
        low, high: rewards, both included.
        finished, error: ``yes`` or ``no``.
        prompts: ``held-out`` or ``training``.
        order: one of ORDERS.
        page: from 1.
    """

    text: str = ""
    category: str = ""
    first: str = ""
    last: str = ""
    low: str = ""
    high: str = ""
    finished: str = ""
    error: str = ""
    prompts: str = ""
    order: str = "worst"
    page: int = 1

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> tuple[Filter, list[str]]:
        """The filter in a query, and what of it could not be used, in words."""
        wrong: list[str] = []
        known = {f.name: str(query[f.name]).strip()[:500] for f in fields(cls) if f.name in query}
        for name in ("first", "last", "low", "high"):
            if known.get(name) and _number(known[name]) is None:
                wrong.append(f"{known.pop(name)!r} is not a number, so {name} is left out")
        if known.get("order", "worst") not in ORDERS:
            wrong.append(f"no order {known.pop('order')!r}: worst first instead")
        page = known.pop("page", "1")
        number = int(page) if page.isascii() and page.isdecimal() and len(page) < 10 else 1
        return cls(**cast(Any, known), page=max(1, number)), wrong

    def query(self, **changes: Any) -> str:
        """It as a query string, with changes; empty fields are left out."""
        values = {f.name: getattr(self, f.name) for f in fields(self)} | changes
        plain = {key: value for key, value in values.items() if value not in ("", None)}
        return urlencode({k: v for k, v in plain.items() if (k, v) != ("page", 1)})

    @property
    def active(self) -> bool:
        """Whether it leaves anything out."""
        return self.query(order="", page=1) != ""


@dataclass(frozen=True)
class Page:
    """One page of what a filter found.

    Attributes:
        found: rows that the filter leaves; ``of`` is how many there are.
        pages: at least 1; ``page`` is which of them this is.
        places: of the rows among all of the stage.
    """

    rows: list[SampleRow]
    places: list[int]
    found: int
    of: int
    page: int
    pages: int
    categories: list[str]
    problems: list[str]


@dataclass
class _Growing:
    """The samples of a stage that still runs."""

    lines: Lines
    table: pa.Table = field(default_factory=lambda: _empty())
    problems: list[str] = field(default_factory=list)

    def news(self) -> None:
        rows, again = self.lines.advance()
        if again:
            self.table, self.problems = _empty(), []
        if rows:
            try:
                self.table = table_of(iter(rows), self.table)
            except ValueError as error:
                self.problems.append(f"{self.lines.path.name}: {len(rows)} rows left out ({error})")


class Samples:
    """Samples by stage; the last few stages that were asked for are kept in memory."""

    def __init__(self) -> None:
        self._tables: OrderedDict[Path, tuple[tuple[int, int], pa.Table, list[str]]] = OrderedDict()
        self._growing: OrderedDict[Path, _Growing] = OrderedDict()
        self._lock = threading.Lock()

    def table(self, folder: Path, done: bool) -> tuple[pa.Table, list[str]]:
        """All samples of a stage, and what could not be read."""
        with self._lock:
            parquet, lines = folder / "samples.parquet", folder / "samples.jsonl"
            if not done and lines.exists():
                return self._followed(lines)
            stamp = _stamp(parquet) or _stamp(lines)
            if stamp is None:
                return _empty(), []
            known = self._tables.get(folder)
            if known is None or known[0] != stamp:
                table, problems = SampleStore.read_table(parquet, done)
                plain = [p.replace(f"{folder}/", "") for p in problems]
                known = (stamp, _checked(table, plain), plain)
                self._tables[folder] = known
            self._tables.move_to_end(folder)
            while len(self._tables) > _KEPT:
                self._tables.popitem(last=False)
            return known[1], known[2]

    def _followed(self, lines: Path) -> tuple[pa.Table, list[str]]:
        growing = self._growing.setdefault(lines, _Growing(Lines(lines)))
        self._growing.move_to_end(lines)
        while len(self._growing) > _KEPT:
            self._growing.popitem(last=False)
        problems = []
        try:
            growing.news()
        except OSError as error:
            problems.append(f"{lines.name} cannot be read ({error.strerror})")
        problems += [*growing.problems, *([growing.lines.problem] if growing.lines.problem else [])]
        return _checked(growing.table, problems), problems

    def page(self, folder: Path, done: bool, wanted: Filter) -> Page:
        """The page of a stage's samples that a filter asks for."""
        table, problems = self.table(folder, done)
        found = np.flatnonzero(_mask(table, wanted))
        pages = max(1, -(-found.size // PAGE))
        page = min(wanted.page, pages)
        order = _order(table, found, wanted.order)[(page - 1) * PAGE : page * PAGE]
        rows = cast(list[SampleRow], table.take(pa.array(order)).to_pylist())
        return Page(
            rows=rows,
            places=order.tolist(),
            found=int(found.size),
            of=table.num_rows,
            page=page,
            pages=pages,
            categories=_names(table),
            problems=problems,
        )

    def of_prompt(self, folder: Path, done: bool, place: int) -> list[SampleRow]:
        """Every sample of the prompt of the row at ``place``, by its text, the earliest first;
        none where there is no such row."""
        table, _ = self.table(folder, done)
        prompt = table.column("prompt")[place] if 0 <= place < table.num_rows else None
        if prompt is None or not prompt.is_valid:
            return []
        same = pc.fill_null(pc.equal(table.column("prompt"), prompt), False)
        rows = cast(list[SampleRow], table.filter(same).to_pylist())
        return sorted(rows, key=lambda row: (row.get("step") or 0, not is_held_out(row)))

    def evaluation(self, folder: Path, done: bool, last: bool) -> list[SampleRow]:
        """The samples of a stage's first or last evaluation on held-out prompts."""
        table, _ = self.table(folder, done)
        held_out = _held_out(table)
        if not held_out.any():
            return []
        steps = _numbers(table, "step")
        wanted = (np.nanmax if last else np.nanmin)(steps[held_out])
        places = np.flatnonzero(held_out & (steps == wanted))
        return cast(list[SampleRow], table.take(pa.array(places)).to_pylist())


def _empty() -> pa.Table:
    return pa.table({name: pa.array([], kind) for name, kind in COLUMNS.items()})


def _checked(table: pa.Table, problems: list[str]) -> pa.Table:
    """The table with every column that is asked for, of the kind that it should have."""
    table = checked(table, problems)
    for name, kind in COLUMNS.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows, kind))
    return table


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        about = file.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size


def _mask(table: pa.Table, wanted: Filter) -> NDArray[np.bool_]:
    mask = np.ones(table.num_rows, dtype=bool)
    for column, low, high in (("step", wanted.first, wanted.last),
                              ("reward", wanted.low, wanted.high)):  # fmt: skip
        if low or high:
            values = _numbers(table, column)
            at_least, at_most = _number(low), _number(high)
            mask &= np.isfinite(values)
            mask &= True if at_least is None else values >= at_least
            mask &= True if at_most is None else values <= at_most
    if wanted.category:
        mask &= _truth(pc.equal(table.column("category"), wanted.category))
    if wanted.finished in ("yes", "no"):
        mask &= _truth(pc.equal(table.column("finished"), wanted.finished == "yes"))
    if wanted.error in ("yes", "no"):
        mask &= _truth(pc.is_valid(table.column("error"))) == (wanted.error == "yes")
    if wanted.prompts in ("held-out", "training"):
        mask &= _held_out(table) == (wanted.prompts == "held-out")
    for word in wanted.text.split():
        mask &= _holds(table, word)
    return mask


def _holds(table: pa.Table, word: str) -> NDArray[np.bool_]:
    places = [
        _truth(pc.match_substring(table.column(name), word, ignore_case=True))
        for name in ("prompt", "response")
    ]
    return places[0] | places[1]


def _held_out(table: pa.Table) -> NDArray[np.bool_]:
    """:func:`gnomon.report.samples.is_held_out` of every row."""
    held_out = _truth(pc.is_valid(table.column("evaluation")))
    if "policy_iteration" in table.column_names:
        held_out |= ~_truth(pc.is_valid(table.column("policy_iteration")))
    return held_out


def _order(table: pa.Table, found: NDArray[np.int64], order: str) -> NDArray[np.int64]:
    """``found`` in an order; rows without the value come first where the worst do, else last."""
    column, down = ORDERS[order]
    values = _numbers(table, column)[found]
    missing = ~np.isfinite(values)
    keys = np.where(missing, 0.0, -values if down else values)
    places = np.lexsort((keys, ~missing if order == "worst" else missing))
    return found[places]


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    column = table.column(name).cast(pa.float64())
    return np.asarray(pc.fill_null(column, float("nan")), dtype=np.float64)


def _truth(column: Any) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(column, False), dtype=bool)


def _names(table: pa.Table) -> list[str]:
    names = pc.unique(table.column("category")).to_pylist()
    return sorted(name for name in names if name)[:_CATEGORIES]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None
