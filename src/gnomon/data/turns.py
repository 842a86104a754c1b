"""Conversations as people write them, turned into :class:`Message` tuples.

OpenAI's role/content, ShareGPT's from/value, LLaMA-Factory's content parts, and Anthropic's
"\\n\\nHuman: ... \\n\\nAssistant: ..." transcripts.

A :class:`Message` is text, so what has no place of its own is written into it, in the form that
Qwen and Hermes models use: a tool call as ``<tool_call>{json}</tool_call>`` in the assistant's
turn, reasoning as ``<think>...</think>`` before it, and the list of tools in the system turn.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gnomon.data.values import JsonReader, as_bool, as_number, as_text, shown
from gnomon.data.values import RowError as RowError
from gnomon.plugins import nearest
from gnomon.records import Message


@dataclass(frozen=True, slots=True)
class Turn:
    """A message and whether it may be trained on (data sets can switch single turns off)."""

    message: Message
    train: bool = True

    @property
    def role(self) -> str:
        return self.message.role


ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "function_response": "tool",
}


def role_of(item: Mapping[str, Any]) -> str | None:
    """gnomon's role of a role/content or from/value message; None if it has none that is known."""
    return ROLES.get(str(item.get("role") or item.get("from")).strip().lower())


TRAIN_FLAGS = ("loss_weight", "weight", "train", "training")
REASONING = ("reasoning_content", "thinking", "reasoning")
"""What a message calls the assistant's reasoning, beside its content."""
_TRANSCRIPT_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def is_transcript(value: Any) -> bool:
    """Whether a string is an Anthropic-style transcript that opens with the human."""
    return isinstance(value, str) and value.lstrip("\n").startswith("Human:")


