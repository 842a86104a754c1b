"""The fields of a row: known names and their synonyms, typed access, and the group a row becomes.

A format asks a :class:`Row` for what it needs; whatever it did not ask for ends up in
``Prompt.meta``, so a reward can use it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gnomon.data.turns import (
    Turn,
    is_messages,
    is_transcript,
    parse_messages,
    parse_transcript,
    role_of,
    with_tools,
)
from gnomon.data.values import (
    RowError,
    as_confidence,
    as_number,
    as_text,
    as_weight,
)
from gnomon.recipe.schema import Verdict
from gnomon.records import Comparison, Group, Message, Prompt, Response, Source

PROMPT_TEXT = (
    *("prompt", "instruction", "question", "query", "problem", "goal", "forbidden_prompt"),
    "input",  # what is asked, unless an instruction says what to do with it
)
PROMPT_TURNS = ("messages", "conversations", "conversation")
PROMPT = (*PROMPT_TEXT, *PROMPT_TURNS)
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
    *(name for group in RIVALS for name in group),
    *("id", "text", "history", "tools", "functions", "category", "weight", "margin", "confidence"),
    *("comparisons", "ranking", "scores", "instances", "meta"),
)


class Row:
    """One row's fields, remembering which were used.

    Args:
        data: the fields, under gnomon's names where columns were mapped.
        source: the row's place.
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
        self._asked: set[str] = set()
        self._used: set[str] = set()

    def first(self, names: Iterable[str]) -> str | None:
        """The first of these names that the row has with a value other than null."""
        for name in names:
            if self.data.get(name) is not None:
                return name
        return None

    def name(self, names: Sequence[str]) -> str:
        """As :meth:`first`, in the file's own words, for messages."""
        ours = self.first(names) or names[0]
        return self.columns.get(ours, ours)

    def take(self, *names: str, keep: bool = False) -> Any:
        """The value of the first of these fields that the row has; None if it has none.

        A field that was taken is used up; with ``keep`` it stays in ``Prompt.meta`` as well.
        """
        for name in names:
            value = self.data.get(name)
            if value is not None:
                self._asked.add(name)
                if not keep:
                    self._used.add(name)
                return value
        return None

    def need(self, *names: str) -> Any:
        """As :meth:`take`, but a missing field is an error with a hint."""
        value = self.take(*names)
        if value is None:
            raise self.missing(names[0])
        return value

    def missing(self, name: str) -> RowError:
        """The error for a field that a row lacks: null, misspelt or absent."""
        if name in self.data:
            return RowError(f"field {name!r} is null", f"fill {name!r} or remove the row")
        close = difflib.get_close_matches(name, [str(k) for k in self.data], n=1, cutoff=0.7)
        if close:
            cure = f"did you mean {name!r} where the row has {close[0]!r}? rename it"
        else:
            found = ", ".join(map(str, self.data)) or "none"
            cure = f"add it, or map another column onto it (fields found: {found})"
        return RowError(f"no field {name!r}", cure)

    def number(
        self, name: str, default: float, read: Callable[[Any, str], float] = as_number
    ) -> float:
        """An optional number field."""
        value = self.take(name)
        return default if value is None else read(value, name)

    def confidence(self) -> float:
        """How sure the labeller was, from 0 to 1."""
        return self.number("confidence", 1.0, as_confidence)

    def unused_columns(self) -> list[str]:
        """Mapped columns, in gnomon's words, that no format asked for."""
        return [n for n in self.columns if n not in self._asked and self.data.get(n) is not None]

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


