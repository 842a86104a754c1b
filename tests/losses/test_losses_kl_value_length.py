"""KL estimators against an exact KL, the value loss by cases, and the length fits on known data."""

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from gnomon.losses.kl import adaptive_beta, kl_estimate
from gnomon.losses.length_bias import fit_length_coefficient, fit_length_slope
from gnomon.losses.value import explained_variance, value_loss

POLICY_LOGITS = torch.tensor([0.5, -0.3, 1.0, 0.0], dtype=torch.float64)
REF = torch.tensor([0.1, 0.4, 0.8, -0.5], dtype=torch.float64).log_softmax(0)


def exact(estimator, logits):
    """Expectation of the estimate under the (fixed) policy, over all four tokens."""
    logprobs = logits.log_softmax(0)
    return (logprobs.detach().exp() * kl_estimate(logprobs, REF, estimator)).sum()


def reverse_kl(logits):
    logprobs = logits.log_softmax(0)
    return (logprobs.exp() * (logprobs - REF)).sum()


def forward_kl(logits):
    return (REF.exp() * (REF - logits.log_softmax(0))).sum()


def gradient(function):
    logits = POLICY_LOGITS.clone().requires_grad_()
    return torch.autograd.grad(function(logits), logits)[0]


def test_k1_and_k3_are_unbiased_and_k2_is_close():
    truth = reverse_kl(POLICY_LOGITS)
    torch.testing.assert_close(exact("k1", POLICY_LOGITS), truth)
    torch.testing.assert_close(exact("k3", POLICY_LOGITS), truth)
    assert exact("k2", POLICY_LOGITS).item() == pytest.approx(truth.item(), rel=0.3)
    assert exact("k2", POLICY_LOGITS) != truth
    d = torch.linspace(-3, 3, 50, dtype=torch.float64)
    assert (kl_estimate(d, torch.zeros_like(d), "k3") >= 0).all()


def test_gradients_are_what_the_docstring_says():
    torch.testing.assert_close(gradient(lambda x: exact("k1", x)), torch.zeros(4).double())
    torch.testing.assert_close(gradient(lambda x: exact("k2", x)), gradient(reverse_kl))
    torch.testing.assert_close(gradient(lambda x: exact("k3", x)), gradient(forward_kl))
    assert not torch.allclose(gradient(reverse_kl), gradient(forward_kl))


def test_k3_of_a_token_that_the_policy_gave_up_is_finite_and_so_is_its_gradient():
    policy = torch.tensor([-200.0, -22.0, -19.0, -1.0], requires_grad=True)
    ref = torch.tensor([-1.0, -1.0, -1.0, float("-inf")])
    k3 = kl_estimate(policy, ref, "k3")
    assert torch.isfinite(k3[:3]).all()
    assert k3[3] == float("inf")
    assert (k3.diff()[:2] < 0).all()  # further away is worse
    mask = torch.tensor([False, True, True, False])
    k3.masked_fill(~mask, 0.0).sum().backward()
    assert policy.grad is not None
    assert torch.isfinite(policy.grad).all()
    torch.testing.assert_close(policy.grad[1:3], 1 - torch.tensor([20.0, 18.0]).exp())


def test_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="use k1, k2 or k3"):
        kl_estimate(REF, REF, "k4")


def test_adaptive_beta_hand_worked():
    assert adaptive_beta(0.1, 12.0, 6.0, 1000, 10000) == pytest.approx(0.1 * 1.02)  # clipped at 0.2
    assert adaptive_beta(0.1, 0.0, 6.0, 1000, 10000) == pytest.approx(0.1 * 0.98)
    assert adaptive_beta(0.1, 6.6, 6.0, 1000, 10000) == pytest.approx(0.1 * 1.01)
    assert adaptive_beta(0.1, 6.0, 6.0, 1000, 10000) == 0.1
    with pytest.raises(ValueError, match="positive"):
        adaptive_beta(0.1, 6.0, 0.0, 1, 10)
    with pytest.raises(ValueError, match="raise the horizon"):
        adaptive_beta(0.1, 6.0, 6.0, 50, 10)


