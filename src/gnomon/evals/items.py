"""Reading files of items: what a row must have, and what to say where it has not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.data.fields import (
    PROMPT_TEXT,
    PROMPT_TURNS,
    SYSTEM,
    Row,
    prompt_turns,
    with_side_columns,
)
from gnomon.data.rows import iter_rows
from gnomon.data.turns import is_messages, is_transcript
from gnomon.data.values import RowError, Skipped, shown
from gnomon.errors import DataError
from gnomon.plugins import nearest
from gnomon.records import Message, Prompt, Source

PROMPT = (*PROMPT_TEXT[:-1], "Goal", "Behavior", PROMPT_TEXT[-1])
"""Names under which a row may hold its prompt, the first one wins: those of training, and more."""
PROMPTS = (*PROMPT, *PROMPT_TURNS)
"""The same, or a conversation."""
ANSWER = ("response", "output", "completion", "answer")
IDS = ("id", "uid")
"""Names under which a row may hold its id."""
CATEGORY = ("category",)
MODEL = ("generator", "model", "model_id", "generator_2")


def find_file(file: str | Path, base: Path) -> Path:
    """A file as its author meant it: next to the recipe (``base``), or from here.

    Raises:
        DataError: there is none, with the nearest name in its folder.
    """
    path = Path(file).expanduser()
    for candidate in (base / path, path):
        if candidate.is_file():
            return candidate
    folder = (base / path).parent
    there = sorted(p.name for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
    near = nearest(path.name, there)
    raise DataError(f"{base / path}: no such file" + (f"; {near}" if near else ""))


def rows_of(file: Path, needs: Sequence[Sequence[str]] = ()) -> Iterator[tuple[Source, Any]]:
    """(place, row) of each row of a file.

    Args:
        needs: what every row must have: of each entry, one of its names.

    Raises:
        DataError: the file cannot be read, or a row cannot be used; it names file, row and cure.
    """
    count = 0
    for raw in iter_rows(file):
        if isinstance(raw, Skipped):
            raise DataError(str(raw))
        for names in needs:
            field(raw.data, names, raw.source)
        count += 1
        yield raw.source, raw.data
    if not count:
        raise DataError(f"{file}: no rows. Check that this is the file you meant.")


def field(row: Mapping[str, Any], names: Sequence[str], source: Source) -> Any:
    """The value under the first of ``names`` that the row has: one that holds something, if any.

    Raises:
        DataError: it has none of them.
    """
    name = _first(row, names)
    if name is not None:
        return row[name]
    there = ", ".join(map(repr, list(row)[:12])) or "nothing"
    wanted = " or ".join(map(repr, names))
    near = next((f"{key!r}: {n}" for key in row if (n := nearest(str(key), names))), "")
    raise DataError(f"{source}: it needs {wanted}, and has {there}{'; ' + near if near else ''}")


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of the names that the row has, one that is not null before others."""
    there = [name for name in names if name in row]
    return next((name for name in there if row[name] is not None), next(iter(there), None))


def word_of(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """An id or a category as a text, from the first of ``names`` that holds one: 0 is one, null and
    blanks are none."""
    values = (row.get(name) for name in names)
    return next((str(v) for v in values if v is not None and str(v).strip()), None)


def text_of(row: Mapping[str, Any], names: Sequence[str], source: Source) -> str:
    """:func:`field` that must be a text with something in it.

    Raises:
        DataError: it is not.
    """
    value = field(row, names, source)
    name = _first(row, names)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{source}: {name!r} must be a text that is not empty, not {shown(value)}")
    return value


def prompt_of(
    row: Mapping[str, Any],
    source: Source,
    *,
    names: Sequence[str] = PROMPT,
    category: str | None = None,
    answers: Sequence[str] = (),
    meta: Mapping[str, Any] | None = None,
) -> Prompt:
    """The row's prompt, read as training reads it: a text or a conversation, after its ``system``
    and ``history``. The answer that a conversation ends in is the ``reference`` in meta.

    Args:
        answers: names under which the row may hold its reference.
        meta: what a judge may read, a mapping under ``meta`` in it as if it were written out.

    Raises:
        DataError: the row has none, or one that asks nothing.
    """
    if not any(is_messages(row.get(name)) for name in (*names, *PROMPT_TURNS)):
        text_of(row, (*names, *PROMPT_TURNS), source)
    fields = Row(_without_others(row), source, default_id="")
    try:
        turns = with_side_columns(fields, prompt_turns(fields, (*names, *PROMPT_TURNS)))
    except RowError as error:
        raise DataError(f"{source}: {error}") from error
    reference = fields.take(*answers)
    if turns and turns[-1].role == "assistant":
        turns, reference = turns[:-1], turns[-1].message.content
    if not any(turn.role == "user" for turn in turns):
        raise DataError(f"{source}: nobody asks anything: a prompt needs a turn of the user")
    known = dict(meta or {})
    if isinstance(known.get("meta"), Mapping):
        known = {**known["meta"], **known}
    if isinstance(reference, str):
        known.setdefault("reference", reference)
    given = word_of(row, IDS) or f"{Path(source.file).name}:{source.row}"
    messages = tuple(turn.message for turn in turns)
    return Prompt(given, messages, source=source, category=category, meta=known)


def _without_others(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row without columns that are called like a part of a conversation and hold something
    else."""
    texts = {name for name in SYSTEM if not isinstance(row.get(name), str)}
    talks = {n for n in PROMPT_TURNS if not (is_messages(row.get(n)) or is_transcript(row.get(n)))}
    history, tools = row.get("history"), row.get("tools")
    pairs = isinstance(history, list) and all(isinstance(p, list) and len(p) == 2 for p in history)
    listed = isinstance(tools, list | Mapping) or str(tools).lstrip().startswith(("[", "{"))
    others = {*texts, *talks, *([] if pairs else ["history"]), *([] if listed else ["tools"])}
    return {name: value for name, value in row.items() if name not in others}


def as_asked(
    text: str,
    source: Source,
    id: str,
    category: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Prompt:
    """A text that is asked as it stands, whatever it looks like: one user turn."""
    turns = (Message("user", text),)
    return Prompt(id, turns, source=source, category=category, meta=dict(meta or {}))


def request_of(row: Mapping[str, Any], source: Source, names: Sequence[str] = PROMPT) -> str:
    """The row's prompt as a text; an Alpaca row's ``input`` follows its ``instruction``.

    Raises:
        DataError: it has none.
    """
    text, more = text_of(row, names, source), row.get("input")
    if "instruction" in row and isinstance(more, str) and more.strip():
        return f"{text.strip()}\n\n{more.strip()}"
    return text


def read_answers(file: Path) -> tuple[dict[str, str], str]:
    """The answer to each prompt of a file of stored answers, and the model's name in it.

    Raises:
        DataError: a row without prompt and answer, or two answers to one prompt.
    """
    found: dict[str, str] = {}
    model = ""
    for source, row in rows_of(file, (PROMPT, ANSWER)):
        prompt = request_of(row, source).strip()
        answer = field(row, ANSWER, source)
        if not isinstance(answer, str):
            raise DataError(f"{source}: the answer must be a text, not {shown(answer)}")
        if found.setdefault(prompt, answer) != answer:
            raise DataError(f"{source}: the file holds another answer to the same prompt before")
        model = model or next((str(row[n]) for n in MODEL if row.get(n)), "")
    return found, model


def model_in(file: Path) -> str:
    """The model that a file of answers names in its first row; empty where it names none."""
    for _, row in rows_of(file):
        return next((str(row[n]) for n in reversed(MODEL) if row.get(n)), "")
    return ""
