"""The fields of a row: known names and their synonyms, typed access, did-you-mean.

A format asks a :class:`Row` for what it needs; whatever it did not ask for ends up in
``Prompt.meta``, so a reward can use it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from gnomon.data.records import Message, Source
from gnomon.data.turns import (
    RowError,
    Turn,
    is_messages,
    is_transcript,
    parse_messages,
    parse_transcript,
    with_tools,
)

PROMPT_TEXT = ("prompt", "instruction", "question", "query", "problem", "goal", "forbidden_prompt")
PROMPT_TURNS = ("messages", "conversations", "conversation")
CHOSEN = ("chosen", "chosen_response", "chosen_messages", "corrects")
REJECTED = ("rejected", "rejected_response", "rejected_messages", "incorrects")
COMPLETION = ("completion", "output", "response", "solution", "answer")
LABEL = ("label", "kto_tag")
RESPONSES = ("responses", "completions")
RESPONSE_A = ("response_a", "output_1", "completion_a", "conversation_a", "response1")
RESPONSE_B = ("response_b", "output_2", "completion_b", "conversation_b", "response2")
PREFERENCE = ("preference", "winner")

#: Every field name a format may ask for (what `columns` may map onto).
KNOWN = (
    *PROMPT_TEXT,
    *PROMPT_TURNS,
    *CHOSEN,
    *REJECTED,
    *COMPLETION,
    *LABEL,
    *RESPONSES,
    *RESPONSE_A,
    *RESPONSE_B,
    *PREFERENCE,
    *("id", "text", "system", "history", "input", "tools", "category", "weight", "margin"),
    *("comparisons", "ranking", "scores", "meta", "confidence"),
)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """ "did you mean 'x'?" or an empty string."""
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.7)
    return f"did you mean {close[0]!r}?" if close else ""


class Row:
    """One row's fields, remembering which were used."""

    def __init__(self, data: Mapping[str, Any], source: Source, default_id: str) -> None:
        self.data = data
        self.source = source
        self.default_id = default_id
        self._used: set[str] = set()

    def first(self, names: Iterable[str]) -> str | None:
        """The first of these names that the row has with a value other than null."""
        return next((n for n in names if self.data.get(n) is not None), None)

    def take(self, *names: str) -> Any:
        """The value of the first of these fields present, marked as used; None if there is none."""
        name = self.first(names)
        if name is None:
            return None
        self._used.add(name)
        return self.data[name]

    def need(self, *names: str) -> Any:
        """As :meth:`take`, but a missing field is an error with a hint."""
        if self.first(names) is None:
            raise self.missing(names[0])
        return self.take(*names)

    def missing(self, name: str) -> RowError:
        """The error for a field that is not there: null, misspelt or absent."""
        if name in self.data:
            return RowError(f"field {name!r} is null", f"fill {name!r} or remove the row")
        close = difflib.get_close_matches(name, [str(k) for k in self.data], n=1, cutoff=0.7)
        if close:
            cure = f"did you mean {name!r} where the row has {close[0]!r}? rename it"
        else:
            found = ", ".join(map(str, self.data)) or "none"
            cure = f"add it, or map another column onto it (fields found: {found})"
        return RowError(f"no field {name!r}", cure)

    def text(self, *names: str) -> str:
        """A required string field."""
        value = self.need(*names)
        return as_text(value, self.first(names) or names[0])

    def number(self, name: str, default: float) -> float:
        """An optional number field."""
        value = self.take(name)
        return default if value is None else as_number(value, name)

    def rest(self) -> dict[str, Any]:
        """Fields that no format asked for and that hold something."""
        return {k: v for k, v in self.data.items() if k not in self._used and v is not None}


def as_text(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(
            f"field {name!r} is a {type(value).__name__}, not text", f"write {name!r} as a string"
        )
    return str(value)


def as_number(value: Any, name: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(f"field {name!r} is {value!r}, not a number", f"write {name!r} as a number")
    return number


def as_bool(value: Any, name: str) -> bool:
    words = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
    flag = words.get(str(value).strip().lower())
    if flag is None:
        raise RowError(f"field {name!r} is {value!r}", f"write {name!r} as true or false")
    return flag


def is_text_list(value: Any) -> bool:
    """Whether a value is a list of plain strings."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def response_turns(value: Any, name: str) -> tuple[Turn, ...]:
    """A response as written: a string, one message, or a list of messages."""
    if isinstance(value, Mapping | list):
        return parse_messages(value, name)
    return (Turn(Message("assistant", as_text(value, name))),)


def prompt_turns(row: Row) -> tuple[Turn, ...]:
    """What the row asks, from whichever prompt fields it has (empty if it has none).

    `instruction` takes `input` below it, `system` and `tools` go into the system turn, `history`
    (LLaMA-Factory's [[question, answer], ...]) comes before the question.
    """
    name = row.first((*PROMPT_TEXT, *PROMPT_TURNS))
    if name is None:
        return ()
    value = row.take(name)
    if isinstance(value, list | Mapping):
        turns = parse_messages(value, name)
    elif is_transcript(value):
        turns = parse_transcript(value)
        if turns[-1].role == "assistant" and not turns[-1].message.content:
            turns = turns[:-1]
    else:
        text = as_text(value, name)
        extra = row.take("input") if name == "instruction" else None
        if extra is not None and as_text(extra, "input").strip():
            text = f"{text}\n\n{extra}"
        turns = (*_history(row), Turn(Message("user", text)))
    return _with_system(row, turns)


def _with_system(row: Row, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    system = row.take("system")
    if system is not None and as_text(system, "system") and turns[:1] and turns[0].role != "system":
        turns = (Turn(Message("system", system)), *turns)
    tools = row.data.get("tools")  # stays in meta as well: a reward may need it
    return with_tools(turns, tools) if tools else turns


def _history(row: Row) -> tuple[Turn, ...]:
    value = row.take("history") or []
    if not isinstance(value, list) or not all(isinstance(p, list) and len(p) == 2 for p in value):
        raise RowError("field 'history' is not a list of [question, answer]", "write it as such")
    pairs = [
        (Turn(Message("user", as_text(q, "history"))), Turn(Message("assistant", str(a))))
        for q, a in value
    ]
    return tuple(turn for pair in pairs for turn in pair)


def conversation(value: Any, name: str) -> tuple[Turn, ...] | None:
    """A whole conversation (messages that do not open with the assistant, or a transcript)."""
    if is_transcript(value):
        return parse_transcript(value)
    if is_messages(value):
        turns = parse_messages(value, name)
        return None if turns[0].role == "assistant" else turns
    return None
