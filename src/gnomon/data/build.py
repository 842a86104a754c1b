"""What every format builds with: the reader's choices, prompts and responses from turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gnomon.data.fields import Row, with_side_columns
from gnomon.data.turns import RowError, Turn
from gnomon.records import Message, Prompt, Response

Kind = Literal["demonstrations", "preferences", "rankings", "unpaired", "prompts"]
Verdict = Literal["a", "b", "tie"]


@dataclass(frozen=True)
class ReadOptions:
    """Choices that change what a row means.

    Attributes:
        as_text: prompts are plain text for a base model, not chat turns.
        labels: what the values of a `preference` column mean, e.g. {0: "a", 1: "b", 2: "tie"}.
        good_from: scores at or above this are good, below it bad (ratings read as unpaired).
    """

    as_text: bool = False
    labels: Mapping[Any, Verdict] = field(default_factory=dict)
    good_from: float | None = None


def to_response(turns: Sequence[Turn], **known: Any) -> Response:
    """A response of these turns; turns switched off for training are noted in ``meta['train']``."""
    messages = tuple(t.message for t in turns)
    meta = dict(known.pop("meta", {}))
    if not all(t.train for t in turns if t.role == "assistant"):
        meta["train"] = tuple(t.train for t in turns)
    return Response(messages, meta=meta, **known)


def to_prompt(row: Row, turns: Sequence[Turn], options: ReadOptions, suffix: str = "") -> Prompt:
    """The row's prompt, its side columns (system, tools, history) written in and every unused field
    in its meta. Call it after all other fields."""
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
        id=(row.default_id if own_id is None else str(own_id)) + suffix,
        messages=messages,
        text=text,
        source=row.source,
        category=None if category is None else str(category),
        meta=meta,
    )
