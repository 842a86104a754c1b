"""Policy-gradient losses on response tokens: REINFORCE and PPO's; others in ``policy_variants``.

All return a loss per token [R] (to be minimised), to be aggregated by
:func:`gnomon.losses.reduce.aggregate`. ``advantages`` are [R] constants (for one per response, pass
``advantages[response_of]``); ``old_logprobs`` are those of the policy at the start of the step, and
r_t = exp(logprobs - old_logprobs) is the importance ratio. Sequence-level methods put the same loss
on every token of a response, so aggregation "sequence" gives their papers' objective.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gnomon.losses.reduce import require_same_shape


def reinforce(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """-A_t log pi(y_t): Williams (1992). For on-policy data, or with importance weights."""
    require_same_shape(logprobs=logprobs, advantages=advantages)
    return -advantages * logprobs


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """r_t = pi(y_t) / pi_old(y_t) per token [R].

    Capped at e^20, far above any clip, because an infinite ratio turns the zero gradient of a
    clipped or masked token into NaN.
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs)
    return torch.exp((logprobs - old_logprobs).clamp(max=20.0))


def ppo_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    eps_low: float = 0.2,
    eps_high: float | None = None,
    dual_clip: float | None = None,
) -> Tensor:
    """PPO's clipped surrogate (Schulman et al. 2017, arXiv:1707.06347, eq. 7).

        L_t = -min( r_t A_t, clip(r_t, 1 - eps_low, 1 + eps_high) A_t )

    Args:
        logprobs, old_logprobs, advantages: [R].
        eps_low: lower clip.
        eps_high: upper clip; None for ``eps_low``. Larger is DAPO's clip-higher, which keeps
            exploration alive (Yu et al. 2025, arXiv:2503.14476, eq. 10).
        dual_clip: c > 1 bounds the loss at -c A_t for A_t < 0, where min() alone lets a ratio that
            exploded through (Ye et al. 2020, arXiv:1912.09729).

    Returns:
        [R].
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    ratio = importance_ratio(logprobs, old_logprobs)
    return clipped_surrogate(ratio, advantages, eps_low, eps_high, dual_clip)


def clipped_surrogate(
    ratio: Tensor,
    advantages: Tensor,
    eps_low: float,
    eps_high: float | None,
    dual_clip: float | None = None,
) -> Tensor:
    """[R] PPO's objective for ratios that are at hand; see :func:`ppo_clip`."""
    upper = eps_low if eps_high is None else eps_high
    clipped = ratio.clamp(1.0 - eps_low, 1.0 + upper)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        if dual_clip <= 1.0:
            raise ValueError(f"dual_clip must be above 1, got {dual_clip}")
        bounded = torch.maximum(surrogate, dual_clip * advantages)
        surrogate = torch.where(advantages < 0, bounded, surrogate)
    return -surrogate


@torch.no_grad()
def is_clipped(
    ratio: Tensor, advantages: Tensor, *, eps_low: float = 0.2, eps_high: float | None = None
) -> Tensor:
    """[R] bool: tokens whose gradient the clip removed; its masked mean is the clip fraction."""
    upper = eps_low if eps_high is None else eps_high
    high = (ratio > 1.0 + upper) & (advantages > 0)
    low = (ratio < 1.0 - eps_low) & (advantages < 0)
    return high | low


@torch.no_grad()
def importance_weights(
    old_logprobs: Tensor,
    sampler_logprobs: Tensor,
    *,
    correction: Literal["off", "truncate", "mask"],
    cap: float,
) -> Tensor:
    """w_t = pi_old / pi_sampler [R]: corrects for a sampler that is not the trainer.

    The rollout engine's log-probs differ from the trainer's (kernels, precision, stale weights), so
    data are off-policy even at the first update. Multiply the token loss by these constants.

    Args:
        old_logprobs: [R] of the trainer at the start of the step, at the sampling temperature.
        sampler_logprobs: [R] as recorded when the token was drawn.
        correction: "truncate": at most ``cap`` (truncated importance sampling, Yao et al. 2025,
            "Your efficient RL framework secretly brings you off-policy RL training"). "mask": 0
            outside [1 / cap, cap], so that tokens on which the two disagree too much take no part.
            "off": 1.
        cap: above 0 (mask: above 1); 2 is usual.
    """
    require_same_shape(old_logprobs=old_logprobs, sampler_logprobs=sampler_logprobs)
    if cap <= (1 if correction == "mask" else 0):
        raise ValueError(f"cap must be above {1 if correction == 'mask' else 0}, got {cap}")
    if correction == "off":
        return torch.ones_like(old_logprobs)
    weights = torch.exp(old_logprobs - sampler_logprobs)
    if correction == "mask":
        return weights.masked_fill((weights < 1 / cap) | (weights > cap), 0.0)
    return weights.clamp(max=cap)
