"""Reading any preference, demonstration, ranking, rating or prompt file into groups.

>>> result = read_groups("pairs.jsonl", kind="preferences")
>>> print(result.format, len(result.groups), summarise_skipped(result.skipped))

A row that cannot be used is skipped, counted and listed with its number, the reason and the cure;
if too many are (half, by default), the file is refused.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from gnomon.data.columns import decode, rename
from gnomon.data.fields import (
    COMPLETION,
    KNOWN,
    RESPONSE_A,
    RESPONSE_B,
    ReadOptions,
    Row,
)
from gnomon.data.formats import (
    BY_NAME,
    FORMATS,
    READABLE_AS,
    Format,
    check,
    commonest,
    convert,
    detect,
)
from gnomon.data.rows import IN_MEMORY, MAX_GB, iter_rows, rows_of, stem
from gnomon.data.values import RawRow, RowError, Skipped, summarise_skipped
from gnomon.errors import DataError
from gnomon.plugins import did_you_mean, nearest
from gnomon.recipe.schema import Kind, Verdict
from gnomon.records import Group

DETECT_ROWS = 200


@dataclass(frozen=True)
class ReadResult:
    """What was read: the groups, the rows left out, how the file was understood, and which of its
    columns no row fills."""

    groups: list[Group]
    skipped: list[Skipped]
    format: str
    kind: str
    empty: tuple[str, ...] = ()


def read_groups(
    path_or_id: str | Path | Iterable[Mapping[str, Any]],
    *,
    kind: Literal[Kind, "auto", "whole"] = "auto",
    split: str | None = None,
    format: str = "auto",
    limit: int | None = None,
    sample_seed: int | None = None,
    columns: Mapping[str, str] | None = None,
    labels: Mapping[Any, Verdict] | None = None,
    as_text: bool = False,
    good_from: float | None = None,
    max_skipped: float = 0.5,
    max_gb: float = MAX_GB,
) -> ReadResult:
    """Read a file, a folder or glob of shards, a `datasets` folder or a hub id, or rows in memory.

    Args:
        path_or_id: a file with one of the endings in ``rows.SUFFIXES``, a folder or a pattern
            (``data/*.parquet``) of such files, a folder saved by `datasets`, or a hub id; or the
            rows themselves (dicts, a ``datasets.Dataset``).
        kind: read the rows as this kind; "auto" takes what the format holds, and "whole" does
            without making anything of it: two answers stay a ranking of two, with their scores.
        split: of a folder or a hub id with several.
        format: one of ``formats.BY_NAME``, or "auto" to detect it from the fields.
        limit: at most this many rows; the first ones, or a random sample with ``sample_seed``.
        sample_seed: seed of that sample (kept in file order).
        columns: gnomon's field name -> the file's, e.g. {"prompt": "rl_prompt",
            "category": "scenario"}.
        labels: what the values of a `preference` column mean, e.g. {0: "a", 1: "b", 2: "tie"}.
        as_text: prompts are plain text for a base model, without chat turns.
        good_from: with ``kind="unpaired"`` on ratings, the lowest score that counts as good.
        max_skipped: refuse the file when more than this share of its rows is unusable.
        max_gb: GiB that one file may hold once unpacked (a row: 1/32 of it).

    Raises:
        DataError: the file is missing, unreadable or not understood, cannot be read as ``kind``,
            has too many unusable rows, or all of its rows have weight 0. The message names file,
            row, reason and cure.
    """
    if isinstance(path_or_id, str | Path):
        name, rows = str(path_or_id), iter_rows(path_or_id, split=split, max_gb=max_gb)
    else:
        name, rows = IN_MEMORY, rows_of(path_or_id)
    raw = select(rows, limit, sample_seed)
    if not raw:
        raise DataError(f"{name}: no rows. Check that this is the file you meant.")
    columns = columns or {}
    raw = decode(rename(raw, columns, name) if columns else raw)
    chosen, native = _understand(raw, format, name)
    empty = _empty_columns(raw)
    want: Kind = native if kind == "auto" or kind == "whole" else kind
    if kind == "whole" and native == "preferences":
        want = "rankings"
    if want not in READABLE_AS[native]:
        hints = _misspelt(item.data for item in raw if isinstance(item, RawRow))
        problem = _not_readable_as(name, chosen, native, want, empty)
        raise DataError(f"{problem} {hints}".rstrip())
    options = ReadOptions(as_text=as_text, labels=labels or {}, good_from=good_from)
    groups: list[Group] = []
    skipped: list[Skipped] = []
    for item in raw:
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        try:
            groups += _read_row(item, chosen, want, options, split, columns)
        except RowError as error:
            skipped.append(error.skip(item.source))
    _refuse_if_too_many(name, len(raw), skipped, max_skipped)
    if groups and all(is_switched_off(group) for group in groups):
        raise DataError(
            f"{name}: every row has weight (or confidence) 0, so nothing would be learnt from it. "
            "Give some a positive weight, or leave the file out."
        )
    return ReadResult(unique_ids(groups), skipped, chosen.name, want, empty)


def read_answers(
    path_or_id: str | Path,
    *,
    split: str | None = None,
    format: str = "auto",
    limit: int | None = None,
    sample_seed: int | None = None,
    columns: Mapping[str, str] | None = None,
    max_skipped: float = 0.5,
    max_gb: float = MAX_GB,
) -> ReadResult:
    """Read prompts with one answer or more, to be judged: what a row says of how they compare is
    left out, and it need not say anything. See :func:`read_groups`.

    Raises:
        DataError: as there, and where rows hold no answers.
    """
    name = str(path_or_id)
    raw = select(iter_rows(path_or_id, split=split, max_gb=max_gb), limit, sample_seed)
    if not raw:
        raise DataError(f"{name}: no rows. Check that this is the file you meant.")
    columns = columns or {}
    raw = decode(rename(raw, columns, name) if columns else raw)
    rows = [item.data for item in raw if isinstance(item, RawRow)]
    two = sum(any(n in d for n in RESPONSE_A) and any(n in d for n in RESPONSE_B) for d in rows)
    chosen, native = _understand(
        raw, "verdict" if format == "auto" and 2 * two > len(rows) else format, name
    )
    if native == "prompts":
        raise DataError(
            f"{name}: holds prompts without answers, and there is nothing to judge. Answers come "
            "as responses: [...], as response_a and response_b, or as completion"
        )
    options = ReadOptions(judged=False)
    groups: list[Group] = []
    skipped: list[Skipped] = []
    for item in raw:
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        default_id = f"{stem(item.source.file, split)}-{item.source.row}"
        row = Row(item.data, item.source, default_id, item.aside, columns)
        try:
            for group in chosen.parse(row, options):
                bare = tuple(replace(r, rank=None) for r in group.responses)
                bare_group = replace(group, responses=bare, comparisons=())
                if not bare:
                    raise RowError("no response", "there is nothing to judge without answers")
                check(bare_group)
                groups.append(bare_group)
        except RowError as error:
            skipped.append(error.skip(item.source))
    _refuse_if_too_many(name, len(raw), skipped, max_skipped)
    return ReadResult(unique_ids(groups), skipped, chosen.name, native, _empty_columns(raw))


T = TypeVar("T")


def select(rows: Iterable[T], limit: int | None, sample_seed: int | None) -> list[T]:
    """The first ``limit`` items or, with a seed, that many drawn at random (kept in order).

    Raises:
        DataError: a seed without a limit, which would draw nothing.
    """
    if limit is None:
        if sample_seed is not None:
            raise DataError("sample_seed draws a sample only together with limit; give both")
        return list(rows)
    if sample_seed is None:
        return list(islice(rows, limit))
    everything = list(rows)
    if limit >= len(everything):
        return everything
    picked = random.Random(sample_seed).sample(range(len(everything)), limit)
    return [everything[i] for i in sorted(picked)]


def is_switched_off(group: Group) -> bool:
    """Whether a group has no effect: its weight is 0, or that of all its comparisons."""
    judged = group.comparisons
    return group.weight == 0 or (bool(judged) and all(c.strength == 0 for c in judged))


def _empty_columns(raw: Iterable[RawRow | Skipped]) -> tuple[str, ...]:
    filled: dict[str, bool] = {}
    for item in raw:
        for key, value in item.data.items() if isinstance(item, RawRow) else ():
            filled[key] = filled.get(key, False) or value is not None
    return tuple(str(key) for key, some in filled.items() if not some)


def _not_readable_as(
    name: str, chosen: Format, native: Kind, want: Kind, empty: Sequence[str]
) -> str:
    same = {want, "preferences"} if want == "rankings" else {want}
    formats = [f for f in FORMATS if same & set(f.kinds)]
    nulls = f"No row fills {', '.join(empty)}. " if empty else ""
    needs = "; ".join(f"{f.name} ({f.needs})" for f in formats)
    return (
        f"{name}: holds {native} (format {chosen.name}), which cannot be read as {want}. "
        f"It can be read as {', '.join(READABLE_AS[native])}. {want.capitalize()} come from: "
        f"{needs}. {nulls}If the file has these fields under other names, map them (columns), or "
        "say which it is (format)."
    )


def _understand(raw: Sequence[RawRow | Skipped], format: str, name: str) -> tuple[Format, Kind]:
    rows = [item.data for item in raw if isinstance(item, RawRow)][:DETECT_ROWS]
    if not rows:
        first = raw[0]
        assert isinstance(first, Skipped)
        raise DataError(f"{first.source}: {first.reason}; {first.cure}. No row could be decoded.")
    if format != "auto":
        if format not in BY_NAME:
            hint = did_you_mean(format, BY_NAME, "known:", 0.7)
            raise DataError(f"{name}: unknown format {format!r}; {hint}")
        found = BY_NAME[format]
        return found, commonest(Counter(found.kind(row) for row in rows))
    detected = detect(rows)
    if detected is not None:
        return detected
    fields = sorted({str(key) for row in rows for key in row})
    needs = "; ".join(f"{f.name} ({f.needs})" for f in FORMATS)
    raise DataError(
        f"{name}, row 1: no known format has the fields {', '.join(fields)}. "
        f"{_misspelt(rows)}Map them with columns={{'prompt': ...}}, or use one of: {needs}."
    )


def _misspelt(rows: Iterable[Mapping[str, Any]]) -> str:
    """For each unknown field, the known one that is near."""
    odd = sorted({str(key) for row in rows for key in row} - set(KNOWN))
    hints = [f"{f!r}: {hint}" for f in odd if (hint := nearest(f.lower(), KNOWN))]
    return " ".join(hints) + " " if hints else ""


def _read_row(
    item: RawRow,
    chosen: Format,
    want: Kind,
    options: ReadOptions,
    split: str | None,
    columns: Mapping[str, str],
) -> list[Group]:
    default_id = f"{stem(item.source.file, split)}-{item.source.row}"
    row = Row(item.data, item.source, default_id, item.aside, columns)
    out: list[Group] = []
    for group in chosen.parse(row, options):
        if want == "prompts":
            group = _keep_row(group, row)
        check(group)
        out += convert(group, want, options)
    unused = [n for n in row.unused_columns() if want != "prompts" or n not in COMPLETION]
    if unused:
        raise RowError(
            f"{', '.join(unused)} is mapped, but {chosen.name} rows have no use for it",
            "take it out of columns, or say which format is meant (format)",
        )
    return out


def _keep_row(group: Group, row: Row) -> Group:
    """Prompts alone keep the row, which rewards may be called with, and its plain answer fields in
    meta: a verifier needs them."""
    answers = ("answer", "solution", "completion", "output")
    plain = {k: v for part in (row.aside, row.data) for k, v in part.items() if k in answers}
    meta = {**plain, **group.prompt.meta}
    own = {theirs: row.data[ours] for ours, theirs in row.columns.items() if ours in row.data}
    whole = {**own, **row.aside, **row.data}
    return replace(group, prompt=replace(group.prompt, meta=meta, row=whole))


def unique_ids(groups: list[Group]) -> list[Group]:
    """A file's own ids may repeat (one prompt, several rows): later ones get their row added."""
    seen: set[str] = set()
    out: list[Group] = []
    for group in groups:
        prompt = group.prompt
        if prompt.id in seen:
            own = prompt.id if prompt.source is None else f"{prompt.id}@{prompt.source.row}"
            names = chain([own], (f"{own}.{n}" for n in count(2)))
            unique = next(name for name in names if name not in seen)
            group = replace(group, prompt=replace(prompt, id=unique))
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


def prompt_key(group: Group) -> str:
    """A key that is equal for equal prompts: a hash of the turns, ignoring case and spacing.

    A document (empty prompt, text as the response) is known by its text.
    """
    prompt = group.prompt
    turns = [(m.role, m.content) for m in prompt.messages] or [("text", prompt.text or "")]
    if turns == [("text", "")]:
        turns = [("text", r.text) for r in group.responses]
    plain = [(role, " ".join(content.split()).casefold()) for role, content in turns]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def split(
    groups: Sequence[Group], holdout: float | int, seed: int
) -> tuple[list[Group], list[Group]]:
    """(train, held out), with all groups of one prompt on the same side.

    Args:
        holdout: a share of the groups (0 <= float < 1) or a number of groups (int). Prompts are
            held out whole, in an order hashed from the seed, for as long as they fit; so the number
            held out is at most what was asked, save that a positive request holds out one prompt.
        seed: a prompt's side does not change when other prompts are added after it in hash order.

    Raises:
        ValueError: a holdout that is negative or leaves nothing to train on.
    """
    wanted = round(holdout * len(groups)) if isinstance(holdout, float) else holdout
    if (
        holdout < 0
        or (isinstance(holdout, float) and holdout >= 1)
        or wanted >= max(1, len(groups))
    ):
        raise ValueError(f"cannot hold out {holdout} of {len(groups)} groups")
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(prompt_key(group), []).append(i)
    order = sorted(members, key=lambda k: hashlib.sha256(f"{seed}:{k}".encode()).digest())
    held: set[int] = set()
    for key in order:
        if len(held) + len(members[key]) <= wanted:
            held.update(members[key])
    if wanted > 0 and not held and len(order) > 1:
        held.update(members[min(order, key=lambda k: len(members[k]))])
    train = [g for i, g in enumerate(groups) if i not in held]
    return train, [g for i, g in enumerate(groups) if i in held]


def fingerprint(groups: Sequence[Group]) -> str:
    """sha256 of the groups in order: prompts, responses, ranks, labels, comparisons.

    Changes with anything that changes training or scoring; ``meta`` other than labels does not
    count, nor does the file's path.
    """
    digest = hashlib.sha256()
    for g in groups:
        p = g.prompt
        said = [
            [p.id, p.text, [[m.role, m.content] for m in p.messages]],
            [
                [
                    [[m.role, m.content] for m in r.messages],
                    r.rank,
                    r.meta.get("label"),
                    r.meta.get("train"),
                ]
                for r in g.responses
            ],
            [
                [c.better, c.worse, c.weight, c.margin, c.tie]
                + [c.probability] * (c.probability != 1)
                for c in g.comparisons
            ],
            g.weight,
        ]
        digest.update(json.dumps(said, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()
