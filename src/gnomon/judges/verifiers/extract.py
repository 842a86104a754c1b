"""Finding the final answer in a response."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from gnomon.errors import ConfigError
from gnomon.judges.verifiers.notation import closing
from gnomon.judges.verifiers.units import is_unit

MAX_TAIL = 20_000
"""Characters at the end of a response that are looked at."""

# -- boxes -----------------------------------------------------------------------------------------

_BOX = re.compile(r"\\f?box(?:ed)?(?![A-Za-z])\s*")
_BETWEEN_BOXES = re.compile(
    r"[\s$.,;\\()\[\]]{0,12}(?:(?:,|;|\band\b|\bor\b|\\text\{\s*(?:and|or)\s*\})[\s$,\\()\[\]]{0,12}"
    r"(?:and\b|or\b)?[\s$\\(\[]{0,8}(?P<name>[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=\s*)?)?"
)
_NAME_BEFORE = re.compile(r"(?<![A-Za-z\\])([A-Za-z](?:_\{?\w{1,3}\}?)?\s*=\s*)$")
_BEHIND_BOX = re.compile(
    r"\s*\\?%|\s*(?:\^\s*\{?\s*\\circ\s*\}?|°)"
    r"|[\s~]*(?:\\[,; ])?[\s~]*\\(?:text|mathrm)\s*\{([^{}]{1,24})\}"
)


def boxed(text: str) -> str | None:
    """What the last ``\\boxed{...}`` or ``\\fbox{...}`` holds, braces balanced.

    Boxes that follow each other with nothing but "and", "or" or a comma between them are a list
    (``x = \\boxed{2}, y = \\boxed{3}``), so that several guesses are several. Boxes in a box are
    unwrapped. A last box that never closes holds nothing: ``""``. None without a box.
    """
    boxes: list[tuple[int, int, str]] = []  # start, end, content
    at = 0
    while (match := _BOX.search(text, at)) is not None:
        if text[match.end() : match.end() + 1] == "{":
            end = closing(text, match.end())
            if end < 0:
                return ""
            content = text[match.end() + 1 : end]
            at = end + 1
        else:
            word = re.match(r"\\?[^\s{}$.,]*", text[match.end() :])
            content = word[0] if word else ""
            at = max(match.end() + len(content), match.start() + 1)
        behind = _BEHIND_BOX.match(text, at)
        if behind and (behind[1] is None or is_unit(behind[1].strip(" ~"))):
            content += behind[0]
            at = behind.end()
        boxes.append((match.start(), at, content))
    return _joined(text, boxes) if boxes else None


def _joined(text: str, boxes: list[tuple[int, int, str]]) -> str:
    contents, names = [boxes[-1][2]], [""]
    for before, last in zip(reversed(boxes[:-1]), reversed(boxes), strict=False):
        between = _BETWEEN_BOXES.fullmatch(text[before[1] : last[0]])
        if between is None:
            break
        names[0] = between["name"] or ""
        contents.insert(0, before[2])
        names.insert(0, "")
        first = _NAME_BEFORE.search(text[: before[0]])
        names[0] = first[1] if first else ""
    if len(set(contents)) == 1:
        return contents[0]
    if any(re.search(r"(?<![\\\\]),", content) for content in contents) and len(contents) > 1:
        return "; ".join(n + c for n, c in zip(names, contents, strict=True))
    return ", ".join(n + c for n, c in zip(names, contents, strict=True))


# -- marks and phrases -----------------------------------------------------------------------------

_HASH = re.compile(r"^[ \t>*]*####(?!#)[ \t]*(.*)$|(?<=\s)####(?!#)[ \t]*(.*)$", re.MULTILINE)
_HEADING = re.compile(
    r"\W*(?:step|part|case|solution|method|approach|explanation|verification|calculat\w*|check\w*|"
    r"given|find\w*|conclusion|summary|analysis|understand\w*|determin\w*|comput\w*|solv\w*|setup|"
    r"note|reasoning|final|answer|problem|question|simplif\w*|appl\w*|us(?:e|ing)|identify\w*)\b"
    r"(?!\s*(?:answer)?\W*\s*(?:is\b|=))",
    re.IGNORECASE,
)
_PHRASE = re.compile(
    r"\banswer\**\s*(?:\bis\b|=|:)|\b(?:correct|right|best)\s+(?:option|choice)\**\s*(?:\bis\b|:)"
    r"|\banswer\b[^.\n:]{0,40}?\b(?:is|will be|would be|equals)\b"
    r"|(?:^|\n)[ \t]*\**A:(?=\**[ \t]*\S[^\n]*\s*$)"
    r"|(?:^|\n)[ \t#*]*final answer[ \t*]*(?=\n)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[^\d\s])\.\s|\.\s+(?=[A-Z*\\])|\.\s*$|(?<=[\d}])\.\*\*")
_CHOSEN = re.compile(
    r"\**(?:(?i:option|choice|answer)\s+)?[*(\[]*[A-J](?:[).\]*:]+|$)(?:\s+\S.{0,40})?"
)
_DECLARED = re.compile(
    r"(?:^|[.!:;]\s+|\n)[\s*>#-]*"
    r"(?:(?:thus|therefore|so|hence|then|finally|clearly|overall|in conclusion|i think|i believe"
    r"|we conclude|we see|this means|it follows)\b,?\s+(?:that\s+)?)*(?:the\s+)?"
    r"\**(?:option|choice|answer)\s+(?P<letter>[*(\[]*[A-J][)\].*:]*)\s+is\s+(?:indeed\s+)?(?:the\s+)?\**"
    r"(?:correct|right|best)(?:\s+(?:answer|option|choice|one))?\**"
    r"(?=\s*(?:$|\n|[.!]\**(?:\s|$)|,?\s+(?:because|since|as)\b))",
    re.IGNORECASE,
)
"""A sentence that says which choice is right."""
_OPTION = re.compile(r"\W*(?:option|choice)\s+[*(\[]*[A-J](?![A-Za-z])", re.IGNORECASE)
_LISTED = re.compile(r"\W*[A-J][.)]\s+\W*[A-J](?:[.)]|$)")
_CLAUSE = re.compile(
    r"(?:\s+|\s*[,;(:-]+\s*)(?:because|since|as (?:the|it|we)|which|so that|due to)\b.*$",
    re.DOTALL | re.I,
)


def after_hash(text: str) -> str | None:
    """What follows the last ``####`` (GSM8K's form) that is not a section's heading."""
    found = [(a or b).strip() for a, b in _HASH.findall(text)]
    answers = [line for line in found if not (_HEADING.match(line) and not _only_number(line))]
    if found and not answers:
        return None
    return answers[-1] if answers else None


