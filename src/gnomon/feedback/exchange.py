"""Labels out of a store and into one.

``labels`` is the store's own form and loses nothing: each row is a campaign, a guideline, a
labeller, or an item with all its labels. It never holds personal data. All other forms are what
labellers said, as rows to learn from. What comes in is the store's own form, or any file that
:func:`~gnomon.data.readers.read_groups` reads.
"""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from gnomon.data.readers import read_groups
from gnomon.data.rows import JSONL, MAX_GB, PARQUET, iter_rows
from gnomon.data.values import RawRow, RowError, Skipped
from gnomon.errors import ConfigError, DataError
from gnomon.feedback.campaigns import Added, Campaign, Expense, Guideline
from gnomon.feedback.judged_items import NAMELESS, Judged, judged_items, numbered
from gnomon.feedback.people import LabellerInfo
from gnomon.feedback.queue_files import is_queue_file, queue_judged
from gnomon.feedback.records import Item, Label, LabellerKind, Queued, votes
from gnomon.feedback.rows import (
    check_name,
    item_row,
    label_row,
    link_rows,
    prompt_row,
    read_item,
    read_label,
    response_rows,
)
from gnomon.feedback.schema import dumps, escaped, unescaped
from gnomon.feedback.store import Store, chunks
from gnomon.files import write_file
from gnomon.records import Cost

MARK = "gnomon_store"
"""The field that only rows of the store's own form have: what the row is."""
_CHUNK = 500
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        items, labels: how many were new, and how many were there already.
        skipped: rows left out, with the reason.
        labellers: how many labels each has in the file.
    """

    items: Added = field(default_factory=Added)
    labels: Added = field(default_factory=Added)
    skipped: Sequence[Skipped] = ()
    labellers: Mapping[str, int] = field(default_factory=dict)


# -- in -------------------------------------------------------------------------------------------


def import_file(
    store: Store,
    file: str | Path,
    *,
    campaign: str = "",
    labeller: str = NAMELESS,
    kind: LabellerKind = "person",
    add_labellers: bool = False,
    use: Literal["labels", "gold", "items"] = "labels",
    progress: Progress | None = None,
    **read_options: Any,
) -> Imported:
    """Read a file into a store. Read again, or after it was killed half-way, it doubles nothing.

    Args:
        file: the store's own form, the labels of a run's human stage, or anything that
            ``gnomon data`` reads.
        campaign: of the items; the store's own form has its own.
        labeller: whose the judgements are that name nobody.
        kind: of labellers who are added.
        add_labellers: add those that the store does not know; else they are an error.
        use: what the judgements are: labels; what is right of gold questions; or nothing, since the
            items are to be judged anew.
        progress: is called with how many items and labels are in, and of how many.
        read_options: of ``read_groups``.

    Raises:
        DataError: the file cannot be read, or too little of it; labellers that are unknown or
            unnamed. Nothing is stored then.
    """
    if _is_own(file):
        if campaign or labeller:
            raise ConfigError(
                f"{file} is a store's own export: it names campaigns and labellers itself; leave "
                "them out"
            )
        judged, skipped = _own(store, file, read_options.get("max_gb", MAX_GB), add_labellers)
    elif is_queue_file(file):
        told, skipped = queue_judged(file, campaign, labeller)
        judged = list(numbered(told))
    else:
        read = read_groups(file, **{"kind": "whole", **read_options})
        named = (one for g in read.groups for one in judged_items(g, campaign, labeller))
        judged, skipped = list(numbered(named)), read.skipped
    if use != "labels":
        judged = [_asked(one, use, str(file)) for one in judged]
    counts = Counter(label.labeller for one in judged for label in one.labels)
    _check_names(store, str(file), counts, add_labellers)
    adding = kind if add_labellers else None
    items, labels, done = Added(), Added(), 0
    queued = {one.item.id: one.queued for one in judged if one.queued is not None}
    total = len(judged) + sum(counts.values())
    for some, given in _parts(judged):
        items += store.add_items(some, queued)
        labels += store.add_labels(given, add_labellers=adding)
        done += len(some) + len(given)
        if progress is not None:
            progress(done, total)
    return Imported(items, labels, skipped, counts)


def _asked(one: Judged, use: str, file: str) -> Judged:
    """The item without its labels; with what most of them say as gold, where that is asked for.

    Raises:
        DataError: gold that the labels do not give: they say nothing of how answers compare, or
            contradict each other evenly.
    """
    if use == "items" or not one.labels:
        return Judged(one.item, queued=one.queued)
    wins = [0.0] * len(one.item.responses)
    said = votes(one.labels)
    for vote in said:
        wins[vote.a] += vote.won
        wins[vote.b] += 1 - vote.won
    ranks = tuple(1.0 + sum(other > own for other in wins) for own in wins)
    where = one.item.prompt.source or f"{file}: prompt {one.item.prompt.id}"
    if not said:
        raise DataError(
            f"{where}: a gold question needs two answers and which is better; good or bad of one "
            "answer is none. Leave such rows out"
        )
    if len(set(ranks)) == 1 and any(vote.won != 0.5 for vote in said):
        raise DataError(
            f"{where}: those who judged it contradict each other, so that nothing is known to be "
            "right. Leave it out of the gold questions"
        )
    return Judged(replace(one.item, gold=ranks), queued=one.queued)


def _check_names(store: Store, file: str, counts: Mapping[str, int], add: bool) -> None:
    """Check labellers before anything is stored.

    Raises:
        DataError: see :func:`import_file`.
    """
    if NAMELESS in counts:
        raise DataError(
            f"{file}: {counts[NAMELESS]} of {sum(counts.values())} judgements name no labeller; "
            "say whose they are (--labeller NAME, a pseudonym)"
        )
    known = set(store.labellers())
    missing = {name: n for name, n in counts.items() if name not in known}
    for name in missing:
        check_name(name, f"{file}: labeller")
    if missing and not add:
        first = ", ".join(f"{name!r} ({n} labels)" for name, n in list(missing.items())[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DataError(
            f"{file}: {len(missing)} labellers are not in the store: {first}{more}. Nothing was "
            "imported. If they are right, import with --add-labellers"
        )


def _is_own(file: str | Path) -> bool:
    """Whether a file is the store's own form, by its first row."""
    path = Path(file)
    if not path.is_file() or not path.name.lower().endswith((*JSONL, *PARQUET)):
        return False
    first = next(iter(iter_rows(path)), None)
    return isinstance(first, RawRow) and MARK in first.data


