"""Joining turns for templates that know only a user and an assistant who take turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from gnomon.data.turns import RowError
from gnomon.records import Message

Merge = Literal["system", "tool", "turns"]
"""``system``: a system turn's text opens the next user turn. ``tool``: tool output is said by the
user. ``turns``: neighbouring turns of one role become one, a blank line between them."""


def merge_turns(messages: Sequence[Message], merge: Sequence[Merge]) -> tuple[Message, ...]:
    """The turns of a prompt, joined as ``merge`` says."""
    return merge_answer(messages, (True,) * len(messages), merge)[0]


def merge_answer(
    messages: Sequence[Message], trained: Sequence[bool], merge: Sequence[Merge]
) -> tuple[tuple[Message, ...], tuple[bool, ...]]:
    """Turns and whether each is trained on, joined as ``merge`` says.

    Raises:
        RowError: of two assistant turns to be joined, one is trained on and one is not.
    """
    if not merge:
        return tuple(messages), tuple(trained)
    pairs = list(zip(messages, trained, strict=True))
    if "tool" in merge:
        pairs = [(replace(m, role="user") if m.role == "tool" else m, t) for m, t in pairs]
    if "system" in merge:
        pairs = _without_system(pairs)
    if "turns" in merge:
        pairs = _joined(pairs)
    return tuple(m for m, _ in pairs), tuple(t for _, t in pairs)


def _without_system(pairs: Sequence[tuple[Message, bool]]) -> list[tuple[Message, bool]]:
    out: list[tuple[Message, bool]] = []
    waiting: list[str] = []
    for message, trained in pairs:
        if message.role == "system":
            waiting.append(message.content)
            continue
        if waiting and message.role == "user":
            message = Message("user", _paragraphs(*waiting, message.content))
        elif waiting:
            out.append((Message("user", _paragraphs(*waiting)), True))
        waiting = []
        out.append((message, trained))
    if waiting:
        out.append((Message("user", _paragraphs(*waiting)), True))
    return out


def _joined(pairs: Sequence[tuple[Message, bool]]) -> list[tuple[Message, bool]]:
    out: list[tuple[Message, bool]] = []
    for message, trained in pairs:
        if not out or out[-1][0].role != message.role:
            out.append((message, trained))
            continue
        before, was_trained = out[-1]
        if message.role == "assistant" and trained != was_trained:
            raise RowError(
                "two assistant turns in a row would be one (merge: turns), but only one of them "
                "is trained on",
                "give both the same train flag, or leave turns out of merge",
            )
        out[-1] = (Message(before.role, _paragraphs(before.content, message.content)), trained)
    return out


def _paragraphs(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)