def test_value_loss_by_cases():
    # value, old value, return; clip 0.2: old 1 -> [0.8, 1.2]
    values = torch.tensor([1.1, 1.5, 1.5, 0.5], requires_grad=True)
    returns = torch.tensor([2.0, 2.0, 0.0, 0.9])
    loss = value_loss(values, returns, torch.ones(4), clip_eps=0.2)
    clipped_ones = [0.9**2, 0.8**2, 1.5**2, 0.4**2]
    assert loss.tolist() == pytest.approx([0.5 * x for x in clipped_ones])
    loss.sum().backward()
    # the second moved beyond the trust region towards its return: no gradient
    assert values.grad.tolist() == pytest.approx([-0.9, 0.0, 1.5, -0.4])
    plain = value_loss(values, returns)
    assert plain.tolist() == pytest.approx((0.5 * (values - returns) ** 2).tolist())
    with pytest.raises(ValueError, match="old_values"):
        value_loss(values, returns, clip_eps=0.2)


def test_explained_variance():
    rng = np.random.default_rng(0)
    returns, noise = rng.normal(size=50), rng.normal(size=50)
    mask = rng.random(50) < 0.7
    values = returns + 0.5 * noise
    expected = 1 - np.var((returns - values)[mask]) / np.var(returns[mask])
    as_tensors = [torch.tensor(x) for x in (values, returns, mask)]
    assert explained_variance(*as_tensors).item() == pytest.approx(expected)
    r, m = as_tensors[1:]
    assert explained_variance(r + 3, r, m).item() == pytest.approx(1)
    assert explained_variance(torch.zeros_like(r), r, m).item() == pytest.approx(0)
    assert explained_variance(r, torch.zeros_like(r), m).isnan()


def test_the_slope_is_that_of_a_regression():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 200, size=100)
    scores = 0.02 * lengths + rng.normal(size=100)
    slope = fit_length_slope(torch.tensor(scores), torch.tensor(lengths))
    assert slope == pytest.approx(stats.linregress(lengths, scores).slope)


def test_slope_within_prompts_ignores_differences_between_prompts():
    # Prompt 1 calls for long answers and scores high; within each prompt length costs reward.
    lengths = torch.tensor([10, 20, 110, 120])
    scores = torch.tensor([1.0, 0.5, 9.0, 8.5])
    group = torch.tensor([0, 0, 1, 1])
    assert fit_length_slope(scores, lengths) > 0
    assert fit_length_slope(scores, lengths, group) == pytest.approx(-0.05)


def test_no_spread_gives_zero_not_nan():
    lengths = torch.arange(7)
    assert fit_length_slope(torch.full((7,), 0.1), lengths) == 0.0
    assert fit_length_slope(lengths.float(), torch.full((7,), 3)) == 0.0


def test_the_length_coefficient_is_the_posterior_mode():
    """Each pair enters in both orders, weighted by its exact probability: 0.8 per 50 tokens."""
    generator = torch.Generator().manual_seed(0)
    n = torch.randint(10, 200, (2, 300), generator=generator)
    wins = torch.sigmoid(0.8 * (n[0] - n[1]).double() / 50.0)
    better, worse = torch.cat([n[0], n[1]]), torch.cat([n[1], n[0]])
    weight = torch.cat([wins, 1 - wins])

    def objective(c):
        z = c * (better - worse).numpy() / 50.0
        return float((weight.numpy() * np.logaddexp(0.0, -z)).sum() + 0.5 * c**2)

    found = fit_length_coefficient(better, worse, weight, scale=50.0)
    assert found == pytest.approx(optimize.minimize_scalar(objective).x, abs=1e-6)
    assert found == pytest.approx(0.8, abs=0.02)
    perfect = fit_length_coefficient(torch.tensor([9, 8]), torch.tensor([1, 2]), scale=5.0)
    assert 0 < perfect < 3  # labels that length predicts perfectly still give a finite one
