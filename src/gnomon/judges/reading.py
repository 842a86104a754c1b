"""Reading what a judge answered: a choice and its probabilities, an order, an object.

Nothing is guessed: an answer that is not in the form that was asked for has no verdict.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from gnomon.judges.hedges import is_choice_alone, is_number_alone
from gnomon.judges.prompting import Question

UNREAD = "not an answer in the form asked for"
"""What the error of such an answer says."""
_EDGES = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True)
class Position:
    """A token of an answer and the likeliest tokens in its place, with their log-probs (nats)."""

    text: str
    top: Mapping[str, float]


def read_choice(text: str, question: Question) -> tuple[str, int] | None:
    """The choice in an answer, and where in the text it stands; None where the answer is not in the
    form that was asked for."""
    known = "|".join(sorted(question.choices, key=len, reverse=True))
    words = all(len(choice) > 1 and choice.isalpha() for choice in question.choices)
    known = f"(?i:{known})" if words else known
    begin = _verdict_begins(text, question)
    if begin is None:
        return None
    lead = "" if question.reason else r"(?:(?i:verdict|answer|rating|score)\W+)?"
    end = "" if question.reason else r"(?!\s+(?!(?i:is|was|out of)\b)\w)"
    found = re.compile(rf"\W*{lead}({known})(?![\w'\u2019]){end}").match(text, begin)
    if found is None:
        return None
    said = found[1].lower() if words else found[1]
    before, after = text[begin : found.start(1)], text[found.end(1) :]
    if said.isdigit():
        alone = is_number_alone(before, after, max(map(int, question.choices)))
    else:
        others = [choice for choice in question.choices if choice != said]
        alone = is_choice_alone(before, after, others, words)
    return (said, found.start(1)) if alone else None


def _verdict_begins(text: str, question: Question) -> int | None:
    """Where the verdict begins: behind the last ``Verdict:``, where a reason comes first."""
    if not question.reason:
        return 0
    heads = list(re.finditer(r"(?i:verdict)\W*?:", text))
    return heads[-1].end() if heads else None


def read_positions(logprobs: Any) -> list[Position]:
    """The tokens of an answer, from its log-probs as the OpenAI API gives them.

    A token's text comes from its ``bytes`` where they are given: a token may hold a part of a
    character, whose text is then an escape. The character belongs to the token that ends it.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    out = []
    for item in getattr(logprobs, "content", None) or []:
        token, given = str(item.token), _bytes(getattr(item, "bytes", None))
        if given is None:
            text = decoder.decode(b"", final=True) + token
            decoder.reset()
        else:
            text = decoder.decode(given)
        top = {str(top.token): float(top.logprob) for top in item.top_logprobs or ()}
        out.append(Position(text, top or {token: float(item.logprob)}))
    return out


def _bytes(given: Any) -> bytes | None:
    try:
        return bytes(given) if given and not isinstance(given, int) else None
    except (TypeError, ValueError):
        return None


def read_probabilities(
    positions: Sequence[Position], at: int, choices: Sequence[str], text: str | None = None
) -> dict[str, float] | None:
    """The probability of each choice, of those that stand at character ``at`` together.

    None where the log-probs do not tell: no position is there, or a tokenizer that writes 10 as 1
    and 0 leaves open which of the two the 1 was to be.

    Args:
        text: the whole answer. The position's token must spell what stands there in it, or begin
            to; None does not check.
    """
    ends = list(accumulate(len(position.text) for position in positions))
    written = "".join(position.text for position in positions)
    place = at if text is None else _place(written, at, text)
    i = len(positions) if place is None else bisect_right(ends, place)
    if i == len(positions):
        return None
    if text is not None and not text.startswith(written[place : ends[i]].rstrip(), at):
        return None
    position = positions[i]
    mass = dict.fromkeys(choices, 0.0)
    for token, logprob in position.top.items():
        word = _EDGES.sub("", token)
        word = word if word in mass or len(word) < 2 else word.lower()  # Yes is yes, a is not A
        if word in mass:
            mass[word] += math.exp(min(0.0, logprob))
    total = sum(mass.values())
    if not total > 0:
        return None
    if "10" in mass and not mass["10"] and mass["1"] > 0.01 * total:
        after = positions[i + 1] if i + 1 < len(positions) else None
        if position.text.strip() != "1" or after is None:
            return None
        zero = sum(math.exp(min(0.0, p)) for t, p in after.top.items() if t == "0")
        mass["10"], mass["1"] = mass["1"] * zero, mass["1"] * max(0.0, 1.0 - zero)
    return {choice: m / total for choice, m in mass.items()}


