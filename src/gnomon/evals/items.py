"""Reading files of items: what a row must have, and what to say where it has not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.data.rows import iter_rows
from gnomon.data.values import Skipped, shown
from gnomon.errors import DataError
from gnomon.plugins import nearest
from gnomon.records import Message, Prompt, Source

PROMPT = ("prompt", "instruction", "question", "goal", "Goal", "Behavior", "forbidden_prompt")
"""Names under which a row may hold its prompt, the first one wins."""
ANSWER = ("response", "output", "completion", "answer")
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
    """The value under the first of ``names`` that the row has.

    Raises:
        DataError: it has none of them.
    """
    for name in names:
        if name in row:
            return row[name]
    there = ", ".join(map(repr, list(row)[:12])) or "nothing"
    wanted = " or ".join(map(repr, names))
    near = next((n for name in names if (n := nearest(name, row))), "")
    raise DataError(f"{source}: it needs {wanted}, and has {there}{'; ' + near if near else ''}")


def text_of(row: Mapping[str, Any], names: Sequence[str], source: Source) -> str:
    """:func:`field` that must be a text with something in it.

    Raises:
        DataError: it is not.
    """
    value = field(row, names, source)
    name = next(n for n in names if n in row)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{source}: {name!r} must be a text that is not empty, not {shown(value)}")
    return value


def prompt_of(
    row: Mapping[str, Any],
    source: Source,
    *,
    names: Sequence[str] = PROMPT,
    id: str | None = None,
    category: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Prompt:
    """The row's prompt: a text as one user turn, or ``messages``.

    Raises:
        DataError: the row has none.
    """
    messages = row.get("messages")
    if isinstance(messages, list) and messages:
        turns = tuple(_turn(m, source) for m in messages)
    else:
        turns = (Message("user", request_of(row, source, (*names, "messages"))),)
    given = id or str(row.get("id") or row.get("uid") or f"{Path(source.file).name}:{source.row}")
    return Prompt(given, turns, source=source, category=category, meta=dict(meta or {}))


def request_of(row: Mapping[str, Any], source: Source, names: Sequence[str] = PROMPT) -> str:
    """The row's prompt as a text; an Alpaca row's ``input`` follows its ``instruction``.

    Raises:
        DataError: it has none.
    """
    text, more = text_of(row, names, source), row.get("input")
    if "instruction" in row and isinstance(more, str) and more.strip():
        return f"{text.strip()}\n\n{more.strip()}"
    return text


def _turn(value: Any, source: Source) -> Message:
    if isinstance(value, Mapping):
        role, content = value.get("role"), value.get("content")
        if isinstance(role, str) and isinstance(content, str):
            return Message(role, content)
    raise DataError(f"{source}: 'messages' must be turns with 'role' and 'content'")


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