def _only_number(line: str) -> bool:
    return re.fullmatch(r"\W*\d[\d.,]*\W*", line) is not None


def after_phrase(text: str) -> str | None:
    """What follows the last "the answer is", "Answer:", or a last line "A: ...", up to the end of
    its sentence, without a reason behind it; "Option B is correct"; or a response that is nothing
    but a choice and its reason ("(C) because 3 > 2")."""
    ends = [match.end() for match in _PHRASE.finditer(text)]
    declared = [match for match in _DECLARED.finditer(text) if not _PHRASE.search(match[0])]
    if declared and not ends:
        return declared[-1]["letter"].replace("*", "")
    if not ends:
        line = _CLAUSE.sub("", text.strip()).strip()
        return line.replace("**", "") if _CHOSEN.fullmatch(line) else None
    rest = re.sub(r"^[\s:*=]*(?:\*\*)?", "", text[ends[-1] :])
    if rest.startswith(("\\[", "$$")):
        stop = rest.find("\\]" if rest.startswith("\\[") else "$$", 2)
        line = rest[: stop + 2] if stop > 0 else rest.split("\n", 1)[0]
    else:
        line = rest.split("\n", 1)[0]
    if not _LISTED.match(line):
        line = _SENTENCE_END.split(line.strip(), maxsplit=1)[0]
    line = _CLAUSE.sub("", line)
    if re.fullmatch(r"[^$]*\d!", line):
        line = line[:-1]  # an exclamation, no factorial
    return _stated_answer(line.strip().strip("*").strip())


def _stated_answer(line: str) -> str | None:
    """The answer in "the largest n is 34"; None for a sentence that gives no answer."""
    chosen = re.search(r"\b(?:choice|option|answer)\s+is\s+(\W*[A-J]\W*)$", line)
    if chosen:
        return chosen[1]
    right = re.fullmatch(r"(\W*[A-J]\W*?)\s+is\s+(?:the\s+)?(?:correct|right|best)(?:\s\w+)?", line)
    if right:
        return right[1].replace("*", "")
    if _OPTION.match(line):
        return line
    if len(line.split()) < 4 or not re.match(r"[A-Za-z]{3,}\s", line) or not re.search(r"\d", line):
        return line
    if re.search(r"\b(?:not|no|isn't|never|neither|or)\b", line, re.IGNORECASE):
        return line
    found = re.search(
        r".*\b(?:is|are|equals|be|was)\b\s+(?:(?:exactly|about|approximately)\s+)?(.+)$", line
    )
    return found[1] if found and re.match(r"[^A-Za-z]|[A-Za-z]\b", found[1]) else None


# -- the last number -------------------------------------------------------------------------------

