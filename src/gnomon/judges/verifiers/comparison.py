"""The rules by which two answers are the same, for each kind of answer.

Numbers, money, units and times are compared exactly, what has parts is taken apart, and math-verify
(:mod:`.engine`) decides about expressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from gnomon.judges.verifiers import engine
from gnomon.judges.verifiers import quantities as q
from gnomon.judges.verifiers.asides import without_asides
from gnomon.judges.verifiers.notation import split_outside, squeezed
from gnomon.judges.verifiers.numbers import FLOAT_DIGITS, read_number, same_form
from gnomon.judges.verifiers.shapes import (
    Items,
    Piece,
    Relation,
    both_signs,
    choice_text,
    has_words,
    names_choices,
    read_choice,
    read_intervals,
    read_items,
    read_matrix,
    read_relation,
    verdict,
    words,
)

MAX_ITEMS = 60
"""Parts of a list or cells of a matrix."""
MAX_DEPTH = 12
"""How deep answers are taken apart."""
_APPROX = r"\\approx(?![A-Za-z])"
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z]")
T = TypeVar("T")


class Rules:
    """The rules, in the order in which they are tried; the first that can read both decides."""

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
            return self.depth < MAX_DEPTH and self._decide(a, b)
        finally:
            self.depth -= 1

    def _decide(self, a: str, b: str) -> bool:
        rules = (
            self._approximate, self._verdict, self._choice, same_form, self._matrix,
            self._quantity, self._signs, self._intervals, self._lists, self._related,
        )  # fmt: skip
        for rule in rules:
            decided = rule(a, b)
            if decided is not None:
                return decided
        if has_words(a) or has_words(b):
            return words(a) == words(b)
        return self._expression(a, b)

    # -- single things ---------------------------------------------------------------------------

    def _approximate(self, a: str, b: str) -> bool | None:
        """``2\\pi \\approx 6.28``: either side, if near each other; ``x \\approx 2`` is x = 2."""
        for text, other, is_answer in ((a, b, True), (b, a, False)):
            parts = split_outside(text, _APPROX)
            if len(parts) == 1:
                continue
            sides = [part for part in parts if part]
            named = _rounded(text)
            if named is not None:
                return self.same(named, other) if is_answer else self.same(other, named)
            numbers = [engine.value_of(side.split("=")[-1]) for side in sides]
            if len(sides) > 1:
                first, last = numbers[0], numbers[-1]
                if first is None or last is None or abs(first - last) > 0.02 * abs(last):
                    return False
            pairs = [(side, other) if is_answer else (other, side) for side in sides]
            return any(self.same(x, y) for x, y in pairs)
        return None

    def _verdict(self, a: str, b: str) -> bool | None:
        """Yes and no, with a sentence behind them or without; numbers in the truth's count."""
        truth, given = verdict(without_asides(b)), verdict(without_asides(a))
        if truth is None or given is None or given[0] != truth[0]:
            return None if truth is None else False
        return not re.search(r"\d", truth[1]) or self.same(given[1], truth[1])

    def _choice(self, a: str, b: str) -> bool | None:
        """A letter, a letter with its text; of a truth without its letter the text alone."""
        truth, given = read_choice(b), read_choice(a)
        if given and given[1] and names_choices(given[1]):
            return None if truth is None else False  # a list of the choices chooses none
        if truth is None:
            return True if given and choice_text(a) and self.same(given[1], b) else None
        if given is None and re.fullmatch(r"[a-j]", a):
            given = (a.upper(), "")
        if given is None:
            return self.same(a, truth[1]) if truth[1] else None
        if given[0] != truth[0]:
            return False
        return not (given[1] and truth[1]) or self.same(given[1], truth[1])

    def _quantity(self, a: str, b: str) -> bool | None:
        first, second = q.read_quantity(a), q.read_quantity(b)
        if (first is None) != (second is None) and self._decimal_comma(first, second, a, b):
            return True
        if first is None or second is None:
            return self._quantity_and_expression(first, second, a, b)
        if q.same_quantity(first, second, self.rel_tol):
            return True
        return None if "," in a and "," in b else False

    def _decimal_comma(
        self, first: q.Quantity | None, second: q.Quantity | None, a: str, b: str
    ) -> bool:
        """3,14 next to a decimal with a point; a truth such as 1,2 is a list."""
        point = first or second
        if point is None or point.number is None or not point.number.digits:
            return False
        if second is None and not re.search(r"\d,\d{2}", b):
            return False
        comma = q.read_quantity(b if first else a, decimal_comma=True)
        return comma is not None and q.same_quantity(point, comma, self.rel_tol)

    def _quantity_and_expression(
        self, first: q.Quantity | None, second: q.Quantity | None, a: str, b: str
    ) -> bool | None:
        """2\\sqrt{3} cm and 2\\sqrt{3}; a quantity and anything with other parts is None."""
        found, text = (first, b) if first else (second, a)
        if found is None or found.bare or has_words(text) or read_relation(text):
            return None
        if read_items(text) or _LETTER.search(text):
            return None
        bare = q.Quantity(None, text, False, q.NO_UNIT)
        pair = (found, bare) if first else (bare, found)
        return q.same_quantity(pair[0], pair[1], self.rel_tol)

    def _expression(self, a: str, b: str) -> bool:
        if read_number(a) and read_number(b):
            return False  # decided already
        names = re.fullmatch(r"[A-Za-z]{2,}", a) and re.fullmatch(r"[A-Za-z]{2,}", b)
        if names and (len(a) > 2 or not (a + b).islower()):
            return False  # AB and BA are names, not products
        if not re.search(r"[\d\\A-Za-z]", a):
            return False
        tolerance = self.rel_tol
        for text in (a, b):
            number = read_number(text)
            if number and number.digits >= FLOAT_DIGITS:
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
        if (first is None or second is None) and "\\begin" in a and "\\begin" in b:
            return None  # a sum of matrices, say
        if first is None or second is None or first[0] != second[0]:
            return False
        if [len(row) for row in first[1]] != [len(row) for row in second[1]]:
            return False
        cells = [x for row in first[1] for x in row], [x for row in second[1] for x in row]
        return len(cells[0]) <= MAX_ITEMS and self._each(*cells)

    def _each(self, a: Sequence[str], b: Sequence[str]) -> bool:
        return len(a) == len(b) and all(self.same(x, y) for x, y in zip(a, b, strict=True))

    def _signs(self, a: str, b: str) -> bool | None:
        """``\\pm 2`` is the list 2, -2."""
        if not (both_signs(a) or both_signs(b)):
            return None
        lists = []
        for text in (a, b):
            items = read_items(text)
            parts = items.parts if items and not items.ordered else (text,)
            lists.append([x for part in parts for x in both_signs(part) or [part]])
        first, second = (Items("list", tuple(parts)) for parts in lists)
        return len(lists[0]) == len(lists[1]) and self._loose(first, second)

    def _intervals(self, a: str, b: str) -> bool | None:
        first, second = read_intervals(a), read_intervals(b)
        if first is None or second is None:
            return None
        if first[0] and second[0] and first[0] != second[0]:
            return False
        return _any_order(first[1], second[1], self._same_piece)

    def _same_piece(self, a: Piece, b: Piece) -> bool:
        closed = (a.low_closed, a.high_closed) == (b.low_closed, b.high_closed)
        return closed and self.same(a.low, b.low) and self.same(a.high, b.high)

    def _lists(self, a: str, b: str) -> bool | None:
        found = self._listed(read_items(a), read_items(b), a, b)
        others = read_items(a, grouped=False), read_items(b, grouped=False)
        if found is False and others != (read_items(a), read_items(b)):
            return bool(self._listed(*others, a, b))  # "1,200 and 300" may be three numbers
        return found

    def _listed(self, first: Items | None, second: Items | None, a: str, b: str) -> bool | None:
        if first is None and second is None:
            return None
        if first is None or second is None:
            return self._list_and_one(first, second, a, b)
        if max(len(first.parts), len(second.parts)) > MAX_ITEMS:
            return False
        if first.ordered != second.ordered:
            return self._named_tuple(first, second)
        if first.ordered:
            return first.kind == second.kind and self._each(first.parts, second.parts)
        return self._loose(first, second)

    def _list_and_one(self, first: Items | None, second: Items | None, a: str, b: str) -> bool:
        """{5} and 5, a value that is given twice (1/2, or 0.5), and a named list."""
        one = first or second
        if one is not None and one.kind == "set" and len(one.parts) == 1:
            return self.same(one.parts[0], b) if first else self.same(a, one.parts[0])
        if one is not None and one.kind == "list" and len(one.parts) <= MAX_ITEMS:
            pairs = [(part, b) if first else (a, part) for part in one.parts]
            if not read_relation(b if first else a) and all(self.same(*pair) for pair in pairs):
                return True
        named = self._values(a, b)
        return named is not None and self.same(*named)

    def _loose(self, first: Items, second: Items) -> bool:
        """Two lists or sets: in any order, unless they name different things."""
        names, others = _named_items(first.parts), _named_items(second.parts)
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
        return _any_order(values, truths, self.same)

    def _distinct(self, parts: Sequence[str]) -> list[str]:
        kept: list[str] = []
        for part in parts:
            if not any(self.same(part, other) for other in kept):
                kept.append(part)
        return kept

    def _named_tuple(self, first: Items, second: Items) -> bool:
        """(1, 2) and "x = 1, y = 2"; any other tuple is not a list."""
        ordered, loose = (first, second) if first.ordered else (second, first)
        named = _named_items(loose.parts)
        names = [name for name, _ in named]
        if ordered.kind != "()" or not all(names) or names != sorted(set(names)):
            return False
        values = [value for _, value in named]
        pair = (ordered.parts, values) if first.ordered else (values, ordered.parts)
        return self._each(*pair)

    # -- relations -------------------------------------------------------------------------------

    def _values(self, a: str, b: str) -> tuple[str, str] | None:
        """The values of ``x = 5`` and 5, or of two of the same name; None for anything else."""
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
            if second and not second.naming():
                return False  # an equation is not its right side
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
            return self.same(values[0] or "", values[1] or "")
        if named[1] and not _LETTER.search(named[1][1]):
            return False  # "x = 5" wants a value, not an equation for it
        if read_intervals(b) is not None:
            return False  # and "x > 5" not an inequality to be solved
        return self._equations(first, second)

    def _value(self, relation: Relation) -> str | None:
        """What a relation says is the value of what was asked for, its steps being equal."""
        asked = relation.asked()
        steps: tuple[str, ...]
        if asked is not None:
            steps = asked[1]
        elif relation.equation and not any(_LETTER.search(t) for t in relation.terms):
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


