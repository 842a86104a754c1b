"""The files of a run's human stage (:mod:`gnomon.judges.human`) as items and labels: what people
were asked in ``round-001.jsonl``, and what they answered in ``round-001.labels.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gnomon.data.fields import labeller_of
from gnomon.data.rows import iter_rows
from gnomon.data.values import RowError, Skipped
from gnomon.errors import DataError
from gnomon.feedback.identity import make_item
from gnomon.feedback.judged_items import Judged, judged_items
from gnomon.feedback.records import Label
from gnomon.judges.human import judgements_of
from gnomon.plugins import nearest
from gnomon.records import Comparison, Group, Message, Prompt, Response, Source

ANSWERED = ".labels.jsonl"


def is_queue_file(file: str | Path) -> bool:
    """Whether a file holds the labels of a human stage: it is called so, and refers to prompts by
    their ids."""
    path = Path(file)
    if not path.name.endswith(ANSWERED) or not path.is_file():
        return False
    first = next((row for row in iter_rows(path) if not isinstance(row, Skipped)), None)
    return first is not None and "id" in first.data and "responses" not in first.data


def queue_judged(
    file: str | Path, campaign: str = "", nameless: str = ""
) -> tuple[list[Judged], list[Skipped]]:
    """Every prompt of the round as an item, with the labels that it got.

    Args:
        nameless: the labeller of what names none (in ``labeller``, or another of
            :data:`~gnomon.data.fields.LABELLER`).

    Raises:
        DataError: what people were asked is not beside it.
    """
    path = Path(file)
    asked = path.with_name(path.name.removesuffix(ANSWERED) + ".jsonl")
    if not asked.is_file():
        raise DataError(
            f"{path} holds answers by the ids of what was asked, and {asked.name} is not beside "
            "it: give the file as it lies in the run's stages/*/queue"
        )
    rows = {str(row.data.get("id")): row.data for row in iter_rows(asked)
            if not isinstance(row, Skipped)}  # fmt: skip
    judged: list[Judged] = []
    skipped: list[Skipped] = []
    for row in iter_rows(path):
        if isinstance(row, Skipped):
            skipped.append(row)
            continue
        try:
            judged += _judged(rows, row.data, row.source, campaign, nameless)
        except RowError as error:
            skipped.append(error.skip(row.source))
    known = {one.item.id for one in judged}
    left = (Judged(make_item(g.prompt, g.responses, campaign=campaign)) for g in _groups(rows))
    return [*judged, *(one for one in left if one.item.id not in known)], skipped


def _judged(
    rows: Mapping[str, Mapping[str, Any]], label: Mapping[str, Any], source: Source,
    campaign: str, nameless: str,
) -> list[Judged]:  # fmt: skip
    name = str(label.get("id"))
    if name not in rows:
        raise RowError(f"no prompt {name!r} was asked", nearest(name, rows) or "check its id")
    row = rows[name]
    (group,) = _groups({name: row})
    found = judgements_of(row, label)
    who = labeller_of(label) or nameless
    if not found:
        item = make_item(group.prompt, group.responses, campaign=campaign)
        return [Judged(item, (Label("", item.id, who, "skip"),))]
    place = {response.text: i for i, response in enumerate(group.responses)}
    compared = tuple(
        Comparison(place[a], place[b], weight=abs(won) or 1.0, tie=won == 0) for a, b, won in found
    )
    meta = {**group.prompt.meta, "labellers": (who or None,) * len(compared)}
    told = replace(group, prompt=replace(group.prompt, meta=meta, source=source))
    return judged_items(replace(told, comparisons=compared), campaign, nameless)


def _groups(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[Group]:
    """What was asked."""
    for row in rows.values():
        turns = tuple(Message(m["role"], m["content"]) for m in row.get("messages") or ())
        prompt = Prompt(str(row.get("prompt_id")), turns, text=row.get("prompt"))
        answers = tuple(
            Response((Message("assistant", r["text"]),), id=r["id"]) for r in row["responses"]
        )
        yield Group(prompt, answers)
