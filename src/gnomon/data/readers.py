"""Reading any preference, demonstration, ranking, rating or prompt file into groups.

>>> result = read_groups("pairs.jsonl", kind="preferences")
>>> print(result.format, len(result.groups), summarise_skipped(result.skipped))

A row that cannot be used is skipped, counted and listed with its number, the reason and the cure;
if too many are (half, unless told otherwise), the file is refused.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from gnomon.data.build import Kind, ReadOptions, Verdict
from gnomon.data.fields import KNOWN, Row, did_you_mean
from gnomon.data.formats import BY_NAME, FORMATS, Format, detect
from gnomon.data.kinds import READABLE_AS, check, convert
from gnomon.data.records import Group, Source
from gnomon.data.rows import BadRow, RawRow, iter_rows, stem
from gnomon.data.turns import RowError
from gnomon.errors import DataError

DETECT_ROWS = 200


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row (or group) left out: where it stands, why, and what would make it usable."""

    source: Source | None
    reason: str
    cure: str

    def __str__(self) -> str:
        where = f"{self.source}: " if self.source else ""
        return f"{where}{self.reason} ({self.cure})"


@dataclass(frozen=True)
class ReadResult:
    """What was read: the groups, the rows left out, and how the file was understood."""

    groups: list[Group]
    skipped: list[Skipped]
    format: str
    kind: str


def read_groups(
    path_or_id: str | Path,
    *,
    kind: Literal[Kind, "auto"] = "auto",
    split: str | None = None,
    format: str = "auto",
    limit: int | None = None,
    sample_seed: int | None = None,
    columns: Mapping[str, str] | None = None,
    labels: Mapping[Any, Verdict] | None = None,
    as_text: bool = False,
    good_from: float | None = None,
    max_skipped: float = 0.5,
) -> ReadResult:
    """Read a file, a `datasets` folder or a hub id.

    Args:
        path_or_id: .jsonl, .json, .parquet, .csv (also gzipped text), a folder saved by `datasets`,
            or a hub id.
        kind: read the rows as this kind; "auto" takes what the format holds.
        split: of a `datasets` folder or a hub id.
        format: one of ``formats.BY_NAME``, or "auto" to detect it from the fields.
        limit: at most this many rows; the first ones, or a random sample with ``sample_seed``.
        sample_seed: seed of that sample (kept in file order).
        columns: gnomon's field name -> the file's, e.g. {"prompt": "rl_prompt",
            "category": "scenario"}.
        labels: what the values of a `preference` column mean, e.g. {0: "a", 1: "b", 2: "tie"}.
        as_text: prompts are plain text for a base model, without chat turns.
        good_from: with ``kind="unpaired"`` on ratings, the lowest score that counts as good.
        max_skipped: refuse the file when more than this share of its rows is unusable.

    Raises:
        DataError: the file is missing, unreadable or not understood, cannot be read as ``kind``,
            or has too many unusable rows. The message names file, row, reason and cure.
    """
    name = str(path_or_id)
    raw = _select(iter_rows(path_or_id, split=split), limit, sample_seed)
    if not raw:
        raise DataError(f"{name}: no rows. Check that this is the file you meant.")
    if columns:
        raw = _rename(raw, columns, name)
    chosen, native = _understand(raw, format, name)
    want: Kind = native if kind == "auto" else kind
    if want not in READABLE_AS[native]:
        raise DataError(
            f"{name}: holds {native} (format {chosen.name}), which cannot be read as {want}. "
            f"It can be read as {', '.join(READABLE_AS[native])}."
        )
    options = ReadOptions(as_text=as_text, labels=labels or {}, good_from=good_from)
    groups: list[Group] = []
    skipped: list[Skipped] = []
    prefix = stem(path_or_id, split)
    for item in raw:
        if isinstance(item, BadRow):
            skipped.append(Skipped(item.source, item.reason, item.cure))
            continue
        try:
            groups += _read_row(item, chosen, want, options, prefix)
        except RowError as error:
            skipped.append(Skipped(item.source, error.reason, error.cure))
    _refuse_if_too_many(name, len(raw), skipped, max_skipped)
    return ReadResult(_unique_ids(groups), skipped, chosen.name, want)


def _select(
    rows: Iterable[RawRow | BadRow], limit: int | None, sample_seed: int | None
) -> list[RawRow | BadRow]:
    if limit is None or sample_seed is None:
        return list(islice(rows, limit))
    everything = list(rows)
    if limit >= len(everything):
        return everything
    picked = random.Random(sample_seed).sample(range(len(everything)), limit)
    return [everything[i] for i in sorted(picked)]


