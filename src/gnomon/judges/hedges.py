"""What stands beside a judge's choice and makes it another one, or none.

A verdict is one of the choices. ``8.5``, ``7-8`` and ``-5`` are none of 1 to 10, and ``A/B`` or
"A, but B" name two: such answers have no verdict, since taking the first would be a guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gnomon.judges.predicates import praises_another, said_of

_MARKS = r"[*_`\"'\u2019\u201d)\] \t]*"
_DASH = "-\u2212\u2013\u2014"
_SIGN_BEFORE = re.compile(rf"[{_DASH}+\u00b1~\u2248<>\u2264\u2265=][\s*_`\"'(\[]*$|[.,/]$")
_PLAIN_BEFORE = re.compile(
    rf"\w\s+[{_DASH}=]\s+[*_`\"'(\[]*$|^\s*>\s+$|(?:^|[:=])\s*=\s*$|\w\s*=\s*$"
    r"|[-=]>\s*$|\n\s*[-*]\s+$"
)
"""A dash between words and a number, a bullet of a line, a quoted line, an equals sign, an arrow:
no sign of the number."""
_NUMBER_GOES_ON = re.compile(
    rf"{_MARKS}(?:\?|[.,:]\d|[{_DASH}~/|&;,=<>\u00b1\u00d7+^]+[ \t]*[*_`]*\d|[+%\u2030]"
    r"|(?:to|or|point|through|out of)\b|and\s+(?:a\s+)?(?:half|\d)|\d)",
    re.IGNORECASE,
)
_ANOTHER_GRADE = (
    rf"{_MARKS}(?:\?|(?:to|or|and)\s+\d|[{_DASH}~,;/|&]+\s*\d+(?:\.\d+)?\s*(?:/|out of|$))"
)
_LOSES = (
    r"(?![ \t]+(?:(?:is|was|seems|looks)[ \t]+(?:\w+[ \t]+)?(?:wrong|worse|weaker|incorrect"
    r"|inferior|bad|poor|false|incomplete|unclear|vague|off)|lacks|misse[sd]|fails|failed|ignore[sd]|omits)\b)"
)
"""The other one is named only to say what is wrong with it."""
_NOT_BEFORE = re.compile(r"[!\u2260\u00ac/|]\s*$")
_TAKEN_BACK = re.compile(
    rf"{_MARKS}(?:\?|[(,;]?[ \t]*(?:or|nor|and/or|tie[sd]?|both|either|neither|draw|equal)\b"
    r"|(?:is|was|seems|looks)\s+(?:\w+\s+)?(?:not|no|never|worse|weaker|wrong|incorrect|inferior)\b"
    r"|(?:is|was|seems|looks)\s+(?:(?:just|about|exactly)\s+)?(?:as|equal|equally|tied|on par)\b"
    r"|(?:isn|wasn)['\u2019]t\b)",
    re.IGNORECASE,
)
_BETWEEN = (
    rf"{_MARKS}\(?(?:(?:[/|&+;,=<>~{_DASH}]|(?i:\b(?:and|but|vs|versus|then|or)\b))[^\w\n]*)+"
    r"(?i:(?:maybe|possibly|perhaps|also|the|response|answer|assistant|option|is|it's)\b[^\w\n]*)*"
)


def is_number_alone(before: str, after: str, largest: int) -> bool:
    """Whether a number between two texts stands for itself: no sign, range, fraction or decimal.

    Args:
        before: the text in front, back to where the verdict began.
        after: the rest of the text; ``/10`` may follow where ``largest`` is 10.
    """
    after = re.sub(r"^\.0+(?![\d.])", "", after)
    if before.endswith("<") and after.startswith(">"):  # in angle brackets
        before, after = before[:-1], after[1:]
    if _SIGN_BEFORE.search(before) and not _PLAIN_BEFORE.search(before):
        return False
    scale = rf"{_MARKS}\(?[ \t]*(?:/|out of)[ \t]*{largest}(?![\d%/]|[.,]\d|\w)"
    of = re.match(scale, after, re.IGNORECASE)
    if of is not None:  # what follows goes on only to another grade
        return re.match(_ANOTHER_GRADE, after[of.end() :], re.IGNORECASE) is None
    return _NUMBER_GOES_ON.match(after) is None


def is_choice_alone(before: str, after: str, others: Sequence[str], words: bool) -> bool:
    """Whether a letter or word between two texts is the only choice: no other is named beside it,
    and it is not taken back.

    Args:
        words: whether the choices are words, whose case does not count.
    """
    other = f"(?:{'|'.join(map(re.escape, others))})"
    says = "nothing" if words or not others else said_of(after)
    if _NOT_BEFORE.search(before) or says in ("bad", "unclear"):
        return False
    if (says != "good" and _TAKEN_BACK.match(after)) or (
        not words and praises_another(after, other)
    ):
        return False
    if not words and re.match(rf"{_MARKS}>{{1,2}}{_MARKS}{other}(?!\w)[^\w\n]*(?:\n|$)", after):
        return True  # A > B
    other = rf"(?i:{other})(?!\w|[ \t]+\w)" if words else rf"{other}(?!\w){_LOSES}"
    named = rf"{_BETWEEN}{other}|[^\w\n]*{other}[^\w\n]*(?:\n|$)"
    return not others or re.match(named, after) is None
