"""The fenced blocks of a response.

A block ends at a bare fence of the same character, at least as long and no deeper, so that fences
in a docstring do not end it. What a fence is indented by is taken off its lines.
Source: CommonMark 0.31.2, fenced code blocks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

PYTHON = frozenset({"python", "py", "python3"})
_FENCE = re.compile(
    r"(?P<before>[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*)(?P<fence>`{3,}|~{3,})(?P<info>.*)",
    re.DOTALL,
)
"""A line with a fence, which may be the first of a list's item."""
_IN_TEXT = re.compile(
    r"(?P<before>[ \t]*)[^`\s][^`]*(?P<fence>`{3,})(?P<info>[ \t]*(?:python3?|py)\s*)",
    re.IGNORECASE,
)
"""A line of text that ends with the opening of a Python block."""
_LANGUAGE = re.compile(r"\{?\s*\.?([\w+#-]*)")
_TAB = 4
_SLACK = 3
"""Columns that a closing fence may be deeper than its opening, where no other closes the block."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: the first word behind the fence, in small letters; may be empty.
        body: its lines.
    """

    language: str
    body: str


@dataclass(frozen=True)
class _Fence:
    mark: str
    width: int
    info: str
    in_item: bool

    @property
    def language(self) -> str:
        found = _LANGUAGE.match(self.info)
        return found[1].lower() if found else ""

    @property
    def bare(self) -> bool:
        """Nothing stands behind it but, perhaps, the end of what a model thinks."""
        return not self.in_item and (not self.info or self.info.startswith("</"))

    def may_end(self, opening: _Fence) -> bool:
        return self.mark.startswith(opening.mark) and self.width <= opening.width


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a text in order; one that nothing closes goes on to the end."""
    lines = text.split("\n")
    blocks: list[Block] = []
    at = 0
    while at < len(lines):
        opening = _fence(lines[at]) or _fence(lines[at], _IN_TEXT)
        at += 1
        if opening is None or opening.info.startswith("</"):
            continue
        end, after = _end(lines, at, opening)
        depth = min(opening.width, _depth(lines[at:end]))
        body = [_dedented(line, depth) for line in lines[at:end]]
        closed = "\n" if body and end < len(lines) else ""
        blocks.append(Block(opening.language, "\n".join(body) + closed))
        at = after
    return blocks


def _fence(line: str, pattern: re.Pattern[str] = _FENCE) -> _Fence | None:
    found = pattern.fullmatch(line)
    if found is None or ("`" in found["info"] and found["fence"].startswith("`")):
        return None  # code within a line
    before, info = found["before"], found["info"].strip()
    return _Fence(found["fence"], len(before.expandtabs(_TAB)), info, bool(before.strip()))


def _end(lines: Sequence[str], start: int, opening: _Fence) -> tuple[int, int]:
    """Where the block's lines end, and where what follows it begins."""
    slack: int | None = None
    end = len(lines)
    for i in range(start, len(lines)):
        fence = _fence(lines[i])
        if fence is None or not fence.mark.startswith(opening.mark):
            continue
        if fence.may_end(opening):
            if fence.bare:
                return i, i + 1
            end = i  # another block begins: this one was never closed
            break
        if slack is None and fence.bare and fence.width <= opening.width + _SLACK:
            slack = i
    return (end, end) if slack is None else (slack, slack + 1)


def _depth(lines: Sequence[str]) -> int:
    """What the first line that is not blank is indented by."""
    first = next((line for line in lines if line.strip()), "")
    return len(first[: len(first) - len(first.lstrip())].expandtabs(_TAB))


def _dedented(line: str, columns: int) -> str:
    """``line`` without so many columns of blanks in front, as far as it has them."""
    at = gone = 0
    while gone < columns and line[at : at + 1] in (" ", "\t"):
        gone += 1 if line[at] == " " else _TAB - gone % _TAB
        at += 1
    return " " * (gone - columns) + line[at:]
