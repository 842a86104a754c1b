"""Whether a mathematical answer is the right one: our own strict comparison, and math-verify's.

Strict means: an answer is extracted first and compared as a value; the truth is never looked for in
the text, and no answer, or an empty one, is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from gnomon.rewards.verifiers.expressions import (
    NotAnExpressionError,
    Number,
    close,
    evaluate,
    letters_of,
    same_expression,
)
from gnomon.rewards.verifiers.extract import final_answer
from gnomon.rewards.verifiers.units import Unit, read_unit

MAX_ANSWER = 600
"""Characters of an answer; longer ones are wrong."""
_WRAPPERS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname|emph)\s*"
    r"\{((?:[^{}])*)\}"
)
_SPACES = re.compile(r"(?<!\\)\\[ ,;:!]|\\quad|\\qquad|~")
_GROUPS = re.compile(r"(?<![\d.])(\d{1,3})((?:(?:,|\{,\}|\\,|\\!,|,\\!)\d{3})+)(?!\d)")
_VARIABLE = re.compile(
    r"^\s*[A-Za-z](?:_\{?\w+\}?)?(?:\([A-Za-z]\))?\s*(?:=|\\in)\s*(?P<rest>[^=]+)$"
)
_SCIENTIFIC = re.compile(r"^-?\d+(?:\.\d+)?[eE][-+]?\d{1,3}$")
_CHOICE = re.compile(r"^\(?([A-Z])\)?[.:]?$")
_MIXED = re.compile(
    r"^(-?)\s*(\d+)\s*(?:\\[dtc]?frac\s*\{(\d+)\}\s*\{(\d+)\}|\s(\d+)\s*/\s*(\d+))$"
)
_QUANTITY = re.compile(
    r"^(?P<money>-?[$€£]\s?)?(?P<number>[^a-zA-Z°¢$€£]*?(?:\\[dtc]?frac[^a-zA-Z]*|\\sqrt[^a-zA-Z]*|"
    r"(?<=\d)[eE][-+]?\d+)?[^a-zA-Z°¢$€£]*?)\s*(?P<unit>(?:square |cubic |sq )?[a-zA-Z°¢$€£]+"
    r"(?:[ /][a-zA-Z /]+)?\s*(?:\^?\{?[23]\}?|[²³])?)?\.?$"
)


def equivalent(answer: str, truth: str, rel_tol: float = 0.0) -> bool:
    """True if ``answer`` says the same as ``truth``.

    Fractions, decimals, mixed numbers, percentages (50% is 0.5, and also 50 where the truth is a
    bare number of at least 1), thousands separators, units (converted where both are given and
    known; a unit of another kind is wrong), tuples, sets, intervals, matrices, equations x = ...,
    choices, and expressions with letters.

    Args:
        rel_tol: relative error allowed between numbers; 0 for exact (1e-9 between irrationals).
    """
    if not answer.strip() or len(answer) > MAX_ANSWER:
        return False
    a, b = clean(answer), clean(truth)
    if not a or not b:
        return False
    if a == b or _plain(a) == _plain(b) != "":
        return True
    return _same(a, b, rel_tol)


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    """The answer without dollar signs of maths mode, spacing, text wrappers and a final stop."""
    text = text.strip().strip("*").strip()
    for opening, closing in (("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("$", "$")):
        inner = len(text) > len(opening) + len(closing)
        if inner and text.startswith(opening) and text.endswith(closing):
            text = text[len(opening) : -len(closing)].strip()
    text = _GROUPS.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = text.replace("\\$", "$").replace("\\%", "%").replace("−", "-").replace("–", "-")
    text = re.sub(r"\\(?:left|right|displaystyle|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])", "", text)
    text = text.replace("^\\circ", "°").replace("^{\\circ}", "°").replace("\\degree", "°")
    text = _SPACES.sub(" ", text)
    for _ in range(3):
        text = _WRAPPERS.sub(r" \1 ", text)
    text = re.sub(r"\s+", " ", text).strip()
    if text.endswith(".") and not text[:-1].endswith("."):
        text = text[:-1].rstrip()
    return text


def _plain(text: str) -> str:
    text = (
        text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    )
    choice = _CHOICE.match(text)
    return choice[1] if choice else re.sub(r"[\s{}]|\\ ", "", text).lower()


def _same(a: str, b: str, rel_tol: float) -> bool:
    matrices = _matrix(a), _matrix(b)
    if matrices[0] or matrices[1]:
        return _same_rows(*matrices, rel_tol)
    bare = _without_variable(a, b)
    if bare is not None:
        return equivalent(*bare, rel_tol)
    lists = _items(a), _items(b)
    if lists[0] and lists[1]:
        return _same_items(lists[0], lists[1], rel_tol)
    if lists[0] or lists[1]:
        return False
    quantities = _quantity(a), _quantity(b)
    if quantities[0] and quantities[1]:
        return _same_quantity(quantities[0], quantities[1], rel_tol)
    if "=" in a and "=" in b and a.count("=") == b.count("=") == 1:
        return _same_equation(a, b, rel_tol)
    if not re.search(r"\d|\\|[-+*/^]", a + b):  # words
        return False
    try:
        return same_expression(a, b, rel_tol)
    except NotAnExpressionError:
        return False


def _without_variable(a: str, b: str) -> tuple[str, str] | None:
    """``x = 5`` and 5 as (5, 5), and two values of one variable; None where neither is the case."""
    first, second = _VARIABLE.match(a), _VARIABLE.match(b)
    if first and second:
        return (first["rest"], second["rest"]) if a[0] == b[0] else None
    if first and "=" not in b:
        return first["rest"], b
    if second and "=" not in a:
        return a, second["rest"]
    return None


# -- numbers with units ----------------------------------------------------------------------------

Quantity = tuple[Number, bool, str]
"""(value, written as a percentage, unit words)."""


def _quantity(text: str) -> Quantity | None:
    """A number with what stands behind it; None if there are letters in the maths itself."""
    if _SCIENTIFIC.match(text):
        return evaluate(text), False, ""
    match = _QUANTITY.match(text)
    if match is None:
        return None
    number = match["number"].strip()
    unit = (match["money"] or "").strip(" -") or (match["unit"] or "").strip()
    if (match["money"] or "").startswith("-"):
        number = f"-{number}"
    percent = number.endswith("%") or unit.lower() in ("percent", "pct")
    number = number.rstrip("% ")
    if percent and not match["money"]:
        unit = ""
    letter = re.fullmatch(r"([a-zA-Z])(?:\s*\^?\{?[23]\}?|[²³])?", unit)
    if letter and (read_unit(letter[1]) is None or not text[match.start("unit") - 1].isspace()):
        return None  # 2x is no number of x, and 3m may be three times m
    mixed = _MIXED.match(number)
    try:
        if mixed:
            sign, whole, *parts = mixed.groups()
            above, below = [p for p in parts if p is not None]
            value = evaluate(f"{sign}({whole}+{above}/{below})")
        else:
            value = evaluate(number)
    except NotAnExpressionError:
        return None
    return value, percent, unit


def _same_quantity(a: Quantity, b: Quantity, rel_tol: float) -> bool:
    (first, first_percent, first_unit), (second, second_percent, second_unit) = a, b
    known = read_unit(first_unit), read_unit(second_unit)
    if known[0] and known[1]:
        return _same_measure(first, known[0], second, known[1], rel_tol)
    if first_percent != second_percent:
        percent, bare = (first, second) if first_percent else (second, first)
        if close(percent / 100, bare, rel_tol):
            return True
        return (bare >= 1 or bare <= -1) and close(percent, bare, rel_tol)
    return close(first, second, rel_tol)


def _same_measure(a: Number, unit_a: Unit, b: Number, unit_b: Unit, rel_tol: float) -> bool:
    if unit_a.dimension != unit_b.dimension:
        return False
    return close(a * unit_a.size, b * unit_b.size, rel_tol)


# -- what has parts --------------------------------------------------------------------------------


def _split(text: str, separator: str = ",") -> list[str]:
    """Split at separators that stand outside all brackets."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == separator and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()]


