"""Agents: tasks that take several turns, with tools.

An :class:`Environment` plays one episode; :class:`EpisodeRunner` plays many together with any
engine. See ``docs/agents.md``.
"""

from gnomon.agents.environment import ToolEnvironment
from gnomon.agents.episodes import Episode, EpisodeRunner, Played
from gnomon.agents.load import BUILTIN, environment_factory
from gnomon.agents.protocol import Action, Environment, Observation, ToolCall
from gnomon.agents.tools import Tool, ToolError

__all__ = [
    "BUILTIN",
    "Action",
    "Environment",
    "Episode",
    "EpisodeRunner",
    "Observation",
    "Played",
    "Tool",
    "ToolCall",
    "ToolEnvironment",
    "ToolError",
    "environment_factory",
]
