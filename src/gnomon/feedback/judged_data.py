"""What a judge is asked to label: a file of answers, a run's samples, the items of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnomon.data.readers import read_answers
from gnomon.data.values import summarise_skipped
from gnomon.errors import DataError
from gnomon.feedback.identity import make_item
from gnomon.feedback.records import Item
from gnomon.records import Message, Prompt, Response
from gnomon.runs.read import StageView, read_run, read_stage
from gnomon.runs.records import STAGE

SQLITE = b"SQLite format 3\x00"


@dataclass(frozen=True)
class Found:
    """Items, each once, and what was left out, in words."""

    items: list[Item]
    note: str = ""


def is_store(where: str) -> bool:
    """Whether a text names a store: a URL, or a file of SQLite's (one that is not there yet by its
    ending)."""
    if "://" in where:
        return True
    path = Path(where)
    if path.is_file():
        with path.open("rb") as stream:
            return stream.read(len(SQLITE)) == SQLITE
    return path.suffix.lower() in (".db", ".sqlite", ".sqlite3")


def items_of(
    where: str,
    *,
    campaign: str | None = None,
    stage: str | None = None,
    limit: int | None = None,
    sample_seed: int | None = None,
    columns: Mapping[str, str] | None = None,
    format: str = "auto",
) -> Found:
    """The items in a file, a run's or stage's folder, or a store.

    Args:
        campaign: of a store: only these; else what the items belong to.
        stage: of a run: only this one's samples.
        limit, sample_seed: at most so many, the first ones or a random sample.
        columns, format: of a file; see :func:`~gnomon.data.readers.read_answers`.

    Raises:
        DataError: there is nothing to judge, or it cannot be read.
    """
    if is_store(where):
        from gnomon.feedback.opening import open_store

        with open_store(where) as store:
            return Found(_some(list(store.items(campaign)), limit, sample_seed, where))
    path = Path(where)
    if path.is_dir() and ((path / STAGE).is_file() or (path / "stages").is_dir()):
        items = _sampled(path, stage, campaign or "")
        return Found(_some(items, limit, sample_seed, where))
    read = read_answers(where, limit=limit, sample_seed=sample_seed, columns=columns, format=format)
    found = [
        make_item(g.prompt, g.responses, campaign=campaign or "", origin=_row_of(g.prompt))
        for g in read.groups
    ]
    note = summarise_skipped(read.skipped) if read.skipped else ""
    return Found(_once(found), note)


def _some(
    items: Sequence[Item], limit: int | None, sample_seed: int | None, where: str
) -> list[Item]:
    from gnomon.data.readers import select

    found = select(_once(items), limit, sample_seed)
    if not found:
        raise DataError(f"{where}: there are no answers to judge")
    return found


def _once(items: Sequence[Item]) -> list[Item]:
    """Items without repeats, in their order."""
    return list({item.id: item for item in items}.values())


def _row_of(prompt: Prompt) -> dict[str, Any]:
    source = prompt.source
    return {} if source is None else {"file": source.file, "row": source.row}


def _sampled(folder: Path, stage: str | None, campaign: str) -> list[Item]:
    """The samples of a run's stages: those of one prompt in one step are one item."""
    problems: list[str] = []
    if (folder / STAGE).is_file():
        stages: Sequence[StageView] = [read_stage(folder, problems)]
    else:
        stages = read_run(folder).stages
    names = [view.name for view in stages]
    if stage is not None and stage not in names:
        raise DataError(f"{folder} has no stage {stage!r}; it has {', '.join(names) or 'none'}")
    items = []
    for view in stages:
        if stage in (None, view.name):
            items += _of_stage(view, campaign)
    if not items:
        raise DataError(f"{folder}: no stage has sampled anything (samples.parquet)")
    return items


def _of_stage(view: StageView, campaign: str) -> list[Item]:
    rows: dict[tuple[Any, ...], list[Any]] = {}
    for row in view.samples:
        key = (row.get("evaluation"), row.get("step"), row.get("prompt_id"))
        if (row.get("response") or "").strip():
            rows.setdefault(key, []).append(row)
    found = []
    for (evaluation, step, prompt_id), own in rows.items():
        prompt = Prompt(
            str(prompt_id),
            (Message("user", str(own[0].get("prompt") or "")),),
            category=own[0].get("category"),
        )
        texts = dict.fromkeys(str(row["response"]) for row in own)
        answers = [Response((Message("assistant", text),)) for text in texts]
        origin = {"stage": view.name, "step": step, "evaluation": evaluation}
        found.append(make_item(prompt, answers, campaign=campaign, origin=origin))
    return found
