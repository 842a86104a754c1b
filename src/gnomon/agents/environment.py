"""A base for environments made of tools: subclass it, or write the protocol's methods yourself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gnomon.agents.protocol import Action, Observation
from gnomon.agents.tools import Tool, ToolError
from gnomon.records import Message, Prompt
from gnomon.usercode import settled


class ToolEnvironment:
    """Runs the tools the model calls; a turn without a call is its answer.

    A subclass gives its functions (or ready :class:`Tool` objects with one) to ``__init__``, sets
    its state up in ``reset`` and judges the final answer in ``answer``. What tools return is told
    to the model as text; a :class:`ToolError` is told as ``error: ...``.
    """

    def __init__(self, *functions: Callable[..., Any] | Tool) -> None:
        self.tools: Sequence[Tool] = tuple(
            f if isinstance(f, Tool) else Tool.of(f) for f in functions
        )

    def reset(self, prompt: Prompt, seed: int) -> Sequence[Message] | None:
        """Begin the task; see :class:`~gnomon.agents.protocol.Environment`."""
        return None

    def answer(self, text: str) -> float | Observation:
        """Judge a turn that calls no tool: the final reward, or an observation to go on."""
        raise NotImplementedError(f"{type(self).__name__} has no answer() to judge the last turn")

    def step(self, action: Action) -> Observation:
        """Run the calls, or judge the answer."""
        if not action.calls:
            judged = self.answer(action.text)
            return judged if isinstance(judged, Observation) else Observation((), judged, True)
        by_name = {tool.name: tool for tool in self.tools}
        seen = Observation()
        for call in action.calls:
            function = by_name[call.name].function
            if function is None:
                raise TypeError(f"tool {call.name!r} has no function, and step() is not overridden")
            try:
                said, failed = settled(function(**call.arguments)), 0
            except ToolError as error:
                said, failed = f"error: {error}", 1
            messages = (*seen.messages, Message("tool", str(said)))
            seen = replace(seen, messages=messages, tool_errors=seen.tool_errors + failed)
        return seen

    def close(self) -> None:
        """Nothing to free."""
