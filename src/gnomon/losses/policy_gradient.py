"""Policy-gradient losses on response tokens: REINFORCE, PPO and its successors.

All return a loss per token [R] (to be minimised), to be aggregated by
:func:`gnomon.losses.reduce.aggregate`. ``advantages`` are [R] constants (for one per response, pass
``advantages[response_of]``); ``old_logprobs`` are those of the policy at the start of the step, and
r_t = exp(logprobs - old_logprobs) is the importance ratio. Sequence-level methods put the same loss
on every token of a response, so aggregation "sequence" gives their papers' objective.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnomon.losses.reduce import require_same_shape, response_logprobs


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
    return _clipped_surrogate(ratio, advantages, eps_low, eps_high, dual_clip)


def _clipped_surrogate(
    ratio: Tensor,
    advantages: Tensor,
    eps_low: float,
    eps_high: float | None,
    dual_clip: float | None = None,
) -> Tensor:
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


def sequence_ratio(
    logprobs: Tensor,
    old_logprobs: Tensor,
    response_mask: Tensor,
    response_of: Tensor,
    lengths: Tensor,
) -> Tensor:
    """GSPO's length-normalised ratio of each response (Zheng et al. 2025, arXiv:2507.18071, eq. 7):

        s = ( pi(y|x) / pi_old(y|x) )^{1/|y|} = exp( mean_t (log pi - log pi_old) )

    Args:
        logprobs, old_logprobs: [R].
        response_mask: [R] bool.
        response_of: [R].
        lengths: [S] counted tokens.

    Returns:
        [S].
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, response_mask=response_mask)
    log_ratio = response_logprobs(
        logprobs - old_logprobs, response_mask, response_of, lengths.numel()
    )
    return torch.exp(log_ratio / lengths.clamp(min=1))


def gspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    response_of: Tensor,
    lengths: Tensor,
    *,
    eps_low: float = 3e-4,
    eps_high: float = 4e-4,
) -> Tensor:
    """PPO's surrogate with one ratio for a whole response (Zheng et al. 2025, eq. 5).

    Args:
        logprobs, old_logprobs, advantages: [R]; advantages equal within a response.
        response_mask: [R] bool.
        response_of: [R].
        lengths: [S] counted tokens.
        eps_low, eps_high: the paper's clips, far smaller than PPO's since s is a mean.

    Returns:
        [R], the same for all tokens of a response; aggregate by "sequence".
    """
    require_same_shape(logprobs=logprobs, advantages=advantages)
    s = sequence_ratio(logprobs, old_logprobs, response_mask, response_of, lengths)
    return _clipped_surrogate(s[response_of], advantages, eps_low, eps_high)


def gmpo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    response_of: Tensor,
    lengths: Tensor,
    *,
    eps_low: float = 0.4,
    eps_high: float = 0.4,
) -> Tensor:
    """The geometric mean of the token ratios (Zhao et al. 2025, arXiv:2507.20673).

        L = -A exp( mean_t l_t ),   l_t = the log-ratio, clipped to [-eps_low, eps_high] on the
        side where it would push further (above for A > 0, below for A < 0)

    Args:
        logprobs, old_logprobs, advantages: [R]; advantages equal within a response.
        response_mask: [R] bool.
        response_of: [R].
        lengths: [S] counted tokens.
        eps_low, eps_high: clips of the *log*-ratio; the paper's range is (e^-0.4, e^0.4).

    Returns:
        [R], the same for all tokens of a response; aggregate by "sequence".
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    log_ratio = logprobs - old_logprobs
    clipped = torch.where(
        advantages > 0, log_ratio.clamp(max=eps_high), log_ratio.clamp(min=-eps_low)
    )
    mean = response_logprobs(clipped, response_mask, response_of, lengths.numel())
    return -advantages * torch.exp(mean / lengths.clamp(min=1))[response_of]


def cispo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    eps_high: float,
    eps_low: float = 1.0,
) -> Tensor:
    """Clipped importance weights, gradient for every token (MiniMax-M1, arXiv:2506.13585, eq. 4-5).

        L_t = -sg( clip(r_t, 1 - eps_low, 1 + eps_high) ) A_t log pi(y_t)

    Args:
        logprobs, old_logprobs, advantages: [R].
        eps_high: upper clip of the weight.
        eps_low: lower clip; 1 (none) as in the paper's runs.

    Returns:
        [R].
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    ratio = importance_ratio(logprobs, old_logprobs).detach()
    return -ratio.clamp(1.0 - eps_low, 1.0 + eps_high) * advantages * logprobs


@torch.no_grad()
def truncated_importance_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor, cap: float
) -> Tensor:
    """min( pi_old / pi_sampler, cap ) per token: corrects for a sampler that is not the trainer.

    The rollout engine's log-probs differ from the trainer's (kernels, precision, stale weights), so
    data are off-policy even at the first update. Multiply the token loss by these constants
    (truncated importance sampling, Yao et al. 2025, "Your efficient RL framework secretly brings
    you off-policy RL training").

    Args:
        old_logprobs: [R] of the trainer at the start of the step, at the sampling temperature.
        sampler_logprobs: [R] as recorded when the token was drawn.
        cap: > 0; 2 is usual.

    Returns:
        [R].
    """
    require_same_shape(old_logprobs=old_logprobs, sampler_logprobs=sampler_logprobs)
    if cap <= 0:
        raise ValueError(f"cap must be positive, got {cap}")
    return torch.exp(old_logprobs - sampler_logprobs).clamp(max=cap)


@torch.no_grad()
def masked_importance_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor, *, low: float, high: float
) -> Tensor:
    """pi_old / pi_sampler where it lies in [low, high], else 0: tokens on which sampler and trainer
    disagree too much take no part, where :func:`truncated_importance_weights` would keep them.

    Args:
        old_logprobs, sampler_logprobs: [R].
        low, high: 0 <= low < high.

    Returns:
        [R].
    """
    require_same_shape(old_logprobs=old_logprobs, sampler_logprobs=sampler_logprobs)
    if not 0 <= low < high:
        raise ValueError(f"need 0 <= low < high, got low {low}, high {high}")
    ratio = torch.exp(old_logprobs - sampler_logprobs)
    return ratio.masked_fill((ratio < low) | (ratio > high), 0.0)


def soft_overlong_penalty(lengths: Tensor, *, max_length: int, buffer: int) -> Tensor:
    """DAPO's soft overlong punishment (Yu et al. 2025, arXiv:2503.14476, eq. 13), a reward <= 0.

        0 up to max_length - buffer, then linearly down to -1 at max_length, -1 beyond

    Args:
        lengths: [S] tokens generated.
        max_length: L_max.
        buffer: L_cache, 0..max_length; 0 gives a hard limit.

    Returns:
        [S] float in [-1, 0].
    """
    if not 0 <= buffer <= max_length:
        raise ValueError(f"buffer must lie in 0..max_length ({max_length}), got {buffer}")
    over = lengths.float() - (max_length - buffer)
    if buffer == 0:
        return -(over > 0).float()
    return -(over / buffer).clamp(0.0, 1.0)
