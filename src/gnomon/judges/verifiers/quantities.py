"""Numbers with what follows them: percent, money, units, things."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from gnomon.judges.verifiers import engine
from gnomon.judges.verifiers.numbers import (
    FLOAT_DIGITS,
    Number,
    close_floats,
    read_number,
    same_number,
)
from gnomon.judges.verifiers.spoken import changes_number, word_fraction
from gnomon.judges.verifiers.units import Unit, agree, is_filler, is_unit, read_unit

_CURRENCY = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<mark>(?:US|A|C)?\\\$|€|£|¥|₹|USD|EUR|GBP|JPY|INR|Rs\.?)\s*(?P<rest>[-+]?.+)"
)
_MULTIPLES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12,
              "quadrillion": 15, "quintillion": 18, "lakh": 5, "crore": 7}  # fmt: skip
_MULTIPLE = re.compile(rf"\s*({'|'.join(_MULTIPLES)})s?(?![A-Za-z])", re.IGNORECASE)
_COMPOUND = re.compile(r"(\d[\d.,/]*)\s*([A-Za-z]+)\.?(?:\s*,?\s*(?:and\s+)?|$)")
_CHANGE = (
    "squared cubed factorial percent permille mille not no or and than plus minus over divided "
    "time multiplied root square cube power mod modulo log negative if unless except but instead "
    "to through until between either neither is isnt wrong incorrect maybe"
)
_CHANGING = frozenset(_CHANGE.split())
"""Words after a number that make it another one, or take it back; others are in :mod:`.spoken`."""
_CELSIUS = re.compile(r"(?:degrees?|°)\s*(celsius|fahrenheit|c|f)(?![a-z])", re.IGNORECASE)
_TAIL = re.compile(r"(?<![A-Za-z\\])(?:[A-Za-z]+|\\Omega)|[%°¢€£¥₹]")
NO_UNIT = Unit((), Fraction(1))
_RADIANS = read_unit("radians")


@dataclass(frozen=True)
class Quantity:
    """A number (or an expression without letters) with its unit.

    Attributes:
        number: the number; None where it is an expression, ``expression``.
        percent: written as a percentage.
    """

    number: Number | None
    expression: str
    percent: bool
    unit: Unit

    @property
    def bare(self) -> bool:
        """Whether nothing follows the number."""
        return not self.percent and self.unit == NO_UNIT


def read_quantity(text: str, decimal_comma: bool = False) -> Quantity | None:
    """The quantity that a canonical text is ("12", "5 cm", "2\\sqrt{3} m", "12 apples")."""
    number = read_number(text, decimal_comma) or word_fraction(text)
    if number:
        return Quantity(number, text, False, NO_UNIT)
    currency = _CURRENCY.fullmatch(text)
    if currency:
        inner = read_quantity(f"{currency['sign']}{currency['rest']}", decimal_comma)
        money = read_unit(currency["mark"].removeprefix("US"))
        if inner is None or inner.percent or money is None:
            return None
        per = [(name, p) for name, p in inner.unit.dimension if name != "money"]
        dimension = tuple(sorted({**dict(per), **dict(money.dimension)}.items()))
        return Quantity(inner.number, inner.expression, False, Unit(dimension, money.size))
    return _with_words(text, decimal_comma) or _compound(text)


def _with_words(text: str, decimal_comma: bool) -> Quantity | None:
    """A number in front and words or a sign behind it; the longest number there is."""
    text = _CELSIUS.sub(_scale, text)
    starts = [match.start() for match in _TAIL.finditer(text)]
    for start in reversed(starts):
        head, tail = text[:start].strip(), text[start:].strip()
        if not head or (head[-1] in "/^_{(\\+-=<>" and not tail.startswith("°")):
            continue
        found = _number_and_unit(head, tail, text[start - 1] == " ", decimal_comma)
        if found is not None:
            return found
    return None


def _scale(match: re.Match[str]) -> str:
    return "celsius" if match[1][0] in "cC" else "fahrenheit"


def _number_and_unit(head: str, tail: str, spaced: bool, decimal_comma: bool) -> Quantity | None:
    if head.endswith(",") and not is_filler(tail):
        return None
    number = read_number(head.removesuffix(",").rstrip("-"), decimal_comma)
    percent = tail.startswith("%")
    tail = tail[1:].strip() if percent else tail
    while number is not None and (multiple := _MULTIPLE.match(tail)):
        number = Number(number.value * 10 ** _MULTIPLES[multiple[1].lower()], number.digits)
        tail = tail[multiple.end() :].strip()
    if number is None and (not re.search(r"\d|\\pi", head) or _FORMULA.search(head)):
        return None
    if re.match(r"st(?![a-z])|nd(?![a-z])|rd(?![a-z])|th(?![a-z])", tail) and not spaced:
        tail = tail[2:].strip()
    unit = read_unit(tail)
    if unit is None or any(map(_changes, unit.things)):
        return None
    first = re.match(r"[A-Za-z]+", tail)
    if first and len(first[0]) == 1 and not spaced:
        return None  # 3m may be three times m
    if number is None and not (unit.measures or percent):
        return None
    return Quantity(number, head, percent, unit)


def _changes(thing: str) -> bool:
    return len(thing) < 3 or thing in _CHANGING or changes_number(thing)


_FORMULA = re.compile(
    r"(?<![A-Za-z\\])[A-Za-z]|[=<>]|\\(?:a?sin|a?cos|a?tan|cot|sec|csc|log|ln|arc"
    r"|(?:theta|alpha|beta|gamma|delta|lambda|mu|sigma|phi|omega|rho|ell|le|ge|ne|in)(?![A-Za-z]))"
)
"""Letters, relations, and functions whose argument the unit may belong to."""


def _compound(text: str) -> Quantity | None:
    """ "5 feet 11 inches" in the unit of its first part."""
    parts, at = [], 0
    while at < len(text):
        match = _COMPOUND.match(text, at)
        if match is None or not is_unit(match[2]):
            return None
        number, unit = read_number(match[1].rstrip(",")), read_unit(match[2])
        if number is None or unit is None or not unit.measures:
            return None
        parts.append((number.value, unit))
        at = match.end()
    if len(parts) < 2 or len({unit.dimension for _, unit in parts}) > 1:
        return None
    first = parts[0][1]
    total = sum((value * unit.size for value, unit in parts), Fraction(0)) / first.size
    return Quantity(Number(total), text, False, first)


# -- the same --------------------------------------------------------------------------------------


def same_quantity(a: Quantity, b: Quantity, rel_tol: float) -> bool:
    """Whether an answer ``a`` is the quantity ``b``.

    Units are converted where both sides have one of the same kind; another kind is wrong. Where one
    side has none, the numbers count. A percentage is its hundredth, and also the bare number.
    """
    if a.bare != b.bare and _RADIANS is not None:  # pi/6 and 30 degrees
        bare, other = (a, b) if a.bare else (b, a)
        if other.unit.dimension == _RADIANS.dimension and "\\pi" in bare.expression:
            bare = Quantity(bare.number, bare.expression, False, _RADIANS)
            return same_quantity(bare, other, rel_tol)
    if not agree(a.unit, b.unit):
        return False
    if (a.percent and b.unit.measures) or (b.percent and a.unit.measures):
        return False
    if a.unit.measures and b.unit.measures:
        return _same_value(a, b, a.unit.size, b.unit.size, rel_tol)
    if a.percent != b.percent:
        percent, bare = (a, b) if a.percent else (b, a)
        if _same_value(percent, bare, Fraction(1, 100), Fraction(1), rel_tol):
            return True
        size = float(bare.number.value) if bare.number else engine.value_of(bare.expression)
        return size is not None and abs(size) >= 1 and _same_value(a, b, _ONE, _ONE, rel_tol)
    plain = a.bare or b.bare or a.unit.measures or b.unit.measures
    if (plain or a.unit.size == b.unit.size) and _same_value(a, b, _ONE, _ONE, rel_tol):
        return True
    if a.unit.measures or b.unit.measures:
        return False
    return _same_value(a, b, a.unit.size, b.unit.size, rel_tol)  # two dozen are 24


_ONE = Fraction(1)


def _same_value(a: Quantity, b: Quantity, size_a: Fraction, size_b: Fraction, tol: float) -> bool:
    if a.number is not None and b.number is not None:
        if _irrational(size_a) or _irrational(size_b):
            return close_floats(float(a.number.value * size_a), float(b.number.value * size_b), tol)
        first = Number(a.number.value * size_a, a.number.digits)
        return same_number(first, Number(b.number.value * size_b, b.number.digits), tol)
    for number in (a.number, b.number):  # a long decimal stands for what it rounds
        tol = max(tol, 1e-9) if number and number.digits >= FLOAT_DIGITS else tol
    if size_a == size_b:
        return engine.same_expression(a.expression, b.expression, tol)
    first_value, second_value = engine.value_of(a.expression), engine.value_of(b.expression)
    if first_value is None or second_value is None:
        return False
    return close_floats(first_value * float(size_a), second_value * float(size_b), tol)


def _irrational(size: Fraction) -> bool:
    return _RADIANS is not None and size == _RADIANS.size
