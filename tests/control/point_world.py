"""A control task that takes no time: a point on a line, to be brought to 0 and kept there."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from gnomon.control.episodes import Experience, Recorded, make_env

POINT = "GnomonPoint-v0"
STEPS = 20


class Point(gym.Env[Any, Any]):
    """x moves by half the action; the reward is -|x|. With ``ends`` an episode is over at 0."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space = gym.spaces.Box(-10, 10, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, ends: bool = False, render_mode: str | None = None) -> None:
        self.ends, self.render_mode = ends, render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.np_random.uniform(-3, 3)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x = float(np.clip(self.x + 0.5 * float(action[0]), -5, 5))
        return self._seen(), -abs(self.x), self.ends and abs(self.x) < 1, False, {}

    def _seen(self) -> Any:
        return np.array([self.x], np.float32)

    def render(self) -> Any:
        frame = np.full((64, 64, 3), 240, np.uint8)
        place = int(np.clip(32 + 6 * self.x, 2, 61))
        frame[26:38, place - 2 : place + 2] = (200, 40, 30)
        return frame


if POINT not in gym.registry:
    gym.register(POINT, entry_point=Point, max_episode_steps=STEPS)


def played(episodes: int = 3, seed: int = 5) -> Experience:
    """Episodes played at random."""
    env = make_env(POINT, {})
    kept = Experience.empty(env, episodes, seed)
    recorded = Recorded(env, kept, lambda inputs, true: true)
    rng = np.random.default_rng(seed)
    for _ in range(episodes):
        recorded.reset()
        for _ in range(STEPS):
            recorded.step(rng.uniform(-1, 1, 1).astype(np.float32))
    return kept
