"""Tools of inspect's tasks: how the model is shown them, and the calls that it writes read back.

They are listed in the system turn, called and answered as in gnomon's own episodes
(:mod:`gnomon.agents.dialogue`), so that a policy trained there meets what it knows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageTool
from inspect_ai.tool import ToolCall, ToolChoice, ToolInfo

from gnomon.agents import dialogue
from gnomon.agents.dialogue import CallFormat, describe_tools, format_of, parse_calls, write_call
from gnomon.agents.environment import Tool
from gnomon.agents.environment import ToolCall as OwnCall
from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError
from gnomon.records import Message

KNOWS = re.compile(r"\btools?\b|tool_call")
"""In a chat template that has tools."""
RAW = "gnomon_text"
"""In a message's metadata: what the model wrote, calls included."""
_BEGINS = re.compile(r"<tool_call>")


@dataclass(frozen=True)
class Talk:
    """How a model and tools talk.

    Attributes:
        how: how a call is written.
        role: the role that tools answer in.
    """

    how: CallFormat
    role: Literal["tool", "user"]

    @classmethod
    def of(cls, encoder: Encoder, calls: CallFormat | None, name: str) -> Talk:
        """As the model's chat template has it.

        Args:
            calls: how they are written, where the task's author says so.
            name: the model's.

        Raises:
            ConfigError: the template knows no tools, and nobody says how they are called.
        """
        template = encoder.template or ""
        if calls is None and not KNOWS.search(template):
            raise ConfigError(
                f"the inspect task gives the model tools, and the chat template of {name} knows "
                "none. If the model has learned to call tools all the same, say how it writes "
                "them, by calls: hermes, llama or python (docs/agents.md explains these)"
            )
        role: Literal["tool", "user"] = "tool"
        try:
            dialogue.Dialogue(encoder)
        except ConfigError:
            role = "user"
        return cls(calls or format_of(template), role)

    def turns(self, messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> tuple[Message, ...]:
        """inspect's conversation, with the tools listed in its system turn."""
        turns: list[Message] = []
        for message in messages:
            turn = self._turn(message)
            if turns and turn.role == turns[-1].role == self.role == "user":
                turn = Message("user", f"{turns.pop().content}\n{turn.content}")
            turns.append(turn)
        return describe_tools(turns, tools, self.how)

    def _turn(self, message: ChatMessage) -> Message:
        if isinstance(message, ChatMessageTool):
            said = message.error.message if message.error is not None else message.text
            return Message(self.role, said)
        if isinstance(message, ChatMessageAssistant) and message.tool_calls:
            raw = (message.metadata or {}).get(RAW)
            if isinstance(raw, str) and said_before(raw, self.how) == message.text:
                return Message("assistant", raw)
            calls = [OwnCall(call.function, call.arguments) for call in message.tool_calls]
            written = [write_call(call, self.how) for call in calls]
            return Message("assistant", "\n".join([*filter(None, [message.text]), *written]))
        return Message(message.role, message.text)

    def calls(self, text: str, tools: Sequence[Tool], key: str) -> list[ToolCall]:
        """The calls in what the model wrote; a faulty one tells inspect, and so the model, what is
        wrong with it.

        Args:
            key: tells this answer from others.
        """
        found = parse_calls(text, self.how, tools)
        if found.errors:
            error = "; ".join(found.errors)
            name = next((tool.name for tool in tools if tool.name in text), "tool_call")
            return [ToolCall(id=f"{key}-0", function=name, arguments={}, parse_error=error)]
        return [
            ToolCall(id=f"{key}-{i}", function=call.name, arguments=dict(call.arguments))
            for i, call in enumerate(found.calls)
        ]


def said_before(text: str, how: CallFormat) -> str:
    """What a turn with calls says beside them."""
    return _BEGINS.split(text)[0].strip() if how == "hermes" else ""


def own_tools(tools: Sequence[ToolInfo], choice: ToolChoice) -> list[Tool]:
    """inspect's tools as gnomon's.

    Raises:
        ConfigError: the task forces a call, or a tool has parameters that cannot be checked.
    """
    if not tools or choice == "none":
        return []
    if choice != "auto":
        raise ConfigError(
            "the inspect task forces the model to call a tool (tool_choice), and gnomon's engine "
            "cannot: it writes a call or it does not; set tool_choice: auto in the task"
        )
    return [
        Tool(
            tool.name, tool.description, tool.parameters.model_dump(mode="json", exclude_none=True)
        )
        for tool in tools
    ]
