"""Direct preference optimisation against a reference, and its variants.

All take summed log-probs of whole responses, in nats, one entry per comparison [C]: ``chosen`` and
``rejected`` under the policy, ``ref_chosen`` and ``ref_rejected`` under the reference (constants),
and return an unreduced loss [C]. The common quantity is the margin

    h = log pi(y_w|x)/pi_ref(y_w|x) - log pi(y_l|x)/pi_ref(y_l|x)

and beta h is the difference of implicit rewards.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gnomon.losses.names import Divergence
from gnomon.losses.preference import plackett_luce
from gnomon.losses.reduce import require_same_shape


def implicit_reward(logprob: Tensor, ref_logprob: Tensor, beta: float) -> Tensor:
    """beta log pi(y|x)/pi_ref(y|x): the reward that the policy is optimal for, up to a constant of
    the prompt (Rafailov et al. 2023, arXiv:2305.18290, eq. 5). All [S] or [C].
    """
    require_same_shape(logprob=logprob, ref_logprob=ref_logprob)
    return beta * (logprob - ref_logprob)


def _check(beta: float, label_smoothing: float = 0.0, below: float = 0.5) -> None:
    if beta <= 0:
        raise ValueError(f"beta must be positive, got {beta}")
    if not 0.0 <= label_smoothing <= below:
        raise ValueError(f"label_smoothing must lie in [0, {below}], got {label_smoothing}")


def f_derivative(log_ratio: Tensor, divergence: Divergence, alpha: float = 0.5) -> Tensor:
    """f'(u) of an f-divergence at u = pi / pi_ref, from log u (Wang et al. 2023, arXiv:2309.16240).

    - "reverse_kl": log u (plain DPO)
    - "forward_kl": 1 - 1/u
    - "js": log 2u/(1+u)
    - "alpha": (1 - u^-alpha) / alpha; alpha -> 0 is the reverse, alpha = 1 the forward KL

    The exponent is cut at 80, where float32 would soon overflow.

    Args:
        log_ratio: [C] log pi - log pi_ref.
        divergence: which.
        alpha: in (0, 1]; only for "alpha".

    Returns:
        [C].
    """
    if divergence == "reverse_kl":
        return log_ratio
    if divergence == "forward_kl":
        return -torch.expm1((-log_ratio).clamp(max=80.0))
    if divergence == "js":
        return math.log(2.0) + logsigmoid(log_ratio)
    if divergence == "alpha":
        if not 0.0 < alpha <= 1.0:
            raise ValueError(f"alpha must lie in (0, 1], got {alpha}")
        return -torch.expm1((-alpha * log_ratio).clamp(max=80.0)) / alpha
    raise ValueError(f"unknown divergence {divergence!r}: use reverse_kl, forward_kl, js or alpha")


def margin(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    divergence: Divergence = "reverse_kl",
    alpha: float = 0.5,
) -> Tensor:
    """h = f'(u_w) - f'(u_l) with u = pi / pi_ref; for the reverse KL the difference of log-ratios.

    Args:
        chosen, rejected, ref_chosen, ref_rejected: [C] summed log-probs.
        divergence, alpha: see :func:`f_derivative`.

    Returns:
        [C].
    """
    require_same_shape(
        chosen=chosen, rejected=rejected, ref_chosen=ref_chosen, ref_rejected=ref_rejected
    )
    return f_derivative(chosen - ref_chosen, divergence, alpha) - f_derivative(
        rejected - ref_rejected, divergence, alpha
    )


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    divergence: Divergence = "reverse_kl",
    alpha: float = 0.5,
) -> Tensor:
    """DPO (Rafailov et al. 2023, arXiv:2305.18290, eq. 7), cDPO and f-DPO.

        L = -(1 - eps) log sigma(beta h) - eps log sigma(-beta h)

    Args:
        chosen, rejected, ref_chosen, ref_rejected: [C] summed log-probs.
        beta: strength of the tie to the reference.
        label_smoothing: eps, the probability of a flipped label, in [0, 0.5]: cDPO (Mitchell 2023,
            "A note on DPO with noisy preferences").
        divergence, alpha: see :func:`f_derivative`.

    Returns:
        [C].
    """
    _check(beta, label_smoothing)
    h = margin(chosen, rejected, ref_chosen, ref_rejected, divergence=divergence, alpha=alpha)
    eps = label_smoothing
    return -(1.0 - eps) * logsigmoid(beta * h) - eps * logsigmoid(-beta * h)


def robust_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float,
) -> Tensor:
    """Robust DPO: unbiased for the clean loss when labels flip with probability eps (Chowdhury et
    al. 2024, arXiv:2403.00409).

        L = [ -(1 - eps) log sigma(beta h) + eps log sigma(-beta h) ] / (1 - 2 eps)

    Args:
        chosen, rejected, ref_chosen, ref_rejected: [C] summed log-probs.
        beta: > 0.
        label_smoothing: eps in [0, 0.49].

    Returns:
        [C]; unbounded below, unlike cDPO.
    """
    _check(beta, label_smoothing, below=0.49)
    h = margin(chosen, rejected, ref_chosen, ref_rejected)
    eps = label_smoothing
    clean, flipped = -logsigmoid(beta * h), -logsigmoid(-beta * h)
    return ((1.0 - eps) * clean - eps * flipped) / (1.0 - 2.0 * eps)


def ipo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    chosen_length: Tensor | None = None,
    rejected_length: Tensor | None = None,
) -> Tensor:
    """IPO (Azar et al. 2023, arXiv:2310.12036, eq. 17).

        L = ( h - 1 / (2 beta) )^2,   beta the paper's tau

    A sum over hundreds of tokens overshoots that target at once, so in practice (TRL, and by its
    account the authors' own runs) log-ratios are averaged over each response's tokens.

    Args:
        chosen, rejected, ref_chosen, ref_rejected: [C] summed log-probs.
        beta: > 0.
        chosen_length, rejected_length: [C] tokens: both given, log-ratios are averaged; neither,
            the paper's sums.

    Returns:
        [C].
    """
    _check(beta)
    if (chosen_length is None) != (rejected_length is None):
        raise ValueError("give both chosen_length and rejected_length, or neither")
    if chosen_length is None or rejected_length is None:
        h = margin(chosen, rejected, ref_chosen, ref_rejected)
    else:
        require_same_shape(chosen=chosen, chosen_length=chosen_length)
        require_same_shape(rejected=rejected, rejected_length=rejected_length)
        h = (chosen - ref_chosen) / chosen_length.clamp(min=1) - (
            rejected - ref_rejected
        ) / rejected_length.clamp(min=1)
    return (h - 1.0 / (2.0 * beta)).square()


def hinge(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
) -> Tensor:
    """SLiC's hinge on normalised likelihoods: max(0, 1 - beta h) (Zhao et al. 2023,
    arXiv:2305.10425; in this form Liu et al. 2023, RSO, arXiv:2309.06657). All [C]."""
    _check(beta)
    return torch.relu(1.0 - beta * margin(chosen, rejected, ref_chosen, ref_rejected))


def length_regularised_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float,
    length_coef: float,
) -> Tensor:
    """R-DPO: DPO for the reward minus length_coef per token (Park et al. 2024, arXiv:2403.19159).

        L = -log sigma( beta h + length_coef (|y_w| - |y_l|) )

    A longer chosen answer already explains part of the preference, so it is learned from less; a
    shorter one is learned from more.

    Args:
        chosen, rejected, ref_chosen, ref_rejected: [C] summed log-probs.
        chosen_length, rejected_length: [C] tokens.
        beta: > 0.
        length_coef: the paper's alpha >= 0, in reward units per token.

    Returns:
        [C].
    """
    _check(beta)
    h = margin(chosen, rejected, ref_chosen, ref_rejected)
    require_same_shape(h=h, chosen_length=chosen_length, rejected_length=rejected_length)
    return -logsigmoid(beta * h + length_coef * (chosen_length - rejected_length))


def length_desensitised_logprobs(
    logprobs: Tensor,
    response_mask: Tensor,
    response_of: Tensor,
    lengths: Tensor,
    pairs: Tensor,
    *,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """LD-DPO's log-probs: tokens beyond the shorter answer's length count alpha (Liu et al. 2024,
    arXiv:2409.06411).

        log pi_LD(y) = sum_{t <= l_p} log pi(y_t) + alpha sum_{t > l_p} log pi(y_t)
        l_p = min(|y_w|, |y_l|)

    Apply it to policy and reference log-probs, then use :func:`dpo`.

    Args:
        logprobs: [R] per-token log-probs.
        response_mask: [R] bool.
        response_of: [R] ascending.
        lengths: [S] counted tokens of each response.
        pairs: [C, 2] response indices of (chosen, rejected); a response may be in several.
        alpha: in [0, 1]; 1 is plain DPO, 0 ignores the surplus.

    Returns:
        (chosen [C], rejected [C]). Memory is O(C R).
    """
    require_same_shape(logprobs=logprobs, response_mask=response_mask, response_of=response_of)
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    before = response_mask.cumsum(0) - response_mask.long()  # counted tokens, of all responses
    place = before - (lengths.cumsum(0) - lengths)[response_of]
    public = lengths[pairs].amin(dim=1)

    def sums(side: Tensor) -> Tensor:
        own = response_mask & (response_of == side[:, None])  # [C, R]
        values = torch.where(place >= public[:, None], alpha * logprobs, logprobs)
        return values.masked_fill(~own, 0.0).sum(dim=1)

    return sums(pairs[:, 0]), sums(pairs[:, 1])


def nll_term(chosen: Tensor, chosen_length: Tensor) -> Tensor:
    """-log pi(y_w|x) / |y_w|: the term that keeps the chosen answer likely, to be added with a
    weight (RPO, Pang et al. 2024, arXiv:2404.19733; Llama 3, arXiv:2407.21783, uses 0.2).

    Args:
        chosen: [C] summed log-probs.
        chosen_length: [C] tokens.

    Returns:
        [C] nats per token.
    """
    require_same_shape(chosen=chosen, chosen_length=chosen_length)
    return -chosen / chosen_length.clamp(min=1)


def plackett_luce_dpo(
    logprob: Tensor,
    ref_logprob: Tensor,
    rank: Tensor,
    group_of: Tensor,
    num_groups: int,
    *,
    beta: float,
) -> Tensor:
    """DPO on rankings (Rafailov et al. 2023, appendix A.3): Plackett-Luce on implicit rewards.

    Args:
        logprob, ref_logprob: [S] summed log-probs.
        rank: [S] 1 for the best; ties as in :func:`gnomon.losses.preference.plackett_luce`.
        group_of: [S].
        num_groups: G.
        beta: > 0.

    Returns:
        [G]; equals :func:`dpo` for K = 2.
    """
    _check(beta)
    return plackett_luce(implicit_reward(logprob, ref_logprob, beta), rank, group_of, num_groups)
