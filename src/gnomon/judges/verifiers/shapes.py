"""The structure of an answer: choices, words, relations, intervals, lists, sets, matrices."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gnomon.judges.verifiers.notation import split_outside, squeezed

# -- choices and words -----------------------------------------------------------------------------

_CHOICES = (
    re.compile(r"(?:(?:option|choice|answer)\s*:?\s*)?\(\s*([A-J])\s*\)\s*[.:]?\s*(.*)", re.I),
    re.compile(r"(?:option|choice|answer)\s*:?\s*([A-J])(?![A-Za-z])\s*[.:)]?\s*(.*)", re.I),
    re.compile(r"\[([A-J])\]\s*(.*)"),
    re.compile(r"([A-J])\s*[.:)](?:\s+(.*)|\s*$)"),
    re.compile(r"([a-j])\)\s*(.*)"),
    re.compile(r"([A-J])()"),
)  # fmt: skip


_GOES_ON = re.compile(r"-(?!\d)|[+=<>^*/,;&]|\((?!\d)|\\(?!frac|sqrt|pi|begin|\$)|and\b|or\b")
"""What makes a letter the start of a formula or list, not of a choice with its text."""


def read_choice(text: str) -> tuple[str, str] | None:
    """A multiple-choice letter with the text behind it: ("B", "12 apples")."""
    for pattern in _CHOICES:
        match = pattern.fullmatch(text)
        if match and not _GOES_ON.match(match[2] or ""):
            return match[1].upper(), (match[2] or "").strip()
    return None


_WITH_TEXT = re.compile(
    r"(?:(?:option|choice|answer)\s*:?\s*)?\(?\[?[A-J][).:\]]+\s+(.+)", re.IGNORECASE
)


def choice_text(text: str) -> bool:
    """Whether a text is plainly a letter with its answer ("B) 12"), and no product or name."""
    behind = _WITH_TEXT.fullmatch(text)
    if behind is None:
        return False
    return text[0] not in "(abcdefghij" or not _LETTERS.fullmatch(behind[1])


_LETTERS = re.compile(r"(?:[A-Za-z]|\(.*\))(?:\^\{.*\})?")
_MARK = re.compile(r"(?<![\w(])(?:\(\s*[A-J]\s*\)|[A-J]\))|^[A-J](?:[.:]\s|[.:]?$)")


def names_choices(text: str) -> bool:
    """Whether the text behind a choice's letter names further choices: "A) 1 B) 2"."""
    return _MARK.search(text) is not None


_SYNONYMS = {
    "\\emptyset": "no solution", "\\{\\}": "no solution", "empty set": "no solution",
    "none": "no solution", "no solutions": "no solution", "no real solution": "no solution",
    "no real solutions": "no solution", "there is no solution": "no solution",
    "there are no solutions": "no solution", "no solution exists": "no solution",
    "no solutions exist": "no solution", "null set": "no solution",
    "there are no real solutions": "no solution",
    "dne": "does not exist", "limit does not exist": "does not exist", "n/a": "undefined",
    "not defined": "undefined", "all real numbers": "\\mathbb{R}", "all reals": "\\mathbb{R}",
    "all real": "\\mathbb{R}", "reals": "\\mathbb{R}", "real numbers": "\\mathbb{R}",
    "infinitely many": "infinitely many solutions",
    "infinite solutions": "infinitely many solutions",
    "infinitely many solution": "infinitely many solutions",
    "it does not exist": "does not exist", "can not be determined": "cannot be determined",
    "impossible to determine": "cannot be determined",
}  # fmt: skip


def words(text: str) -> str:
    """Words in small letters, without articles and punctuation, synonyms by one name."""
    text = re.sub(r"\s+", " ", text.lower()).strip(" .,;:!?'\"")
    text = _SYNONYMS.get(text, text)
    text = re.sub(r"^(?:the|a|an)\s+", "", text)
    return _SYNONYMS.get(text, text)


_VERDICTS = frozenset(("yes", "no", "true", "false"))


def verdict(text: str) -> tuple[str, str] | None:
    """The yes, no, true or false that a sentence begins with and a comma or stop follows, and the
    rest of the sentence."""
    match = re.match(r"([A-Za-z]+)\s*(?:[,.;:!-]\s*|$)", text)
    if match is None or match[1].lower() not in _VERDICTS:
        return None
    return match[1].lower(), text[match.end() :]