_DIGITS = r"(?:\d{1,3}(?:[,\u202f\u00a0]\d{3})+(?!\d)|\d+)?(?:\.\d+|(?<=\d))"
_FORMULA = re.compile(
    rf"(?<![\w.\\])(?:[-+−–]?[ \t]?(?:US)?\\?[$€£¥₹][ \t]?[-−]?|[-+−–])?{_DIGITS}"
    r"(?:"
    r"[ \t]\d+[ \t]?/[ \t]?\d+(?![\d/])|[ \t]?[½⅓⅔¼¾⅕⅛⅜⅝⅞]|:\d+"
    r"|[ \t]?[*/^×÷·⁄]+[ \t]?\(?[-−]?(?:\d+(?:\.\d+)?)\)?|[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+|[ \t]?\*\*[ \t]?\d+"
    r"|[-+−–]\d+(?:\.\d+)?|[ \t][+−-][ \t]\d+(?:\.\d+)?|[eE][-+]?\d+|![\^*/+!\d-]+|_\{?\d+\}?"
    r"|[ \t]?[x×][ \t]?10\^\{?[-−]?\d+\}?"
    r")*"
    r"(?:[ \t]?\\?%|[ \t]?°[CF]?)?(?P<letters>[A-Za-z_\\]\S*)?"
    r"(?P<word>[ \t](?:square\s|cubic\s)?[A-Za-z/.^]+\d?)?"
)
_SET_AS_MATHS = re.compile(
    r"(?<![\\$])\$(?=[^\s$])([^$\n]{1,600}?)(?<=[^\s\\])\$(?![\d$])|\$\$([^$]{1,600})\$\$"
    r"|\\\((.{1,600}?)\\\)|\\\[(.{1,600}?)\\\]",
    re.DOTALL,
)
_MERIDIEM = re.compile(r"[ap]\.?m\.?", re.IGNORECASE)
_MANY = re.compile(
    r"(?:hundred|thousand|million|billion|trillion|dozen|percent)[.,]?", re.IGNORECASE
)
_NOT_IN_PROSE = frozenset({"in", "a", "h", "k", "n", "j", "w", "v", "s", "l", "g", "c", "t"})


def last_number(text: str) -> str | None:
    """The last number written in the text, whole: with its sign, its fraction, its exponent and a
    unit behind it ("1 1/2", "2^10", "12 inches", "3 PM"); the formula around it, where that is
    set as maths (``$x = 5$``). None without a number.
    """
    digits = re.search(r"\d(?=\D*$)", text)
    if digits is None:
        return None
    for formula in _SET_AS_MATHS.finditer(text):
        if formula.start() < digits.start() < formula.end():
            return next(group for group in formula.groups() if group)
    found: str | None = None
    for match in _FORMULA.finditer(text):
        number = match[0][: match.start("word") - match.start()] if match["word"] else match[0]
        letters = match["letters"]
        if not any(char.isdigit() for char in number):
            continue
        start_of_line = text[: match.start()].rsplit("\n", 1)[-1].strip() == ""
        if start_of_line and re.match(r"[-+–]\s", number):
            number = number[1:].strip()  # a bullet
        if letters and re.fullmatch(r"(?:st|nd|rd|th)[.,;:!?)*]*", letters):
            number = number[: -len(letters)]
        elif letters:
            number = number.rstrip(".,;:!?)*")
        word = (match["word"] or "").strip()
        if word and not letters and _belongs(word):
            number = f"{number} {word.rstrip('.,')}"
        found = number.strip()
    return found


def _belongs(word: str) -> bool:
    """Whether the word behind a number says how much it is."""
    if _MERIDIEM.fullmatch(word) or _MANY.fullmatch(word):
        return True
    last = word.split()[-1].strip(".,")
    parts = [part.rstrip("0123456789^") for part in last.split("/")]
    return all(part and is_unit(part) for part in parts) and last.lower() not in _NOT_IN_PROSE


EXTRACTORS: dict[str, Callable[[str], str | None]] = {
    "boxed": boxed,
    "hash": after_hash,
    "phrase": after_phrase,
    "number": last_number,
    "all": lambda text: text.strip(),
}


def check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    """The names of extraction methods, checked.

    Raises:
        ConfigError: an unknown one, or none at all.
    """
    unknown = [m for m in methods if m not in EXTRACTORS]
    if unknown or not methods:
        raise ConfigError(f"extract: {unknown or 'nothing'}; known are {', '.join(EXTRACTORS)}")
    return tuple(methods)


def final_answer(text: str, methods: Sequence[str]) -> str | None:
    """The answer by the first of ``methods`` that finds one; None where none does.

    What a model thinks (up to the last ``</think>``) is not looked at, if anything follows. A
    method whose mark is there but holds nothing (``\\boxed{}``, or a last box that never closes)
    ends the search: an empty answer is no answer.
    """
    tail = text[-MAX_TAIL:]
    said = tail.rpartition("</think>")[2]
    tail = said if said.strip() else tail
    for method in methods:
        found = EXTRACTORS[method](tail)
        if found is not None:
            return found.strip() or None
    return None


def worked_answer(truth: str) -> str:
    """The answer in a reference that may be a whole worked solution; else the reference itself."""
    for method in (boxed, after_hash, after_phrase):
        found = method(truth[-MAX_TAIL:])
        if found:
            return found
    return truth.strip()