def _own(
    store: Store, file: str | Path, max_gb: float, add_labellers: bool
) -> tuple[list[Judged], list[Skipped]]:
    """Items and labels of the store's own form; campaigns and guidelines are added at once."""
    judged: list[Judged] = []
    skipped: list[Skipped] = []
    known = {campaign.name for campaign in store.campaigns()}
    people: list[LabellerInfo] = []
    expenses: list[Expense] = []
    for row in iter_rows(file, max_gb=max_gb):
        if isinstance(row, Skipped):
            skipped.append(row)
            continue
        try:
            what, body = _body(row.data)
            if what == "item":
                judged.append(_judged(body))
            elif what == "labeller":
                people.append(LabellerInfo(**body))
            elif what == "expense":
                expenses.append(Expense(**{**body, "cost": Cost(**body["cost"])}))
            elif what == "guideline":
                store.add_guideline(Guideline(**body))
            elif body["name"] not in known:
                store.set_campaign(Campaign(**body))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = f"not a row that a store wrote ({type(error).__name__}: {error})"
            skipped.append(RowError(reason, "export it again").skip(row.source))
    for person in people if add_labellers else ():
        store.people.add(person.name, person.kind, person.role)
        if not person.active:  # stopped, or erased
            store.people.set_active(person.name, False)
    there = Counter(map(repr, store.expenses()))
    for expense in expenses:
        if there[repr(expense)]:  # read before
            there[repr(expense)] -= 1
        else:
            store.add_expense(expense)
    return judged, skipped


