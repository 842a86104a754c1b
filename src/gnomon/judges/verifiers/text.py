"""Verifiers of plain text: exact match, regular expressions, JSON against a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gnomon.errors import ConfigError
from gnomon.judges.verifiers.extract import check_methods, final_answer
from gnomon.judges.verifiers.schema import check_schema, violations

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_TYPOGRAPHIC = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")
_PAIRS = (
    ("**", "**"), ("*", "*"), ("```", "```"), ("`", "`"), ("$", "$"), ('"', '"'), ("'", "'"),
    ("\u00ab", "\u00bb"), ("\u201e", '"'),
)  # fmt: skip
"""Markdown's marks and quotation marks."""
_BRACKETED = re.compile(r"\(([^\W\d_]+(?: [^\W\d_]+)*)\)|\[([^\W\d_]+(?: [^\W\d_]+)*)\]")
"""Brackets round words alone: round anything else they may be an interval or a list."""
_ENDS = re.compile(r"(?<=[^\s.!?])\s*\.$|(?<=[^\W\d_]{2})\s*[.!?\u2026]+$|(?<=[\"'*`])[!?]+$")
"""A final stop; behind a word also other end marks. ``5!``, ``n!`` and ``2...`` keep theirs."""

_LISTED = re.compile(r"^(?:[-*\u2022]|#{1,6})\s+(?=\S)")
"""A list's or a heading's mark before the answer; ``- 5`` may be a number."""
_TAIL = re.compile(r"(?<=\w)\s*[,:;]+$")

Verdict = tuple[float, dict[str, float]]


def exact_verifier(
    extract: Sequence[str] = ("all",), case: bool = False, punctuation: bool = False
) -> Callable[[str, Any], bool]:
    """A verifier: whether the answer found is the truth, or one of a list of truths.

    Blanks are evened out. Case counts only with ``case``. Marks round the whole answer count only
    with ``punctuation``; see :func:`without_marks`. The whole answer is compared: the truth
    somewhere within it is not enough, and an empty answer never matches.
    """
    methods = check_methods([extract] if isinstance(extract, str) else extract)

    def normal(text: str) -> str:
        text = text if case else text.casefold()
        text = " ".join(text.split())
        return text if punctuation else without_marks(text)

    def verify(text: str, answer: Any) -> bool:
        found = final_answer(text, methods)
        truths = answer if isinstance(answer, list | tuple) else [answer]
        wanted = {normal(str(truth)) for truth in truths} - {""}
        if not wanted:
            raise ValueError("a reference answer is empty: nothing could match it")
        return normal(found or "") in wanted

    return verify


def without_marks(text: str) -> str:
    """A text without what says nothing at its edges: a final stop, other end marks behind a word,
    quotation marks and markdown's round the whole, brackets round words alone.

    Marks within it, and signs, stay: ``-5``, ``3.5``, ``1/2``, ``C++`` and ``x<y`` are kept whole.
    """
    text = text.translate(_TYPOGRAPHIC)
    while True:
        before = text
        text = _TAIL.sub("", _ENDS.sub("", text))
        text = text if re.match(r"-\s+\d", text) else _LISTED.sub("", text)
        text = text[:-1] if re.fullmatch(r"[A-Za-z]\)", text) else text
        bracketed = _BRACKETED.fullmatch(text)
        text = (bracketed[1] or bracketed[2]) if bracketed else text
        for opening, closing in _PAIRS:
            inner = text[len(opening) : -len(closing)].strip()
            if inner and text.startswith(opening) and text.endswith(closing):
                text = text if opening in inner or closing in inner else inner
        if text == before:
            return text


def regex_verifier(
    pattern: str | None = None, *, full: bool = False, ignore_case: bool = False
) -> Callable[[str, Any], bool]:
    """A verifier: whether a pattern is found in the response (``full``: matches all of it).

    Args:
        pattern: fixed for all prompts; without it each prompt's answer is its pattern.

    Raises:
        ConfigError: the pattern does not compile, or also matches an empty response.
    """
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)

    def compiled(source: str) -> re.Pattern[str]:
        try:
            found = re.compile(source, flags)
        except re.error as error:
            raise ConfigError(f"regex reward: pattern {source!r}: {error}") from error
        if found.fullmatch("") if full else found.search(""):
            raise ConfigError(f"regex reward: {source!r} also matches an empty response")
        return found

    fixed = None if pattern is None else compiled(pattern)

    def verify(text: str, answer: Any) -> bool:
        chosen = fixed or compiled(str(answer))
        stripped = text.strip()
        return bool(chosen.fullmatch(stripped) if full else chosen.search(stripped))

    return verify


def json_verifier(schema: Mapping[str, Any] | None = None) -> Callable[[str, Any], Verdict]:
    """A verifier: whether the response is JSON that obeys a schema; parts ``parses``, ``valid``.

    The JSON is the whole response, or its one fenced block. Without ``schema`` each prompt's answer
    is its schema.

    Raises:
        ConfigError: a schema with what we do not check (see :mod:`.schema`).
    """
    if schema is not None:
        check_schema(schema)

    def verify(text: str, answer: Any) -> Verdict:
        chosen = schema if schema is not None else answer
        if schema is None:
            check_schema(chosen)
        try:
            value = parse_json(text)
        except ValueError:
            return 0.0, {"parses": 0.0, "valid": 0.0}
        valid = float(not violations(value, chosen))
        return valid, {"parses": 1.0, "valid": valid}

    return verify


def parse_json(text: str) -> Any:
    """The JSON of a response: all of it, or its one fenced block; strictly (no NaN, no twin keys).

    Raises:
        ValueError: it is not JSON.
    """
    blocks = _FENCE.findall(text)
    source = blocks[0] if len(blocks) == 1 else text
    try:
        return json.loads(
            source.strip(), parse_constant=_no_constant, object_pairs_hook=_unique_keys
        )
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return out
