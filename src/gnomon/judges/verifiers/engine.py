"""math-verify as the engine for expressions, with bounds on what it may compute.

The LaTeX is read by math-verify's parser (latex2sympy2_extended). What is read is first compared by
value, at fixed points where it has letters (Schwartz 1980 and Zippel 1979: different functions
agree at such points only by a rare accident), to 25 digits and relative to their size: math-verify
rounds to six decimals and drops what is small, so that 1/2^99 equals 1/2^98. ``math_verify.verify``
decides what has no value: sets, unions, matrices, undefined functions.

Everything here may be slow: it is meant for a process that is killed when its time is up. What
would be too large to compute is refused beforehand, by the size of the result, not of each step.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import sympy  # type: ignore[import-untyped,unused-ignore]
from latex2sympy2_extended.latex2sympy2 import (  # type: ignore[import-untyped,unused-ignore]
    NormalizationConfig,
    latex2sympy,
    normalize_latex,
)
from math_verify import verify  # type: ignore[import-untyped,unused-ignore]

from gnomon.judges.verifiers.notation import THOUSANDS, depth_of

MAX_LOG10 = 20_000.0
"""Decimal digits of any intermediate result; what is larger is not computed."""
MAX_DEPTH = 40
"""How deep brackets may be nested."""
MAX_TERMS = 10_000
"""Terms of a sum or product that are added up."""
DIGITS = 25
_POINTS = (
    (0.7390851, 1.4513692, 2.6854520, 3.1862220, 0.9159656, 1.3063778),
    (2.2360679, 0.5772156, 1.6180339, 0.8346268, 2.5029078, 1.9021605),
    (-0.6434105, -1.7052111, -2.5849817, -0.2614972, -1.2020569, -3.2758229),
)
"""Where the first six letters are set; the last point also tells x from \\|x\\|."""
_CONFIG = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none"
)
_LARGE_CHOICE = re.compile(r"\\binom\{[^{}]*(?:\d{6}|[\^!])")
"""The parser computes binomial coefficients itself, before their size can be looked at."""
logging.getLogger("math_verify").setLevel(logging.ERROR)


class UnreadableError(ValueError):
    """The text is not an expression that can be computed."""


@lru_cache(maxsize=2048)
def read(text: str) -> Any:
    """The sympy expression that a canonical text is.

    Raises:
        UnreadableError: it cannot be read, or would be too large to compute.
    """
    if depth_of(text) > MAX_DEPTH:
        raise UnreadableError("nested too deep")
    if _LARGE_CHOICE.search(text):
        raise UnreadableError("too large")
    latex = normalize_latex(_latex(text), _CONFIG)
    try:
        found = latex2sympy(latex, is_real=True, convert_degrees=False, normalization_config=None)
        if isinstance(found, sympy.Basic):
            imaginary = [s for s in found.free_symbols if str(s) == "i"]
            found = found.subs(dict.fromkeys(imaginary, sympy.I)) if imaginary else found
            if _log10(found) > MAX_LOG10:
                raise UnreadableError("too large")
    except UnreadableError:
        raise
    except Exception as error:  # the parser raises plain Exceptions, sympy nearly anything
        raise UnreadableError(str(error).splitlines()[0] if str(error) else "unreadable") from error
    if not isinstance(found, sympy.Basic | sympy.MatrixBase):
        raise UnreadableError(f"{text!r} is not an expression")
    return found


def value_of(text: str) -> float | None:
    """The real value of an expression without letters; None without one."""
    try:
        found = read(text)
        number = None if found.free_symbols else _at(found, {})
    except (UnreadableError, AttributeError):
        return None
    return None if number is None or abs(number.imag) > 0 else float(number.real)


def same_expression(answer: str, truth: str, rel_tol: float = 0.0) -> bool:
    """Whether two canonical texts are the same expression or set; False if one is unreadable."""
    if _letters(answer) != _letters(truth) and _letters(answer, True) == _letters(truth, True):
        return False  # the parser takes r and R for one letter
    if ("'" in answer) != ("'" in truth):
        return False  # and drops primes
    try:
        first, second = read(answer), read(truth)
    except UnreadableError:
        return False
    if not _letters_allowed(first, second):
        return False
    agreed = _same_values(first, second, rel_tol)
    if agreed is None:
        return _verified(first, second)
    return agreed


def ratio(first: str, second: str) -> float | None:
    """The constant c in first = c * second; None without one (or where it is 0)."""
    if _letters(first) != _letters(second):
        return None
    try:
        one, other = read(first), read(second)
    except UnreadableError:
        return None
    if not 0 < len(one.free_symbols | other.free_symbols) <= len(_POINTS[0]):
        return None
    found = [
        float(above.real / below.real)
        for above, below, _ in _values(one, other)
        if above and below and not above.imag and not below.imag and below.real
    ]
    same = len(found) >= 2 and all(math.isclose(r, found[0], rel_tol=1e-12) for r in found)
    return found[0] if same and found[0] else None


def _verified(first: Any, second: Any) -> bool:
    if isinstance(first, sympy.Set) != isinstance(second, sympy.Set):
        return False
    try:
        return bool(verify([second], [first], timeout_seconds=None, raise_on_error=False))
    except Exception:  # sympy raises nearly anything on what it cannot compare
        return False


def _letters(text: str, lower: bool = False) -> frozenset[str]:
    letters = re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", text))
    return frozenset(letter.lower() if lower else letter for letter in letters)


def _letters_allowed(answer: Any, truth: Any) -> bool:
    """An answer with letters to a truth without letters is wrong (x - x + 5)."""
    return bool(truth.free_symbols) or not answer.free_symbols


def _latex(text: str) -> str:
    """The canonical text for the parser: exact decimals, no thousands, degrees in radians."""
    text = re.sub(
        rf"(?<![\d.])\d{{1,3}}(?:[,{THOUSANDS}]\d{{3}})+(?![\d.])",
        lambda m: re.sub(r"\D", "", m[0]),
        text,
    )
    text = re.sub(r"(?<=\d)[eE]([-+]?\d+)", r"\\cdot 10^{\1}", text)
    text = re.sub(r"(\d*)\.(\d+)", _exact, text)
    text = re.sub(r"(\d+|\\frac\{\d+\}\{\d+\})\s*°", r"(\1\\cdot\\frac{\\pi}{180})", text)
    text = text.replace("*", "\\cdot ").replace("\\div", "/")
    return re.sub(r"\\log\s*_\s*\{([^{}]*)\}\s*\(", r"\\log_{\1}(", text)


def _exact(match: re.Match[str]) -> str:
    whole, part = match.groups()
    return f"\\frac{{{int(whole + part)}}}{{{10 ** len(part)}}}"


# -- how large ------------------------------------------------------------------------------------


def _log10(expression: Any) -> float:
    """A bound on the decimal digits that computing ``expression`` takes, of any part of it."""
    largest = 0.0
    bounds: dict[int, float] = {}
    for part in sympy.postorder_traversal(expression):
        size = _part_log10(part, [bounds.get(id(arg), 0.0) for arg in part.args])
        bounds[id(part)] = size
        largest = max(largest, size)
        if largest > MAX_LOG10:
            return math.inf
    return largest


def _part_log10(part: Any, sizes: list[float]) -> float:
    """Decimal digits of one node from those of its arguments (of a number: it or its inverse)."""
    if part.is_Integer or part.is_Rational:
        return max(abs(int(part.p)).bit_length(), int(part.q).bit_length()) * 0.30103
    if part.is_Symbol or not part.args:
        return 1.0
    if part.is_Pow or part.func in (sympy.exp, sympy.cosh, sympy.sinh):
        base, exponent = sizes if part.is_Pow else (0.5, sizes[0])
        return min(math.inf, max(base, 0.31) * _ten_to(exponent))
    if part.func is sympy.factorial:
        count = _ten_to(sizes[0])
        return min(math.inf, count * max(1.0, sizes[0]))
    if part.func in (sympy.Sum, sympy.Product):
        terms = _terms(part)
        return (
            math.inf if terms > MAX_TERMS else max(sizes, default=0.0) * 2 + math.log10(terms + 1)
        )
    return sum(sizes) if part.is_Mul or part.func is sympy.binomial else max(sizes) + 1.0


def _terms(part: Any) -> float:
    """How many terms a sum or product with numbers for limits has; 0 with letters."""
    counts = [high - low + 1 for _, low, high in part.limits]
    if any(not count.is_number or not count.is_finite for count in counts):
        return 0.0
    return float(math.prod(max(1.0, float(count)) for count in counts))


def _ten_to(size: float) -> float:
    return 10.0**size if size < 12 else math.inf


# -- values ---------------------------------------------------------------------------------------


def _values(first: Any, second: Any) -> Iterator[tuple[_Point | None, _Point | None, bool]]:
    """The values of two expressions at each fixed point, and whether a letter is below 0 there."""
    letters = sorted(first.free_symbols | second.free_symbols, key=str)
    for point in _POINTS if letters else _POINTS[:1]:
        values = {letter: sympy.Float(x, 40) for letter, x in zip(letters, point, strict=False)}
        yield _at(first, values), _at(second, values), bool(letters) and point[0] < 0


def _same_values(first: Any, second: Any, rel_tol: float) -> bool | None:
    """Whether two expressions have the same values; None where they have none to compare."""
    if not all(isinstance(e, sympy.Expr) for e in (first, second)):
        return None
    letters = first.free_symbols | second.free_symbols
    if len(letters) > len(_POINTS[0]):
        return None
    agreed = 0
    for one, other, negative in _values(first, second):
        if one is None or other is None:
            if (one is None) != (other is None) and not letters:
                return False
            continue
        if negative and (one.imag or other.imag):
            continue  # roots and logarithms of letters are meant for positive ones
        if not _close(one, other, rel_tol):
            return False
        agreed += 1
    return True if agreed >= (2 if letters else 1) else None


def _at(expression: Any, values: dict[Any, Any]) -> _Point | None:
    """The value at a point; None where it is undefined or infinite."""
    try:
        found = sympy.N(
            expression.doit(deep=True) if not values else expression, DIGITS, subs=values
        )
    except Exception:  # sympy raises nearly anything where a function is undefined
        return None
    if not found.is_number or not found.is_finite:
        return None
    real, imaginary = found.as_real_imag()
    if not (real.is_Float or real.is_Rational) or not (imaginary.is_Float or imaginary.is_Rational):
        return None
    return _Point(sympy.Float(real, DIGITS), sympy.Float(imaginary, DIGITS))


class _Point:
    """A complex number to 25 digits; an imaginary part that is only rounding is 0."""

    def __init__(self, real: Any, imag: Any) -> None:
        size = abs(real) + abs(imag)
        self.real = real if abs(real) > size * 1e-20 else sympy.Float(0)
        self.imag = imag if abs(imag) > size * 1e-20 else sympy.Float(0)


def _close(a: _Point, b: _Point, rel_tol: float) -> bool:
    size = max(abs(a.real) + abs(a.imag), abs(b.real) + abs(b.imag))
    gap = abs(a.real - b.real) + abs(a.imag - b.imag)
    return bool(gap <= size * max(rel_tol, 1e-15))
