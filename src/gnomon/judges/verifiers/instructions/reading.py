"""How texts are read: words, sentences and paragraphs in any script; lists, headings, highlights,
placeholders, a postscript, JSON.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

UNSPACED = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Kana and Chinese characters, as a range for a regular expression: written without spaces."""
_RUN_ON = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Thai, Lao, Burmese and Khmer: no spaces either, but words of several letters."""
_MARKS = "".join(c for c in map(chr, range(0x300, 0xABFF)) if unicodedata.category(c)[0] == "M")
_LETTER = rf"(?:[^\W_{UNSPACED}{_RUN_ON}]|[{_MARKS}])"
_WORD = re.compile(
    rf"(?:[A-Za-z]\.){{2,}}"  # U.S., e.g.
    r"|\d+(?:[.,:]\d+)+"  # 3.5, 1,000, 12:30
    rf"|[{UNSPACED}]"
    rf"|[{_RUN_ON}]{{1,4}}"
    rf"|{_LETTER}+(?:['’\-‐]{_LETTER}+)*"
)

END = ".!?。！？｡．؟۔।॥"
"""Marks that end a sentence."""
FULL_STOPS = ".。｡．۔।"
COMMAS = ",，、﹐､،"
QUESTION_MARKS = "?？؟"
_CLOSING = "\"'”’»)]}*_」』）】》"
_OPENING = "\"'“‘«([{*_「『（【《"

_NEVER = {"mr", "mrs", "ms", "dr", "prof", "messrs", "mme", "mlle", "vs", "cf", "viz", "e.g", "i.e"}
"""Abbreviations that something always follows: no sentence ends with them."""
_TITLES = {
    "st", "gen", "col", "capt", "cpt", "lt", "sgt", "rev", "hon", "gov", "sen", "rep", "pres",
    "mt", "fig", "figs", "eq", "approx", "ca", "esp",
}  # fmt: skip
"""Abbreviations that a name or a number follows, more often than not."""
_SHORT = {
    "etc", "inc", "ltd", "co", "corp", "jr", "sr", "al", "dept", "est", "ave", "blvd", "rd",
    "a.m", "p.m", "u.s", "u.k", "u.s.a", "u.n", "d.c", "b.c", "a.d", "b.c.e", "c.e", "ph.d", "m.d",
    "b.a", "m.a", "b.sc", "m.sc", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept",
    "oct", "nov", "dec", "hr", "hrs", "min", "sec", "oz", "lb", "lbs", "tsp", "tbsp", "vol", "pp",
    "ft",
}  # fmt: skip
"""Abbreviations that end a sentence where a capital follows, and not before small letters."""
_NUMBERED = {"no", "nos", "p", "vol", "pp", "ch", "sec", "art", "fig", "eq"}
"""Abbreviations before a number (No. 5)."""
_STARTERS = {
    "the", "a", "an", "it", "he", "she", "they", "we", "you", "i", "this", "that", "these",
    "those", "there", "here", "but", "and", "however", "in", "on", "at", "for", "if", "when",
    "while", "what", "who", "how", "why", "where", "our", "my", "his", "her", "their", "its",
}  # fmt: skip
"""Words that begin a sentence, where a name could follow an initial (C. The)."""

_ENDING = re.compile(
    rf"(?:\.{{2,}}|…+|[{re.escape(END)}])[{re.escape(END)}]*[{re.escape(_CLOSING)}]*"
)
_ITEM = r"(?:[*+•·-]|\(?\d{1,3}[.)．、])[ \t]"
_BLOCK = re.compile(rf"\n(?=[ \t]*(?:\n|#{{1,6}}[ \t]|[|>]|[*_]*{_ITEM}))")
_MARKER = re.compile(r"(?:[*_#>|\s-]|\(?\d{1,3}(?:\.\d+)*[.)．、](?=\W|$))*")
_RULE = re.compile(r"[\s*_#>|=~-]*")

_NEAR = 100
"""Characters that are looked at on either side of a mark."""


def plain(text: str) -> str:
    """``text`` composed (NFC), with plain line ends, without byte-order marks and blank widths."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    return re.sub("[\ufeff\u200b\u2060\u00ad]", "", text)


def words(text: str) -> list[str]:
    """The words: runs of letters and digits, with apostrophes and hyphens inside.

    A number with its separators is one word, and so is an abbreviation with its stops. Of scripts
    without spaces a Chinese character or a kana counts as a word; Thai, Lao, Burmese and Khmer
    count four letters as one.
    """
    return _WORD.findall(text)


