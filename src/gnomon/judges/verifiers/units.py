"""Units after a number: what they measure and how large they are."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from gnomon.judges.verifiers.spoken import changes_number

# dimension: {size in base units: words}. A dimension may be a product of powers of others.
_TABLE: dict[str, dict[str, str]] = {
    "length": {
        "1": "m meter meters metre metres",
        "1/1000000000": "nm nanometer nanometers",
        "1/1000000": "micron microns micrometer micrometers",
        "1/1000": "mm millimeter millimeters millimetre millimetres",
        "1/100": "cm centimeter centimeters centimetre centimetres cms",
        "1/10": "dm decimeter decimeters decimetre decimetres",
        "1000": "km kilometer kilometers kilometre kilometres kms",
        "0.0254": "in inch inches",
        "0.3048": "ft foot feet",
        "0.9144": "yd yds yard yards",
        "1609.344": "mi mile miles",
    },
    "mass": {
        "1": "kg kilogram kilograms kilo kilos kgs",
        "1/1000": "g gram grams gm gms",
        "1/1000000": "mg milligram milligrams",
        "0.45359237": "lb lbs pound pounds",
        "0.028349523125": "oz ounce ounces",
        "1000": "tonne tonnes",
        "907.18474": "ton tons",
    },
    "time": {
        "1": "s sec secs second seconds",
        "1/1000": "ms millisecond milliseconds",
        "60": "min mins minute minutes",
        "3600": "h hr hrs hour hours",
        "86400": "day days",
        "604800": "week weeks",
    },
    "month": {"1": "month months", "12": "year years yr yrs"},
    "length^3": {
        "1/1000": "l liter liters litre litres",
        "1/1000000": "ml milliliter milliliters millilitre millilitres cc",
        "0.003785411784": "gallon gallons gal",
        "0.000946352946": "quart quarts qt",
        "0.000473176473": "pint pints pt",
        "0.0002365882365": "cup cups",
    },
    "length^2": {"10000": "hectare hectares ha", "4046.8564224": "acre acres"},
    "length time^-1": {"0.44704": "mph", "5/18": "kph kmph kmh"},
    "money": {"1": "\\$ dollar dollars usd buck bucks", "1/100": "¢ cent cents"},
    "euro": {"1": "€ euro euros eur"},
    "sterling": {"1": "£ gbp", "1/100": "pence"},
    "yen": {"1": "¥ yen jpy"},
    "rupee": {"1": "₹ rupee rupees inr rs"},
    "angle": {"1": "° degree degrees deg", "1/60": "arcmin arcminutes"},
    "temperature": {"1": "°c celsius"},
    "fahrenheit": {"1": "°f fahrenheit"},
    "kelvin": {"1": "k kelvin kelvins"},
    "mass length time^-2": {"1": "n newton newtons"},
    "mass length^2 time^-2": {"1": "j joule joules", "1000": "kj kilojoule kilojoules"},
    "mass length^2 time^-3": {"1": "w watt watts", "1000": "kw kilowatt kilowatts"},
    "mass length^-1 time^-2": {"1": "pa pascal pascals", "1000": "kpa"},
    "time^-1": {"1": "hz hertz", "1000": "khz"},
    "current": {"1": "amp amps ampere amperes"},
    "voltage": {"1": "v volt volts"},
    "resistance": {"1": "ohm ohms \\omega"},
    "amount": {"1": "mol mole moles"},
    "": {"12": "dozen dozens", "1": "unit units"},
}
_CASED = {"K": "k", "N": "n", "J": "j", "W": "w", "V": "v", "L": "l", "C": "", "H": "", "S": "",
          "M": "", "G": "", "c": "", "n": "", "j": "", "w": "", "v": "", "k": ""}  # fmt: skip
"""Single letters that are a unit in one case only ("": not in this case)."""
RADIAN = Fraction(180 / math.pi)


def _parsed(dimension: str) -> dict[str, int]:
    powers = {}
    for part in dimension.split():
        name, _, power = part.partition("^")
        powers[name] = int(power or 1)
    return powers


_UNITS: dict[str, tuple[Fraction, dict[str, int]]] = {
    word: (Fraction(size), _parsed(dimension))
    for dimension, sizes in _TABLE.items()
    for size, words in sizes.items()
    for word in words.split()
} | {word: (RADIAN, {"angle": 1}) for word in ("rad", "radian", "radians")}
_FILLER = re.compile(
    r"^(?:of|the|a|an|total|in total|altogether|more|each|left|exactly|only|about|away|per se)\b",
    re.IGNORECASE,
)
_PART = re.compile(
    r"(?:(square|sq\.?|cubic|cu\.?)\s+)?([A-Za-z°¢€£¥₹'\\$]+(?: ?°?[CF])?)\.?"
    r"(?:\^\{\s*(-?\d)\s*\}|(?<=[A-Za-z])([23])(?!\d))?(?:\s+(squared|cubed))?"
)
_COMPOUND = re.compile(r"\b([A-Za-z]+)-([A-Za-z]+)\b(?=\s+[A-Za-z])")
_RAISED = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}


@dataclass(frozen=True)
class Unit:
    """What is measured, and how many of its base units one is.

    Attributes:
        dimension: powers of base dimensions, sorted; a thing that is counted is one of its own.
        size: in base units.
        things: words of what is counted ("red apples"), in the singular.
    """

    dimension: tuple[tuple[str, int], ...]
    size: Fraction
    things: frozenset[str] = frozenset()

    @property
    def measures(self) -> bool:
        """Whether it is a unit of measure rather than things that are counted."""
        return bool(self.dimension)


def is_unit(word: str) -> bool:
    """Whether one word (or sign) is a unit in the table."""
    return _known(word) is not None


def _known(word: str) -> tuple[Fraction, Mapping[str, int]] | None:
    if word in _CASED:
        word = _CASED[word]
    return _UNITS.get(word) or _UNITS.get(word.lower())


def is_filler(words: str) -> bool:
    """Whether words behind a quantity say nothing of it: "in total", "altogether"."""
    return not _FILLER.sub("", words.strip()).strip()


def read_unit(words: str) -> Unit | None:
    """The unit that ``words`` name ("cm", "square feet", "m/s^{2}", "red apples").

    Words that are not units are things that are counted. None for anything else: digits, signs.
    """
    words = words.strip().strip(".,;:!").strip()
    sides = re.split(r"\s*/\s*|\s+per\s+|^per\s+", words) if words else []
    size, powers, things = Fraction(1), Counter[str](), frozenset[str]()
    for i, side in enumerate(sides):
        found = _side(side)
        if found is None:
            return None
        direction = 1 if i == 0 else -1
        size *= found.size**direction
        powers.update({name: direction * power for name, power in found.dimension})
        for thing in found.things if i else ():
            powers[f"of {thing}"] = -1
        things = things if i else found.things
    return Unit(_sorted(powers), size, things)


def _sorted(powers: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((name, power) for name, power in powers.items() if power))


def _side(text: str) -> Unit | None:
    """A product of units, or words of what is counted."""
    text = _COMPOUND.sub(_kind, text)
    text = re.sub(r"\\cdot|\*|-(?=[A-Za-z])", " ", text).strip()
    text, *rest = re.split(r"\s*,\s*", text)
    if not all(map(is_filler, rest)):
        return None  # another thing: "5 cm, width unknown"
    size, powers, things, at = Fraction(1), Counter[str](), list[str](), 0
    while at < len(text):
        filler = _FILLER.match(text[at:])
        match = None if filler else _PART.match(text, at)
        if filler:
            at += filler.end()
        elif match is None or match.end() == at:
            return None
        else:
            known = _known(match[2]) if not things else None
            raised = match[3] or match[4]
            power = int(raised or _RAISED.get((match[1] or match[5] or "").strip("."), 1))
            if known is not None:
                size *= known[0] ** power
                powers.update({name: each * power for name, each in known[1].items()})
            elif raised:
                return None
            else:
                things += [word for word in match.group(1, 2, 5) if word]
            at = match.end()
        at += len(text[at:]) - len(text[at:].lstrip(" "))
    return Unit(_sorted(powers), size, frozenset(map(_singular, things)))


def _kind(compound: re.Match[str]) -> str:
    """Nothing for a compound that tells of which kind the things are: "ten-dollar bills"."""
    first, second = compound[1].lower(), _singular(compound[2])
    return "" if changes_number(first) and not changes_number(second) else compound[0]


def _singular(word: str) -> str:
    word = word.lower().strip("'")
    for ending, single in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 1 and not word.endswith("ss"):
            return word[: -len(ending)] + single
    return {"children": "child", "people": "person", "men": "man", "women": "woman"}.get(word, word)


def agree(a: Unit, b: Unit) -> bool:
    """Whether two units can belong to one quantity: the same dimension, and the same things.

    A quantity without a unit agrees with every unit.
    """
    if a.measures and b.measures:
        return a.dimension == b.dimension
    if a.measures or b.measures:
        counted = b if a.measures else a
        return not counted.things
    return a.things <= b.things or b.things <= a.things
