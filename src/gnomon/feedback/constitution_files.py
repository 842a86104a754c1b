"""A constitution's file as plain data, with the line of each value: YAML, or Markdown.

In Markdown a heading of the second level begins a principle and is its id; ``category: ...`` and
``weight: ...`` follow it, and headings of the third level are its texts::

    ---
    name: ours
    version: 1
    ---
    What it is for.

    ## no-harm
    category: harmlessness

    ### Critique request
    Point out ...

    ### Revision request
    Rewrite ...

All else that a YAML file may say stands between the two lines of dashes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gnomon.errors import ConfigError
from gnomon.plugins import nearest
from gnomon.recipe.read import MAX_BYTES, Where, explain_yaml, read_document

Lines = dict[Where, int]


class _Heading(NamedTuple):
    level: int
    text: str
    first: int
    """The heading's own line, from 0."""
    after: int
    """The line after it."""


def read_raw(path: Path) -> tuple[dict[str, Any], Lines]:
    """What a file says, unchecked, and the lines.

    Raises:
        ConfigError: it cannot be read, is empty, or is neither YAML nor such Markdown.
    """
    text = _text(path)
    if not text.strip():
        raise ConfigError(f"{path}: it is empty: give it a name, a version and principles")
    raw, lines = _markdown(path, text) if path.suffix.lower() == ".md" else _yaml(path, text)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a constitution is a mapping with name, version and principles")
    return raw, lines


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.*")], 0.6)
        raise ConfigError(f"{path}: no such constitution" + (f"; {near}" if near else "")) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes, so it is no constitution")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from error


def _yaml(path: Path, text: str, skipped: int = 0) -> tuple[Any, Lines]:
    """YAML that begins after so many lines of the file."""
    try:
        document = read_document("\n" * skipped + text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {explain_yaml(error)}") from error
    return document.data, dict(document.lines)


def _markdown(path: Path, text: str) -> tuple[dict[str, Any], Lines]:
    front, body, first = _divided(path, text)
    raw, lines = _yaml(path, front, 1)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: give name: and version: between two lines of --- at its top")
    if "principles" in raw:
        raise ConfigError(f"{path}: the principles of a Markdown file are headings, ## id")
    rows = body.split("\n")
    headings = _headings(body)
    ends = [h.first for h in headings[1:]] + [len(rows)]
    start = next((h.first for h in headings if h.level == 2), len(rows))
    about = "\n".join(row for row in rows[:start] if not row.startswith("# ")).strip()
    raw.setdefault("about", about)
    principles: list[dict[str, Any]] = []
    for heading, end in zip(headings, ends, strict=True):
        own = "\n".join(rows[heading.after : end]).strip()
        if heading.level == 2:
            said, _ = _yaml(path, own, first + heading.after)
            if not isinstance(said, dict | None):
                raise ConfigError(
                    f"{path}, line {first + heading.after + 1}: principle {heading.text!r}: under "
                    "its name stand category: ... and weight: ...; its texts need headings, ### "
                    "Critique request"
                )
            lines["principles", len(principles)] = first + heading.first + 1
            principles.append({"id": heading.text, **(said or {})})
        elif heading.level == 3 and principles:
            key = heading.text.lower().replace(" ", "_")
            lines["principles", len(principles) - 1, key] = first + heading.first + 1
            principles[-1][key] = own
    raw["principles"] = principles
    return raw, lines


def _divided(path: Path, text: str) -> tuple[str, str, int]:
    """What stands between the two lines of dashes, what comes after, and the lines before that."""
    rows = text.split("\n")
    ends = [i for i, row in enumerate(rows) if row.rstrip() == "---"]
    if len(ends) < 2 or ends[0] != 0:
        raise ConfigError(
            f"{path}: begin a Markdown constitution with a line ---, then name: and version:, then "
            "another line ---"
        )
    return "\n".join(rows[1 : ends[1]]), "\n".join(rows[ends[1] + 1 :]), ends[1] + 1


def _headings(body: str) -> list[_Heading]:
    """The headings of the second and third level; a ``##`` in a block of code is none."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt().parse(body)
    return [
        _Heading(int(token.tag[1]), tokens[i + 1].content.strip(), *token.map)
        for i, token in enumerate(tokens)
        if token.type == "heading_open" and token.tag in ("h2", "h3") and token.map
    ]
