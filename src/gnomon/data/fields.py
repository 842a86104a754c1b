"""The fields of a row: known names and their synonyms, typed access, did-you-mean.

A format asks a :class:`Row` for what it needs; whatever it did not ask for ends up in
``Prompt.meta``, so a reward can use it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gnomon.data.scalars import RowError, as_confidence, as_number, as_text, as_weight
from gnomon.data.turns import (
    Turn,
    is_messages,
    is_transcript,
    parse_messages,
    parse_transcript,
    with_tools,
)
from gnomon.records import Message, Source

PROMPT_TEXT = (
    *("prompt", "instruction", "question", "query", "problem", "goal", "forbidden_prompt"),
    "input",  # what is asked, unless an instruction says what to do with it
)
PROMPT_TURNS = ("messages", "conversations", "conversation")
CHOSEN = ("chosen", "chosen_response", "chosen_messages", "corrects")
REJECTED = ("rejected", "rejected_response", "rejected_messages", "incorrects")
COMPLETION = ("completion", "output", "response", "solution", "answer")
LABEL = ("label", "kto_tag")
RESPONSES = ("responses", "completions")
RESPONSE_A = (
    *("response_a", "output_1", "completion_a", "conversation_a", "response1", "response_1"),
    *("response 1", "answer_a", "output_a"),
)
RESPONSE_B = (
    *("response_b", "output_2", "completion_b", "conversation_b", "response2", "response_2"),
    *("response 2", "answer_b", "output_b"),
)
PREFERENCE = ("preference", "winner")
SYSTEM = ("system", "system_prompt")
INPUT = ("input", "context")
LABELLER = ("labeller", "labeler", "annotator", "evaluator")
ANNOTATOR = re.compile(r"annotator_?\d+")

#: Fields of which a row uses one: mapping a column onto one of them puts the others aside.
RIVALS: tuple[tuple[str, ...], ...] = (
    (*PROMPT_TEXT[:-1], *PROMPT_TURNS),
    *(CHOSEN, REJECTED, COMPLETION, LABEL, RESPONSES, RESPONSE_A, RESPONSE_B, PREFERENCE),
    *(SYSTEM, INPUT, LABELLER),
)

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
    *SYSTEM,
    *INPUT,
    *LABELLER,
    *("id", "text", "history", "tools", "category", "weight", "margin", "confidence"),
    *("comparisons", "ranking", "scores", "instances", "meta"),
)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """ "did you mean 'x'?" or an empty string."""
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.7)
    return f"did you mean {close[0]!r}?" if close else ""


class Row:
    """One row's fields, remembering which were used.

    Args:
        data: the fields, under gnomon's names where columns were mapped.
        source: where the row stands.
        default_id: the prompt's id if the row has none.
        aside: fields that only ``Prompt.meta`` takes.
        columns: gnomon's name -> the file's own.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        source: Source,
        default_id: str,
        aside: Mapping[str, Any] | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.data = data
        self.source = source
        self.default_id = default_id
        self.aside = aside or {}
        self.columns = columns or {}
        self._used: set[str] = set()
        self._seen: set[str] = set()

    def first(self, names: Iterable[str]) -> str | None:
        """The first of these names that the row has with a value other than null."""
        return next((n for n in names if self.data.get(n) is not None), None)

    def name(self, names: Sequence[str]) -> str:
        """As :meth:`first`, in the file's own words, for messages."""
        ours = self.first(names) or names[0]
        return self.columns.get(ours, ours)

    def take(self, *names: str) -> Any:
        """The value of the first of these fields present, marked as used; None if there is none."""
        name = self.first(names)
        if name is None:
            return None
        self._used.add(name)
        return self.data[name]

    def see(self, *names: str) -> Any:
        """As :meth:`take`, but the field stays in ``Prompt.meta`` as well."""
        name = self.first(names)
        if name is None:
            return None
        self._seen.add(name)
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

    def weight(self) -> float:
        """How much the row counts; 0 switches it off."""
        value = self.take("weight")
        return 1.0 if value is None else as_weight(value, "weight")

    def confidence(self) -> float:
        """How sure the labeller was, from 0 to 1."""
        value = self.take("confidence")
        return 1.0 if value is None else as_confidence(value, "confidence")

    def unused_columns(self) -> list[str]:
        """Mapped columns, in gnomon's words, that no format asked for."""
        asked_for = self._used | self._seen
        return [n for n in self.columns if n not in asked_for and self.data.get(n) is not None]

    def rest(self) -> dict[str, Any]:
        """Fields that no format asked for and that hold something."""
        unused = {k: v for k, v in self.data.items() if k not in self._used and v is not None}
        return {**self.aside, **unused}


