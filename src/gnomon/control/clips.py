"""A clip: some steps of an episode, as a text from which it can be played and rendered again."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon.control.episodes import Experience, Floats, make_env
from gnomon.errors import DataError
from gnomon.feedback.clips import PARTS, clip_parts


@dataclass(frozen=True)
class Clip:
    """Steps ``first`` to ``first + steps`` of the episode with a seed.

    Attributes:
        actions: [first + steps, A], from the beginning of the episode on.
    """

    environment: str
    seed: int
    first: int
    steps: int
    actions: Floats
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def at(
        cls, kept: Experience, start: int, steps: int, name: str, options: Mapping[str, Any]
    ) -> Clip:
        """The clip that begins with a step of the experience."""
        episode, first = divmod(start, kept.length)
        began = episode * kept.length
        actions = kept.actions[began : start + steps]
        return cls(name, kept.seed + episode, first, steps, actions, options)

    def text(self) -> str:
        """As one line of JSON; actions are little-endian float32 in base64."""
        raw = base64.b64encode(self.actions.astype("<f4").tobytes()).decode("ascii")
        said = (self.environment, dict(self.options), self.seed, self.first, self.steps, raw)
        return json.dumps(dict(zip(PARTS, said, strict=True)))

    @classmethod
    def parse(cls, text: str) -> Clip:
        """A clip from its text.

        Raises:
            DataError: the text is no clip's.
        """
        try:
            raw = clip_parts(text)
            if raw is None:
                raise ValueError(f"a clip is a JSON object with the keys {', '.join(PARTS)}")
            first, steps = int(raw["first"]), int(raw["steps"])
            actions: NDArray[np.float32] = np.frombuffer(
                base64.b64decode(raw["actions"], validate=True), "<f4"
            ).astype(np.float32)
            rows = first + steps
            if first < 0 or steps < 1 or not len(actions) or len(actions) % rows:
                raise ValueError(f"{len(actions)} numbers are not the actions of {rows} steps")
            return cls(str(raw["clip"]), int(raw["seed"]), first, steps,
                       actions.reshape(rows, -1), dict(raw["options"]))  # fmt: skip
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f"this is no clip ({error}): {text[:80]!r}") from error

    def play(self, render: bool = False) -> Iterator[Step]:
        """Its steps, played again.

        Raises:
            ConfigError: its environment cannot be made here.
            DataError: its actions are not the environment's.
        """
        env = make_env(self.environment, self.options, render)
        try:
            if env.action_space.shape != self.actions.shape[1:]:
                raise DataError(
                    f"this clip's actions have {self.actions.shape[1]} parts, and those of "
                    f"{self.environment} {env.action_space.shape}"
                )
            before, _ = env.reset(seed=self.seed)
            for i, action in enumerate(self.actions):
                frame: Any = env.render() if render and i >= self.first else None
                after, reward, *_ = env.step(action)
                if i >= self.first:
                    yield Step(before, action, float(reward), frame)
                before = after
        finally:
            env.close()


@dataclass(frozen=True)
class Step:
    """A step of a clip: ``frame`` [H, W, 3] shows what was before it, where it was rendered."""

    observation: Floats
    action: Floats
    reward: float
    frame: NDArray[np.uint8] | None = None
