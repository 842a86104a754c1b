"""The policy: soft actor-critic of stable-baselines3, a round at a time.

Every round begins with a reset, with seeds of its own, and with a replay buffer that is filled from
the experience, rewarded as the reward now says. So nothing but weights and the optimizers' state
has to be saved between rounds (as tensors; stable-baselines3's own files hold pickles), and a round
that is done again comes out the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed
from torch import Tensor

from gnomon.algorithms.control_settings import ControlSettings
from gnomon.control.episodes import Experience, Floats, Recorded
from gnomon.runs.checkpoint import names_by_parameter, optimizer_state, restore_optimizer

Watch = Callable[[int, int], None]
_TOGETHER = 10
"""Steps that are played, and then as many updates made."""


class Learner:
    """SAC on an environment whose steps are kept and rewarded by somebody.

    Args:
        env: see :class:`~gnomon.control.episodes.Recorded`.
        seed: of the initial weights and all rounds.
    """

    def __init__(self, env: Recorded, settings: ControlSettings, seed: int) -> None:
        self.env = env
        self.seed = seed
        together = math.gcd(env.kept.length, _TOGETHER)  # a round ends with an episode
        self.sac = SAC(
            "MlpPolicy",
            env,
            learning_rate=settings.lr,
            buffer_size=len(env.kept.rewards),
            learning_starts=settings.first_episodes * env.kept.length,
            batch_size=settings.batch_size,
            gamma=settings.gamma,
            train_freq=together,
            gradient_steps=together,
            policy_kwargs={
                "net_arch": [settings.hidden] * 2,
                "optimizer_kwargs": {"fused": True},
            },
            seed=seed % 2**31,
            device="cpu",
        )

    def act(self, observations: Floats) -> Floats:
        """The policy's mean actions [N, A]."""
        actions: Floats = self.sac.predict(observations, deterministic=True)[0]
        return actions

    def round(self, number: int, episodes: int, watch: Watch) -> None:
        """Play and learn for so many episodes.

        Args:
            watch: told of the steps done and of how many; may raise to stop.
        """
        self._fill(self.env.kept)
        seed = (self.seed * 1009 + number) % 2**31
        set_random_seed(seed)
        self.sac.action_space.seed(seed)
        self.sac._last_obs = None  # begin with a reset
        steps = episodes * self.env.kept.length
        told = _Told(watch, self.sac.num_timesteps, steps)
        self.sac.learn(steps, callback=told, reset_num_timesteps=False)

    def _fill(self, kept: Experience) -> None:
        """Have the replay buffer hold the experience, rewarded as the reward now says."""
        buffer: Any = self.sac.replay_buffer
        n = kept.count
        ends = np.arange(1, n + 1) % kept.length == 0
        actions = self.sac.policy.scale_action(kept.actions[:n])
        for name, values in (
            ("observations", kept.observations[:n]),
            ("next_observations", kept.next_observations[:n]),
            ("actions", actions),
            ("rewards", self.env.reward(kept.inputs(), kept.rewards[:n])),
            ("dones", ends),
            ("timeouts", ends),
        ):
            getattr(buffer, name)[:n, 0] = values
        buffer.pos, buffer.full = n % buffer.buffer_size, n >= buffer.buffer_size
        self.sac.num_timesteps = n

    # -- what is saved ----------------------------------------------------------------------------

    @property
    def parameters(self) -> dict[str, Tensor]:
        """All weights by name: actor, critics, their targets, the entropy's coefficient."""
        found: dict[str, Tensor] = dict(self.sac.policy.state_dict())
        return found | {"log_ent_coef": self._entropy}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        policy: Any = self.sac.policy
        entropy: Any = self.sac.ent_coef_optimizer
        return {"actor": policy.actor.optimizer, "critic": policy.critic.optimizer,
                "entropy": entropy}  # fmt: skip

    @property
    def _entropy(self) -> Tensor:
        found: Any = self.sac.log_ent_coef
        return found  # type: ignore[no-any-return]

    def state(self) -> dict[str, Any]:
        """The optimizers' state beside the critic's, and the count of updates."""
        own = {key: optimizer_state(optimizer, self.parameters)
               for key, optimizer in self.optimizers.items() if key != "critic"}  # fmt: skip
        return {**own, "updates": self.sac._n_updates}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put :meth:`state` back; the weights and the critic's optimizer are there already."""
        for key, optimizer in self.optimizers.items():
            if key != "critic":
                names = names_by_parameter(optimizer, self.parameters)
                restore_optimizer(optimizer, state[key], names)
        self.sac._n_updates = int(state["updates"])


class _Told(BaseCallback):
    """Tells ``watch`` how far a round is."""

    def __init__(self, watch: Watch, began: int, steps: int) -> None:
        super().__init__()
        self._watch, self._began, self._steps = watch, began, steps

    def _on_step(self) -> bool:
        done = self.num_timesteps - self._began
        if done % 50 == 0 or done == self._steps:
            self._watch(done, self._steps)
        return True