def _body(row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a row is, and its fields."""
    what = row[MARK]
    if what not in ("campaign", "guideline", "labeller", "item", "expense"):
        raise ValueError(f"{MARK} is {what!r}")
    given = json.loads(row["body"]) if "body" in row else dict(row)
    return what, {k: v for k, v in _walked(given, unescaped).items() if k != MARK}


def _judged(body: Mapping[str, Any]) -> Judged:
    item = read_item(body, body["responses"], body["gold"])
    places = tuple(label.get("place") for label in body["labels"])
    queued = Queued(**body["queue"]) if "queue" in body else None
    if queued is not None and math.isnan(queued.priority):
        raise ValueError(f"a priority of {queued.priority}")
    return Judged(item, tuple(read_label(label) for label in body["labels"]), places, queued)


def _parts(judged: Sequence[Judged]) -> Iterator[tuple[list[Item], list[Label]]]:
    """What is added at once: some items with their labels. Where it is known which label came
    first, all items, and then the labels as they were given: the first so many are the same in both
    stores."""
    placed = [(place, label) for one in judged
              for place, label in zip_longest(one.places, one.labels)]  # fmt: skip
    if not placed or any(place is None for place, _ in placed):
        for part in chunks(judged, _CHUNK):
            yield [one.item for one in part], [label for one in part for label in one.labels]
        return
    for part in chunks(judged, _CHUNK):
        yield [one.item for one in part], []
    for some in chunks(sorted(placed, key=lambda one: one[0] or 0), _CHUNK):
        yield [], [label for _, label in some]


def _walked(value: Any, change: Callable[[str], str]) -> Any:
    """The same value with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            change(k) if isinstance(k, str) else k: _walked(v, change) for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [_walked(v, change) for v in value]
    return value


# -- out ------------------------------------------------------------------------------------------


def own_rows(store: Store, campaign: str | None = None) -> Iterator[dict[str, Any]]:
    """A store, or a campaign of it, in its own form."""
    yield from (
        _own_row("campaign", asdict(c)) for c in store.campaigns() if campaign in (None, c.name)
    )
    yield from (_own_row("guideline", asdict(guideline)) for guideline in store.guidelines())
    items = list(store.items(campaign))
    by_item: dict[str, list[tuple[int, Label]]] = {}
    for place, label in enumerate(store.labels(campaign)):
        by_item.setdefault(label.item, []).append((place, label))
    used = {label.labeller for own in by_item.values() for _, label in own}
    for person in store.people.all():
        if campaign is None or person.name in used:
            yield _own_row("labeller", asdict(person))
    yield from (_own_row("expense", asdict(expense)) for expense in store.expenses(campaign))
    told = store.queue.told(campaign)
    for i in items:
        yield _own_row("item", _item_body(i, by_item.get(i.id, ()), told.get(i.id)))


def _own_row(what: str, body: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = _walked(body, escaped)
    return {MARK: what, **row}


def _item_body(
    item: Item, labels: Iterable[tuple[int, Label]], queued: Queued | None
) -> dict[str, Any]:
    """An item with its labels, each with its place among all that were given, and with what the
    queue was told of it."""
    said = [row["messages"] for row in response_rows(item)]
    links = [link["more"] for link in link_rows(item)]
    prompt = prompt_row(item.prompt)
    return {
        **item_row(item),
        "messages": prompt["messages"],
        "text": prompt["text"],
        "responses": [{"messages": m, "more": k} for m, k in zip(said, links, strict=True)],
        "gold": None if item.gold is None else list(item.gold),
        "labels": [{**label_row(label), "place": place} for place, label in labels],
        **({} if queued is None else {"queue": asdict(queued)}),
    }


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]], texts: Sequence[str] = ()) -> int:
    """Write rows as ``.jsonl`` (also ``.gz``) or ``.parquet``; the file is whole or not there.

    Args:
        texts: of a parquet file, the columns that are JSON in a text, since their rows differ in
            form; ``("body",)`` puts all but the first column into one.

    Returns:
        How many there were.

    Raises:
        ConfigError: another ending.
        DataError: rows of different forms in a parquet file.
    """
    name = file.name.lower()
    if not name.endswith((*JSONL, *PARQUET)):
        raise ConfigError(f"{file}: give a name that ends with .jsonl, .jsonl.gz or .parquet")
    count = 0
    with write_file(file) as tmp:
        if name.endswith(PARQUET):
            return _write_parquet(tmp, [_flat(row, texts) for row in rows])
        with _opened(tmp, name.endswith(".gz")) as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                count += 1
    return count


@contextmanager
def _opened(file: Path, packed: bool) -> Iterator[Any]:
    with file.open("wb") as raw:
        if not packed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as stream:
            yield stream


def _flat(row: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    if tuple(texts) == ("body",):
        return {MARK: row[MARK], "body": dumps({k: v for k, v in row.items() if k != MARK})}
    return {k: json.dumps(v) if k in texts and v is not None else v for k, v in row.items()}


def _write_parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = dict.fromkeys(name for row in rows for name in row)
    try:
        columns = {name: pa.array([row.get(name) for row in rows]) for name in names}
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"rows of different forms do not fit one parquet column ({error}); write .jsonl"
        ) from error
    pq.write_table(pa.table(columns), file)
    return len(rows)
