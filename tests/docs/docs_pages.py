"""The pages of the documentation and their fenced blocks."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, language and text."""

    page: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(page.name, m[1], m[2]) for m in _BLOCK.finditer(text)]


def pages() -> list[Path]:
    """Every page of the documentation."""
    return sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])


def contributed_files() -> dict[str, str]:
    """The Python files that CONTRIBUTING.md shows, by the path in their first line."""
    found = [b.text for b in blocks(ROOT / "CONTRIBUTING.md") if b.language == "python"]
    return {text.split("\n", 1)[0].removeprefix("# "): text for text in found}
