"""Rollouts, rewards with errors, minibatches and evaluation, as every on-line method has them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence

import pytest
import torch
from ppo_zoo import Spread, make_ppo

import tiny_world as tw
from gnomon.errors import RewardsFailedError
from gnomon.judges.protocol import Sample, SampleJudge, Score


class Sometimes(SampleJudge):
    """Fails on the samples whose place is in ``bad``, counted over the batch."""

    name = "sometimes"

    def __init__(self, bad: Sequence[int], value: float | None = None) -> None:
        self.bad = set(bad)
        self.value = value

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        return [
            Score(self.value) if i in self.bad else Score(1.0 + i) for i, _ in enumerate(samples)
        ]


def test_a_failed_reward_is_kept_with_its_sample_and_never_trained_on() -> None:
    ppo = make_ppo(reward=Sometimes([3]), max_reward_errors=0.2)
    experience = ppo.experience(0)
    assert experience.metrics["reward_errors"] == 1
    assert experience.metrics["reward"] == pytest.approx((sum(range(1, 9)) - 4) / 7)  # no zero
    rows = list(experience.samples)
    assert [row["error"] is not None for row in rows] == [i == 3 for i in range(8)]
    assert rows[3]["reward"] is None
    assert "sometimes" in rows[3]["error"]
    trained = [r for m in experience.minibatches for g in m.groups for r in g.responses]
    assert len(trained) == 7
    assert 4.0 not in [r.scalar["reward"] for r in trained]


def test_a_prompt_with_no_reward_at_all_is_left_out() -> None:
    ppo = make_ppo(reward=Sometimes([2, 3], math.nan), max_reward_errors=0.5, minibatches=4)
    minibatches = ppo.experience(0).minibatches
    assert len(minibatches) == 3  # of 4 prompts
    assert all(m.groups for m in minibatches)


def test_too_many_failures_stop_the_run_and_hand_over_their_samples() -> None:
    ppo = make_ppo(reward=Sometimes([0, 5]), max_reward_errors=0.2)
    with pytest.raises(RewardsFailedError) as caught:
        ppo.experience(6)
    message = str(caught.value)
    assert "iteration 7" in message
    assert "2 of 8" in message
    assert "20%" in message
    assert "--resume" in message
    assert len(caught.value.samples) == 8
    assert sum(row["error"] is not None for row in caught.value.samples) == 2


def test_when_all_fail_the_run_stops_whatever_the_threshold() -> None:
    with pytest.raises(RewardsFailedError, match="8 of 8"):
        make_ppo(reward=Sometimes(range(8)), max_reward_errors=1.0).experience(0)


def test_an_evaluation_whose_rewards_all_fail_stops_the_run() -> None:
    with pytest.raises(RewardsFailedError, match="all 2 rewards of the held-out prompts") as caught:
        make_ppo(reward=Sometimes(range(8)), max_reward_errors=1.0).evaluate()
    assert "--resume" in str(caught.value)
    assert all(row["error"] is not None for row in caught.value.samples)


def test_an_evaluation_over_too_few_rewards_says_so() -> None:
    one_of_two = Sometimes([1])
    with pytest.warns(UserWarning, match="1 of 2 rewards of the held-out prompts failed"):
        evaluation = make_ppo(reward=one_of_two).evaluate()
    assert evaluation.metrics["eval/reward"] == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_ppo(reward=one_of_two, max_reward_errors=0.5).evaluate()


def test_the_same_iteration_gives_the_same_samples_and_others_differ() -> None:
    def ids(ppo, iteration: int) -> list:
        return [r["response"] for r in ppo.experience(iteration).samples]

    one, other = make_ppo(), make_ppo()
    first = ids(one, 3)
    assert ids(other, 3) == first  # without iterations 0..2 before it
    assert ids(other, 4) != first
    assert len(set(first)) > 1


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (2, 3), (3, 9)])
def test_every_epoch_visits_every_group_once(epochs: int, minibatches: int) -> None:
    made = make_ppo(epochs=epochs, minibatches=minibatches).experience(0).minibatches
    count = min(minibatches, 4)
    assert len(made) == epochs * count
    for epoch in range(epochs):
        names = [g.id for m in made[epoch * count : (epoch + 1) * count] for g in m.groups]
        assert sorted(names) == ["0:0", "0:1", "0:2", "0:3"]
    if epochs > 1:
        assert [g.id for m in made[:count] for g in m.groups] != [
            g.id for m in made[count : 2 * count] for g in m.groups
        ]


def test_groups_carry_the_sampled_tokens_the_eos_included() -> None:
    ppo = make_ppo()
    experience = ppo.experience(0)
    stops = {tw.EOS, *range(8, 200)}
    by_id = {g.id: g for m in experience.minibatches for g in m.groups}
    responses = [r for k in sorted(by_id) for r in by_id[k].responses]
    assert [len(r.ids) for r in responses] == [row["length"] for row in experience.samples]
    for response in responses:
        assert all(response.mask)
        ended = response.ids[-1] in stops
        assert response.scalar["finished"] == float(ended)
        assert not stops & set(response.ids[:-1])
        assert len(response.ids) == 6 or ended


def test_a_reward_sees_what_the_policy_saw_and_wrote() -> None:
    seen: list[Sample] = []

    class Watching(Spread):
        def __call__(self, samples: Sequence[Sample]) -> list[Score]:
            seen.extend(samples)
            return super().__call__(samples)

    ppo = make_ppo(reward=Watching())
    ppo.experience(0)
    source = tw.sampled(ppo)
    order = source.sampler.batch(0)
    prompts = [source.prompts[i] for i in order for _ in range(2)]
    assert [s.prompt.id for s in seen] == [p.prompt.id for p in prompts]
    assert [list(s.prompt_ids) for s in seen] == [list(p.ids) for p in prompts]


def test_evaluation_draws_the_same_numbers_every_time_and_has_intervals() -> None:
    ppo = make_ppo(observers=[Sometimes([1])])
    a, b = ppo.evaluate(), ppo.evaluate()
    assert a.metrics == b.metrics
    assert set(a.metrics) >= {"eval/reward", "eval/kl", "eval/length", "eval/sometimes"}
    assert a.details["held-out prompts"]["reward"]["n"] == 2
    assert len(a.samples) == 2
    json.dumps(a.details)


def test_evaluation_leaves_torchs_random_state_alone() -> None:
    ppo = make_ppo()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    ppo.evaluate()
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_are_plain_rows() -> None:
    for row in make_ppo(observers=[Spread()]).experience(0).samples:
        assert json.loads(row["parts"]).keys() == {"spread"}
        assert isinstance(row["finished"], bool)
        assert row["prompt"].startswith("question")
