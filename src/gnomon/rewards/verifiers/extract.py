"""Finding the final answer in a response."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from gnomon.errors import ConfigError

_HASH = re.compile(r"####[ \t]*(.*)$", re.MULTILINE)
_PHRASE = re.compile(
    r"(?:\banswer\s*(?:is|=|:)|\banswer\b[^.\n]{0,40}?\bis\b)[ \t]*:?[ \t]*([^\n]+)", re.IGNORECASE
)
_NUMBER = re.compile(
    r"[-+−]?\s?[$€£]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+|(?<=\d))(?:\s*/\s*\d+(?!\.\d))?"
    r"(?:[eE][-+]?\d+)?(?:\s?\\?%)?"
)
MAX_TAIL = 20_000
"""Characters at the end of a response that are looked at."""


def boxed(text: str) -> str | None:
    """What the last ``\\boxed{...}`` or ``\\fbox{...}`` holds, braces balanced; or None."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    rest = text[text.index("box", start) + 3 :]
    rest = rest.removeprefix("ed").lstrip()
    if not rest.startswith("{"):
        words = rest.split()
        return words[0].rstrip("$.") if words else None
    depth = 0
    for i, char in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return rest[1:i]
    return None  # cut off in the middle


def after_hash(text: str) -> str | None:
    """What follows the last ``####`` (GSM8K's form)."""
    found = _HASH.findall(text)
    return found[-1].strip() if found else None


def after_phrase(text: str) -> str | None:
    """What follows the last "the answer is" or "Answer:", to the end of its sentence."""
    found = _PHRASE.findall(text)
    if not found:
        return None
    return re.split(r"(?<=[^\d\s])\.\s|\.\s+(?=[A-Z])|\.\s*$", found[-1].strip())[0].strip(" *")


def last_number(text: str) -> str | None:
    """The last number written in the text."""
    found = [n for n in _NUMBER.findall(text) if any(c.isdigit() for c in n)]
    return found[-1].strip() if found else None


EXTRACTORS: dict[str, Callable[[str], str | None]] = {
    "boxed": boxed,
    "hash": after_hash,
    "phrase": after_phrase,
    "number": last_number,
    "all": lambda text: text.strip(),
}


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """The names of extraction methods, checked.

    Raises:
        ConfigError: an unknown one, or none at all.
    """
    unknown = [m for m in methods if m not in EXTRACTORS]
    if unknown or not methods:
        raise ConfigError(f"extract: {unknown or 'nothing'}; known are {', '.join(EXTRACTORS)}")
    return tuple(methods)


def final_answer(text: str, methods: Sequence[str]) -> str | None:
    """The answer by the first of ``methods`` that finds one; None where none does.

    A method whose mark is there but holds nothing (``\\boxed{}``) ends the search: an empty answer
    is no answer.
    """
    tail = text[-MAX_TAIL:]
    for method in methods:
        found = EXTRACTORS[method](tail)
        if found is not None:
            return found.strip() or None
    return None
