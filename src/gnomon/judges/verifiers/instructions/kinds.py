"""What an instruction kind is."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gnomon.judges.verifiers.instructions.counting import plain, words

Params = dict[str, Any]

KINDS: dict[str, Kind] = {}
"""Every kind by its name."""

FEWEST_WORDS = 5
"""Different words that an answer needs, where its kind does not ask for a short one."""


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
    text = plain(text)
    if not text.strip():
        return False
    if not chosen.short and len(set(words(text.lower()))) < FEWEST_WORDS:
        return False
    return chosen.check(text, dict(params))
