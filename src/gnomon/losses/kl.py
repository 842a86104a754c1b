"""KL estimates from sampled tokens, and the controller that steers beta.

All estimate KL(policy || reference) in nats from tokens sampled by the policy (Schulman 2020,
"Approximating KL divergence", joschu.net/blog/kl-approx.html). Which one enters the reward, the
loss or only the log is a setting of the algorithm.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gnomon.losses.names import BaseMix, Estimator
from gnomon.losses.reduce import require_same_shape

_STEEPEST = 20.0
"""Nats from which on k3's exponential goes on as its tangent."""


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: Estimator) -> Tensor:
    """Per-token estimate of KL(policy || reference) in nats, on tokens the policy sampled.

    With d = log pi - log pi_ref of the sampled token:

    - "k1": d. Unbiased, high variance, can be negative. The one for a penalty in the *reward*.
      As a loss it is useless: its gradient, the score, has expectation zero.
    - "k2": d^2 / 2. Biased as a value; its gradient d * grad log pi is, on policy, an unbiased
      gradient of KL(policy || reference). The one for a penalty in the *loss*.
    - "k3": exp(-d) - 1 + d. Unbiased as a value, never negative, low variance near d = 0; the
      one for *logs*. GRPO puts it in the loss (Shao et al. 2024, eq. 4), where its on-policy
      gradient is that of the forward KL(reference || policy) (Tang and Munos 2025,
      arXiv:2506.09477). Beyond d = -20 it goes on as a straight line: an infinite value, even of a
      token that is masked later, would make the gradient of all others NaN.

    Args:
        logprobs, ref_logprobs: [R] log-probabilities of the sampled tokens.
        estimator: which.

    Returns:
        [R]; differentiable in both arguments (pass detached reference log-probs).
    """
    require_same_shape(logprobs=logprobs, ref_logprobs=ref_logprobs)
    d = logprobs - ref_logprobs
    if estimator == "k1":
        return d
    if estimator == "k2":
        return 0.5 * d.square()
    if estimator == "k3":
        tangent = math.exp(_STEEPEST) * (-d - _STEEPEST).clamp(min=0.0)
        return torch.expm1((-d).clamp(max=_STEEPEST)) + d + tangent
    raise ValueError(f"unknown KL estimator {estimator!r}: use k1, k2 or k3")


def mixed_logprobs(
    ref_logprobs: Tensor, base_logprobs: Tensor, share: float, mix: BaseMix
) -> Tensor:
    """Log-probs of a mean of two policies, for a KL that ties to both: to the one that was aligned
    before, and to the base model, whose abilities alignment costs (the alignment tax).

    - "arithmetic": log( (1 - a) pi_ref + a pi_base ), at each token. A policy of its own. A token
      that either finds likely is hardly penalised: its penalty is at most that under the
      reference alone, plus -log(1 - a).
    - "geometric": (1 - a) log pi_ref + a log pi_base. With the estimator k1 its KL is the weighted
      sum of both KLs, (1 - a) KL(pi || pi_ref) + a KL(pi || pi_base), whose optimum is that of the
      normalised geometric mean (Aminian et al. 2025, "KL-regularized RLHF with multiple reference
      models", arXiv:2502.01203). Not being normalised, it has no k3 that is its KL.

    Args:
        ref_logprobs, base_logprobs: [R] of the same tokens, in nats.
        share: a, the base model's, in [0, 1).

    Returns:
        [R].
    """
    require_same_shape(ref_logprobs=ref_logprobs, base_logprobs=base_logprobs)
    if not 0.0 <= share < 1.0:
        raise ValueError(f"share must lie in [0, 1), got {share}")
    if share == 0.0:
        return ref_logprobs
    if mix == "geometric":
        return torch.lerp(ref_logprobs, base_logprobs, share)
    if mix != "arithmetic":
        raise ValueError(f"unknown mix {mix!r}: use arithmetic or geometric")
    return torch.logaddexp(ref_logprobs + math.log1p(-share), base_logprobs + math.log(share))


def adaptive_beta(
    beta: float, observed_kl: float, target_kl: float, steps: int, horizon: int
) -> float:
    """The next beta of a proportional controller in log-space (Ziegler et al. 2019,
    arXiv:1909.08593, sec. 2.2):

        e = clip((KL - KL_target) / KL_target, -0.2, 0.2),   beta <- beta (1 + e steps / horizon)

    Args:
        beta: the coefficient just used.
        observed_kl: the KL it led to, in nats, measured as ``target_kl`` is (per response, say).
        target_kl: > 0.
        steps: responses (or whatever ``horizon`` counts) since the last update.
        horizon: larger is slower; Ziegler et al. use 10000 responses.

    Raises:
        ValueError: target_kl or horizon is not positive, or ``steps`` > 4 ``horizon``, where one
            update could cut beta by more than 80% (at 5 it would reach 0).
    """
    if target_kl <= 0 or horizon <= 0:
        raise ValueError(f"target_kl ({target_kl}) and horizon ({horizon}) must be positive")
    if not 0 <= steps <= 4 * horizon:
        raise ValueError(
            f"steps ({steps}) must lie in 0..4 * horizon ({4 * horizon}): raise the horizon"
        )
    error = min(max(observed_kl / target_kl - 1.0, -0.2), 0.2)
    return beta * (1.0 + error * steps / horizon)
