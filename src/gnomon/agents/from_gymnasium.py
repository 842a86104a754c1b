"""Gymnasium's environments, played in text. Tested with gymnasium 1.4.0."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gnomon.agents.environment import Action, Observation, Tool, ToolError, opened_with
from gnomon.errors import ConfigError
from gnomon.records import Message, Prompt

COLOURS = ("gray", "red", "green", "yellow", "blue", "magenta", "cyan", "white", "crimson")
_INK = re.compile(r"\x1b\[(?:([0-9;]*)m|[0-?]*[ -/]*[@-~])|([^\x1b])")
"""Colour codes, other commands to a terminal (not shown), and signs."""
_LONG = {5: 2, 2: 4}
"""How many codes follow 38 and 48 in the forms that name a colour by numbers."""


class TextGame:
    """A game with Gymnasium's API, played in text.

    The first observation is put after the prompt; each turn of the model is an action. A prompt
    whose ``meta`` has a ``seed`` always plays that game.

    Args:
        game: has ``reset(seed=...) -> (observation, info)``, ``step(action) -> (observation,
            reward, terminated, truncated, info)`` and, if anything needs freeing, ``close()``.
        to_text: writes an observation; without it text is taken as it is, a game that renders
            "ansi" is shown as it renders itself, and named parts are listed.
        parse_action: reads the turn, and raises :class:`~gnomon.agents.environment.ToolError` with
            a hint for one that is no action; without it a turn is a text, or a Discrete action.
        actions: names of the Discrete actions, in their order.
        observations: names of the parts of a Tuple observation.
    """

    def __init__(
        self,
        game: Any,
        to_text: Callable[[Any], str] | None = None,
        parse_action: Callable[[str], Any] | None = None,
        *,
        actions: Sequence[str] = (),
        observations: Sequence[str] = (),
    ) -> None:
        self.tools: Sequence[Tool] = ()
        self._game = game
        self._to_text = to_text or self._written
        self._parse = parse_action or self._read
        self._actions = _action_names(game, actions)
        self._parts = tuple(observations)

    def reset(self, prompt: Prompt, seed: int) -> Sequence[Message]:
        """The prompt's messages, the last one with the game's first observation."""
        observation, _ = self._game.reset(seed=int(prompt.meta.get("seed", seed)) % 2**31)
        return opened_with(prompt, self._text(observation))

    def step(self, action: Action) -> Observation:
        """One move; the game's ``truncated`` ends the episode as ``terminated`` does. What is no
        action is answered with the hint, and the game waits."""
        try:
            move = self._parse(action.text.strip())
        except ToolError as error:
            return Observation((Message("user", f"error: {error}"),), tool_errors=1)
        observation, reward, terminated, truncated, _ = self._game.step(move)
        message = Message("user", self._text(observation))
        return Observation((message,), float(reward), bool(terminated or truncated))

    def close(self) -> None:
        """Close the game."""
        close = getattr(self._game, "close", None)
        if close is not None:
            close()

    def _text(self, observation: Any) -> str:
        text = self._to_text(observation)
        if not isinstance(text, str):
            raise TypeError(
                f"the game's observation is a {type(text).__name__}, not text; name its parts "
                "(options: observations: [...]), or give TextGame a to_text that describes it"
            )
        return text

    def _written(self, observation: Any) -> Any:
        if isinstance(observation, str):
            return observation
        if getattr(self._game, "render_mode", None) == "ansi":
            return picture(self._game.render())
        if isinstance(observation, Mapping):
            return ", ".join(f"{name}: {value}" for name, value in observation.items())
        if isinstance(observation, tuple) and len(observation) == len(self._parts):
            pairs = zip(self._parts, observation, strict=True)
            return ", ".join(f"{name}: {value}" for name, value in pairs)
        return observation

    def _read(self, text: str) -> Any:
        if not self._actions:
            return text
        word = text.splitlines()[-1].strip().lower() if text else ""
        if word not in self._actions:
            raise ToolError(f"end with one of {', '.join(self._actions)}, on a line of its own")
        return self._actions[word]


def _action_names(game: Any, given: Sequence[str]) -> dict[str, int]:
    """What the model writes for each Discrete action; empty where actions are text."""
    space = getattr(game, "action_space", None)
    count, start = getattr(space, "n", None), getattr(space, "start", 0)
    if count is None:
        if given:
            raise ConfigError(f"actions: they name Discrete actions, and this game's are {space}")
        return {}
    if given and len(given) != count:
        raise ConfigError(f"actions: {len(given)} names for {count} actions ({', '.join(given)})")
    names = [str(name).strip().lower() for name in given] or [
        str(start + i) for i in range(int(count))
    ]
    return {name: int(start) + i for i, name in enumerate(names)}


def picture(rendered: str) -> str:
    """What a game renders as "ansi", with its colours as words: ``[red S]`` for a red S."""
    out: list[str] = []
    on: dict[str, str] = {}
    for found in _INK.finditer(rendered):
        codes, sign = found.groups()
        if sign:
            words = [*on.values(), sign.strip() or "_"]
            out.append(f"[{' '.join(words)}]" if on else sign)
        elif codes is not None:
            _ink([int(code[:4] or 0) for code in codes.split(";")], on)
    return "".join(out).strip("\n")


def _ink(codes: list[int], on: dict[str, str]) -> None:
    """Put what colour codes say into ``on``; those of other things (bold) say nothing here."""
    while codes:
        code = codes.pop(0)
        place = "paper" if code // 10 in (4, 10) else "ink"
        kind = codes[0] if code in (38, 48) and codes else 0
        if code == 0:
            on.clear()
        elif kind in (2, 5) and len(codes) >= _LONG[kind]:  # one of 256 colours, or any
            on[place] = "-".join(["colour", *map(str, codes[1 : _LONG[kind]])])
            del codes[: _LONG[kind]]
        elif code in (39, 49):
            on.pop(place, None)
        elif (30 <= code <= 48 or 90 <= code <= 107) and code % 10 < len(COLOURS):
            on[place] = COLOURS[code % 10]


def gymnasium_text(
    id: str, actions: Sequence[str] = (), observations: Sequence[str] = (), **options: Any
) -> TextGame:
    """``gymnasium.make(id, **options)`` as an environment; one that can render "ansi" does, unless
    its observations are text or ``render_mode`` says otherwise.

    Raises:
        ConfigError: gymnasium is not installed, or the names do not fit the game's actions.
    """
    try:
        gymnasium = importlib.import_module("gymnasium")
    except ImportError as error:
        raise ConfigError(
            "the environment 'gymnasium' needs the package: pip install gymnasium"
        ) from error
    game = gymnasium.make(id, **options)
    drawn = "ansi" in game.metadata.get("render_modes", ()) and "render_mode" not in options
    if drawn and not isinstance(game.observation_space, gymnasium.spaces.Text):
        game.close()
        game = gymnasium.make(id, render_mode="ansi", **options)
    return TextGame(game, actions=actions, observations=observations)