_SHORT = "is if or no to of in on at by as an not and the for are was but all any odd"
_SHORT_WORDS = frozenset(_SHORT.split())


def has_words(text: str) -> bool:
    """Whether there are English words in the text, so that it is not a formula."""
    plain = re.sub(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+", "\\ ", text)
    for match in re.finditer(r"[A-Za-z]+", plain):
        word = match[0]
        apart = (match.start() == 0 or plain[match.start() - 1] == " ") and (
            match.end() == len(plain) or plain[match.end()] in " .,;:"
        )
        if len(word) > 3 or (apart and (len(word) == 3 or word.lower() in _SHORT_WORDS)):
            return True
    return False


# -- relations -------------------------------------------------------------------------------------

_OPERATOR = r"\\(?:le|ge|ne|in|approx)(?![A-Za-z])|:=|==|=|<|>"
_FLIP = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_ATOM = (
    r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|sigma|phi|omega|rho|varepsilon|ell))"
)
_NAME = re.compile(
    rf"{_ATOM}(?:_\{{[^{{}}]*\}})?'*(?:\(\s*{_ATOM}(?:\s*,\s*{_ATOM})*\s*\))?"
    r"|[A-Za-z]+(?: [A-Za-z]+)*"
)
_ASKED = re.compile(
    r"(?:[A-Za-z |()+'{}\[\]/,-]|_\{\w+\}|°|\^\{-1\}(?=\()"
    r"|\\(?:alpha|beta|gamma|theta|lambda|angle|triangle|overline|cdot|mathbb|Delta|vec|hat|cap|cup"
    r"|mid|max|min|sum|sin|cos|tan|cot|sec|csc|pi(?=\s*[(_]))(?![A-Za-z])"
    r"|\\frac\{d\^?\{?\d?\}?[A-Za-z]?\}\{d[A-Za-z](?:\^\{\d\})?\}"
    r"|\^\{\d\}(?=[^=]*[+-])|(?<=[A-Za-z])\^\{\d\}$)+(?<![+/-])"
)
"""What a question asks for: names, their sums and products, no numbers in front of them."""


@dataclass(frozen=True)
class Relation:
    """Terms and the signs between them (``=``, ``<``, ``\\le``, ``\\ne``, ``\\in`` and so on)."""

    terms: tuple[str, ...]
    signs: tuple[str, ...]

    @property
    def equation(self) -> bool:
        """Whether it consists of equals signs alone (or says what a name is an element of)."""
        return all(sign in ("=", "\\in") for sign in self.signs)

    def naming(self) -> tuple[str, str] | None:
        """(name, value) of ``x = 5``, ``f(x) = 2x``, ``5 = x``; None for any other relation."""
        if not self.equation or len(self.terms) != 2:
            return None
        left, right = self.terms
        if _NAME.fullmatch(left):
            return squeezed(left), right
        if _NAME.fullmatch(right) and self.signs == ("=",):
            return squeezed(right), left
        return None

    def asked(self) -> tuple[str, tuple[str, ...]] | None:
        """What was asked for and its value in one or more steps: ``m+n = 256+37 = 293``."""
        named = self.naming()
        if named is not None:
            return named[0], (named[1],)
        if self.equation and _ASKED.fullmatch(self.terms[0]) and self.terms[0][0] != "-":
            return squeezed(self.terms[0]), self.terms[1:]
        return None


def read_relation(text: str) -> Relation | None:
    """The relation that a text is; None if no sign is outside its brackets."""
    parts = split_outside(text, f"(?:{_OPERATOR})")
    if len(parts) < 2 or not all(parts):
        return None
    signs, rest = [], text
    for before in parts[:-1]:
        rest = rest[rest.index(before) + len(before) :].lstrip()
        match = re.match(_OPERATOR, rest)
        if match is None:
            return None
        signs.append({":=": "=", "==": "="}.get(match[0], match[0]))
        rest = rest[match.end() :]
    return Relation(tuple(parts), tuple(signs))


# -- intervals -------------------------------------------------------------------------------------

INFINITE = "\\infty"


