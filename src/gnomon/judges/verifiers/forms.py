"""Answers with a form of their own: times of day, dates, ratios, numerals with a base."""

from __future__ import annotations

import re
from fractions import Fraction

from gnomon.judges.verifiers.notation import squeezed
from gnomon.judges.verifiers.numbers import read_number
from gnomon.judges.verifiers.shapes import words

Clock = tuple[int, int, str]
"""Hour, second of the hour, and "a", "p" or "" for the half of the day."""

_CLOCK = re.compile(
    r"(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?\s*(?:([ap])\s*\.?\s*m\s*\.?|(o'?clock))?", re.IGNORECASE
)
_YEAR = "january february march april may june july august september october november december"
_MONTHS = _YEAR.split()
_MONTH = {name[:3]: i for i, name in enumerate(_MONTHS, start=1)}
_DATES = (
    re.compile(r"(?P<m>[A-Za-z]{3,9})\.?\s+(?P<d>\d{1,2})(?:st|nd|rd|th)?(?:\s*,?\s*(?P<y>\d{4}))?"),
    re.compile(r"(?P<d>\d{1,2})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m>[A-Za-z]{3,9})\.?(?:\s*,?\s*(?P<y>\d{4}))?"),
    re.compile(r"(?P<y>\d{4})-(?P<m>\d{2})-(?P<d>\d{2})"),
)  # fmt: skip
_NUMERIC_DATE = re.compile(r"\d{1,2}[/-]\d{1,2}[/-]\d{2,4}|\d{4}/\d{1,2}/\d{1,2}")
"""A date whose order of day and month nobody knows; compared by its text."""
_BASED = re.compile(r"\(?([0-9A-Fa-f]+)\)?\s*(?:_\{(\d{1,2}|\\[a-z]+)\}|\(?\s*base\s+(\d{1,2})\)?)")


def read_clock(text: str) -> Clock | None:
    """A time of day as (hour, second of the hour, "a", "p" or "")."""
    lowered = text.lower()
    if lowered in ("noon", "midnight", "12 noon", "12 midnight"):
        return (12, 0, "p" if "noon" in lowered else "a")
    match = _CLOCK.fullmatch(text)
    if match is None or not (match[2] or match[4] or match[5]):
        return None
    hour, minute, second = (int(x or 0) for x in match.group(1, 2, 3))
    if minute > 59 or second > 59 or hour > 24:
        return None
    return hour, 60 * minute + second, (match[4] or "").lower()


def same_clock(a: Clock, b: Clock) -> bool:
    """Whether two times are the same; one without a.m. or p.m. is the other's half of the day."""
    if a[1] != b[1]:
        return False
    if bool(a[2]) != bool(b[2]) and all(1 <= x[0] <= 12 for x in (a, b)):
        return a[0] == b[0]
    return _hour(a) == _hour(b)


def _hour(clock: Clock) -> int:
    if not clock[2]:
        return clock[0] % 24
    return clock[0] % 12 + (12 if clock[2] == "p" else 0)


def read_date(text: str) -> tuple[int, int, int] | None:
    """A date as (year or 0, month, day); the month in words, or year first."""
    for pattern in _DATES:
        match = pattern.fullmatch(text)
        if match:
            month = match["m"]
            number = int(month) if month.isdigit() else _MONTH.get(month[:3].lower(), 0)
            if number and (month.isdigit() or _MONTHS[number - 1].startswith(month.lower())):
                return int(match["y"] or 0), number, int(match["d"])
    return None


def read_ratio(text: str) -> list[Fraction] | None:
    """The terms of a ratio ("2:3", "2 to 3", "2 out of 3", "1:2:3")."""
    parts = re.split(r"\s*:\s*|\s+to\s+|\s+out of\s+", text)
    numbers = [read_number(part) for part in parts]
    if len(parts) < 2 or any(n is None for n in numbers):
        return None
    return [n.value for n in numbers if n is not None]


def same_ratio(a: list[Fraction], b: list[Fraction]) -> bool:
    """Whether two ratios are proportional, no term of them 0."""
    if len(a) != len(b) or 0 in a or 0 in b:
        return a == b
    return len({x / y for x, y in zip(a, b, strict=True)}) == 1


def read_based(text: str) -> tuple[str, str] | None:
    """A numeral with its base as (digits, base)."""
    match = _BASED.fullmatch(text)
    return (match[1].upper().lstrip("0") or "0", match[2] or match[3]) if match else None


# -- the same --------------------------------------------------------------------------------------


def same_form(a: str, b: str) -> bool | None:
    """Whether an answer ``a`` is the truth ``b``, where one of them has such a form; else None."""
    for rule in (_based, _dates, _times_and_ratios):
        verdict = rule(a, b)
        if verdict is not None:
            return verdict
    return None


def _based(a: str, b: str) -> bool | None:
    given, truth = read_based(a), read_based(b)
    if given or not truth:
        return None if not given else given == truth
    return squeezed(a).upper().lstrip("0") == truth[0]  # the base may be left out of the answer


def _dates(a: str, b: str) -> bool | None:
    given, truth = read_date(a), read_date(b)
    if given and truth:
        return given[1:] == truth[1:] and (given[0] == truth[0] or 0 in (given[0], truth[0]))
    if given or truth or _NUMERIC_DATE.fullmatch(a) or _NUMERIC_DATE.fullmatch(b):
        return words(a) == words(b)
    return None


def _times_and_ratios(a: str, b: str) -> bool | None:
    given, truth = read_clock(a), read_clock(b)
    if given and truth:
        return same_clock(given, truth)
    first, second = read_ratio(a), read_ratio(b)
    if first and second:
        return same_ratio(first, second)
    clock, ratio, other = given or truth, first or second, b if given or first else a
    if clock and not ratio:  # 3 p.m. and a bare 3
        number = read_number(other)
        return bool(number and not clock[1] and clock[2] and number.value == clock[0])
    if ratio:
        number = read_number(other) if re.search(r"/|\\frac", other) else None
        terms = len(ratio) == 2 and ratio[1] != 0
        return bool(number and terms and number.value == ratio[0] / ratio[1])
    return None
