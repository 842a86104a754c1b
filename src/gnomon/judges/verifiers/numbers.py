"""Plain numbers as people write them, read exactly; and when two numbers are the same."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from gnomon.judges.verifiers.notation import THOUSANDS

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
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: i for i, word in enumerate(_UP_TO_19.split())} | {
    word: 10 * i for i, word in enumerate(_TENS.split(), start=2)
}
_TIMES = {"hundred": 100, "thousand": 1000}


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
                return None  # "two three" is no number
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
