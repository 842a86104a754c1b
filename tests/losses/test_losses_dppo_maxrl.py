"""DPPO's trust region by cases and in plain Python; MaxRL's advantages against the series of log p;
the mixture that a KL may be to."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from gnomon.losses.advantages import token_advantages
from gnomon.losses.kl import kl_estimate, mixed_logprobs
from gnomon.losses.policy_gradient import is_clipped
from gnomon.losses.policy_variants import dppo, outside_trust_region


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# -- DPPO ------------------------------------------------------------------------------------------

# old probability, new, advantage, whether it is left out at 0.2 (total variation)
CASES = [
    (1e-5, 1e-3, 1.0, False),  # a ratio of 100 that PPO would clip: the policy hardly moved
    (0.99, 0.7, -1.0, True),  # a ratio of 0.71
    (0.5, 0.75, 1.0, True),
    (0.5, 0.75, -1.0, False),  # it rose, and is pulled down
    (0.5, 0.25, 1.0, False),  # it fell, and is pulled up
    (0.5, 0.65, 1.0, False),
]


@pytest.mark.parametrize(("mu", "pi", "advantage", "out"), CASES)
def test_which_tokens_are_left_out(mu: float, pi: float, advantage: float, out: bool) -> None:
    logprobs, old = t(math.log(pi)).requires_grad_(), t(math.log(mu))
    fallen, risen = outside_trust_region(logprobs, old, "tv", eps_low=0.2, eps_high=0.2)
    left = (fallen & (t(advantage) < 0)) | (risen & (t(advantage) > 0))
    assert bool(left) is out
    loss = dppo(logprobs, old, t(advantage), left)
    loss.sum().backward()
    expected = 0.0 if out else -pi / mu * advantage
    assert loss.item() == pytest.approx(expected)
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(expected)


def test_a_clipped_ratio_decides_otherwise() -> None:
    """The cases above do tell the two apart."""
    differs = [
        bool(is_clipped(t(pi / mu), t(a))) != out
        for mu, pi, a, out in CASES
        if (pi > mu) == (a > 0)
    ]
    assert any(differs)


@pytest.mark.parametrize("divergence", ["tv", "kl"])
def test_the_binary_divergence_in_plain_python(divergence: str) -> None:
    """At each pair of probabilities the bound lies just where the divergence is."""
    grid = (1e-6, 0.01, 0.3, 0.7, 0.99)
    for mu, pi in product(grid, grid):
        if mu == pi:
            continue
        far = abs(pi - mu)
        if divergence == "kl":
            far = mu * math.log(mu / pi) + (1 - mu) * math.log((1 - mu) / (1 - pi))
        for bound, out in ((far * 0.999, True), (far * 1.001, False)):
            fallen, risen = outside_trust_region(
                t(math.log(pi)),
                t(math.log(mu)),
                divergence,  # type: ignore[arg-type]
                eps_low=bound,
                eps_high=bound,
            )
            assert (bool(fallen), bool(risen)) == (out and pi < mu, out and pi > mu)


def test_low_and_high_are_separate_and_certainty_is_finite() -> None:
    old, new = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.2, 0.8]).log()
    fallen, risen = outside_trust_region(new, old, "tv", eps_low=0.1, eps_high=0.4)
    assert (fallen.tolist(), risen.tolist()) == ([True, False], [False, False])
    for old_p, new_p in ((1.0, 0.5), (0.5, 1.0), (1.0, 1.0)):
        pair = (torch.tensor([new_p]).log(), torch.tensor([old_p]).log())
        fallen, risen = outside_trust_region(*pair, "kl", eps_low=0.05, eps_high=0.05)
        assert bool(fallen | risen) is (old_p != new_p)


# -- MaxRL -----------------------------------------------------------------------------------------


def expected_gradient(p: float, K: int, scale: str) -> float:
    """d/dp of what K samples train on average, over all outcomes of K answers right with
    probability p; the score of a right answer is 1 / p, of a wrong one -1 / (1 - p)."""
    total = 0.0
    for outcome in product((0.0, 1.0), repeat=K):
        rewards = torch.tensor(outcome, dtype=torch.float64)
        each = torch.arange(K)
        advantages = token_advantages(
            rewards,
            torch.ones(K, dtype=torch.bool),
            each,
            torch.zeros(K, dtype=torch.long),
            baseline="group",
            scale=scale,  # type: ignore[arg-type]
        )
        score = torch.where(rewards > 0, 1 / p, -1 / (1 - p))
        right = int(rewards.sum())
        total += p**right * (1 - p) ** (K - right) * float((advantages * score).mean())
    return total


@pytest.mark.parametrize("K", [2, 4, 6])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_maxrl_trains_log_p_cut_after_k_minus_1_terms(p: float, K: int) -> None:
    """log p = - sum_k (1 - p)^k / k, so its derivative is sum_k (1 - p)^(k - 1)."""
    series = sum((1 - p) ** (k - 1) for k in range(1, K))
    assert expected_gradient(p, K, "group_mean") == pytest.approx(series, rel=2e-3)
    plain = expected_gradient(p, K, "none")
    assert plain == pytest.approx((K - 1) / K, rel=1e-6)  # that of p itself, by the baseline's bias
    if K > 2:
        assert abs(expected_gradient(p, K, "group") - series) > 0.05


def test_maxrl_divides_by_the_mean_and_leaves_flat_groups_at_zero() -> None:
    rewards = torch.tensor([1.0, 0, 0, 0, 1, 1, 0, 0])
    found = token_advantages(
        rewards,
        torch.ones(8, dtype=torch.bool),
        torch.arange(8),
        torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]),
        scale="group_mean",
    )
    assert found.tolist() == pytest.approx([3, -1, -1, -1, 0, 0, 0, 0], abs=2e-3)


def test_maxrl_refuses_a_negative_reward() -> None:
    with pytest.raises(ValueError, match="rewards of 0 and above; one is -1"):
        token_advantages(
            torch.tensor([1.0, -1.0]),
            torch.ones(2, dtype=torch.bool),
            torch.arange(2),
            torch.zeros(2, dtype=torch.long),
            scale="group_mean",
        )


# -- the mixture -----------------------------------------------------------------------------------


def test_the_arithmetic_mixture_is_a_distribution_and_the_geometric_a_weighted_kl() -> None:
    draw = torch.Generator().manual_seed(0)
    pi, ref, base = (
        torch.randn(9, generator=draw, dtype=torch.float64).log_softmax(-1) for _ in range(3)
    )
    share = 0.3
    mixed = mixed_logprobs(ref, base, share, "arithmetic")
    torch.testing.assert_close(mixed.exp(), 0.7 * ref.exp() + 0.3 * base.exp())
    assert mixed.exp().sum().item() == pytest.approx(1)

    def kl(other: torch.Tensor) -> float:
        return float((pi.exp() * kl_estimate(pi, other, "k1")).sum())

    geometric = mixed_logprobs(ref, base, share, "geometric")
    assert kl(geometric) == pytest.approx(0.7 * kl(ref) + 0.3 * kl(base))
    assert abs(kl(geometric) - kl(mixed)) > 1e-3
    assert mixed_logprobs(ref, base, 0.0, "arithmetic") is ref
    with pytest.raises(ValueError, match="share must lie in"):
        mixed_logprobs(ref, base, 1.0, "arithmetic")
