"""Agents: tasks that take several turns, with tools.

An :class:`Environment` plays one episode; :class:`EpisodeRunner` plays many together with any
engine. See ``docs/agents.md``.
"""

from gnomon.agents.environment import (
    Action,
    Environment,
    Observation,
    Tool,
    ToolCall,
    ToolEnvironment,
    ToolError,
)
from gnomon.agents.episodes import Episode, EpisodeGroup, EpisodeRunner
from gnomon.agents.load import BUILTIN, environment_factory

__all__ = [
    "BUILTIN",
    "Action",
    "Environment",
    "Episode",
    "EpisodeGroup",
    "EpisodeRunner",
    "Observation",
    "Tool",
    "ToolCall",
    "ToolEnvironment",
    "ToolError",
    "environment_factory",
]
