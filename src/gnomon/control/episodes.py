"""Episodes of a control task, all of one length, from known seeds; what happened is kept.

An episode that ends early where the task is done (or failed) tells a learner how well it did,
whatever the reward says: a reward of noise then "works" (Christiano et al. 2017,
arXiv:1706.03741, appendix A). So an environment that ends an episode is refused, or goes on and
pays a penalty instead, as in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gnomon.errors import ConfigError, RunError
from gnomon.plugins import did_you_mean

try:
    import gymnasium as gym
except ImportError as missing:
    raise ConfigError(
        f"a control stage needs a package that is not installed ({missing}): "
        "pip install 'gnomon-rlhf[control]'"
    ) from missing

Floats = NDArray[np.float32]


def make_env(
    name: str, options: Mapping[str, Any], render: bool = False, end_penalty: float | None = None
) -> gym.Env[Any, Any]:
    """An environment with vectors as observations and actions, and a limit of steps.

    Args:
        options: keyword arguments of its own.
        render: whether frames can be taken of it.
        end_penalty: see :class:`Endless`; None leaves the ends of its episodes as they are.

    Raises:
        ConfigError: there is none of this name, it takes other options, a package that it needs is
            missing, or it is of another kind.
    """
    if name not in gym.registry:
        known = [key for key in gym.registry if "/" not in key]
        near = did_you_mean(name, known, "Gymnasium has", cutoff=0.4)
        raise ConfigError(f"environment {name!r}: Gymnasium has none of this name; {near}")
    try:
        mode = "rgb_array" if render else None
        env = gym.make(name, render_mode=mode, disable_env_checker=True, **options)
    except (ImportError, gym.error.Error) as error:
        raise ConfigError(
            f"environment {name!r} cannot be made ({error}). Where a package is missing: "
            "pip install 'gnomon-rlhf[control]'"
        ) from error
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"environment {name!r}: options: {error}") from error
    for what, space in (("observations", env.observation_space), ("actions", env.action_space)):
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise ConfigError(
                f"environment {name!r} has {what} of the kind {space}; a control stage takes "
                "vectors (a Box of one dimension)"
            )
    if env.spec is None or not env.spec.max_episode_steps:
        raise ConfigError(
            f"environment {name!r} has no limit of steps: give options: {{max_episode_steps: N}}"
        )
    return env if end_penalty is None else Endless(env, end_penalty)


class Endless(gym.Wrapper[Any, Any, Any, Any]):
    """Goes on where an environment would end an episode, up to its limit of steps.

    Each step after which it would have ended costs ``penalty``, for as long as that is so.
    """

    def __init__(self, env: gym.Env[Any, Any], penalty: float) -> None:
        super().__init__(env)
        self._penalty = penalty

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        after, reward, ended, truncated, info = self.env.step(action)
        return after, float(reward) - self._penalty * bool(ended), False, truncated, info


def try_out(env: gym.Env[Any, Any]) -> None:
    """Play one step of an environment: an option of a wrong kind is only found there.

    Raises:
        ConfigError: it cannot be played.
    """
    try:
        env.reset(seed=0)
        env.step(np.zeros(env.action_space.shape or (), np.float32))
    except Exception as error:  # whatever its code raises
        name = env.spec.id if env.spec is not None else "?"
        raise ConfigError(
            f"environment {name!r} cannot be played ({type(error).__name__}: {error}): "
            "look at its options"
        ) from error


def episode_steps(env: gym.Env[Any, Any]) -> int:
    """How long its episodes are."""
    assert env.spec is not None
    return int(env.spec.max_episode_steps or 0)


@dataclass
class Experience:
    """What happened in N steps of E episodes, in order.

    Attributes:
        length: steps of an episode.
        seed: episodes have the seeds ``seed``, ``seed + 1``, ...
        observations, next_observations: [N, O].
        actions: [N, A].
        rewards: [N], the environment's own.
        count: steps so far.
    """

    length: int
    seed: int
    observations: Floats
    next_observations: Floats
    actions: Floats
    rewards: Floats
    count: int = 0

    @classmethod
    def empty(cls, env: gym.Env[Any, Any], episodes: int, seed: int) -> Experience:
        """Room for so many episodes."""
        length = episode_steps(env)
        n, spaces = length * episodes, (env.observation_space, env.action_space)
        o, a = (np.zeros((n, (space.shape or (0,))[0]), np.float32) for space in spaces)
        return cls(length, seed, o, o.copy(), a, np.zeros(n, np.float32))

    @property
    def episodes(self) -> int:
        """Whole episodes so far."""
        return self.count // self.length

    @property
    def next_seed(self) -> int:
        return self.seed + self.episodes

    def add(self, observation: Any, action: Any, reward: float, after: Any) -> None:
        """One step."""
        i = self.count
        self.observations[i], self.actions[i] = observation, action
        self.rewards[i], self.next_observations[i] = reward, after
        self.count += 1

    def inputs(self) -> Floats:
        """[N, O + A]: what a reward net sees of every step."""
        return np.concatenate([self.observations, self.actions], 1)[: self.count]


class StepReward(Protocol):
    """What a step is rewarded with."""

    def __call__(self, inputs: Floats, true: Floats) -> Floats:
        """[N] rewards of steps with these inputs [N, O + A] and true rewards [N]."""
        ...


class Recorded(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps every step, and rewards it with ``reward`` in place of the environment's own.

    Raises:
        RunError: the environment ends an episode before its limit.
    """

    def __init__(self, env: gym.Env[Any, Any], kept: Experience, reward: StepReward) -> None:
        super().__init__(env)
        self.kept = kept
        self.reward = reward
        self._before: Any = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin the next episode; its seed is its own, whatever is asked for."""
        self._before, info = self.env.reset(seed=self.kept.next_seed)
        return self._before, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        after, true, terminated, truncated, info = self.env.step(action)
        check_goes_on(self.env, terminated)
        self.kept.add(self._before, action, float(true), after)
        row = np.concatenate([self._before, action]).astype(np.float32)[None]
        self._before = after
        reward = self.reward(row, np.array([true], np.float32))
        return after, float(reward[0]), terminated, truncated, info


def check_goes_on(env: gym.Env[Any, Any], terminated: bool) -> None:
    """Refuse an episode that ended before its limit.

    Raises:
        RunError: it did.
    """
    if terminated:
        name = env.spec.id if env.spec is not None else "the environment"
        raise RunError(
            f"{name} ended an episode before its {episode_steps(env)} steps: that alone would tell "
            "the policy how well it did, whatever the reward. Take an environment of fixed length "
            "(Pendulum-v1, Reacher-v5, HalfCheetah-v5, Swimmer-v5), an option that keeps it going "
            "(Hopper-v5, Walker2d-v5, Ant-v5: options: {terminate_when_unhealthy: false}), or set "
            "end_penalty: the episode goes on, and a step that would have ended it costs that"
        )


class Actor(Protocol):
    """Chooses actions."""

    def act(self, observations: Floats) -> Floats:
        """[N, A] actions for observations [N, O], without noise."""
        ...


class Still:
    """Does nothing: the action 0, or what is nearest to it among those that there are."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        space: Any = env.action_space
        self._action = np.clip(np.zeros(space.shape), space.low, space.high)

    def act(self, observations: Floats) -> Floats:
        actions = np.repeat(self._action[None], len(observations), 0)
        return actions.astype(np.float32)


def play(
    name: str,
    options: Mapping[str, Any],
    actor: Actor | None,
    episodes: int,
    seed: int,
    end_penalty: float | None = None,
) -> list[float]:
    """The true return of so many episodes, which have seeds of their own from ``seed`` on.

    Args:
        actor: None plays at random.
    """
    envs = [make_env(name, options, end_penalty=end_penalty) for _ in range(episodes)]
    states = [env.reset(seed=seed + i)[0] for i, env in enumerate(envs)]
    for i, env in enumerate(envs):
        env.action_space.seed(seed + i)
    total = np.zeros(episodes)
    for _ in range(episode_steps(envs[0])):
        if actor is None:
            actions: Any = [env.action_space.sample() for env in envs]
        else:
            actions = actor.act(np.asarray(states, np.float32))
        for i, (env, action) in enumerate(zip(envs, actions, strict=True)):
            states[i], reward, terminated, _, _ = env.step(action)
            check_goes_on(env, terminated)
            total[i] += float(reward)
    for env in envs:
        env.close()
    return [float(x) for x in total]
