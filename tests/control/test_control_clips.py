"""Clips: what a text says is what happened, played again; what is no clip is said to be none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from point_world import POINT, STEPS, played

from gnomon.control.clips import Clip
from gnomon.control.episodes import Recorded, make_env
from gnomon.errors import ConfigError, DataError, RunError
from gnomon.feedback.clips import clip_parts


@pytest.mark.parametrize("start", [0, 7, STEPS + 4, 3 * STEPS - 6])
def test_a_clip_is_played_again_from_its_text(start):
    kept = played()
    text = Clip.at(kept, start, 6, POINT, {}).text()
    assert clip_parts(text) is not None
    steps = list(Clip.parse(text).play())
    here = slice(start, start + 6)
    assert np.array_equal([s.observation for s in steps], kept.observations[here])
    assert np.array_equal([s.action for s in steps], kept.actions[here])
    assert np.allclose([s.reward for s in steps], kept.rewards[here], rtol=1e-6)


def test_gymnasiums_own_tasks_come_out_the_same_again():
    env = make_env("Pendulum-v1", {})
    seen, rewards = [], []
    actions = np.random.default_rng(0).uniform(-2, 2, (40, 1)).astype(np.float32)
    before, _ = env.reset(seed=11)
    for action in actions:
        seen.append(before)
        before, reward, *_ = env.step(action)
        rewards.append(float(reward))
    steps = list(Clip("Pendulum-v1", 11, 30, 10, actions).play())
    assert np.array_equal([s.observation for s in steps], seen[30:])
    assert [s.reward for s in steps] == rewards[30:]


@pytest.mark.parametrize(
    "text",
    [
        "", "It is 4.", '{"clip": "Pendulum-v1"}', "[" * 5000,
        json.dumps({"clip": POINT, "options": {}, "seed": 1, "first": 0, "steps": 2,
                    "actions": "AAAA!"}),
        json.dumps({"clip": POINT, "options": {}, "seed": 1, "first": -1, "steps": 2,
                    "actions": "AAAAAA=="}),
    ],
)  # fmt: skip
def test_a_text_that_is_no_clip_is_refused(text):
    with pytest.raises(DataError, match="no clip"):
        Clip.parse(text)


def test_actions_of_another_task_are_refused():
    kept = played()
    clip = Clip.at(kept, 0, 4, POINT, {})
    other = Clip(POINT, clip.seed, 0, 2, clip.actions.reshape(2, 2))
    with pytest.raises(DataError, match="actions have 2 parts"):
        list(other.play())


def test_an_episode_that_ends_early_is_refused():
    from gnomon.control.episodes import Experience

    env = make_env(POINT, {"ends": True})
    kept = Experience.empty(env, 1, 0)
    recorded = Recorded(env, kept, lambda inputs, true: true)

    def home() -> None:
        position, _ = recorded.reset()
        for _ in range(STEPS):
            position, *_ = recorded.step(-np.sign(position))

    with pytest.raises(RunError, match="ended an episode before its 20 steps"):
        home()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Pendulum-v2x", {}, "did you mean 'Pendulum-v1'"),
        ("Pendulum-v1", {"gg": 1}, "options"),
        ("CartPole-v1", {}, "actions of the kind Discrete"),
    ],
)
def test_environments_that_cannot_be_taken(name, options, said):
    with pytest.raises(ConfigError, match=said):
        make_env(name, options)


def test_an_end_may_be_paid_for_instead():
    env = make_env(POINT, {"ends": True}, end_penalty=2.0)
    seen, _ = env.reset(seed=3)
    paid = []
    for _ in range(STEPS):
        seen, reward, over, cut, _ = env.step(-np.sign(seen))
        assert not over
        paid.append(reward + abs(float(seen[0])))
        assert paid[-1] == pytest.approx(-2.0 if abs(seen[0]) < 1 else 0.0, abs=1e-5)
    assert cut
    assert min(paid) == pytest.approx(-2.0, abs=1e-5)