def _items(text: str) -> tuple[str, list[str]] | None:
    """(kind, parts) of a tuple, interval, set or bare list; None for a single thing."""
    for opening, closing in (("\\{", "\\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if text.startswith(opening) and text.endswith(closing):
            parts = _split(text[len(opening) : -len(closing)])
            if opening == "\\{":
                return "set", parts
            if len(parts) > 1:
                return opening + closing, parts
    parts = _split(text)
    if len(parts) == 1:
        parts = re.split(r"\s+(?:and|or)\s+", text)
    if len(parts) > 1:
        last = re.sub(r"^(?:and|or)\s+", "", parts[-1])
        return "list", [*parts[:-1], last]
    return None


def _same_items(a: tuple[str, list[str]], b: tuple[str, list[str]], rel_tol: float) -> bool:
    (kind_a, parts_a), (kind_b, parts_b) = a, b
    loose = {"set", "list"}
    if len(parts_a) != len(parts_b) or not (kind_a == kind_b or {kind_a, kind_b} <= loose):
        return False
    if kind_a not in loose:
        return all(equivalent(x, y, rel_tol) for x, y in zip(parts_a, parts_b, strict=True))
    left = list(parts_b)
    for part in parts_a:
        found = next((i for i, other in enumerate(left) if equivalent(part, other, rel_tol)), None)
        if found is None:
            return False
        left.pop(found)
    return True


_MATRIX = re.compile(r"^\\begin\{([pbv]?)matrix\}(.*)\\end\{\1matrix\}$", re.DOTALL)


def _matrix(text: str) -> list[list[str]] | None:
    match = _MATRIX.match(text)
    if match is None:
        return None
    rows = [row for row in re.split(r"\\\\", match[2]) if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def _same_rows(a: list[list[str]] | None, b: list[list[str]] | None, rel_tol: float) -> bool:
    if a is None or b is None or [len(row) for row in a] != [len(row) for row in b]:
        return False
    pairs = zip((x for row in a for x in row), (y for row in b for y in row), strict=True)
    return all(equivalent(x, y, rel_tol) for x, y in pairs)


def _same_equation(a: str, b: str, rel_tol: float) -> bool:
    """Two equations are the same if (left - right) of one is a multiple of the other's."""
    sides = [[part.strip() for part in text.split("=")] for text in (a, b)]
    first, second = (f"({left})-({right})" for left, right in sides)
    letters = letters_of(a) | letters_of(b)
    ratios: list[float] = []
    for point in (0.7390851, 1.8392867, 2.685452, 3.359886):
        values = {name: point + 0.37 * i * point for i, name in enumerate(sorted(letters))}
        try:
            over, under = evaluate(first, values), evaluate(second, values)
            ratios.append(float(over) / float(under))
        except (NotAnExpressionError, ArithmeticError):
            return False
    return bool(letters) and ratios[0] != 0 and all(close(r, ratios[0], rel_tol) for r in ratios)


# -- math-verify -----------------------------------------------------------------------------------


def math_verify_equivalent(answer: str, truth: str) -> bool:
    """math-verify's verdict (an optional part: the ``eval`` extra); may be slow, so run it apart.

    Raises:
        ImportError: math-verify is not installed.
    """
    from math_verify import parse, verify  # type: ignore[import-not-found,unused-ignore]

    wrapped = [f"\\boxed{{{clean(text)}}}" for text in (truth, answer)]
    gold, target = (parse(text, parsing_timeout=None) for text in wrapped)
    return bool(gold and target and verify(gold, target, timeout_seconds=None))


def maths_verifier(
    extract: Sequence[str], engine: str, rel_tol: float
) -> Callable[[str, Any], tuple[float, dict[str, float]]]:
    """``verify(text, answer)`` of the maths reward."""

    def verify(text: str, answer: Any) -> tuple[float, dict[str, float]]:
        found = final_answer(text, extract)
        if found is None:
            return 0.0, {"answered": 0.0}
        truth = str(answer)
        if "####" in truth:
            truth = final_answer(truth, ["hash"]) or truth
        right = engine != "math-verify" and equivalent(found, truth, rel_tol)
        if not right and engine != "own":
            right = math_verify_equivalent(found, truth)
        return float(right), {"answered": 1.0}

    return verify
