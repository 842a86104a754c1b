"""The policy: TD3 or SAC of stable-baselines3, a round at a time.

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
from torch import Tensor

from gnomon.algorithms.control_settings import ControlSettings
from gnomon.control.episodes import Experience, Floats, Recorded
from gnomon.errors import ConfigError
from gnomon.runs.optimizer import names_by_parameter, optimizer_state, restore_optimizer

try:
    from stable_baselines3 import SAC, TD3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.noise import NormalActionNoise
    from stable_baselines3.common.utils import set_random_seed
except ImportError as missing:
    raise ConfigError(
        f"a control stage needs a package that is not installed ({missing}): "
        "pip install 'gnomon-rlhf[control]'"
    ) from missing

Watch = Callable[[int, int], None]
_TOGETHER = 10
"""Steps that are played, and then as many updates made."""
_NOISE = 0.1


class Learner:
    """An off-policy learner on an environment whose steps are kept and rewarded by somebody.

    Args:
        env: see :class:`~gnomon.control.episodes.Recorded`.
        seed: of the initial weights and all rounds.
    """

    def __init__(self, env: Recorded, settings: ControlSettings, seed: int) -> None:
        self.env = env
        self.seed = seed
        together = math.gcd(env.kept.length, _TOGETHER)  # a round ends with an episode
        shape, own = env.kept.actions.shape[1:], {}
        if settings.learner == "td3":
            noise = _NOISE if settings.noise is None else settings.noise
            own = {"action_noise": NormalActionNoise(np.zeros(shape), np.full(shape, noise))}
        kind: Any = {"sac": SAC, "td3": TD3}[settings.learner]
        self.model: SAC | TD3 = kind(
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
            **own,
        )
        self.model.set_logger(Logger(None, []))  # its own would leave a folder in /tmp each round

    def act(self, observations: Floats) -> Floats:
        """The policy's mean actions [N, A]."""
        actions: Floats = self.model.predict(observations, deterministic=True)[0]
        return actions

    def round(self, number: int, episodes: int, watch: Watch) -> None:
        """Play and learn for so many episodes.

        Args:
            watch: told of the steps done and of how many; may raise to stop.
        """
        self._fill(self.env.kept)
        seed = (self.seed * 1009 + number) % 2**31
        set_random_seed(seed)
        self.model.action_space.seed(seed)
        self.model._last_obs = None  # begin with a reset
        steps = episodes * self.env.kept.length
        told = _Told(watch, self.model.num_timesteps, steps)
        self.model.learn(steps, callback=told, reset_num_timesteps=False)

    def _fill(self, kept: Experience) -> None:
        """Have the replay buffer hold the experience, rewarded as the reward now says."""
        buffer: Any = self.model.replay_buffer
        n = kept.count
        ends = np.arange(1, n + 1) % kept.length == 0
        actions = self.model.policy.scale_action(kept.actions[:n])
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
        self.model.num_timesteps = n

    # -- what is saved ----------------------------------------------------------------------------

    @property
    def parameters(self) -> dict[str, Tensor]:
        """All weights by name: actor, critics, their targets, SAC's coefficient of the entropy."""
        found: dict[str, Tensor] = dict(self.model.policy.state_dict())
        if isinstance(self.model, SAC) and self.model.log_ent_coef is not None:
            found["log_ent_coef"] = self.model.log_ent_coef
        return found

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By what they train."""
        policy: Any = self.model.policy
        found = {"actor": policy.actor.optimizer, "critic": policy.critic.optimizer}
        if isinstance(self.model, SAC) and self.model.ent_coef_optimizer is not None:
            found["entropy"] = self.model.ent_coef_optimizer
        return found

    @property
    def updates(self) -> int:
        """Updates so far."""
        return int(self.model._n_updates)

    def state(self) -> dict[str, Any]:
        """The optimizers' state beside the critic's, and the count of updates."""
        own = {key: optimizer_state(optimizer, self.parameters)
               for key, optimizer in self.optimizers.items() if key != "critic"}  # fmt: skip
        return {**own, "updates": self.updates}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put :meth:`state` back; the weights and the critic's optimizer are there already."""
        for key, optimizer in self.optimizers.items():
            if key != "critic":
                names = names_by_parameter(optimizer, self.parameters)
                restore_optimizer(optimizer, state[key], names)
        self.model._n_updates = int(state["updates"])


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
