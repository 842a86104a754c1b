"""Rejection sampling: what is kept, the loss on it, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from online_zoo import Even, all_groups, loop, make, rollout, split_steps, sum_logprob, trained

import tiny_world as tw
from gnomon.algorithms.base import Step
from gnomon.algorithms.rollouts import Rollout
from gnomon.errors import ConfigError


def kept(seen: Rollout, **settings: Any) -> list[int]:
    """Places in the rollout of what is imitated (see ``rollout``)."""
    groups = make("raft", **settings).algorithm.credit([seen], Step(0)).groups
    return [r.ids[-1] - 20 for g in groups for r in g.responses]


def test_the_best_is_kept_and_of_equals_the_first() -> None:
    assert kept(rollout([0.1, 0.7, 0.7, -2.0])) == [1]
    assert kept(rollout([None, -1.0, -3.0])) == [1]


def test_all_from_the_threshold_on() -> None:
    seen = rollout([0.1, 0.7, 0.5, 0.9])
    assert kept(seen, keep="above", threshold=0.5) == [1, 2, 3]
    assert kept(seen, keep="above", threshold=1.0) == []
    assert kept(seen, keep="best", threshold=0.8) == [3]
    assert kept(seen, keep="best", threshold=1.0) == []


def test_a_cut_off_response_is_imitated_only_when_asked() -> None:
    seen = rollout([0.1, 0.7, 0.5], finish=["eos", "length", "stop"])
    assert kept(seen) == [2]
    assert kept(seen, drop_unfinished=False) == [1]
    assert kept(rollout([1.0], finish=["length"])) == []


def test_the_same_response_counts_once() -> None:
    seen = rollout([0.7, 0.7, 0.7], ids=[(9, 20), (9, 20), (9, 21)])
    assert kept(seen, keep="above", threshold=0.0) == [0, 1]


def test_the_loss_is_the_mean_over_all_kept_tokens_of_the_step() -> None:
    raft = make("raft", keep="above", threshold=0.2, drop_unfinished=False)
    groups = all_groups(raft, 0)
    assert len({len(r.ids) for g in groups for r in g.responses}) > 1
    loss, _ = tw.step_gradient(raft, groups)
    policy = raft.roles["policy"]
    nats = sum(sum_logprob(policy, g.prompt_ids, r.ids) for g in groups for r in g.responses)
    tokens = sum(len(r.ids) for g in groups for r in g.responses)
    assert loss == pytest.approx(-nats / tokens, rel=1e-5)
    split_steps(raft, groups)


def test_the_metrics_say_what_was_kept() -> None:
    raft = make("raft", drop_unfinished=False)
    experience = raft.experience(0)
    rows = [[r["reward"] for r in experience.samples[i * 4 : i * 4 + 4]] for i in range(4)]
    seen = experience.metrics
    assert seen["reward_best"] == pytest.approx(sum(map(max, rows)) / 4)
    assert seen["reward_worst"] == pytest.approx(sum(map(min, rows)) / 4)
    assert seen["reward_kept"] == pytest.approx(seen["reward_best"])
    assert seen["kept"] == 4
    assert seen["zero_spread"] == sum(len(set(r)) == 1 for r in rows) / 4


def test_a_step_with_nothing_kept_changes_nothing(tmp_path: Path) -> None:
    raft = make("raft", threshold=5.0, iterations=2)
    before = {n: p.detach().clone() for n, p in raft.named_parameters()}
    run = loop(raft, tmp_path)
    run.run()
    assert all(torch.equal(before[n], p) for n, p in raft.named_parameters())
    assert [row["kept"] for row in trained(run)] == [0, 0]


def test_settings_without_a_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a threshold"):
        make("raft", keep="above")
    with pytest.raises(ConfigError, match="at least 2"):
        make("raft", samples=1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_the_marker(seed: int, tmp_path: Path) -> None:
    raft = make("raft", seed=seed, prompts=8, batch_size=8, iterations=30, drop_unfinished=False)
    run = loop(raft, tmp_path, lr=2e-2, every=50)
    run.run()
    rewards = [row["reward"] for row in trained(run)]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2


def test_with_the_reward_turned_round_it_learns_the_opposite(tmp_path: Path) -> None:
    """The test above can fail: what is imitated depends on the reward's sign."""

    class Odd(Even):
        def __call__(self, samples: Any) -> Any:
            return [type(s)(1 - (s.value or 0)) for s in super().__call__(samples)]

    raft = make("raft", reward=Odd(), prompts=8, batch_size=8, iterations=30, drop_unfinished=False)
    loop(raft, tmp_path, lr=2e-2, every=50).run()
    rollouts = tw.sampled(raft).played.rollout(tw.prompts(8), 1.0, 0, 4)
    even = Even()([tw_sample(c.ids) for r in rollouts for c in r.completions])
    assert sum(s.value or 0 for s in even) / len(even) < 0.3


def tw_sample(ids: Any) -> Any:
    from gnomon.judges.protocol import Sample

    return Sample(tw.prompts(1)[0].prompt, "", (), ids)