def _rounded(text: str) -> str | None:
    """``x \\approx 2.5, y \\approx 3`` with equals signs, where each left side asks for a value."""
    items = read_items(text)
    for parts in (items.parts if items and items.kind == "list" else (), (text,)):
        sides = [split_outside(part, _APPROX) for part in parts]
        if sides and all(len(side) == 2 and _asks(*side) for side in sides):
            return ", ".join(f"{left} = {right}" for left, right in sides)
    return None


def _asks(name: str, value: str) -> bool:
    relation = read_relation(f"{name} = {value}") if name and value else None
    asked = relation.asked() if relation else None
    return asked is not None and engine.value_of(name) is None


def _name_and_value(relation: Relation | None) -> tuple[str, str] | None:
    asked = relation.asked() if relation else None
    return (asked[0], asked[1][0]) if asked and len(asked[1]) == 1 else None


def _named_items(parts: Sequence[str]) -> list[tuple[str, str]]:
    """(name or "", value) of each item; in "n = 2, 3" both are n."""
    out: list[tuple[str, str]] = []
    for part in parts:
        relation = read_relation(part)
        named = relation.naming() if relation else None
        if relation is not None and named is None:
            out.append(("", part))
        else:
            out.append(named or (out[-1][0] if out else "", part))
    return out


def _any_order(a: Sequence[T], b: Sequence[T], same: Callable[[T, T], bool]) -> bool:
    """Whether each of ``a`` has a partner in ``b``, and none is left over."""
    left = list(b)
    for part in a:
        found = next((i for i, other in enumerate(left) if same(part, other)), None)
        if found is None:
            return False
        left.pop(found)
    return not left