def _place(written: str, at: int, text: str) -> int | None:
    """Where in what the tokens spell the character ``at`` of the answer is; None where they differ.

    The two begin alike, or end alike: a server may cut blanks or thoughts from the front, and
    tokens without bytes spell a character's parts in their own way.
    """
    if written[: at + 1] == text[: at + 1]:
        return at
    rest, end = text[at:].rstrip(), written.rstrip()
    return len(end) - len(rest) if rest and end.endswith(rest) else None


def read_order(text: str, question: Question) -> tuple[tuple[str, ...], ...] | None:
    """The letters from best to worst, those of one rank together; None where the answer does not
    hold every letter once."""
    one = rf"[{''.join(question.choices)}]"
    order = rf"(?<!\w)({one}(?:\s*[>=,]\s*{one})*)(?!\w)"
    begin = _verdict_begins(text, question)
    if begin is None:
        return None
    if question.reason:
        first = re.compile(rf"[\s*`]*{order}(?![\s*`]*(?:/|\||(?i:or)\b))").match(text, begin)
        found = [first[1]] if first else []
    else:
        found = re.findall(order, text)
    orders = [tuple(tuple(re.findall(r"\w", rank)) for rank in re.split("[>,]", o)) for o in found]
    whole = [o for o in orders if sorted(x for rank in o for x in rank) == sorted(question.choices)]
    if not whole or (not question.ties and any(len(rank) > 1 for rank in whole[-1])):
        return None
    return whole[-1] if question.reason or len(whole) == 1 else None


def write_order(order: Sequence[Sequence[str]]) -> str:
    """An order as :func:`read_order` reads it."""
    return " > ".join(" = ".join(rank) for rank in order)


def read_object(text: str, question: Question) -> dict[str, tuple[str, int]] | str:
    """For each key its choice, and where in the text that stands; or what is wrong."""
    found = _last_object(text, question.keys)
    if found is None:
        return "not the JSON object asked for"
    value, begin, end = found
    out = {}
    for key in question.keys:
        word = _EDGES.sub("", str(value.get(key, ""))).lower()
        word = {"true": "yes", "false": "no"}.get(word, word)
        if word not in question.choices:
            known = " or ".join(question.choices)
            return f"no {known} for {key!r} in the JSON object"
        own = list(re.finditer(rf'"{re.escape(key)}"\s*:\s*"?\s*(\w)', text[begin:end]))
        out[key] = (word, begin + own[-1].start(1) if own else -1)
    return out


def _last_object(text: str, keys: Sequence[str]) -> tuple[dict[str, Any], int, int] | None:
    """The last JSON object in a text that has any of the keys, and from where to where it goes."""
    decoder, found, at = json.JSONDecoder(), None, text.find("{")
    while at >= 0:
        end = at + 1
        try:
            value, end = decoder.raw_decode(text, at)
            if isinstance(value, dict) and value.keys() & set(keys):
                found = value, at, end
        except (ValueError, RecursionError):
            pass
        at = text.find("{", end)
    return found


def shortened(text: str) -> str:
    """An answer as an error message shows it."""
    return repr(text if len(text) <= 200 else f"{text[:200]}...")
