"""What an answer is laid out in: lists, headings, highlights, placeholders, a postscript, JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from gnomon.judges.verifiers.instructions.counting import END, UNSPACED, words

_CLOSING = "\"'”’»)*_」』）"


def bullets(text: str) -> list[str]:
    """The items of lines that start with * or -; neither emphasis nor a rule is an item.

    The blank behind the mark may be missing before a letter or bold text.
    """
    found = re.findall(
        r"^[ \t]*(?:[*-][ \t]+|-(?=[^\W\d_]|[\"'“\[(]|\*\*)|\*(?=[^\W_][^*\n]*$))(\S.*)$",
        text,
        re.MULTILINE,
    )
    return [item for item in found if words(item)]


def numbers(text: str) -> list[int]:
    """The numbers of a list's items in order: ``1.``, ``1)`` or ``1、``, also behind ``#`` or bold.

    Items that stand further in than the first one belong to lists within it.
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
    """What stands between separators ``***``; stars around a word or two separate nothing.

    An empty part at the beginning or the end is left out.
    """
    parts = re.split(r"\*\*\*", re.sub(r"\*\*\*(?=[^\s*])[^*\n]*[^\s*]\*\*\*", "emphasis", text))
    return [p for i, p in enumerate(parts) if p.strip() or i not in (0, len(parts) - 1)]


def highlights(text: str) -> int:
    """How many parts stand between stars (one, two or three) on one line: *this*, **this**.

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
    """What stands in square brackets: no links, footnotes, ticked boxes or LaTeX."""
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

    It stands on a line of its own or behind a sentence, and nothing but a further postscript
    (P.P.S.) comes after its paragraph.
    """
    mark = rf"(?:^|[{re.escape(END)}…:][{re.escape(_CLOSING)}]*\s+)[^\w\n]{{0,8}}p\.\s?s\.(?!\w)"
    for found in re.finditer(mark, text, re.MULTILINE | re.I):
        own, *after = re.split(r"\n\s*\n", text[found.end() :].strip())
        if words(text[: found.start()]) and words(own):
            return all(re.match(r"\W*p\.\s?(?:p\.\s?)*s\b", part, re.I) for part in after)
    return False


def wrapped(text: str) -> bool:
    """Whether the whole text stands in double quotation marks, straight or curly."""
    text = text.strip()
    return len(text) > 2 and any(
        text[0] in first and text[-1] in last for first, last in (('"', '"'), ("“„", "”“"))
    )


def bare(text: str) -> str:
    """``text`` without blanks and marks of emphasis or quotation around it."""
    return text.strip(" \t\n*_\"'“”`")


def json_object(text: str) -> dict[str, Any] | None:
    """The object that the text is, bare or in one fence; None where it is anything else.

    RFC 8259 is meant strictly: NaN and Infinity are no numbers, and a name stands once.
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
        raise ValueError("a name stands twice")
    return dict(pairs)