def sentences(text: str) -> list[str]:
    """The sentences: what ends in . ! ? (or what other scripts have) and holds a word.

    Not ends are the stops of abbreviations (Mr., e.g.), initials, decimals and list numbers, an
    ellipsis that continues in small letters, and the marks that end a quotation where the sentence
    around it continues. A line of a list, a heading or a table and the end of a paragraph end one
    too; a line that ends in a colon belongs to what follows, and a heading alone is not a sentence.
    """
    out: list[str] = []
    held: list[str] = []  # what continues in the next block
    for block in map(str.strip, _BLOCK.split(text)):
        if _RULE.fullmatch(block):
            continue
        if held and not _continues(held[-1], block):
            out.append("\n".join(held))
            held = []
        if _is_heading(block):
            held = held or [block]
            continue
        *ended, last = _split(block)
        for part in ended:
            out.append("\n".join([*held, part]))
            held = []
        held.append(last)
        if last[-1] in END + _CLOSING:
            out.append("\n".join(held))
            held = []
    return [p for p in (*out, "\n".join(held)) if words(_MARKER.sub("", p, count=1))]


def _continues(held: str, block: str) -> bool:
    """Whether a piece without an end mark belongs to the block below it."""
    lead = held.rstrip("*_ ")[-1:] in tuple(",:;，：；、–—-")
    return lead or _is_heading(held) or block[0].islower()


def _is_heading(block: str) -> bool:
    """A line of its own that is marked as a heading, or is bold altogether, and ends in no mark."""
    if "\n" in block or block.rstrip("*_# ").endswith(tuple(END)):
        return False
    return block.startswith("#") or re.fullmatch(r"(\*\*|__)[^*]+\1:?", block) is not None


def _split(block: str) -> list[str]:
    """The pieces of a block between its sentence ends."""
    marker = _MARKER.match(block)
    begin = marker.end() if marker else 0
    out, start = [], 0
    for found in _ENDING.finditer(block, begin):
        if _ends(block, found, start):
            out.append(block[start : found.end()].strip())
            start = found.end()
    out.append(block[start:].strip())
    return [part for part in out if part]


def _ends(block: str, found: re.Match[str], start: int) -> bool:
    """Whether the marks at ``found`` end a sentence that began at ``start``."""
    mark, after = found[0], block[found.end() : found.end() + _NEAR]
    following = after.lstrip()
    if not following:
        return True
    closed = mark.rstrip(_CLOSING) != mark
    if any(c in "。！？｡．؟۔।॥" for c in mark):  # these need no blank behind them
        return not closed or following[0] in _OPENING or after[0] == "\n"
    if not after[0].isspace():
        return bool(re.match(rf"[{UNSPACED}{re.escape(_OPENING)}]", after)) and mark[0] in "!?"
    first = following.lstrip(_OPENING)[:1]
    if mark[0] == "…" or mark.startswith("..") or (closed and mark.rstrip(_CLOSING)[-1:] in "!?.,"):
        return not first.islower()
    if mark[0] != ".":
        return True
    before = block[max(start, found.start() - _NEAR) : found.start()]
    return _stop_ends(before, following, first)


def _stop_ends(before: str, following: str, first: str) -> bool:
    """Whether a single stop ends a sentence, given the text on either side of it."""
    last = re.search(r"(?:[^\W\d_]\.)*[^\W\d_]+$|[\w.]+$", before)
    word = last[0].lower() if last else ""
    found = _WORD.search(following)
    next_word = found[0].lower() if found else ""
    if word in _NUMBERED and first.isdigit():
        return False
    if word in _NEVER:
        return False
    if word in _TITLES:
        return first.isupper() and next_word in _STARTERS
    if word in _SHORT:
        return first.isupper() and (word not in ("u.s", "u.k", "u.s.a") or next_word in _STARTERS)
    if last is not None and re.fullmatch(r"[A-HJ-Z]", last[0]):  # an initial, or an option
        return first.isupper() and next_word in _STARTERS
    # a list's number within a line: "First: 1. Boil it. 2. Drain it."
    return not re.search(r"(?:^|[.!?]\s+)\(?\d{1,2}$|[:;]\s+\(?1$", before)


def paragraphs(text: str) -> list[str]:
    """The paragraphs: what is between empty lines."""
    return [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def count_word(text: str, word: str) -> int:
    """How often a word (or phrase) occurs in the text, in any case.

    Neither a letter nor a digit may touch it, unless one of the two is of a script without spaces.
    """
    edge = rf"[^\W_{UNSPACED}]"
    own = re.compile(edge)
    parts = plain(word).split()
    body = r"\s+".join(map(re.escape, parts))
    before = rf"(?<!{edge})" if parts and own.match(parts[0]) else ""
    after = rf"(?!{edge})" if parts and own.match(parts[-1][-1]) else ""
    return len(re.findall(f"{before}{body}{after}", text, re.IGNORECASE)) if parts else 0


def listed(items: Sequence[str]) -> str:
    """Items in quotes, as English lists them."""
    quoted = [f'"{item}"' for item in items]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]


_AFTER_END = "\"'”’»)*_」』）"