@dataclass(frozen=True)
class Piece:
    """An interval: its ends as texts, and whether they belong to it."""

    low: str
    low_closed: bool
    high: str
    high_closed: bool


def read_intervals(text: str) -> tuple[str, list[Piece]] | None:
    """(variable or "", pieces) of intervals, unions of them, and inequalities in one variable."""
    text = re.sub(
        r"^\\\{\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||\\mid|:)\s*(.*)\\\}$", r"\1", text
    )
    if words(text) in ("\\mathbb{R}", "\\mathbb{r}"):
        return "", [Piece(f"-{INFINITE}", False, INFINITE, False)]
    member = read_relation(text)
    variable = ""
    if member and member.signs == ("\\in",) and _NAME.fullmatch(member.terms[0]):
        variable, text = squeezed(member.terms[0]), member.terms[1]
    parts = split_outside(text, r"\\cup(?![A-Za-z])|(?<=[)\]])\s*U\s*(?=[(\[])|\s+or\s+|,\s*or\s+")
    pieces, names = [], {variable} if variable else set[str]()
    for part in parts:
        piece = _bracketed(part)
        if piece is None:
            found = _inequality(part)
            if found is None:
                return None
            names.add(found[0])
            pieces += found[1]
        else:
            pieces.append(piece)
    return ("".join(names), pieces) if len(names) < 2 else None


def _bracketed(text: str) -> Piece | None:
    if len(text) < 5 or text[0] not in "([" or text[-1] not in ")]":
        return None
    parts = split_outside(text[1:-1], "[,;]")
    if len(parts) != 2 or not all(parts):
        return None
    return Piece(_end(parts[0]), text[0] == "[", _end(parts[1]), text[-1] == "]")


def _end(text: str) -> str:
    text = squeezed(text)
    return INFINITE if text == f"+{INFINITE}" else text


def _inequality(text: str) -> tuple[str, list[Piece]] | None:
    halves = re.split(r"\s+and\s+|\s*,(?!\d{3}(?!\d))\s*(?:and\s+)?", text)
    if len(halves) == 2:
        found = [_inequality(half) for half in halves]
        if found[0] is None or found[1] is None or found[0][0] != found[1][0]:
            return None
        (one,), (other,) = found[0][1], found[1][1]
        low, high = (one, other) if one.high == INFINITE else (other, one)
        if low.high != INFINITE or high.low != f"-{INFINITE}":
            return None
        return found[0][0], [Piece(low.low, low.low_closed, high.high, high.high_closed)]
    relation = read_relation(text)
    if relation is None:
        return None
    terms, signs = relation.terms, relation.signs
    if signs == ("\\ne",) and _NAME.fullmatch(terms[0]):
        end = squeezed(terms[1])
        both = [Piece(f"-{INFINITE}", False, end, False), Piece(end, False, INFINITE, False)]
        return squeezed(terms[0]), both
    if {*signs} <= {">", "\\ge"}:
        terms, signs = terms[::-1], tuple(_FLIP[sign] for sign in signs[::-1])
    names = [at for at, term in enumerate(terms) if _NAME.fullmatch(term)]
    at = names[0] if len(terms) == 2 and len(names) == 1 else 1
    if not {*signs} <= {"<", "\\le"} or at not in names or len(terms) not in (2, 3):
        return None
    if len(terms) == 2 and len(names) == 2:
        return None
    ends = [squeezed(term) for term in (f"-{INFINITE}", *terms, INFINITE)]
    closed = [sign == "\\le" for sign in ("", *signs, "")]
    return ends[at + 1], [Piece(ends[at], closed[at], ends[at + 2], closed[at + 1])]


# -- what has parts --------------------------------------------------------------------------------

_BRACKETS = (
    ("\\{", "\\}"),
    ("\\langle", "\\rangle"),
    ("(", ")"),
    ("[", "]"),
    ("(", "]"),
    ("[", ")"),
)
_GROUPED_ITEM = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_GROUPED_ALONE = re.compile(
    r"(?:[A-Za-z]\w*\s*=\s*)?(?:-|\\\$|[€£¥₹])*\s*[1-9]\d{0,2}(?:,\d{3})+(?![\d,])[^,]*$"
)


@dataclass(frozen=True)
class Items:
    """Several things: ``list`` (bare), ``set``, ``tuple``, or what the brackets are."""

    kind: str
    parts: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        return self.kind not in ("list", "set")


