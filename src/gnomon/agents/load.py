"""Environments by name, Gymnasium's included."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gnomon.agents.environment import Action, Environment, Observation, Tool
from gnomon.errors import ConfigError
from gnomon.plugins import find
from gnomon.records import Message, Prompt
from gnomon.usercode import explain, is_interrupt, settled


class TextGame:
    """A game with Gymnasium's API whose observations and actions are text.

    The first observation is put after the prompt; each turn of the model, stripped, is an action.

    Args:
        game: has ``reset(seed=...) -> (observation, info)``, ``step(action) -> (observation,
            reward, terminated, truncated, info)`` and, if anything needs freeing, ``close()``.
    """

    def __init__(self, game: Any) -> None:
        self.tools: Sequence[Tool] = ()
        self._game = game

    def reset(self, prompt: Prompt, seed: int) -> Sequence[Message]:
        """The prompt's messages, the last one with the game's first observation."""
        observation, _ = self._game.reset(seed=seed % 2**31)
        first = _text(observation)
        messages = list(prompt.messages)
        if messages and messages[-1].role == "user":
            first = f"{messages.pop().content}\n\n{first}"
        return (*messages, Message("user", first))

    def step(self, action: Action) -> Observation:
        """One move; the game's ``truncated`` ends the episode as ``terminated`` does."""
        observation, reward, terminated, truncated, _ = self._game.step(action.text.strip())
        message = Message("user", _text(observation))
        return Observation((message,), float(reward), bool(terminated or truncated))

    def close(self) -> None:
        """Close the game."""
        close = getattr(self._game, "close", None)
        if close is not None:
            close()


def _text(observation: Any) -> str:
    if not isinstance(observation, str):
        raise TypeError(
            f"the game's observation is a {type(observation).__name__}, not text; wrap the game in "
            "one that describes it (gymnasium.ObservationWrapper)"
        )
    return observation


def gymnasium_text(id: str, **options: Any) -> TextGame:
    """``gymnasium.make(id, **options)`` as an environment.

    Raises:
        ConfigError: gymnasium is not installed.
    """
    try:
        gymnasium = importlib.import_module("gymnasium")
    except ImportError as error:
        raise ConfigError(
            "the environment 'gymnasium' needs the package: pip install gymnasium"
        ) from error
    return TextGame(gymnasium.make(id, **options))


BUILTIN: Mapping[str, str] = {
    "calculator": "gnomon.tasks.calculator:Calculator",
    "rooms": "gnomon.tasks.rooms:Rooms",
    "gymnasium": "gnomon.agents.load:gymnasium_text",
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
