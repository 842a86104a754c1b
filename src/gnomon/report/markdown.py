"""Markdown that shows text as it is: names, prompts and what models write are not to be trusted.

A model's answer may hold markup, links, pictures that call home, or characters that turn the
reading direction; none of it may act on a page that shows a card.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

LONGEST = 400
"""Characters of one piece of text; more is cut, with a mark."""

_MARKUP = re.compile(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"})
_ADDRESS = re.compile(r"(?i)\b(https?|ftp|mailto|data|javascript)(:)|\b(www)(\.)")
_FIRST = re.compile(r"^(\d+)(?=[.)](?:\s|$))|^(?=[-+](?:\s|$)|#|=+$|[-_]{3})")


def plain(raw: object) -> str:
    """One line without control characters or characters that are not seen; not yet Markdown."""
    return " ".join(_seen(str(raw)).split())


def text(raw: object, longest: int = LONGEST) -> str:
    """One line of plain text in which nothing is markup, a link or a control character."""
    shown = plain(raw)
    if len(shown) > longest:
        shown = shown[: longest - 1].rstrip() + "…"
    shown = shown.translate(_ENTITIES)
    shown = _MARKUP.sub(r"\\\1", shown)
    shown = _FIRST.sub(lambda m: f"{m[1] or ''}\\", shown)
    return _ADDRESS.sub(_unlinked, shown)


def code(raw: object) -> str:
    """A short piece in the font of code, on one line; for hashes, keys and numbers."""
    shown = plain(raw)
    if not shown:
        return ""
    if "`" in shown or "|" in shown:  # tables have no way to quote these
        return text(shown)
    return f"`{shown}`"


def block(raw: str, language: str = "") -> str:
    """Lines in the font of code, fenced by more backquotes than they hold."""
    lines = [_seen(line) for line in raw.splitlines()]
    longest = max((len(run) for line in lines for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}{language}", *lines, fence])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; empty without rows."""
    lines = [f"| {' | '.join(cell or ' ' for cell in row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *lines])


def bullets(items: Iterable[str]) -> str:
    """A list of items that are Markdown already."""
    return "\n".join(f"- {item}" for item in items)


def sections(parts: Iterable[tuple[str, str]], level: int = 2) -> str:
    """Headings with what is below them; empty ones are left out."""
    marks = "#" * level
    return "\n\n".join(f"{marks} {title}\n\n{body}" for title, body in parts if body)


def _seen(raw: str) -> str:
    """What is seen of a text, with a space for what breaks lines."""
    return raw if raw.isprintable() else "".join(map(_printable, raw))


def _printable(c: str) -> str:
    """The character; a space for what breaks lines; nothing for what would not be seen."""
    category = unicodedata.category(c)
    if c.isspace() or category in ("Cc", "Zl", "Zp"):
        return " "
    return "" if category in ("Cf", "Cs", "Co", "Cn") else c


def _unlinked(match: re.Match[str]) -> str:
    """An address that pages do not turn into a link by themselves."""
    scheme, _, www, _ = match.groups()
    return f"{scheme}&#58;" if scheme else f"{www}&#46;"