def read_items(text: str, grouped: bool = True) -> Items | None:
    """The parts of a tuple, set or bare list; None for a single thing.

    Args:
        grouped: read "1,200 and 300" as two numbers, the first with thousands; else as three.
    """
    for opening, closing in _BRACKETS:
        if (
            text.startswith(opening)
            and text.endswith(closing)
            and _one_bracket(text, opening, closing)
        ):
            inner = text[len(opening) : len(text) - len(closing)].strip()
            parts = _parts(inner, grouped)
            kind = {"\\{": "set", "\\langle": "()"}.get(opening, opening + closing)
            if kind == "set" or len(parts) > 1:
                return Items(kind, tuple(part for part in parts if part))
    parts = _parts(text, grouped)
    if len(parts) == 1:
        parts = split_outside(text, r"\s+(?:and|or)\s+")
    if len(parts) > 1:
        parts = [re.sub(r"^(?:and|or)\s+", "", part) for part in parts]
        last = split_outside(parts[-1], r"\s+(?:and|or)\s+")
        return Items("list", (*parts[:-1], *last))
    return None


def _parts(text: str, grouped: bool) -> list[str]:
    """Split at commas; those of thousands stay where other commas have a space behind them, and
    where "and" or "or" join parts of which each that has a comma is one number with thousands (with
    ``grouped``: where each has one, in any case)."""
    if ";" in text:
        semicolons = split_outside(text, r"\s*;\s*")
        if len(semicolons) > 1:
            return semicolons
    if re.search(r",\s", text) and _GROUPED_ITEM.search(text):
        return split_outside(text, r",(?=\s)")
    joined = split_outside(text, r"\s+(?:and|or)\s+")
    numbers = [bool(_GROUPED_ALONE.match(part)) for part in joined]
    alone = all(one or "," not in part for one, part in zip(numbers, joined, strict=True))
    if len(joined) > 1 and (all(numbers) or (grouped and any(numbers) and alone)):
        return joined
    return split_outside(text, ",")


def _one_bracket(text: str, opening: str, closing: str) -> bool:
    """Whether the first bracket closes at the very end, and not before."""
    inner = text[len(opening) : len(text) - len(closing)]
    depth = 0
    for char in re.sub(r"\\[{}]", lambda m: "(" if m[0] == "\\{" else ")", inner):
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return False
    return depth == 0


_MATRIX = re.compile(
    r"\[?\(?\s*\\begin\{(?P<kind>[pbvBV]?matrix|smallmatrix|array)\}(?:\{[lcr|]*\})?(?P<body>(?:(?!\\end\{).)*)"
    r"\\end\{(?P=kind)\}\s*\]?\)?",
    re.DOTALL,
)


def read_matrix(text: str) -> tuple[str, list[list[str]]] | None:
    """("determinant" or "matrix", rows of cells); nested square brackets count as a matrix too."""
    match = _MATRIX.fullmatch(text)
    if match is None:
        outer = read_items(text)
        rows = [read_items(part) for part in outer.parts] if outer and outer.kind == "[]" else []
        cells = [row.parts for row in rows if row is not None and row.kind == "[]"]
        same = bool(cells) and len(cells) == len(rows) and len({len(row) for row in cells}) == 1
        return ("matrix", [list(row) for row in cells]) if same else None
    rows_ = [row for row in re.split(r"\\\\", match["body"]) if row.strip()]
    kind = "determinant" if match["kind"].lower() == "vmatrix" else "matrix"
    return kind, [[cell.strip() for cell in row.split("&")] for row in rows_]


_SIGNS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])\s*")


def both_signs(text: str) -> list[str] | None:
    """``1 \\pm \\sqrt{2}`` as its two values; None without such a sign."""
    if not _SIGNS.search(text):
        return None
    return [_signed(text, *signs) for signs in (("+", "-"), ("-", "+"))]


def _signed(text: str, upper: str, lower: str) -> str:
    """With ``upper`` for each plus-minus and ``lower`` for each minus-plus."""
    text = _SIGNS.sub(lambda match: lower if "mp" in match[0] else upper, text)
    return re.sub(r"^\+|(?<=[(=,])\+", "", text).strip()
