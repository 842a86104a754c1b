"""Environments by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gnomon.agents.environment import Environment, Tool
from gnomon.errors import ConfigError
from gnomon.plugins import find
from gnomon.usercode import explain, is_interrupt, settled

BUILTIN: Mapping[str, str] = {
    "calculator": "gnomon.tasks.calculator:Calculator",
    "rooms": "gnomon.tasks.rooms:Rooms",
    "gymnasium": "gnomon.agents.from_gymnasium:gymnasium_text",
    "openenv": "gnomon.agents.from_openenv:OpenEnv",
    "verifiers": "gnomon.agents.from_verifiers:VerifiersEpisode",
}
"""Environments that come with gnomon, and where each is made."""


def environment_factory(
    name: str, options: Mapping[str, Any], base: Path
) -> Callable[[], Environment]:
    """What makes an environment per episode.

    Args:
        name: of ``BUILTIN``, ``package.module:name`` or ``file.py:name``; a class, or a function
            that returns an environment.
        options: its keyword arguments.
        base: the folder that a file is looked up in.

    Raises:
        ConfigError: no such environment, options it does not take, or one that lacks a method.
    """
    found: Callable[..., Any] = find(name, BUILTIN, base, "environment")
    try:
        inspect.signature(found).bind(**options)
    except TypeError as error:
        raise ConfigError(f"environment {name!r}: its options: {error}") from error
    except ValueError:  # it has no signature
        pass

    def make() -> Environment:
        environment: Environment = found(**options)
        return environment

    _try(name, make)
    return make


def _try(name: str, make: Callable[[], Environment]) -> None:
    """Make one, so that a broken environment is reported before anything is trained."""
    try:
        environment = make()
    except BaseException as error:
        if isinstance(error, ConfigError) or is_interrupt(error):
            raise
        raise ConfigError(f"environment {name!r} could not be made: {explain(error)}") from error
    lacking = [m for m in ("reset", "step", "close") if not callable(getattr(environment, m, None))]
    tools = getattr(environment, "tools", None)
    if lacking or tools is None:
        missing = [*lacking, *(["tools"] if tools is None else [])]
        raise ConfigError(
            f"environment {name!r}: a {type(environment).__name__} has no {', '.join(missing)}"
        )
    wrong = [t for t in tools if not isinstance(t, Tool)]
    if wrong:
        raise ConfigError(
            f"environment {name!r}: its tools must be Tool objects, not {str(wrong[0])[:60]!r}; "
            "use Tool.of(function)"
        )
    close: Callable[[], Any] = environment.close
    try:
        settled(close())
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise ConfigError(f"environment {name!r} could not be closed: {explain(error)}") from error