def bullets(text: str) -> list[str]:
    """The items of lines that start with * or -; neither emphasis nor a rule is an item.

    The blank after the mark may be missing before a letter or bold text.
    """
    found = re.findall(
        r"^[ \t]*(?:[*-][ \t]+|-(?=[^\W\d_]|[\"'“\[(]|\*\*)|\*(?=[^\W_][^*\n]*$))(\S.*)$",
        text,
        re.MULTILINE,
    )
    return [item for item in found if words(item)]


def numbers(text: str) -> list[int]:
    """The numbers of a list's items in order: ``1.``, ``1)`` or ``1、``, also behind ``#`` or bold.

    Items that are indented further than the first one belong to lists within it.
    """
    pattern = r"^([ \t]*)(?:[#>]+[ \t]*)?[*_]*\(?(\d{1,4})[.)．、](?!\d)[*_]*(.*)$"
    items = [
        (len(indent.expandtabs(4)), int(number))
        for indent, number, rest in re.findall(pattern, text, re.MULTILINE)
        if rest.strip("*_ \t") and (rest[:1] in " \t*_" or re.match(rf"[{UNSPACED}A-Z\"“]", rest))
    ]
    return [number for indent, number in items if indent < items[0][0] + 2]


def sections(text: str) -> list[int]:
    """The numbers of lines headed Section 1, Section 2 ... in order."""
    return [int(n) for n in re.findall(r"^[^\w\n]*section\s*(\d+)", text, re.MULTILINE | re.I)]


def star_parts(text: str) -> list[str]:
    """The parts between separators ``***``; stars around a word or two separate nothing.

    An empty part at the beginning or the end is left out.
    """
    parts = re.split(r"\*\*\*", re.sub(r"\*\*\*(?=[^\s*])[^*\n]*[^\s*]\*\*\*", "emphasis", text))
    return [p for i, p in enumerate(parts) if p.strip() or i not in (0, len(parts) - 1)]


def highlights(text: str) -> int:
    """How many parts are between stars (one, two or three) on one line: *this*, **this**.

    The stars touch what they highlight, so neither bullets nor products are any.
    """
    count = 0
    for line in text.split("\n"):
        opened: list[str] = []
        for stars in re.finditer(r"(?<![\\*])\*{1,3}(?!\*)", line):
            before, after = line[: stars.start()][-1:], line[stars.end() :][:1]
            if before.isdigit() and after.isdigit():  # 2*3*4
                continue
            if before.strip() and stars[0] in opened:
                del opened[len(opened) - 1 - opened[::-1].index(stars[0]) :]
                count += 1
            elif after.strip():
                opened.append(stars[0])
    return count


def placeholders(text: str) -> list[str]:
    """What is in square brackets, except links, footnotes, ticked boxes and LaTeX."""
    found = re.findall(r"(?<![\\!])\[([^\[\]\n]+)\](?!\()", text)
    return [inner for inner in found if _names_something(inner)]


def _names_something(inner: str) -> bool:
    letters = any(map(str.isalpha, inner))
    return letters and inner.lower() != "x" and not inner.endswith("\\")


def has_title(text: str) -> bool:
    """Whether a line has words in double angle brackets."""
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end and words(line[start:end]):
            return True
    return False


def has_postscript(text: str) -> bool:
    """Whether the text ends with a postscript: ``P.S.`` and words behind it, the main text before.

    It is on a line of its own or after a sentence, and only a further postscript (P.P.S.) may come
    after its paragraph.
    """
    mark = rf"(?:^|[{re.escape(END)}…:][{re.escape(_AFTER_END)}]*\s+)[^\w\n]{{0,8}}p\.\s?s\.(?!\w)"
    for found in re.finditer(mark, text, re.MULTILINE | re.I):
        own, *after = re.split(r"\n\s*\n", text[found.end() :].strip())
        if words(text[: found.start()]) and words(own):
            return all(re.match(r"\W*p\.\s?(?:p\.\s?)*s\b", part, re.I) for part in after)
    return False


def wrapped(text: str) -> bool:
    """Whether the whole text is in double quotation marks, straight or curly."""
    text = text.strip()
    return len(text) > 2 and any(
        text[0] in first and text[-1] in last for first, last in (('"', '"'), ("“„", "”“"))
    )


def bare(text: str) -> str:
    """``text`` without blanks and marks of emphasis or quotation around it."""
    return text.strip(" \t\n*_\"'“”`")


def json_object(text: str) -> dict[str, Any] | None:
    """The object that the text is, bare or in one fence; None where it is anything else.

    RFC 8259, strictly: NaN and Infinity are not numbers, and no key appears twice.
    """
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and len(text) > 6:
        text = re.sub(r"\A(?:json)?", "", text[3:-3], flags=re.IGNORECASE)
    try:
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key appears twice")
    return dict(pairs)
