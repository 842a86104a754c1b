"""What an environment is: it is reset to a task, takes the model's actions, and says what came of
them. One object plays one episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from gnomon.agents.tools import Tool
from gnomon.records import Message, Prompt


@dataclass(frozen=True)
class ToolCall:
    """A call the model wrote: a tool that exists, with arguments that fit its schema."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """One turn of the model.

    Attributes:
        text: what it wrote, calls included.
        calls: the tool calls in it, in order; empty where it called nothing.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Observation:
    """What an action led to.

    Attributes:
        messages: what the model is told (roles tool, user or system); needed unless ``done``.
        reward: of this action; the episode's return is the sum.
        done: the episode is over, of the environment's own accord.
        parts: named figures of this step, summed over the episode and logged under
            ``reward/NAME``. A part ``correct`` tells right answers (pass@k).
        tool_errors: how many of the action's calls failed for reasons the model can react to.
    """

    messages: Sequence[Message] = ()
    reward: float = 0.0
    done: bool = False
    parts: Mapping[str, float] = field(default_factory=dict)
    tool_errors: int = 0


@runtime_checkable
class Environment(Protocol):
    """A task the model works on in turns. Anything it raises is kept as its sample's error.

    Attributes:
        tools: what the model may call; may be empty (then an action is its text).
    """

    tools: Sequence[Tool]

    def reset(self, prompt: Prompt, seed: int) -> Sequence[Message] | None:
        """Begin the task of ``prompt``; its ``meta`` holds the row's other fields.

        The samples of a prompt are reset with the same seed and must begin alike: whatever is
        random here is drawn from the seed.

        Returns:
            the opening conversation, or None (or nothing) for the prompt's own messages.
        """
        ...

    def step(self, action: Action) -> Observation:
        """Take the model's turn."""
        ...

    def close(self) -> None:
        """Free what the episode holds; called once, however it ended."""
        ...
