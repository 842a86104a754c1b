"""Fractions in words: "five twelfths", "3 hundredths", "three twenty-fifths"."""

from __future__ import annotations

import re
from fractions import Fraction

from gnomon.judges.verifiers.numbers import NUMBER_WORDS, TENS, UNITS, Number, read_number

_ODD = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
        "nine": "ninth", "twelve": "twelfth"}  # fmt: skip
_LARGE = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def _ordinal(word: str) -> str:
    return _ODD.get(word) or (f"{word[:-1]}ieth" if word.endswith("y") else f"{word}th")


_ONES = {_ordinal(word): value for word, value in UNITS.items() if 0 < value < 10}
_BELOW = (
    {"half": 2, "halve": 2, "quarter": 4}
    | {_ordinal(word): value for word, value in (UNITS | TENS).items() if value > 2}
    | {f"{ten}-{one}": TENS[ten] + value for ten in TENS for one, value in _ONES.items()}
    | {_ordinal(word): 10**power for word, power in _LARGE.items()}
    | {
        f"{times}-{_ordinal(word)}": factor * 10**power
        for times, factor in (("ten", 10), ("hundred", 100))
        for word, power in _LARGE.items()
        if power > 2
    }
)
"""What a word below the line divides by; "first" and "second" only behind a ten."""
_FRACTION = re.compile(
    r"(?P<sign>-|(?:minus|negative)\s+)?(?P<count>[a-z0-9.,]+(?:[\s-]+[a-z]+){0,4}?)(?P<gap>[\s-]+)"
    rf"(?P<below>{'|'.join(sorted(_BELOW, key=len, reverse=True))})(?P<many>s?)(?:\s+of\s.*)?"
    r"|(half)",
    re.IGNORECASE,
)
_ORDINAL = re.compile(
    rf"(?:{'|'.join(sorted({*_BELOW, *_ONES} - {'second'}, key=len, reverse=True))}|\w+illionth"
    r"|nth)s?|\w*illion|lakh|crore|googol|myriad",
    re.IGNORECASE,
)


def word_fraction(text: str) -> Number | None:
    """The fraction that words say; None where they say something else, or where it is unclear
    which ("twenty-fifths" alone, and "twenty-fifth", which is a place in a row)."""
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    if match["count"] is None:
        return Number(Fraction(1, 2))
    words = re.split(r"[\s-]+", match["count"].lower())
    below = match["below"].lower()
    joined = match["gap"] == "-" or not match["many"]
    if joined and (
        (words[-1] in TENS and below in _ONES)
        or (words[-1] in ("ten", "hundred") and below.removesuffix("th") in _LARGE)
    ):
        return None
    one = match["count"].lower() in ("a", "an", "one")
    count = Number(Fraction(1)) if one else read_number(match["count"])
    sign = -1 if match["sign"] else 1
    return Number(sign * count.value / _BELOW[below]) if count else None


def changes_number(word: str) -> bool:
    """Whether a word (in the singular) behind a number makes it another one: "twelfth", "lakh",
    and a number itself."""
    return word in NUMBER_WORDS or _ORDINAL.fullmatch(word) is not None
