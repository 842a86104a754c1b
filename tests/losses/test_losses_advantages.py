"""GAE, whitening and group baselines, against numpy loops."""

import numpy as np
import pytest
import torch

from gnomon.losses.advantages import centred, token_advantages, zero_spread
from gnomon.losses.gae import gae, whiten


def naive_gae(rewards, values, gamma, lam, bootstrap=0.0):
    advantages = np.zeros(len(rewards))
    running, after = 0.0, bootstrap
    for i in reversed(range(len(rewards))):
        delta = rewards[i] + gamma * after - values[i]
        running = delta + gamma * lam * running
        advantages[i], after = running, values[i]
    return advantages


def ragged(lengths, seed=0):
    rng = np.random.default_rng(seed)
    start = np.concatenate([[0], np.cumsum(lengths)])
    return rng.normal(size=start[-1]), rng.normal(size=start[-1]), start


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.99, 0.9), (1.0, 1.0), (0.9, 0.0)])
@pytest.mark.parametrize("cut_off", [False, True])
def test_gae_matches_a_loop(gamma, lam, cut_off):
    lengths = [5, 1, 0, 17, 64, 2]
    rewards, values, start = ragged(lengths)
    boot = np.random.default_rng(1).normal(size=len(lengths)) if cut_off else np.zeros(len(lengths))
    expected = np.concatenate(
        [
            naive_gae(rewards[a:b], values[a:b], gamma, lam, v)
            for a, b, v in zip(start[:-1], start[1:], boot, strict=True)
        ]
    )
    advantages, returns = gae(
        torch.tensor(rewards),
        torch.tensor(values),
        torch.tensor(start),
        gamma=gamma,
        lam=lam,
        bootstrap=torch.tensor(boot) if cut_off else None,
    )
    np.testing.assert_allclose(advantages.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(returns.numpy(), expected + values, atol=1e-12)


def test_gae_hand_worked_with_the_reward_at_the_end():
    # gamma = lam = 1: the advantage is the reward to go minus the value
    advantages, returns = gae(
        torch.tensor([0.0, 0.0, 1.0]),
        torch.tensor([0.2, 0.5, 0.9]),
        torch.tensor([0, 3]),
        gamma=1.0,
        lam=1.0,
    )
    assert advantages.tolist() == pytest.approx([0.8, 0.5, 0.1])
    assert returns.tolist() == pytest.approx([1, 1, 1])


def test_gae_keeps_responses_apart():
    """Fails if the scan crosses a boundary."""
    rewards, values, start = ragged([3, 4])
    changed = rewards.copy()
    changed[3:] += 100
    start = torch.tensor(start)
    args = {"gamma": 1.0, "lam": 0.95}
    before, _ = gae(torch.tensor(rewards), torch.tensor(values), start, **args)
    after, _ = gae(torch.tensor(changed), torch.tensor(values), start, **args)
    assert torch.equal(before[:3], after[:3])
    assert not torch.equal(before[3:], after[3:])


def test_gae_skips_tokens_the_policy_did_not_choose():
    rewards, values, start = ragged([6, 3, 4])
    mask = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1], dtype=bool)
    advantages, returns = gae(
        torch.tensor(rewards),
        torch.tensor(values),
        torch.tensor(start),
        gamma=0.9,
        lam=0.8,
        bootstrap=torch.tensor([0.5, 7.0, 0.0], dtype=torch.float64),
        response_mask=torch.tensor(mask),
    )
    # rewards on masked tokens go to the last chosen token before them, or to the first
    first = [rewards[0], rewards[1] + rewards[2] + rewards[3], rewards[4] + rewards[5]]
    last = [rewards[9] + rewards[10], rewards[11], rewards[12]]
    expected = np.zeros(13)
    expected[[0, 1, 4]] = naive_gae(first, values[[0, 1, 4]], 0.9, 0.8, 0.5)
    expected[10:] = naive_gae(last, values[10:], 0.9, 0.8)
    np.testing.assert_allclose(advantages.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(returns.numpy(), np.where(mask, expected + values, 0), atol=1e-12)


def test_gae_with_a_full_mask_is_gae_and_without_responses_is_empty():
    rewards, values, start = (torch.tensor(x) for x in ragged([4, 2]))
    args = {"gamma": 1.0, "lam": 0.95}
    plain = gae(rewards, values, start, **args)
    masked = gae(rewards, values, start, response_mask=torch.ones(6).bool(), **args)
    torch.testing.assert_close(masked, plain)
    empty = gae(torch.zeros(0), torch.zeros(0), torch.tensor([0]), **args)
    assert [x.numel() for x in empty] == [0, 0]


def test_gae_is_constant_and_checks_its_bootstrap():
    values = torch.zeros(3, requires_grad=True)
    start = torch.tensor([0, 3])
    advantages, returns = gae(torch.ones(3), values, start, gamma=1.0, lam=1.0)
    assert not advantages.requires_grad
    assert not returns.requires_grad
    with pytest.raises(ValueError, match="bootstrap"):
        gae(torch.ones(3), values, start, gamma=1.0, lam=1.0, bootstrap=torch.zeros(3))


def test_whiten_uses_counted_values_only():
    values = torch.tensor([1.0, 2.0, 3.0, 1e6])
    mask = torch.tensor([True, True, True, False])
    got = whiten(values, mask)
    expected = (np.array([1, 2, 3]) - 2) / np.std([1, 2, 3])
    np.testing.assert_allclose(got[:3].numpy(), expected, rtol=1e-5)
    assert got[3] == 0


def test_whiten_without_spread_is_exactly_zero():
    values = torch.full((3000,), 0.1)
    assert (whiten(values, torch.ones(3000).bool()) == 0).all()
    assert (whiten(values, torch.zeros(3000).bool()) == 0).all()
    assert whiten(torch.zeros(0), torch.zeros(0).bool()).numel() == 0


def group_advantages(rewards, group_of, scale):
    """The advantages of responses of one token each, against their group's mean."""
    one = torch.ones(rewards.numel()).bool()
    of = torch.arange(rewards.numel())
    return token_advantages(rewards, one, of, group_of, baseline="group", scale=scale)


REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.3, 0.3, 0.3, 5.0])
GROUP = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])


