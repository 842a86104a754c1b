"""Whether a mathematical answer is the right one.

Strict means: an answer is extracted first and compared as a value; the truth is never looked for in
the text, and no answer, or an empty one, is wrong. Numbers, money, units and times are compared
exactly by our own rules, what has parts is taken apart, and math-verify (:mod:`.engine`) decides
about expressions. ``docs/rewards.md`` says what counts as the same, kind by kind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gnomon.rewards.verifiers import engine
from gnomon.rewards.verifiers import quantities as q
from gnomon.rewards.verifiers.extract import final_answer, worked_answer
from gnomon.rewards.verifiers.notation import canonical, depth_of, split_outside, squeezed
from gnomon.rewards.verifiers.numbers import read_number
from gnomon.rewards.verifiers.shapes import (
    Items,
    Piece,
    Relation,
    both_signs,
    has_words,
    read_choice,
    read_intervals,
    read_items,
    read_matrix,
    read_relation,
    words,
)

MAX_ANSWER = 600
"""Characters of an answer; longer ones are wrong."""
MAX_ITEMS = 60
"""Parts of a list or cells of a matrix."""
_REASON = re.compile(
    r"\s*[,;:.(-]?\s+(?:because|since|which|as\s+(?:the|it|we|there|a)\b|so\b|thus|therefore|hence|"
    r"due to|given that|making|i hope)(?![A-Za-z]).*$",
    re.IGNORECASE | re.DOTALL,
)
_ASIDE = re.compile(r"(?<=[\d}%)]),\s+(?!and\b|or\b)(?![a-z]\s*[=<>\\(])[a-z]{2,}\s.*$", re.DOTALL)
_LEAD = re.compile(
    r"^(?:(?:about|approximately|approx\.?|roughly|around|exactly|simply|just|only|a total of|equal to|"
    r"equals|therefore|thus|hence|so|the (?:final )?answer is|answer\s*:|the value of|=|:|\\approx|"
    r"\\therefore)(?![A-Za-z])[\s:,]*|[:=]\s*)+",
    re.IGNORECASE,
)


def equivalent(answer: str, truth: str, rel_tol: float = 0.0) -> bool:
    """True if ``answer`` says the same as ``truth``.

    It runs no longer than the parser and sympy take for what is left after the bounds on size and
    depth; where a hard limit is needed, ask the reward, whose processes are killed.

    Args:
        rel_tol: relative error allowed between numbers; 0 for exact.
    """
    if not answer.strip() or len(answer) > MAX_ANSWER or len(truth) > MAX_ANSWER:
        return False
    a, b = _tidy(canonical(answer)), _tidy(canonical(truth))
    if not _says_something(a) or not _says_something(b) or max(depth_of(a), depth_of(b)) > 100:
        return False
    return _Comparison(rel_tol).same(a, b)


def _tidy(text: str) -> str:
    """Without words of introduction in front, or the reason behind an answer."""
    short = _LEAD.sub("", _ASIDE.sub("", _REASON.sub("", text)))
    return canonical(short) if short and short != text else text


def _says_something(text: str) -> bool:
    return bool(re.search(r"[^\W_]|\\[{a-zA-Z]|[°%$€£]", text))


class _Comparison:
    """The rules, in the order in which they are tried; the first that can read both texts decides."""

    def __init__(self, rel_tol: float) -> None:
        self.rel_tol = rel_tol
        self.depth = 0

    def same(self, a: str, b: str) -> bool:
        """Whether a canonical answer ``a`` is the canonical truth ``b``."""
        if not a or not b:
            return False
        if squeezed(a) == squeezed(b):
            return True
        self.depth += 1
        try:
            return self.depth < 12 and self._decide(a, b)
        finally:
            self.depth -= 1

    def _decide(self, a: str, b: str) -> bool:
        rules = (
            self._approximate, self._choice, self._fixed, self._matrix, self._quantity,
            self._signs, self._intervals, self._lists, self._related,
        )  # fmt: skip
        for rule in rules:
            verdict = rule(a, b)
            if verdict is not None:
                return verdict
        if has_words(a) or has_words(b):
            return words(a) == words(b)
        return self._expression(a, b)

    # -- single things ---------------------------------------------------------------------------

    def _approximate(self, a: str, b: str) -> bool | None:
        """``2\\pi \\approx 6.28``: either side, if they are near each other."""
        for text, other, is_answer in ((a, b, True), (b, a, False)):
            parts = split_outside(text, r"\\approx(?![A-Za-z])")
            if len(parts) == 1:
                continue
            sides = [part for part in parts if part]
            numbers = [engine.value_of(side.split("=")[-1]) for side in sides]
            if len(sides) > 1:
                first, last = numbers[0], numbers[-1]
                if first is None or last is None or abs(first - last) > 0.02 * abs(last):
                    return False
            pairs = [(side, other) if is_answer else (other, side) for side in sides]
            return any(self.same(x, y) for x, y in pairs)
        return None

    def _choice(self, a: str, b: str) -> bool | None:
        truth, given = read_choice(b), read_choice(a)
        if truth is None:
            return None
        if given is None and re.fullmatch(r"[a-j]", a):
            given = (a.upper(), "")
        if given is None:
            return self.same(a, truth[1]) if truth[1] else None
        if given[0] != truth[0]:
            return False
        return not (given[1] and truth[1]) or self.same(given[1], truth[1])

    def _fixed(self, a: str, b: str) -> bool | None:
        """Times, dates, ratios and numerals with a base: a form of their own on both sides."""
        based = q.read_based(a), q.read_based(b)
        if based[0] and based[1]:
            return based[0] == based[1]
        if based[0] or based[1]:  # the base may be left out of the answer
            digits = squeezed(a).upper().lstrip("0")
            return bool(based[1]) and digits == based[1][0] if based[1] else False
        dates = q.read_date(a), q.read_date(b)
        if dates[0] and dates[1]:
            (year, *rest), (other, *others) = dates
            return rest == others and (year == other or not year or not other)
        if dates[0] or dates[1] or q.NUMERIC_DATE.fullmatch(a) or q.NUMERIC_DATE.fullmatch(b):
            return words(a) == words(b)
        clocks = q.read_clock(a), q.read_clock(b)
        if clocks[0] and clocks[1]:
            return q.same_clock(*clocks)  # type: ignore[arg-type]
        ratios = q.read_ratio(a), q.read_ratio(b)
        if ratios[0] and ratios[1]:
            return q.same_ratio(ratios[0], ratios[1])
        if clocks[0] or clocks[1]:
            return self._clock_and_number(clocks[0] or clocks[1], b if clocks[0] else a)
        if ratios[0] or ratios[1]:
            ratio, other_text = (ratios[0], b) if ratios[0] else (ratios[1], a)
            number = read_number(other_text) if re.search(r"/|\\frac", other_text) else None
            return bool(ratio and number and len(ratio) == 2 and ratio[1]) and (
                number.value == ratio[0] / ratio[1]  # type: ignore[union-attr, index]
            )
        return None

    def _clock_and_number(self, clock: Any, text: str) -> bool | None:
        """3 p.m. and a bare 3; a ratio such as 1:20 and its fraction."""
        number = read_number(text)
        return bool(number and not clock[1] and clock[2] and number.value == clock[0])

    def _quantity(self, a: str, b: str) -> bool | None:
        first, second = q.read_quantity(a), q.read_quantity(b)
        if second is None or first is None:
            comma = q.read_quantity(a, True), q.read_quantity(b, True)
            if comma[0] and comma[1] and (first or second):
                whole = first or second
                decimal = whole is not None and whole.number and whole.number.digits
                if decimal and q.same_quantity(comma[0], comma[1], self.rel_tol):
                    return True
        if first is None or second is None:
            return self._quantity_and_expression(first, second, a, b)
        if q.same_quantity(first, second, self.rel_tol):
            return True
        return None if "," in a and "," in b else False

    def _quantity_and_expression(
        self, first: q.Quantity | None, second: q.Quantity | None, a: str, b: str
    ) -> bool | None:
        """2\\sqrt{3} cm and 2\\sqrt{3}; a quantity and anything with other parts is None."""
        found, text = (first, b) if first else (second, a)
        if found is None or found.bare or has_words(text) or read_relation(text):
            return None
        if read_items(text) or re.search(r"(?<![A-Za-z\\])[A-Za-z]", text):
            return None
        bare = q.Quantity(None, text, False, q._NO_UNIT)
        pair = (found, bare) if first else (bare, found)
        return q.same_quantity(pair[0], pair[1], self.rel_tol)

    def _expression(self, a: str, b: str) -> bool:
        if q.read_number(a) and q.read_number(b):
            return False  # decided already
        if re.fullmatch(r"[A-Za-z]{2,}", a) and re.fullmatch(r"[A-Za-z]{2,}", b):
            if len(a) > 2 or not (a + b).islower():
                return words(a) == words(b) and (a == b or len(a) > 2)  # names and points
        if not re.search(r"[\d\\A-Za-z]", a):
            return False
        tolerance = self.rel_tol
        for text in (a, b):
            number = read_number(text)
            if number and number.digits >= q.FLOAT_DIGITS:
                tolerance = max(tolerance, 1e-9)
        return engine.same_expression(a, b, tolerance)

    # -- what has parts ----------------------------------------------------------------------------

    def _matrix(self, a: str, b: str) -> bool | None:
        first, second = read_matrix(a), read_matrix(b)
        if first is None and second is None:
            return None
        named = self._values(a, b)
        if named is not None:
            return self.same(*named)
        if first is None or second is None or first[0] != second[0]:
            return False
        if [len(row) for row in first[1]] != [len(row) for row in second[1]]:
            return False
        cells = [x for row in first[1] for x in row], [x for row in second[1] for x in row]
        return len(cells[0]) <= MAX_ITEMS and self._each(*cells)

    def _each(self, a: Sequence[str], b: Sequence[str]) -> bool:
        return len(a) == len(b) and all(self.same(x, y) for x, y in zip(a, b, strict=True))

    def _any_order(self, a: Sequence[str], b: Sequence[str]) -> bool:
        left = list(b)
        for part in a:
            found = next((i for i, other in enumerate(left) if self.same(part, other)), None)
            if found is None:
                return False
            left.pop(found)
        return not left

    def _signs(self, a: str, b: str) -> bool | None:
        """``\\pm 2`` is the list 2, -2."""
        if not (both_signs(a) or both_signs(b)):
            return None
        lists = []
        for text in (a, b):
            items = read_items(text)
            parts = items.parts if items and not items.ordered else (text,)
            lists.append([x for part in parts for x in both_signs(part) or [part]])
        return len(lists[0]) == len(lists[1]) and self._loose(Items("list", tuple(lists[0])),
                                                             Items("list", tuple(lists[1])))  # fmt: skip

    def _intervals(self, a: str, b: str) -> bool | None:
        first, second = read_intervals(a), read_intervals(b)
        if first is None or second is None:
            return None
        if first[0] and second[0] and first[0] != second[0]:
            return False
        left = list(second[1])
        for piece in first[1]:
            found = next((i for i, other in enumerate(left) if self._same_piece(piece, other)), None)
            if found is None:
                return False
            left.pop(found)
        return not left

    def _same_piece(self, a: Piece, b: Piece) -> bool:
        closed = (a.low_closed, a.high_closed) == (b.low_closed, b.high_closed)
        return closed and self.same(a.low, b.low) and self.same(a.high, b.high)

    def _lists(self, a: str, b: str) -> bool | None:
        first, second = read_items(a), read_items(b)
        if first is None and second is None:
            return None
        if first is None or second is None:
            one, text = (first, b) if first else (second, a)
            if one is not None and one.kind == "set" and len(one.parts) == 1:  # {5} and 5
                return self.same(one.parts[0], b) if first else self.same(a, one.parts[0])
            if first is not None and first.kind == "list" and len(first.parts) <= MAX_ITEMS:
                repeated = all(self.same(part, b) for part in first.parts)  # 1/2, or 0.5
                if repeated and not read_relation(b):
                    return True
            named = self._values(a, b)
            return self.same(*named) if named is not None else False
        if max(len(first.parts), len(second.parts)) > MAX_ITEMS:
            return False
        if first.ordered != second.ordered:
            return self._named_tuple(first, second)
        if first.ordered:
            return first.kind == second.kind and self._each(first.parts, second.parts)
        return self._loose(first, second)

    def _loose(self, first: Items, second: Items) -> bool:
        """Two lists or sets: in any order, unless they name different things."""
        names, others = _named_items(first.parts), _named_items(second.parts)
        if names is None or others is None:
            return False
        several = len({n for n, _ in others}) > 1, len({n for n, _ in names}) > 1
        values, truths = [v for _, v in names], [v for _, v in others]
        if all(several):
            wanted = dict(others)
            return len(names) == len(others) == len(wanted) and all(
                name in wanted and self.same(value, wanted[name]) for name, value in names
            )
        if any(several):  # values without names count in the order of the names
            return self._each(values, truths)
        if names[0][0] and others[0][0] and names[0][0] != others[0][0]:
            return False
        if "set" in (first.kind, second.kind):
            values, truths = self._distinct(values), self._distinct(truths)
        return self._any_order(values, truths)

    def _distinct(self, parts: Sequence[str]) -> list[str]:
        kept: list[str] = []
        for part in parts:
            if not any(self.same(part, other) for other in kept):
                kept.append(part)
        return kept

    def _named_tuple(self, first: Items, second: Items) -> bool:
        """(1, 2) and "x = 1, y = 2"; any other tuple is no list."""
        ordered, loose = (first, second) if first.ordered else (second, first)
        named = _named_items(loose.parts)
        if ordered.kind != "()" or not named or len({n for n, _ in named}) < len(named) or not named[0][0]:
            return False
        if [n for n, _ in named] != sorted(n for n, _ in named):
            return False
        values = [value for _, value in named]
        pair = (ordered.parts, values) if first.ordered else (values, ordered.parts)
        return self._each(*pair)

    # -- relations -----------------------------------------------------------------------------------

    def _values(self, a: str, b: str) -> tuple[str, str] | None:
        """The values of ``x = 5`` and 5, or of two of the same name; None where that is not the case."""
        first, second = read_relation(a), read_relation(b)
        named = _name_and_value(first), _name_and_value(second)
        if named[0] and named[1]:
            return (named[0][1], named[1][1]) if named[0][0] == named[1][0] else None
        if named[0] and second is None:
            return named[0][1], b
        if named[1] and first is None:
            return a, named[1][1]
        return None

    def _related(self, a: str, b: str) -> bool | None:
        first, second = read_relation(a), read_relation(b)
        if first is None and second is None:
            return None
        if first is None or second is None:
            relation, text = (first, b) if first else (second, a)
            assert relation is not None
            value = self._value(relation)
            if value is None:
                return False
            return self.same(value, text) if first else self.same(text, value)
        named = first.naming(), second.naming()
        if named[0] and named[1] and named[0][0] == named[1][0]:
            return self.same(named[0][1], named[1][1])
        asked = first.asked(), second.asked()
        if asked[0] and asked[1] and asked[0][0] == asked[1][0]:
            values = self._value(first), self._value(second)
            return bool(values[0] and values[1] and self.same(*values))
        if named[1] and not re.search(r"(?<![A-Za-z\\])[A-Za-z]", named[1][1]):
            return False  # "x = 5" wants a value, not an equation for it
        return self._equations(first, second)

    def _value(self, relation: Relation) -> str | None:
        """What a relation says is the value of what was asked for, its steps being equal."""
        asked = relation.asked()
        steps: tuple[str, ...]
        if asked is not None:
            steps = asked[1]
        elif relation.equation and not any(re.search(r"(?<![A-Za-z\\])[A-Za-z]", t) for t in relation.terms):
            steps = relation.terms  # 2 + 3 = 5
        else:
            return None
        return steps[-1] if all(self.same(x, steps[-1]) for x in steps[:-1]) else None

    def _equations(self, first: Relation, second: Relation) -> bool:
        """Two equations or inequalities with the same solutions: one side minus the other is a
        multiple, a positive one for inequalities."""
        if len(first.terms) != 2 or len(second.terms) != 2:
            return False
        flipped = {">": "<", "\\ge": "\\le"}
        sides, signs = [], []
        for relation in (first, second):
            (left, right), (sign,) = relation.terms, relation.signs
            if sign in flipped:
                left, right, sign = right, left, flipped[sign]
            if sign == "\\in" or has_words(left) or has_words(right):
                return False
            sides.append(f"({left})-({right})")
            signs.append(sign)
        ratio = engine.ratio(sides[0], sides[1]) if signs[0] == signs[1] else None
        return ratio is not None and (ratio > 0 or signs[0] in ("=", "\\ne"))


def _name_and_value(relation: Relation | None) -> tuple[str, str] | None:
    asked = relation.asked() if relation else None
    return (asked[0], asked[1][0]) if asked and len(asked[1]) == 1 else None


def _named_items(parts: Sequence[str]) -> list[tuple[str, str]] | None:
    """(name or "", value) of each item; in "n = 2, 3" both are n. None for other relations."""
    out: list[tuple[str, str]] = []
    for part in parts:
        relation = read_relation(part)
        named = relation.naming() if relation else None
        if relation is not None and named is None:
            out.append(("", part))
        else:
            out.append(named or (out[-1][0] if out else "", part))
    return out


class MathsVerifier:
    """``verify(text, answer)`` of the maths reward, as a worker makes it."""

    def __init__(self, extract: Sequence[str], rel_tol: float) -> None:
        self.methods = tuple(extract)
        self.rel_tol = rel_tol

    def __call__(self, text: str, answer: Any) -> tuple[float, dict[str, float]]:
        """1 where the final answer of ``text`` is (one of) the truth, else 0.

        Raises:
            ValueError: the truth is no answer: empty, or far too long.
        """
        truths = self.truths(answer)
        found = final_answer(text, self.methods)
        if found is None:
            return 0.0, {"answered": 0.0}
        try:
            right = any(equivalent(found, truth, self.rel_tol) for truth in truths)
        except (MemoryError, RecursionError, ArithmeticError, ValueError):
            self.check(answer)  # raises where the truth is at fault
            right = False
        return float(right), {"answered": 1.0}

    def check(self, answer: Any) -> None:
        """Read the truth alone, as long as that takes.

        Raises:
            ValueError: it is no answer.
        """
        for truth in self.truths(answer):
            _Comparison(self.rel_tol).same("0", _tidy(canonical(truth)))

    def truths(self, answer: Any) -> list[str]:
        """The reference answers of one prompt: one, or a list of which each will do.

        Raises:
            ValueError: there is none in it, or it is too long to be an answer.
        """
        given = answer if isinstance(answer, list | tuple) else [answer]
        truths = [worked_answer(str(truth)) for truth in given]
        for raw, truth in zip(given, truths, strict=True):
            if not _says_something(canonical(truth)[:MAX_ANSWER]):
                raise ValueError(f"the reference answer {str(raw)[:80]!r} holds no answer")
            if len(truth) > MAX_ANSWER:
                raise ValueError(
                    f"the reference answer is {len(truth)} characters long ({truth[:40]!r}...) and "
                    "marks no final answer; mark it with \\boxed{}, #### or 'The answer is'"
                )
        return truths


def maths_verifier(extract: Sequence[str], rel_tol: float) -> MathsVerifier:
    """The verifier of the maths reward (made in each worker)."""
    return MathsVerifier(extract, rel_tol)
