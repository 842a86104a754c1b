"""What an instruction kind is, and how texts are counted."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Params = dict[str, Any]

KINDS: dict[str, Kind] = {}
"""Every kind by its name."""


@dataclass(frozen=True)
class Kind:
    """One kind of checkable instruction.

    Attributes:
        name: as it stands in ``Prompt.meta``.
        sample: draws parameters (JSON values) from a random generator.
        describe: the sentence that goes into the prompt.
        check: whether a response obeys, given the parameters.
        clashes: marks; two kinds that share one are not asked for together.
        short: a response of a few words can obey in earnest, so none is required to be longer.
    """

    name: str
    sample: Callable[[random.Random], Params]
    describe: Callable[[Params], str]
    check: Callable[[str, Params], bool]
    clashes: frozenset[str] = frozenset()
    short: bool = False


def kind(
    name: str,
    sample: Callable[[random.Random], Params],
    text: str | Callable[[Params], str],
    check: Callable[[str, Params], bool],
    *,
    clashes: str = "",
    short: bool = False,
) -> None:
    """Register a kind; ``text`` is a sentence with {parameters}, or makes one."""

    def describe(params: Params) -> str:
        return text.format(**params) if isinstance(text, str) else text(params)

    KINDS[name] = Kind(name, sample, describe, check, frozenset(clashes.split()), short)


def obeys(text: str, name: str, params: Mapping[str, Any]) -> bool:
    """Whether a response obeys one instruction.

    An empty response obeys none, and a token answer ("a") none but those of short answers: at least
    five different words are asked for, or a ban on commas would be met by saying nothing.

    Raises:
        KeyError: no such kind, or a parameter is missing.
    """
    chosen = KINDS[name]
    if not text.strip() or (not chosen.short and len(set(words(text.lower()))) < 5):
        return False
    return chosen.check(text, dict(params))


def words(text: str) -> list[str]:
    """The words: runs of letters, digits, apostrophes and hyphens that hold a letter or digit."""
    return re.findall(r"[^\W_]+(?:['’\-][^\W_]+)*", text)


def sentences(text: str) -> list[str]:
    """The sentences: what ends in . ! or ? before a blank or the end, with a word in it."""
    parts = re.split(r"(?<=[.!?])[\"'”)*]*(?:\s+|$)|\n{2,}", text.strip())
    return [part for part in parts if words(part)]


def paragraphs(text: str) -> list[str]:
    """The paragraphs: what stands between empty lines."""
    return [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def count_word(text: str, word: str) -> int:
    """How often a word (or phrase) stands in the text, whatever its case."""
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def listed(items: list[str]) -> str:
    """Items in quotes, as English lists them."""
    quoted = [f'"{item}"' for item in items]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]
