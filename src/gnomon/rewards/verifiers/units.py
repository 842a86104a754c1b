"""Units behind a number: what they measure and how large they are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_TABLE: dict[str, dict[str, str]] = {
    "length": {
        "1": "m meter meters metre metres",
        "1/1000": "mm millimeter millimeters millimetre millimetres",
        "1/100": "cm centimeter centimeters centimetre centimetres",
        "1000": "km kilometer kilometers kilometre kilometres",
        "0.0254": "inch inches",
        "0.3048": "ft foot feet",
        "0.9144": "yd yard yards",
        "1609.344": "mi mile miles",
    },
    "mass": {
        "1": "g gram grams",
        "1/1000": "mg milligram milligrams",
        "1000": "kg kilogram kilograms",
        "453.59237": "lb lbs pound pounds",
        "28.349523125": "oz ounce ounces",
        "1000000": "tonne tonnes",
    },
    "time": {
        "1": "s sec secs second seconds",
        "60": "min mins minute minutes",
        "3600": "h hr hrs hour hours",
        "86400": "day days",
        "604800": "week weeks",
    },
    "volume": {
        "1": "l liter liters litre litres",
        "1/1000": "ml milliliter milliliters millilitre millilitres",
    },
    "money": {"1": "$ dollar dollars usd", "1/100": "¢ cent cents"},
    "euro": {"1": "€ euro euros eur"},
    "sterling": {"1": "£ gbp"},
    "angle": {"1": "° degree degrees deg"},
    "radian": {"1": "rad radian radians"},
}

_UNITS = {
    word: (dimension, Fraction(size))
    for dimension, sizes in _TABLE.items()
    for size, words in sizes.items()
    for word in words.split()
}
_SQUARES = re.compile(r"^(?:(square|sq|cubic)\s+)?([a-z$€£¢°]+)(?:\s*\^?\s*\{?([23])\}?|([²³]))?$")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "²": 2, "³": 3}


@dataclass(frozen=True)
class Unit:
    """What is measured (``length``, ``length^2``), and how many of its base units one is."""

    dimension: str
    size: Fraction


def read_unit(words: str) -> Unit | None:
    """The unit that ``words`` name ("cm", "square feet", "m^2"); None if none we know."""
    match = _SQUARES.match(words.strip().lower())
    if match is None or match.group(2) not in _UNITS:
        return None
    dimension, size = _UNITS[match.group(2)]
    power = int(match.group(3) or _POWERS.get(match.group(1) or match.group(4) or "", 1))
    return Unit(dimension if power == 1 else f"{dimension}^{power}", size**power)
