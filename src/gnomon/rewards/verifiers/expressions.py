"""Mathematical expressions in LaTeX or plain text, evaluated by our own parser (no eval, no sympy).

Numbers stay exact fractions while they can. Expressions with letters are compared by their values
at fixed points (Schwartz 1980 and Zippel 1979: different polynomials agree at random points only by
a rare accident).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction

Number = Fraction | float

MAX_LENGTH = 400
"""Characters of an expression; longer ones are not read."""
MAX_EXPONENT = 400
"""Exponents that are taken exactly; beyond, and for roots, floats are used."""
POINTS = (0.7390851, 1.8392867, 2.6854520)
"""Where letters are set, shifted a little from letter to letter."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.\d+|\.\d+|\d+)(?:[eE][-+]?\d{1,3}(?![\d.]))?)|(?P<command>\\[A-Za-z]+)|(?P<letter>[A-Za-z])"
    r"|(?P<symbol>\*\*|[-+*/^(){}\[\]!|_]))"
)
_CONSTANTS = {"\\pi": math.pi, "π": math.pi}
_FUNCTIONS = {
    "\\sin": math.sin,
    "\\cos": math.cos,
    "\\tan": math.tan,
    "\\ln": math.log,
    "\\log": math.log10,
    "\\exp": math.exp,
    "\\arcsin": math.asin,
    "\\arccos": math.acos,
    "\\arctan": math.atan,
}
_PLAIN_WORDS = re.compile(r"(?<![A-Za-z\\])(pi|sqrt|sin|cos|tan|ln|log|exp)(?![A-Za-z])")


class NotAnExpressionError(ValueError):
    """The text is not an expression this parser reads."""


def evaluate(text: str, letters: Mapping[str, float] | None = None) -> Number:
    """The value of an expression; exact where it is rational.

    Args:
        text: e.g. ``\\frac{3}{4}``, ``2\\sqrt{3}``, ``(x+1)^2``, ``1/3``, ``pi/2``.
        letters: values of single letters; ``e`` is Euler's number unless given.

    Raises:
        NotAnExpressionError: unreadable, undefined (1/0), or with letters that have no value.
    """
    if not text.strip() or len(text) > MAX_LENGTH:
        raise NotAnExpressionError("empty or too long")
    parser = _Parser(text, letters or {})
    try:
        value = parser.sum()
        parser.end()
        finite = isinstance(value, Fraction) or math.isfinite(value)
    except (ArithmeticError, ValueError, RecursionError, TypeError) as error:
        raise NotAnExpressionError(f"{text!r}: {error}") from error
    if not finite:
        raise NotAnExpressionError(f"{text!r} is not finite")
    return value


def letters_of(text: str) -> set[str]:
    """The single letters an expression has (not those of commands such as ``\\frac``)."""
    plain = re.sub(r"\\[A-Za-z]+", " ", _PLAIN_WORDS.sub(r"\\\1", text))
    return set(re.findall(r"[A-Za-z]", plain))


