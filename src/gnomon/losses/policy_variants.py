"""Successors of PPO's loss on response tokens: GSPO, GMPO, CISPO, DPPO; DAPO's overlong penalty.

Arguments and results are those of ``policy_gradient``: per token [R], to be aggregated. GSPO and
GMPO put the same loss on every token of a response, so "sequence" gives their papers' objective.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnomon.losses.names import BinaryDivergence
from gnomon.losses.policy_gradient import clipped_surrogate, importance_ratio
from gnomon.losses.reduce import require_same_shape, response_logprobs


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
    return clipped_surrogate(s[response_of], advantages, eps_low, eps_high)


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


def dppo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, left_out: Tensor) -> Tensor:
    """The importance-weighted gradient of the tokens within the trust region (Qi et al. 2026,
    "Rethinking the trust region in LLM reinforcement learning", arXiv:2602.04879).

        L_t = -M_t r_t A_t,   M_t = 0 where ``left_out``, else 1

    Args:
        logprobs, old_logprobs, advantages: [R]; old ones of the policy that sampled.
        left_out: [R] bool, from :func:`outside_trust_region`.

    Returns:
        [R]; without clip, since what would be clipped is left out.
    """
    require_same_shape(logprobs=logprobs, advantages=advantages, left_out=left_out)
    loss = -importance_ratio(logprobs, old_logprobs) * advantages
    return loss.masked_fill(left_out, 0.0)


@torch.no_grad()
def outside_trust_region(
    logprobs: Tensor,
    old_logprobs: Tensor,
    divergence: BinaryDivergence,
    *,
    eps_low: float,
    eps_high: float,
) -> tuple[Tensor, Tensor]:
    """Tokens that have fallen, and that have risen, further than the trust region allows.

    The divergence of the policies is estimated by that of two outcomes, the sampled token and all
    others (Qi et al. 2026, the binary approximation; a lower bound of the whole one). With mu, pi
    the token's old and new probability:

    - "tv": |pi - mu|
    - "kl": KL(mu || pi) = mu log(mu / pi) + (1 - mu) log((1 - mu) / (1 - pi))

    PPO's ratio bounds neither: from 1e-5 to 1e-3 it is 100 and the policy hardly moved, from 0.99
    to 0.8 it is 0.81 and it moved far.

    Args:
        logprobs, old_logprobs: [R] under pi and mu.
        eps_low, eps_high: the most that is allowed of tokens that fall, and of those that rise.

    Returns:
        (fallen [R] bool, risen [R] bool). A token is left out of the loss where it has fallen and
        its advantage is below 0, or has risen and it is above 0: the gradient would lead further.
    """
    require_same_shape(logprobs=logprobs, old_logprobs=old_logprobs)
    pi, mu = logprobs.exp(), old_logprobs.exp()
    if divergence == "tv":
        far = (pi - mu).abs()
    elif divergence == "kl":
        rest = torch.where(mu < 1, (1 - mu) * (_log_rest(mu) - _log_rest(pi)), 0.0)
        far = mu * (old_logprobs - logprobs) + rest
    else:
        raise ValueError(f"unknown divergence {divergence!r}: use tv or kl")
    return (pi < mu) & (far > eps_low), (pi > mu) & (far > eps_high)


def _log_rest(p: Tensor) -> Tensor:
    """log(1 - p), finite where rounding has made p = 1."""
    return torch.log1p(-p.clamp(max=1 - torch.finfo(p.dtype).eps))


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
