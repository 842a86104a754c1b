"""The reward nets against what is known: the paper's loss by hand, a reward that is recovered."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gnomon.control.reward_nets import (
    Comparisons,
    RewardNets,
    bootstrap,
    clip_returns,
    fit,
    preference_loss,
)
from gnomon.losses.preference import bradley_terry, with_errors

STEPS = 5


def world(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, Comparisons]:
    """Inputs [N, 2], their true rewards, and comparisons whose better clip is said to be it, but
    for a tenth that are the toss of a coin."""
    rng = np.random.default_rng(seed)
    inputs = torch.from_numpy(rng.normal(size=(400, 2)).astype(np.float32))
    true = -(inputs[:, 0] ** 2) + inputs[:, 1]
    known = Comparisons.none()
    pairs = [tuple(int(x) for x in rng.integers(0, 400 - STEPS, 2)) for _ in range(count)]
    gap = [float(true[a : a + STEPS].sum() - true[b : b + STEPS].sum()) for a, b in pairs]
    said = [float(g > 0) if rng.random() > 0.1 else float(rng.random() > 0.5) for g in gap]
    known.add(pairs, said)
    return inputs, true, known


def fitted(known: Comparisons, inputs: torch.Tensor, error: float = 0.1) -> RewardNets:
    nets = RewardNets(2, 3, seed=0)
    nets.standardise(inputs)
    for place in range(2):
        fit(nets, inputs, known, STEPS, error=error, updates=200, seed=0, place=place)
    return nets


def correlation(nets: RewardNets, inputs: torch.Tensor, true: torch.Tensor) -> float:
    return float(np.corrcoef(nets.rewards(inputs).mean(0), true)[0, 1])


def test_the_loss_is_the_papers():
    # P = 0.9 sigma(1.5) + 0.05, worked by hand
    p = 0.9 / (1 + math.exp(-1.5)) + 0.05
    for preferred in (1.0, 0.0, 0.5):
        wanted = -preferred * math.log(p) - (1 - preferred) * math.log(1 - p)
        found = preference_loss(torch.tensor([[1.5]]), torch.tensor([preferred]), 0.1)
        assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_errors_bound_what_a_single_answer_can_say():
    worst = with_errors(bradley_terry(torch.tensor([-80.0]), torch.tensor([0.0])), 0.1)
    assert float(worst) == pytest.approx(math.log(20), rel=1e-6)
    plain = bradley_terry(torch.tensor([0.3]), torch.tensor([0.1]))
    assert torch.equal(with_errors(plain, 0.0), plain)
    with pytest.raises(ValueError, match="error"):
        with_errors(plain, 1.0)


def test_a_reward_is_recovered_from_comparisons_and_not_from_coins():
    inputs, true, known = world(400)
    assert correlation(fitted(known, inputs), inputs, true) > 0.9
    coins = torch.from_numpy(np.random.default_rng(1).integers(0, 2, len(known))).float()
    tossed = Comparisons(known.first, known.second, coins)
    assert abs(correlation(fitted(tossed, inputs), inputs, true)) < 0.6
    turned = Comparisons(known.second, known.first, known.preferred)
    assert correlation(fitted(turned, inputs), inputs, true) < -0.9


def test_rewards_are_normalised_and_zero_before_the_first_fit():
    inputs, _, known = world(60)
    assert torch.equal(RewardNets(2, 3, seed=0).rewards(inputs), torch.zeros(3, 400))
    rewards = fitted(known, inputs).rewards(inputs)
    assert torch.allclose(rewards.mean(1), torch.zeros(3), atol=1e-4)
    assert torch.allclose(rewards.std(1), torch.ones(3), atol=1e-4)


def test_the_penalty_follows_what_is_held_out():
    inputs, _, known = world(30)
    start = RewardNets(2, 3, seed=0).l2
    known.preferred = torch.from_numpy(np.random.default_rng(1).integers(0, 2, 30)).float()
    assert (fitted(known, inputs, error=0.0).l2 > start).all()  # learned by heart
    known.preferred = torch.full((30,), 0.5)
    assert (fitted(known, inputs, error=0.0).l2 < start).all()  # nothing to learn by heart


def test_ties_do_not_hide_what_is_learned_by_heart():
    """They cost as much, seen or not: with many of them the plain ratio of losses is near 1."""
    inputs, _, known = world(30)
    known.preferred = torch.from_numpy(np.random.default_rng(1).integers(0, 2, 30)).float()
    nets = fitted(known, inputs, error=0.0)
    before = nets.l2.clone()
    known.add(world(1000, seed=2)[2].pairs, [0.5] * 1000)
    found = fit(nets, inputs, known, STEPS, error=0.0, updates=1, seed=0, place=2)
    assert found.held_out / found.loss < 1.1
    assert (nets.l2 > before).all()


def test_clip_returns_are_sums():
    rewards = torch.arange(12.0).reshape(2, 6)
    starts = torch.tensor([0, 3])
    wanted = torch.stack([rewards[:, 0:3].sum(1), rewards[:, 3:6].sum(1)], 1)
    assert torch.equal(clip_returns(rewards, starts, 3), wanted)


def test_every_net_misses_its_share_and_keeps_its_draws():
    draws = bootstrap(3, 3000, 3)
    assert (draws == 0).float().mean(1).tolist() == pytest.approx([math.exp(-1)] * 3, abs=0.03)
    assert torch.equal(bootstrap(3, 50, 3), draws[:, :50])
