"""Labels as a store keeps them: each once, checked against its item and its labeller."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from gnomon.errors import DataError
from gnomon.feedback import schema as t
from gnomon.feedback.assignments import requeue
from gnomon.feedback.campaigns import Added
from gnomon.feedback.people import known_labellers
from gnomon.feedback.records import Label, LabellerKind, votes
from gnomon.feedback.rows import check_id, check_label, label_row, read_label


def add_labels(connection: Connection, labels: Sequence[Label], kind: LabellerKind | None) -> Added:
    """Add a chunk of labels; see ``Store.add_labels``."""
    fresh: dict[str, Label] = {}
    known = known_labels(connection, {label.id for label in labels})
    for label in labels:
        check_id(label.id, "label")
        before = known.get(label.id) or fresh.get(label.id)
        if before is None:
            fresh[label.id] = label
        elif not _same(connection, label, before):
            raise DataError(
                f"label {label.id!r} is there with another content, and a label is never "
                "changed; give the correction an id of its own and replaces=" + repr(label.id)
            )
    if fresh:
        new = list(fresh.values())
        _check(connection, new, kind)
        connection.execute(t.labels.insert(), [label_row(label) for label in new])
        requeue(connection, new)
    return Added(len(fresh), len(labels) - len(fresh))


def known_labels(connection: Connection, ids: Iterable[str]) -> dict[str, Label]:
    """Labels that are there, by their ids."""
    rows = connection.execute(t.labels.select().where(t.labels.c.id.in_(list(ids)))).mappings()
    return {row["id"]: read_label(row) for row in rows}


def _check(
    connection: Connection,
    labels: Sequence[Label],
    kind: LabellerKind | None,
) -> None:
    ids = {label.item for label in labels}
    found = connection.execute(sa.select(t.items.c.id, t.items.c.size).where(t.items.c.id.in_(ids)))
    sizes: dict[str, int] = {row.id: row.size for row in found}
    for label in labels:
        check_label(label, sizes.get(label.item))
    known_labellers(connection, [label.labeller for label in labels], kind)
    corrections = [label for label in labels if label.replaces is not None]
    if not corrections:
        return
    olds = known_labels(connection, {str(label.replaces) for label in corrections})
    olds = {**{label.id: label for label in labels}, **olds}
    done = connection.execute(
        sa.select(t.labels.c.replaces, t.labels.c.id).where(t.labels.c.replaces.in_(olds))
    )
    replaced: dict[str, str] = {row.replaces: row.id for row in done}
    for label in corrections:
        _check_correction(label, olds, replaced)
        replaced[str(label.replaces)] = label.id


def within(
    found: sa.Select[Any], campaign: str | None, standing: bool, first: int | None = None
) -> sa.Select[Any]:
    """Labels of a campaign; with ``standing``, those that none replaces; of its ``first`` ones."""
    later, last = t.labels.alias("later"), None
    if first is not None:
        head = within(sa.select(t.labels.c.seq), campaign, False).order_by(t.labels.c.seq)
        last = sa.select(sa.func.max(head.limit(first).subquery().c.seq)).scalar_subquery()
        found = found.where(t.labels.c.seq <= last)
    if campaign is not None:
        found = found.join(t.items, t.items.c.id == t.labels.c.item)
        found = found.where(t.items.c.campaign == campaign)
    if standing:
        replaced = sa.exists().where(later.c.replaces == t.labels.c.id)
        found = found.where(~(replaced if last is None else replaced.where(later.c.seq <= last)))
    return found


def _same(connection: Connection, label: Label, before: Label) -> bool:
    """Whether two labels say the same; a comment that was erased may come in again, and is lost."""
    if _comparable(label, before) == _comparable(before, label):
        return True
    erased = sa.select(t.erasures.c.seq).where(t.erasures.c.labeller == before.labeller).limit(1)
    if before.comment or connection.scalar(erased) is None:
        return False
    silent = replace(label, comment="")
    return _comparable(silent, before) == _comparable(before, silent)


def _comparable(label: Label, other: Label) -> dict[str, Any]:
    """What must be equal for two labels to be the same: a time only where both give one."""
    row = label_row(label)
    return row if label.at and other.at else row | {"at": ""}


def _check_correction(label: Label, olds: Mapping[str, Label], replaced: Mapping[str, str]) -> None:
    old = olds.get(str(label.replaces))
    problem = ""
    if old is None or old.id == label.id:
        problem = "there is no such label"
    elif (old.item, old.labeller) != (label.item, label.labeller):
        problem = f"that one is of {old.labeller!r} about item {old.item}"
    elif old.id in replaced:
        problem = f"it is replaced by {replaced[old.id]!r} already; replace that one"
    if problem:
        raise DataError(f"label {label.id!r} replaces {label.replaces!r}, but {problem}")


@lru_cache(maxsize=100_000)
def compared(
    kind: Any, ranks: str | None, ratings: str | None, approvals: str | None, shown: str | None
) -> tuple[tuple[int, int, float, int], ...]:
    """The comparisons in a judgement: (a, b, won, a_first). Few judgements differ, so most are
    remembered."""

    def listed(text: str | None) -> tuple[Any, ...]:
        return () if text is None else tuple(json.loads(text))

    label = Label(
        "", "", "", kind, listed(ranks), listed(ratings), listed(approvals), shown=listed(shown)
    )
    return tuple(
        (v.a, v.b, v.won, -1 if v.a_first is None else int(v.a_first)) for v in votes([label])
    )