def prompt_turns(row: Row, names: Sequence[str] = PROMPT) -> tuple[Turn, ...]:
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
    """A prompt with the row's side columns: `system` (its first turn), `tools` (written into that)
    and `history` ([[question, answer], ...], before the question).

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
    tools = row.take("tools", keep=True)  # a reward may need it, too
    if tools is None and isinstance(row.data.get("functions"), list):  # OpenAI's older name
        tools = row.take("functions", keep=True)
    if tools is not None and not isinstance(tools, str | list | Mapping):
        raise RowError("field 'tools' is not a list of tools", "write it as a list, or as JSON")
    return with_tools(turns, tools) if tools else turns


def _history(row: Row) -> tuple[Turn, ...]:
    value = row.take("history") or []
    if not isinstance(value, list) or not all(isinstance(p, list) and len(p) == 2 for p in value):
        raise RowError(
            "field 'history' is not a list of [question, answer]", "write pairs of texts"
        )
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


def annotators(data: Mapping[str, Any]) -> list[str]:
    """The columns of single labellers: annotator1, annotator2, ..."""
    return [k for k, v in data.items() if ANNOTATOR.fullmatch(str(k)) and v is not None]


def labeller_of(about: Mapping[str, Any]) -> str | None:
    """Who judged, by what a row or its meta says; None where it names nobody (0 is a name)."""
    named = (as_name(about.get(name)) for name in LABELLER)
    return next((name for name in named if name is not None), None)


def as_name(value: Any) -> str | None:
    """A labeller's name as a text; None for a blank or for what is no name."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        return None
    whole = isinstance(value, float) and value.is_integer()  # of a column of numbers with a gap
    text = str(int(value) if whole else value)
    return text if text.strip() else None


def answered_field(data: Mapping[str, Any], last: bool = False) -> str | None:
    """The field whose conversation has an assistant turn (or ends with one), None without one."""
    return next((n for n in PROMPT_TURNS if _is_answered(data.get(n), last)), None)


def _is_answered(value: Any, last: bool) -> bool:
    turns = value if isinstance(value, list) else []
    roles = [role_of(m) for m in turns if isinstance(m, Mapping)]
    return "assistant" in (roles[-1:] if last else roles)


# --- groups of rows ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadOptions:
    """Choices that change what a row means.

    Attributes:
        as_text: prompts are plain text for a base model, not chat turns.
        labels: what the values of a `preference` column mean, e.g. {0: "a", 1: "b", 2: "tie"}.
        good_from: scores at or above this are good, below it bad (ratings read as unpaired).
        judged: whether a row must say which of its responses is better.
    """

    as_text: bool = False
    labels: Mapping[Any, Verdict] = field(default_factory=dict)
    good_from: float | None = None
    judged: bool = True


def to_response(turns: Sequence[Turn], **known: Any) -> Response:
    """A response of these turns; turns switched off for training are noted in ``meta['train']``."""
    messages = tuple(t.message for t in turns)
    meta = dict(known.pop("meta", {}))
    if not all(t.train for t in turns if t.role == "assistant"):
        meta["train"] = tuple(t.train for t in turns)
    return Response(messages, meta=meta, **known)


def to_group(
    row: Row,
    turns: Sequence[Turn],
    options: ReadOptions,
    responses: Sequence[Response] = (),
    comparisons: Sequence[Comparison] = (),
) -> Group:
    """The row as a group of its `weight`: its prompt with the side columns (system, tools, history)
    written in and every unused field in its meta. Call it after all other fields."""
    weight = row.number("weight", 1.0, as_weight)
    return Group(_prompt(row, turns, options), tuple(responses), tuple(comparisons), weight)


def is_blank(value: Any) -> bool:
    """Whether a value names nothing: null, or a text of spaces at most."""
    return value is None or (isinstance(value, str) and not value.strip())


def _prompt(row: Row, turns: Sequence[Turn], options: ReadOptions) -> Prompt:
    asked = row.data.get(row.first((*PROMPT, *CHOSEN)) or "")
    turns = with_side_columns(row, turns)
    category = row.take("category")
    own_id = row.take("id")
    extra = row.take("meta")
    meta = {**(extra if isinstance(extra, Mapping) else {}), **row.rest()}
    messages: tuple[Message, ...] = tuple(t.message for t in turns)
    text = None
    if options.as_text:
        if len(messages) != 1:
            raise RowError(
                f"a conversation of {len(messages)} turns cannot be read as plain text",
                "read it as chat (as_text: false), or write system and history into the text",
            )
        text, messages = messages[0].content, ()
    return Prompt(
        id=row.default_id if is_blank(own_id) else str(own_id),
        messages=messages,
        text=text,
        source=row.source,
        category=None if is_blank(category) else str(category),
        meta=meta,
        conversational=isinstance(asked, list | Mapping),
    )