def test_group_advantages_by_group():
    got = group_advantages(REWARDS, GROUP, scale="group")
    std = np.std([1, 0, 0, 1], ddof=1) + 1e-4
    np.testing.assert_allclose(got[:4].numpy(), np.array([0.5, -0.5, -0.5, 0.5]) / std, rtol=1e-5)
    assert (got[4:] == 0).all()


def test_group_advantages_by_batch_and_unscaled():
    plain = group_advantages(REWARDS, GROUP, scale="none")
    assert plain.tolist() == [0.5, -0.5, -0.5, 0.5, 0, 0, 0, 0]
    by_batch = group_advantages(REWARDS, GROUP, scale="batch")
    std = np.std(REWARDS.numpy(), ddof=1) + 1e-4
    np.testing.assert_allclose(by_batch.numpy(), plain.numpy() / std, rtol=1e-5)
    assert (group_advantages(torch.ones(1), torch.zeros(1).long(), scale="batch") == 0).all()


def test_group_advantages_do_not_need_sorted_groups():
    order = torch.tensor([7, 2, 4, 0, 6, 3, 1, 5])
    for scale in ("none", "group", "batch"):
        sorted_ = group_advantages(REWARDS, GROUP, scale=scale)
        shuffled = group_advantages(REWARDS[order], GROUP[order], scale=scale)
        torch.testing.assert_close(shuffled, sorted_[order])


def test_zero_spread_is_exact_where_the_mean_rounds():
    rewards = torch.full((7,), 0.1)
    group = torch.zeros(7).long()
    assert (rewards - rewards.sum() / 7).any()  # plain centring would leave rounding errors
    for scale in ("none", "group", "batch"):
        assert (group_advantages(rewards, group, scale=scale) == 0).all()
    assert (centred(rewards, group, "leave_one_out") == 0).all()
    assert zero_spread(REWARDS, GROUP).tolist() == [False, True, True]
    assert not zero_spread(torch.tensor([torch.nan, 1.0]), torch.tensor([0, 0])).item()


def test_leave_one_out_is_the_mean_of_the_others():
    rng = np.random.default_rng(0)
    rewards, group = rng.normal(size=7), np.array([0, 1, 0, 0, 1, 2, 0])
    expected = np.zeros(7)
    for i in range(7):
        others = [rewards[j] for j in range(7) if j != i and group[j] == group[i]]
        expected[i] = rewards[i] - np.mean(others) if others else 0
    got = centred(torch.tensor(rewards), torch.tensor(group), "leave_one_out")
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


def test_nan_rewards_are_not_hidden():
    got = group_advantages(torch.tensor([torch.nan, 1.0]), torch.tensor([0, 0]), scale="group")
    assert got.isnan().all()


def test_unknown_scales_and_baselines_are_refused():
    with pytest.raises(ValueError, match="use none, group, batch or group_mean"):
        group_advantages(REWARDS, GROUP, scale="std")
    with pytest.raises(ValueError, match="unknown baseline 'median'"):
        centred(REWARDS, GROUP, "median")