def is_messages(value: Any) -> bool:
    """Whether a value is a list of role/content or from/value messages."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, Mapping) and ("role" in m or "from" in m) for m in value)
    )


def parse_transcript(text: str) -> tuple[Turn, ...]:
    """Split "\\n\\nHuman: ...\\n\\nAssistant: ..." into turns.

    Only a label at the start of a paragraph opens a turn; "Human:" inside a sentence is text. Two
    turns of one speaker in a row, which the published data holds, are one turn of two paragraphs.
    A trailing empty "Assistant:" (the cue of a prompt) is dropped, other empty turns are kept for
    the caller to judge.
    """
    pieces = _TRANSCRIPT_TURN.split("\n\n" + text.lstrip("\n"))
    if pieces[0].strip():
        raise RowError("text before the first Human: turn", "start a transcript with 'Human:'")
    turns: list[tuple[str, str]] = []
    for label, body in zip(pieces[1::2], pieces[2::2], strict=True):
        role, content = ROLES[label.lower()], body.strip()
        if turns and turns[-1][0] == role:
            joined = "\n\n".join(part for part in (turns[-1][1], content) if part)
            turns[-1] = (role, joined)
        else:
            turns.append((role, content))
    return tuple(Turn(Message(role, content)) for role, content in turns)


def parse_messages(value: Any, field: str) -> tuple[Turn, ...]:
    """A list of role/content or from/value mappings (or one of them) as turns.

    Raises:
        RowError: not such a list, or a role that gnomon does not know.
    """
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, list):
        raise RowError(
            f"field {field!r} is not a list of messages",
            'write [{"role": "user", "content": "..."}, ...]',
        )
    return tuple(_turn(item, f"{field}[{i}]") for i, item in enumerate(items))


def _turn(item: Any, where: str) -> Turn:
    if not isinstance(item, Mapping):
        raise RowError(f"{where} is not a message", 'write {"role": ..., "content": ...}')
    raw_role = item.get("role") or item.get("from")
    if raw_role is None:
        raise RowError(f"{where} has no 'role'", "each message needs a role (or 'from')")
    role = role_of(item)
    if role is None:
        hint = nearest(str(raw_role).lower(), ROLES, cutoff=0.6)
        raise RowError(
            f"{where} has the unknown role {raw_role!r}",
            f"{hint} use system, user, assistant or tool".strip(),
        )
    text = item.get("content")
    content = _content(item.get("value") if text is None else text, where)
    if str(raw_role).lower() == "function_call":
        content = _tool_call(content)
    calls = item.get("tool_calls")
    legacy = item.get("function_call")  # OpenAI's form before tool_calls
    if role == "assistant" and legacy and not calls:
        calls = [{"function": legacy}]
    if role == "assistant" and calls:
        content = "\n".join([*([content] if content else []), *_openai_calls(calls, where)])
    reasoning = next((item[name] for name in REASONING if item.get(name)), None)
    if role == "assistant" and reasoning:
        content = f"<think>\n{as_text(reasoning, f'{where}.thinking')}\n</think>\n\n{content}"
    return Turn(Message(role, content), train=is_trained(item, where))


def is_trained(item: Mapping[str, Any], where: str) -> bool:
    """OpenAI's `weight`, LLaMA-Factory's `loss_weight` (0 or 1), Axolotl's `train` and `training`:
    0 and false switch a turn off.

    Raises:
        RowError: a weight other than 0 and 1 (gnomon weighs rows, not turns), or a flag that is not
            one.
    """
    for name in TRAIN_FLAGS:
        flag = item.get(name)
        if flag is None:
            continue
        if name in ("train", "training"):
            return as_bool(flag, f"{where}.{name}")
        weight = float(flag) if isinstance(flag, bool) else as_number(flag, f"{where}.{name}")
        if weight not in (0, 1):
            raise RowError(
                f"{where} has the {name} {shown(flag)}",
                "a turn's weight is 0 or 1; put other weights on the row (weight)",
            )
        return weight == 1
    return True


def _content(value: Any, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise RowError(f"{where} has content that is not text", "write the content as a string")
    parts: list[str] = []
    for part in value:
        if isinstance(part, str):
            parts.append(part)
            continue
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        body = part.get("text", part.get("value")) if isinstance(part, Mapping) else None
        if kind not in ("text", "reasoning", "tool_call") or not isinstance(body, str):
            raise RowError(
                f"{where} holds a content part of type {kind!r}",
                "gnomon reads text, reasoning and tool_call parts; remove images and audio",
            )
        if kind == "reasoning":
            parts.append(f"<think>\n{body}\n</think>\n\n")
        else:
            parts.append(_tool_call(body) if kind == "tool_call" else body)
    return "".join(parts)


def _tool_call(body: str) -> str:
    return f"<tool_call>\n{body.strip()}\n</tool_call>"


def _openai_calls(calls: Any, where: str) -> list[str]:
    if not isinstance(calls, list):
        raise RowError(f"{where}.tool_calls is not a list", 'write [{"function": {...}}, ...]')
    return [_openai_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]


def _openai_call(call: Any, where: str) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowError(f"{where} names no function", 'write {"function": {"name": ...}}')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with contextlib.suppress(RowError):  # broken JSON is what the model wrote: kept as it is
            arguments = JsonReader().read(arguments)
    body = {"name": function["name"], "arguments": arguments}
    return _tool_call(json.dumps(body, ensure_ascii=False, default=str))


def with_tools(turns: Sequence[Turn], tools: Any) -> tuple[Turn, ...]:
    """Put the list of tools into the system turn, so the model sees what it may call."""
    listing = (
        tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False, default=str)
    )
    if listing.strip() in ("", "[]", "{}", "null"):
        return tuple(turns)
    if any(t.role == "system" and listing.strip() in t.message.content for t in turns):
        return tuple(turns)  # the conversation lists them already
    note = (
        f"You may call these tools:\n<tools>\n{listing.strip()}\n</tools>\n"
        'To call one, write <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call>.'
    )
    if turns and turns[0].role == "system":
        first = turns[0].message.content
        note = f"{first}\n\n{note}" if first else note
        return (Turn(Message("system", note)), *turns[1:])
    return (Turn(Message("system", note)), *turns)


def split_pair(
    chosen: Sequence[Turn], rejected: Sequence[Turn]
) -> tuple[tuple[Turn, ...], tuple[Turn, ...], tuple[Turn, ...]]:
    """Two conversations -> (shared prompt, rest of chosen, rest of rejected).

    The prompt is the longest common opening. Both must then continue with the assistant: its
    answers are what is compared. The rests may hold later turns where the two parted early.

    Raises:
        RowError: they are the same, share no opening, or first differ in something else than an
            answer.
    """
    common = 0
    for a, b in zip(chosen, rejected, strict=False):
        if a.message != b.message:
            break
        common += 1
    if common == len(chosen) == len(rejected):
        raise RowError("chosen and rejected are the same", "a pair needs two different answers")

    def answers(turns: Sequence[Turn]) -> bool:
        return common < len(turns) and turns[common].role == "assistant"

    if common == 0 or not (answers(chosen) and answers(rejected)):
        raise RowError(
            "chosen and rejected do not share a prompt",
            "both must open with the same turns and first differ in an assistant turn",
        )
    return tuple(chosen[:common]), tuple(chosen[common:]), tuple(rejected[common:])