def _rename(
    raw: Sequence[RawRow | BadRow], columns: Mapping[str, str], name: str
) -> list[RawRow | BadRow]:
    present = {key for item in raw if isinstance(item, RawRow) for key in item.data}
    for ours, theirs in columns.items():
        if ours not in KNOWN:
            raise DataError(
                f"{name}: columns maps onto the unknown field {ours!r}; "
                f"{did_you_mean(ours, KNOWN) or 'known: ' + ', '.join(sorted(set(KNOWN)))}"
            )
        if theirs not in present:
            hint = did_you_mean(theirs, present) or f"the file has {', '.join(sorted(present))}"
            raise DataError(f"{name}: columns names {theirs!r}, which no row has; {hint}")
    taken = set(columns.values())

    def renamed(item: RawRow | BadRow) -> RawRow | BadRow:
        if isinstance(item, BadRow):
            return item
        data = {k: v for k, v in item.data.items() if k not in taken and k not in columns}
        data |= {o: item.data[t] for o, t in columns.items() if t in item.data}
        return replace(item, data=data)

    return [renamed(item) for item in raw]


def _understand(raw: Sequence[RawRow | BadRow], format: str, name: str) -> tuple[Format, Kind]:
    rows = [item.data for item in raw if isinstance(item, RawRow)][:DETECT_ROWS]
    if not rows:
        first = raw[0]
        assert isinstance(first, BadRow)
        raise DataError(f"{first.source}: {first.reason}; {first.cure}. No row could be decoded.")
    if format != "auto":
        if format not in BY_NAME:
            hint = did_you_mean(format, BY_NAME) or f"known: {', '.join(BY_NAME)}"
            raise DataError(f"{name}: unknown format {format!r}; {hint}")
        found = BY_NAME[format]
        votes = Counter(found.kind(row) for row in rows)
        return found, votes.most_common(1)[0][0]
    detected = detect(rows)
    if detected is not None:
        return detected
    fields = sorted({str(key) for row in rows for key in row})
    hints = [f"{f!r}: {hint}" for f in fields if (hint := did_you_mean(f, KNOWN))]
    needs = "; ".join(f"{f.name} ({', '.join(f.needs)})" for f in FORMATS)
    raise DataError(
        f"{name}, row 1: no known format has the fields {', '.join(fields)}. "
        f"{' '.join(hints) + ' ' if hints else ''}"
        f"Map them with columns={{'prompt': ...}}, or use one of: {needs}."
    )


def _read_row(
    item: RawRow, chosen: Format, want: Kind, options: ReadOptions, prefix: str
) -> list[Group]:
    row = Row(item.data, item.source, f"{prefix}-{item.source.row}")
    out: list[Group] = []
    for group in chosen.parse(row, options):
        if want == "prompts":
            group = _keep_answers(group, row)
        check(group)
        out += convert(group, want, options)
    return out


def _keep_answers(group: Group, row: Row) -> Group:
    """Prompts alone keep the row's plain answer fields in meta: a verifier needs them."""
    plain = {
        k: v for k, v in row.data.items() if k in ("answer", "solution", "completion", "output")
    }
    meta = {**plain, **group.prompt.meta}
    return replace(group, prompt=replace(group.prompt, meta=meta))


def _unique_ids(groups: list[Group]) -> list[Group]:
    """A file's own ids may repeat (one prompt, several rows): later ones get their row added."""
    seen: set[str] = set()
    out: list[Group] = []
    for group in groups:
        prompt = group.prompt
        if prompt.id in seen and prompt.source is not None:
            group = replace(group, prompt=replace(prompt, id=f"{prompt.id}@{prompt.source.row}"))
        seen.add(group.prompt.id)
        out.append(group)
    return out


def _refuse_if_too_many(
    name: str, total: int, skipped: Sequence[Skipped], max_skipped: float
) -> None:
    if not skipped or (len(skipped) < total and len(skipped) <= max_skipped * total):
        return
    raise DataError(
        f"{name}: {len(skipped)} of {total} rows cannot be used. The first: {skipped[0]}.\n"
        f"{summarise_skipped(skipped)}\n"
        f"Correct the file, map its columns, or allow more with max_skipped (now {max_skipped:g})."
    )


def summarise_skipped(skipped: Sequence[Skipped], examples: int = 3, reasons: int = 10) -> str:
    """A line for each of the most frequent reasons, with the first few row numbers."""
    if not skipped:
        return "no rows skipped"
    by_reason: dict[str, list[Skipped]] = {}
    for item in skipped:
        by_reason.setdefault(item.reason, []).append(item)
    lines = [f"{len(skipped)} skipped"]
    ordered = sorted(by_reason.items(), key=lambda kv: -len(kv[1]))
    for reason, items in ordered[:reasons]:
        rows = ", ".join(str(i.source.row) for i in items[:examples] if i.source)
        more = ", ..." if len(items) > examples else ""
        where = f" (row {rows}{more})" if rows else ""
        lines.append(f"  {len(items)} x {reason}{where}: {items[0].cure}")
    left = sum(len(items) for _reason, items in ordered[reasons:])
    if left:
        lines.append(f"  {left} x other reasons")
    return "\n".join(lines)
