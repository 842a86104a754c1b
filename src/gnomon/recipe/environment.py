"""The task of several turns that a recipe has its policy work on."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field

from gnomon.recipe.spec import Spec


class EnvironmentSpec(Spec):
    """A task of several turns that the policy works on, instead of a ``reward`` or with one.

    ``name`` is ``calculator``, ``rooms``, ``gymnasium``, ``openenv``, ``verifiers``,
    ``package.module:name`` or ``path/to/file.py:name``; see [agents.md](agents.md).
    """

    name: str = Field(description="which environment; a bare string is this")
    options: dict[str, Any] = Field(default_factory=dict, description="its keyword arguments")
    max_turns: int = Field(8, ge=1, description="turns of the policy in an episode")
    max_episode_tokens: int = Field(
        512, ge=1, description="tokens of an episode after its opening, tool output included"
    )
    calls: Literal["auto", "hermes", "llama", "python"] = Field(
        "auto", description="how tool calls are written; auto follows the chat template"
    )
    show_tools: bool = Field(True, description="list the tools in the system turn")
    observation_role: Literal["tool", "user"] = Field(
        "tool", description="the role that tool output is written in"
    )
    step_timeout_s: float | None = Field(
        60.0, gt=0, description="seconds a step may take; null runs steps without a limit"
    )
    workers: int = Field(1, ge=1, description="environments stepped at the same time, in threads")

    @property
    def label(self) -> str:
        return re.sub(r"[^A-Za-z0-9_]+", "_", self.name.split(":")[-1]).strip("_")
