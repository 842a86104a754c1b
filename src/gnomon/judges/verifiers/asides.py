"""What people write round an answer: a word in front, a reason or an aside behind it.

Only an answer is ever cut, never a truth. An aside goes only where it says nothing about the
answer: a number, a sign, a unit or a word that takes the answer back makes it a part of it.
"""

from __future__ import annotations

import re
from fractions import Fraction

from gnomon.judges.verifiers.notation import canonical
from gnomon.judges.verifiers.numbers import NUMBER_WORDS, Number, read_number
from gnomon.judges.verifiers.spoken import word_fraction
from gnomon.judges.verifiers.units import is_unit

_LEAD = re.compile(
    r"^(?:(?:about|approximately|approx\.?|roughly|around|(?:exactly|simply|just|only)(?!\s+(?:if|when)\b)"
    r"|a total of|equal to|equals|therefore|thus|hence|so|the (?:final )?answer is|answer\s*:"
    r"|the value of|=|:|\\approx|\\therefore)(?![A-Za-z])[\s:,]*|[:=]\s*)+",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"(?:\s+|\s*[,;:.(-]+\s*)(?:because|since|which|as\s+(?:it|we|there)\b|due to|given that"
    r"|making|i hope)(?![A-Za-z])(?P<why>.*)$"
    r"|(?:\s*[,;:.(-]+\s*as\s+(?:the|a)(?![A-Za-z])"
    r"|\s+as\s+(?:the|a)\s+(?:total|whole|result|answer)(?![A-Za-z]))(?P<as>.*)$"
    r"|\s*[,;:.(-]+\s*(?:so|thus|therefore|hence)\s(?P<then>.*)$",
    re.IGNORECASE | re.DOTALL,
)
"""A reason may hold numbers. What follows from the answer may not: it would be another one."""
_TAKEN_BACK = re.compile(
    r"^\s*(?:is|are|was|seems)\s+(?:\w+\s+)?(?:wrong|incorrect|false|not|never)\b|[,;]\s*or\b",
    re.IGNORECASE,
)
"""What makes a reason none: the answer is taken back, or another one named."""
_COMMA = re.compile(r"(?<=[\d}%)A-Za-z]),\s+(?=[A-Za-z]{2,}\s)")
_QUANTITY = re.compile(r"\W*\d[\d.,]*\s*(?:[A-Za-z/^ ]|\^\d){0,30}")
"""A number with a unit in words, whose comma may have an aside behind it as a number's may."""
_NOT = re.compile(r"(?:and )?not [^\s,;]{1,20}(?: [a-z]{3,12})?", re.IGNORECASE)
"""``5, not 6`` says 5."""
_BRACKET = re.compile(r"\s+\(([^()]{2,60})\)$")
_REMARK = re.compile(
    r"(?:see|shown|given|found|computed|calculated|derived|explained|proved|as)\s[a-z ]{3,40}"
    r"|approx(?:imately|\.)?|about|roughly|rounded|exact(?:ly)?|in total|total|altogether"
    r"|(?:the |final )?answer|simplified|in simplest form",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"[A-Za-z' ,.;:!()-]+")
_SPEAKING = (
    "or not no nor neither either but except unless if otherwise else maybe perhaps possibly "
    "rather instead actually wrong incorrect false true yes half twice double triple negative "
    "minus plus percent degrees infinity undefined"
)
_SPEAKS = NUMBER_WORDS | frozenset(_SPEAKING.split())
"""Words that say something about the answer: another one, a condition, that it is not so."""


def without_lead(text: str) -> str:
    """Without the introductory words before an answer or a truth."""
    return _tidied(text, _LEAD.sub("", text))


def without_asides(text: str) -> str:
    """An answer without its introductory words, and without the reason or aside behind it."""
    short = _without_bracket(_without_comma(_without_reason(text)))
    return _tidied(text, _LEAD.sub("", short))


def _tidied(text: str, short: str) -> str:
    return canonical(short) if short and short != text else text


def _without_reason(text: str) -> str:
    match = _REASON.search(text)
    if match is None or _TAKEN_BACK.search(match["why"] or match["as"] or ""):
        return text
    then = match["then"]
    if then is not None and not (says_nothing(then) or _repeats(text[: match.start()], then)):
        return text
    return text[: match.start()]


def _repeats(answer: str, clause: str) -> bool:
    """Whether what follows says the answer's own number again, and no other: ``8, so there are 8
    ways``."""
    if not re.fullmatch(r"[A-Za-z' ,.$%\\\d]+", clause):
        return False
    numbers = [re.findall(r"\d[\d,]*(?:\.\d+)?", part) for part in (answer, clause)]
    given, said = ([number.strip(",").replace(",", "") for number in part] for part in numbers)
    words = {word.lower() for word in re.findall(r"[A-Za-z']+", clause)}
    return len(given) == 1 and set(said) == set(given) and not words & _SPEAKS


def _without_comma(text: str) -> str:
    """Without what follows the first comma, where that says nothing."""
    match = _COMMA.search(text)
    if match is None or (
        text[match.start() - 1].isalpha() and not _QUANTITY.fullmatch(text[: match.start()])
    ):
        return text
    aside = text[match.end() :]
    return text[: match.start()] if _NOT.fullmatch(aside) or says_nothing(aside) else text


def _without_bracket(text: str) -> str:
    """Without a remark in brackets at the end, or with its words behind the number: ``42 (see
    above)`` is 42, ``42 (forty-two)`` too, ``5 (feet)`` is 5 feet."""
    match = _BRACKET.search(text)
    if match is None:
        return text
    head, remark = text[: match.start()], match[1].strip()
    if _REMARK.fullmatch(remark):
        return head
    given, said = _number(head), _number(remark)
    if given is None or (said is None and not re.fullmatch(r"[A-Za-z]{3}[A-Za-z -]*", remark)):
        return text
    if said is None:
        return f"{head} {remark}"
    spoken = re.search(r"[A-Za-z]{3}", head + remark)
    return head if spoken and said.value == given.value else text


def _number(text: str) -> Number | None:
    if text.lower() in ("a dozen", "one dozen"):
        return Number(Fraction(12))
    return read_number(text) or word_fraction(text)


def says_nothing(aside: str) -> bool:
    """Whether words beside an answer tell nothing of it: plain words, none of them a number, a
    unit, a name of one letter (but where names are explained: "where x is the length"), or one that
    takes the answer back."""
    aside = re.sub(r"^where\s+[A-Za-z]\s+(?=(?:is|denotes|stands)\b)", "", aside)
    if not _PLAIN.fullmatch(aside) or re.match(r"and\b", aside, re.IGNORECASE):
        return False
    words = re.findall(r"[A-Za-z']+", aside)
    return not any(_means(word) for word in words)


def _means(word: str) -> bool:
    if word.lower() in ("a", "i", "in"):
        return False
    return len(word) == 1 or word.lower() in _SPEAKS or is_unit(word)
