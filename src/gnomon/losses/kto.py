"""KTO: learning from single answers labelled good or bad."""

from __future__ import annotations

import torch
from torch import Tensor

from gnomon.losses.reduce import require_same_shape


@torch.no_grad()
def kto_baseline(
    kl_logprobs: Tensor, kl_ref_logprobs: Tensor, weight: Tensor | None = None
) -> Tensor:
    """The reference point z_0 (Ethayarajh et al. 2024, arXiv:2402.01306, sec. 4.1).

        z_0 = max( 0, mean_i [ log pi(y_j|x_i) - log pi_ref(y_j|x_i) ] ),   j != i

    Each prompt is paired with *another* prompt's answer, which estimates KL(policy || reference) up
    to a bias and costs no sampling. No gradient flows through it.

    Args:
        kl_logprobs, kl_ref_logprobs: [M] summed log-probs of the mismatched answers, M >= 1. Use
            the whole step's, or the micro-batches' losses will not add up.
        weight: [M] how much each counts in the mean, some above 0; None for all the same.

    Returns:
        A scalar >= 0, in nats.
    """
    require_same_shape(kl_logprobs=kl_logprobs, kl_ref_logprobs=kl_ref_logprobs, weight=weight)
    gain = kl_logprobs - kl_ref_logprobs
    mean = gain.mean() if weight is None else (gain * weight).sum() / weight.sum()
    return mean.clamp(min=0.0)


def kto(
    logprob: Tensor,
    ref_logprob: Tensor,
    desirable: Tensor,
    baseline: Tensor | float,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7-8).

        v = lambda_D sigma(beta (r - z_0))   if desirable,
            lambda_U sigma(beta (z_0 - r))   if not,        r = log pi(y|x)/pi_ref(y|x)
        L = lambda_y - v

    Args:
        logprob, ref_logprob: [S] summed log-probs.
        desirable: [S] bool.
        baseline: z_0 from :func:`kto_baseline`, or 0.
        beta: > 0.
        desirable_weight, undesirable_weight: lambda_D and lambda_U. The paper advises to keep
            lambda_D n_D / (lambda_U n_U) between 1 and 3/2.

    Returns:
        [S].
    """
    require_same_shape(logprob=logprob, ref_logprob=ref_logprob, desirable=desirable)
    if beta <= 0:
        raise ValueError(f"beta must be positive, got {beta}")
    z0 = torch.as_tensor(baseline, dtype=logprob.dtype, device=logprob.device).detach()
    gain = logprob - ref_logprob - z0
    # lambda - lambda sigma(x) = lambda sigma(-x)
    return torch.where(
        desirable,
        desirable_weight * torch.sigmoid(-beta * gain),
        undesirable_weight * torch.sigmoid(beta * gain),
    )
