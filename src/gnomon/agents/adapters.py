"""Environments of other houses: text games with Gymnasium's reset and step."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from gnomon.agents.protocol import Action, Observation
from gnomon.agents.tools import Tool
from gnomon.errors import ConfigError
from gnomon.records import Message, Prompt


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
        told = Message("user", _text(observation))
        return Observation((told,), float(reward), bool(terminated or truncated))

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
