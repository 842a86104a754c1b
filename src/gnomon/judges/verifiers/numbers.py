"""Numbers as people write them, read exactly: plain, a time, a date, a ratio, with a base."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from gnomon.judges.verifiers.notation import THOUSANDS, squeezed
from gnomon.judges.verifiers.shapes import words

Value = Fraction | float

MAX_DIGITS = 400
"""Digits of a number that is read; longer ones are compared by their text only."""
MAX_POWER = 300
"""Exponent of ten in scientific notation."""
FLOAT_DIGITS = 10
"""Significant digits from which a decimal stands for the endless number that it rounds."""
_CLOSE = Fraction(1, 10**9)

_GROUPED = re.compile(
    rf"[1-9]\d{{0,2}}(?:(?:,\d{{3}})+|(?:{THOUSANDS}\d{{3}})+|(?: \d{{3}})+)"
    r"|[1-9]\d{0,2}(?:'\d{3})+|[1-9]\d{0,2}(?:_\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3}"
)
_CONTINENTAL = re.compile(r"([1-9]\d{0,2}(?:\.\d{3})+),(\d+)|([1-9]\d{0,2}(?:\.\d{3}){2,})()")
_DECIMAL_COMMA = re.compile(r"(\d+),(\d{1,2}|\d{4,}|(?<=^0,)\d{3})")
_DECIMAL = re.compile(r"(\d*)\.(\d+)|(\d+)\.?()")
_REPEATING = re.compile(
    r"(\d*)\.(\d*)(?:\\overline\s*\{?\s*(\d+)\s*\}?|\((\d+)\)|\\dot\s*\{?(\d)\}?)"
)
_ENDLESS = re.compile(r"(\d*\.\d*?)(\d+?)\2\2\2*(?:\.\.\.)")
_SCIENTIFIC = re.compile(
    r"(?P<m>.+?)\s*(?:(?:\\times|\\cdot|\*|[xX])\s*10\s*\^\s*\{\s*(?P<e>[-+]?\s*\d+)\s*\}"
    r"|(?<=[\d.])[eE]\s*\{?(?P<f>[-+]?\d+)\}?)"
)
_POWER_OF_TEN = re.compile(r"10\s*\^\s*\{\s*([-+]?\d+)\s*\}")
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_SLASH = re.compile(r"([^/]+?)\s*/\s*([^/]+)")
_MIXED = re.compile(
    r"(\d+)\s*(?:\s|and|&)?\s*\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}"
    r"|(\d+)(?:\s+|\s*and\s*|\s*&\s*)(\d+)\s*/\s*(\d+)"
)
_UP_TO_19 = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
_TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
UNITS = {word: i for i, word in enumerate(_UP_TO_19.split())}
TENS = {word: 10 * i for i, word in enumerate(_TENS_WORDS.split(), start=2)}
_WORDS = UNITS | TENS
_TIMES = {"hundred": 100, "thousand": 1000}
NUMBER_WORDS = frozenset((*_WORDS, *_TIMES, "million", "billion", "trillion", "dozen"))
"""Words that are a number, or a part of one."""


@dataclass(frozen=True)
class Number:
    """A number that was written out.

    Attributes:
        value: exact.
        digits: significant digits of a decimal (zeros in front not counted); 0 for fractions.
    """

    value: Fraction
    digits: int = 0


def read_number(text: str, decimal_comma: bool = False) -> Number | None:
    """The number that a canonical text is; None if it is anything else, or too long.

    Args:
        decimal_comma: read ``3,14`` as 3.14 (``1,234`` is always one thousand and so on).
    """
    text = text.strip()
    if not text or len(text) > MAX_DIGITS:
        return None
    sign = re.match(r"(?:[-+]|negative |minus )?\s*", text, re.IGNORECASE)
    assert sign is not None
    negative = sign[0][:1].lower() in tuple("-nm")
    body = text[sign.end() :]
    if body.startswith("(") and body.endswith(")") and re.fullmatch(r"[^(),;]*", body[1:-1]):
        found = read_number(body[1:-1], decimal_comma)
    else:
        found = _unsigned(body, decimal_comma)
    if found is None:
        return None
    return Number(-found.value, found.digits) if negative else found


def _unsigned(text: str, decimal_comma: bool) -> Number | None:
    simple = _decimal(text, decimal_comma)
    if simple is not None:
        return simple
    mixed = _MIXED.fullmatch(text)
    if mixed:
        whole, above, below = (int(x) for x in mixed.groups() if x is not None)
        # 3\frac{7}{2} might as well be a product
        return Number(Fraction(whole) + Fraction(above, below)) if 0 < above < below else None
    divided = _FRACTION.fullmatch(text) or _SLASH.fullmatch(text)
    if divided:
        above_, below_ = (read_number(part, decimal_comma) for part in divided.groups())
        if above_ is None or below_ is None or below_.value == 0:
            return None
        return Number(above_.value / below_.value)
    power = _POWER_OF_TEN.fullmatch(text)
    scientific = None if power else _SCIENTIFIC.fullmatch(text)
    if power:
        return _scaled(Number(Fraction(1), 1), power[1])
    if scientific:
        base = read_number(scientific["m"], decimal_comma)
        return base and _scaled(base, scientific["e"] or scientific["f"])
    return _in_words(text)


def _decimal(text: str, decimal_comma: bool) -> Number | None:
    whole, dot, rest = text.partition(".")
    if _GROUPED.fullmatch(whole) and (not dot or rest.isdigit() or not rest):
        plain = re.sub(r"\D", "", whole)
        return _written(plain, rest)
    continental = _CONTINENTAL.fullmatch(text)
    if continental:
        return _written((continental[1] or continental[3]).replace(".", ""), continental[2] or "")
    comma = _DECIMAL_COMMA.fullmatch(text) if decimal_comma else None
    if comma:
        return _written(comma[1], comma[2])
    decimal = _DECIMAL.fullmatch(text)
    if decimal:
        return _written(decimal[1] or decimal[3] or "", decimal[2] or "")
    repeating = _REPEATING.fullmatch(text)
    if repeating:
        start, again = repeating[2], repeating[3] or repeating[4] or repeating[5]
        first = Fraction(int(repeating[1] + start or "0"), 10 ** len(start))
        return Number(first + Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(start)))
    endless = _ENDLESS.fullmatch(text)
    if endless:
        return _decimal(f"{endless[1]}({endless[2]})", False)
    return None


def _written(whole: str, part: str) -> Number:
    digits = len((whole + part).lstrip("0"))
    return Number(Fraction(int(whole + part or "0"), 10 ** len(part)), digits if part else 0)


def _scaled(number: Number, exponent: str) -> Number | None:
    power = int(exponent.replace(" ", "")[:8])
    if abs(power) > MAX_POWER:
        return None
    return Number(number.value * Fraction(10) ** power, number.digits)


def _in_words(text: str) -> Number | None:
    """Small numbers in words: "twelve", "twenty-one", "three hundred"."""
    words = re.split(r"[\s-]+", text.lower())
    if len(words) > 6 or not all(w in _WORDS or w in _TIMES or w == "and" for w in words):
        return None
    total = current = 0
    for word in words:
        if word in _WORDS:
            if current % 100 and not (current % 100 >= 20 and current % 10 == 0):
                return None  # "two three" is not a number
            current += _WORDS[word]
        elif word == "hundred":
            current = max(current, 1) * 100
        elif word == "thousand":
            total, current = total + max(current, 1) * 1000, 0
    return Number(Fraction(total + current)) if words[-1] != "and" else None


# -- the same --------------------------------------------------------------------------------------


def same_number(a: Number, b: Number, rel_tol: float = 0.0) -> bool:
    """Equal exactly, within ``rel_tol``, or a long decimal of what has no end (1/3)."""
    if a.value == b.value:
        return True
    gap, size = abs(a.value - b.value), max(abs(a.value), abs(b.value))
    if rel_tol > 0 and gap <= Fraction(rel_tol) * abs(b.value):
        return True
    long = [n for n in (a, b) if n.digits >= FLOAT_DIGITS]
    endless = [n for n in (a, b) if not n.digits and not _ends(n.value)]
    return bool(long and endless) and gap <= _CLOSE * size


def _ends(value: Fraction) -> bool:
    """Whether the decimal of ``value`` ends."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def close_floats(a: float, b: float, rel_tol: float = 0.0) -> bool:
    """Whether two irrational numbers are the same: to 1e-9, or ``rel_tol`` where that is more."""
    return math.isclose(a, b, rel_tol=max(rel_tol, 1e-9), abs_tol=0.0)


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
    for rule in (_based, _dates, _ranges, _times_and_ratios):
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


_RANGE = re.compile(r"(?:between\s+(.+?)\s+and|from\s+(.+?)\s+to)\s+(.+)", re.IGNORECASE)
_BARE_RANGE = re.compile(r"([\d.,]+)()\s*(?:to|-)\s*([\d.,]+)")


def _ranges(a: str, b: str) -> bool | None:
    """``between 2 and 5``, ``from 2 to 5`` and, beside one of these, ``2 to 5`` or ``2-5``;
    ``1,200-1,500`` is 1200-1500."""
    said = [_RANGE.fullmatch(text) for text in (a, b)]
    found = [m or _BARE_RANGE.fullmatch(t) for m, t in zip(said, (a, b), strict=True)]
    if not all(found) or not (any(said) or ("," in a + b and "-" in a and "-" in b)):
        return None
    first, second = (
        [read_number((m[1] or m[2]).strip("\\$ ")), read_number(m[3].strip("\\$ "))]
        for m in found if m
    )  # fmt: skip
    if None in first or None in second:
        return None
    same = [n and n.value for n in first] == [n and n.value for n in second]
    return same if any(said) else same or None


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