def is_text_list(value: Any) -> bool:
    """Whether a value is a list of plain strings."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def response_turns(value: Any, name: str) -> tuple[Turn, ...]:
    """A response as written: a string, one message, or a list of messages."""
    if isinstance(value, Mapping | list):
        return parse_messages(value, name)
    return (Turn(Message("assistant", as_text(value, name))),)


def prompt_turns(
    row: Row, names: Sequence[str] = (*PROMPT_TEXT, *PROMPT_TURNS)
) -> tuple[Turn, ...]:
    """What the row asks, from the first of these fields that it has (empty if it has none).

    `instruction` takes `input` (or `context`) below it, whatever it is called in the file.
    """
    name = row.first(names)
    if name is None:
        return ()
    value = row.take(name)
    if isinstance(value, list | Mapping):
        return parse_messages(value, name)
    if is_transcript(value):
        turns = parse_transcript(value)
        if turns[-1].role == "assistant" and not turns[-1].message.content:
            turns = turns[:-1]
        return turns
    text = as_text(value, name)
    if "instruction" in (name, row.columns.get(name)) or row.columns.keys() & set(INPUT) - {name}:
        more = row.first(INPUT)
        extra = "" if more is None else as_text(row.take(more), more)
        text = f"{text}\n\n{extra}" if extra.strip() else text
    return (Turn(Message("user", text)),)


def with_side_columns(row: Row, turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """A prompt with what the row says of it beside it: `system` (its first turn), `tools` (written
    into that) and `history` ([[question, answer], ...], before the question).

    Raises:
        RowError: the conversation begins with another system turn than `system`.
    """
    opening = 1 if turns and turns[0].role == "system" else 0
    turns = (*turns[:opening], *_history(row), *turns[opening:])
    name = row.first(SYSTEM)
    system = "" if name is None else as_text(row.take(name), name)
    if system.strip() and opening and turns[0].message.content.strip() != system.strip():
        raise RowError(
            f"the field {name!r} and the conversation's own system turn differ",
            "keep one of them",
        )
    if system.strip() and not opening:
        turns = (Turn(Message("system", system)), *turns)
    tools = row.see("tools")  # a reward may need it, too
    if tools is not None and not isinstance(tools, str | list | Mapping):
        raise RowError("field 'tools' is not a list of tools", "write it as a list, or as JSON")
    return with_tools(turns, tools) if tools else turns


def _history(row: Row) -> tuple[Turn, ...]:
    value = row.take("history") or []
    if not isinstance(value, list) or not all(isinstance(p, list) and len(p) == 2 for p in value):
        raise RowError("field 'history' is not a list of [question, answer]", "write it as such")
    return tuple(
        Turn(Message(role, as_text(text, "history")))
        for pair in value
        for role, text in zip(("user", "assistant"), pair, strict=True)
    )


def conversation(value: Any, name: str) -> tuple[Turn, ...] | None:
    """A whole conversation (messages that do not open with the assistant, or a transcript)."""
    if is_transcript(value):
        return parse_transcript(value)
    if is_messages(value):
        turns = parse_messages(value, name)
        return None if turns[0].role == "assistant" else turns
    return None
