"""Which of two answers the value of a `preference` column names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gnomon.data.values import RowError, shown
from gnomon.recipe.schema import Verdict

_WHO = (
    r"(?:the )?(?:(?:model|output|response|answer|assistant|option|candidate|completion) ?)?([ab])"
)
_HOW = (
    r"(?:slightly|somewhat|marginally|much|far|clearly|significantly|strongly|definitely|overall"
    r"|a (?:little|bit))"
)
_WINNER = re.compile(
    rf"{_WHO}:?(?: (?:is|was))?(?: {_HOW})?(?: (?:better|best|preferred|chosen|wins|won))?"
    rf"(?: {_HOW})?(?: than {_WHO})?(?: {_HOW})?(?: ?\((?!.*\b(?:not|worse|tie|or)\b)[^()]*\))?"
)
_SIGN = re.compile(r"([ab]) ?(>+|<+|=+|≈|~) ?([ab])")
_TIE = re.compile(
    r"(?:it'?s |it is |both )?(?:a )?(?:tie|tied|draw|equal)"
    r"(?:,? ?\(?(?:both ?(?:are )?)?(?:good|bad)\)?| \([\w ]+\))?"
)


def verdict(value: Any, labels: Mapping[Any, Verdict]) -> Verdict:
    """Which of two responses a `preference` value names.

    Words are understood (a, model_b, "a-is-better", "A>B", tie), no others: "a is worse" is
    refused, not taken for a. Numbers are not guessed, since 0, 1 and 2 mean different things in
    different sets: they need ``labels``.
    """
    for key, meaning in labels.items():
        if value == key or _plain(value) == _plain(key):
            return meaning
    said = _said(value) if isinstance(value, str) and not labels else None
    if said is not None:
        return said
    if isinstance(value, float) and not value.is_integer():
        raise RowError(
            "the preference is a grade between two verdicts",
            "round it to one, and put how sure it is (0 to 1) into 'confidence'",
        )
    raise RowError(
        f"the preference {shown(value)} is not understood",
        "say what each value means: labels={0: 'a', 1: 'b', 2: 'tie'} (--labels 0=a,1=b,2=tie)",
    )


def _said(value: str) -> Verdict | None:
    """What words say; None where they are no verdict that is known."""
    text = " ".join(re.split(r"[\s_-]+", value.lower())).strip(" .!'\"[]{}*:")
    if _TIE.fullmatch(text):
        return "tie"
    if (signs := _SIGN.fullmatch(text)) and signs[1] != signs[3]:
        if signs[2][0] not in "<>":
            return "tie"
        return "a" if (signs[1] == "a") == (signs[2][0] == ">") else "b"
    found = _WINNER.fullmatch(text)
    if found is None or found[1] == found[2]:
        return None
    return "a" if found[1] == "a" else "b"


def _plain(value: Any) -> str:
    """A label's value whatever wrote it: 1, 1.0 and "1" are the same."""
    text = str(value).strip()
    return text.removesuffix(".0") if text.removesuffix(".0").isdecimal() else text