def close(a: Number, b: Number, rel_tol: float) -> bool:
    """Equal: exactly for fractions (unless ``rel_tol`` allows more), to 1e-9 for floats."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b or (rel_tol > 0 and abs(a - b) <= Fraction(rel_tol) * abs(b))
    try:
        return math.isclose(float(a), float(b), rel_tol=max(rel_tol, 1e-9), abs_tol=1e-12)
    except OverflowError:
        return False


def same_expression(a: str, b: str, rel_tol: float = 0.0) -> bool:
    """True if two expressions have the same value, at every point where both can be computed."""
    letters = letters_of(a) | letters_of(b)
    if len(letters) > 6 or (letters_of(a) and not letters_of(b)):
        return False
    agreed = 0
    for point in POINTS if letters else POINTS[:1]:
        values = {name: point + 0.13 * i for i, name in enumerate(sorted(letters))}
        if letters == {"e"}:
            values = {}
        try:
            first, second = evaluate(a, values), evaluate(b, values)
        except NotAnExpressionError:
            continue
        if not close(first, second, rel_tol):
            return False
        agreed += 1
    return agreed > 0


class _Parser:
    """Recursive descent: sum > product > sign > power > factor, with implied multiplication."""

    def __init__(self, text: str, letters: Mapping[str, float]) -> None:
        text = _PLAIN_WORDS.sub(r"\\\1", text.replace("π", "\\pi ").replace("√", "\\sqrt "))
        self.tokens: list[tuple[str, str]] = []
        self.letters = letters
        self.at = 0
        self.depth = 0
        position = 0
        text = text.strip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise NotAnExpressionError(f"cannot read {text[position : position + 10]!r}")
            kind = str(match.lastgroup)
            self.tokens.append((kind, match.group(kind)))
            position = match.end()

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.at += 1
        return token

    def accept(self, *values: str) -> str | None:
        if self.peek()[1] in values and self.peek()[0] != "end":
            return self.take()[1]
        return None

    def expect(self, value: str) -> None:
        if self.accept(value) is None:
            raise NotAnExpressionError(f"expected {value}")

    def end(self) -> None:
        if self.peek()[0] != "end":
            raise NotAnExpressionError(f"left over: {self.peek()[1]}")

    def sum(self) -> Number:
        self.depth += 1
        if self.depth > 40:
            raise NotAnExpressionError("nested too deep")
        value = self.product()
        while operator := self.accept("+", "-"):
            term = self.product()
            value = value + term if operator == "+" else value - term
        self.depth -= 1
        return value

    def product(self) -> Number:
        value = self.signed()
        while True:
            if self.accept("*", "\\cdot", "\\times"):
                value = value * self.signed()
            elif self.accept("/", "\\div"):
                value = value / self.signed()
            elif self._starts_factor():
                value = value * self.power()
            else:
                return value

    def _starts_factor(self) -> bool:
        kind, token = self.peek()
        if kind == "number":  # 2 3 is no product
            return self.tokens[self.at - 1][0] != "number"
        return kind in ("letter", "command") or token in ("(", "{", "[")

    def signed(self) -> Number:
        negative = False
        while sign := self.accept("+", "-"):
            negative ^= sign == "-"
        value = self.power()
        return -value if negative else value

    def power(self) -> Number:
        base = self.factor()
        while self.accept("!"):
            base = _factorial(base)
        if self.accept("^", "**"):
            if self.accept("\\circ"):  # degrees are a unit, and units are read elsewhere
                return base
            exponent = self.signed()
            return _power(base, exponent)
        return base

    def factor(self) -> Number:
        kind, token = self.take()
        if kind == "number":
            return Fraction(token)
        if kind == "letter":
            if token in self.letters:
                return self.letters[token]
            if token == "e":
                return math.e
            raise NotAnExpressionError(f"{token} has no value")
        closing = {"(": ")", "{": "}", "[": "]"}.get(token)
        if closing is not None:
            value = self.sum()
            self.expect(closing)
            return value
        if token == "|":
            value = self.sum()
            self.expect("|")
            return -value if value < 0 else value
        return self.command(token)

    def command(self, token: str) -> Number:
        if token in ("\\frac", "\\dfrac", "\\tfrac", "\\cfrac"):
            above = self.argument()
            return above / self.argument()
        if token == "\\sqrt":
            return self.root()
        if token in ("\\binom", "\\dbinom"):
            n, k = self.argument(), self.argument()
            return Fraction(math.comb(_whole(n), _whole(k)))
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token == "\\log" and self.accept("_"):
            base = self.argument()
            return math.log(self.power()) / math.log(base)
        if token in _FUNCTIONS:
            return _FUNCTIONS[token](float(self.power()))
        if token in ("\\left", "\\right", "\\displaystyle"):
            return self.factor()
        raise NotAnExpressionError(f"{token} is not known")

    def root(self) -> Number:
        degree: Number = Fraction(2)
        if self.accept("["):
            degree = self.sum()
            self.expect("]")
        return _power(self.argument(), 1 / degree)

    def argument(self) -> Number:
        """``{...}``, or the next single digit or factor (``\\frac12``)."""
        kind, token = self.peek()
        if kind == "number" and len(token) > 1 and token.isdigit():
            self.tokens[self.at] = ("number", token[1:])
            return Fraction(token[0])
        return self.factor()


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1 and abs(exponent) <= MAX_EXPONENT:
            if abs(base.numerator) + base.denominator > 10**12 and abs(exponent) > 20:
                raise NotAnExpressionError("too large")
            return Fraction(base ** int(exponent))
        if base >= 0 and exponent.numerator == 1:  # an exact root where there is one
            top = round(float(base.numerator) ** float(exponent))
            bottom = round(float(base.denominator) ** float(exponent))
            if (
                exponent.denominator <= 8
                and top ** int(exponent.denominator) == base.numerator
                and bottom ** int(exponent.denominator) == base.denominator
            ):
                return Fraction(top, bottom)
        if base < 0 and exponent.numerator == 1 and exponent.denominator % 2:
            return -_power(-base, exponent)
    value = float(base) ** float(exponent)
    if not isinstance(value, float):
        raise NotAnExpressionError("not real")
    return value


def _whole(value: Number) -> int:
    if isinstance(value, Fraction) and value.denominator == 1 and 0 <= value <= 300:
        return int(value)
    raise NotAnExpressionError("needs a small whole number")


def _factorial(value: Number) -> Number:
    return Fraction(math.factorial(_whole(value)))
