"""Preference optimisation without a reference: SimPO, ORPO, CPO.

All take summed log-probs of whole responses [C] in nats and return an unreduced loss [C].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gnomon.losses.dpo import nll_term
from gnomon.losses.reduce import require_same_shape


def simpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float,
    gamma: float,
) -> Tensor:
    """SimPO: average log-probs as rewards, with a target margin (Meng et al. 2024,
    arXiv:2405.14734, eq. 6).

        L = -log sigma( beta/|y_w| log pi(y_w|x) - beta/|y_l| log pi(y_l|x) - gamma )

    Args:
        chosen, rejected: [C] summed log-probs.
        chosen_length, rejected_length: [C] tokens.
        beta: > 0, typically 2 to 2.5 (averages are small).
        gamma: the target margin in reward units, typically 0.3 beta to 0.8 beta.

    Returns:
        [C].
    """
    require_same_shape(chosen=chosen, rejected=rejected)
    gap = nll_term(rejected, rejected_length) - nll_term(chosen, chosen_length)
    return -logsigmoid(beta * gap - gamma)


def log_odds(mean_logprob: Tensor) -> Tensor:
    """log( P / (1 - P) ) from log P, accurate at both ends.

    log P is held at least one float's step below 0, where the odds would be infinite.
    """
    logp = mean_logprob.clamp(max=-torch.finfo(mean_logprob.dtype).eps)
    # log(1 - e^x): expm1 near 0, log1p far below it; each branch sees only its own range, so that
    # neither puts a NaN into the other's gradient.
    near = logp > -0.6931
    log1m_near = torch.log(-torch.expm1(torch.where(near, logp, -0.5)))
    log1m_far = torch.log1p(-torch.exp(torch.where(near, -1.0, logp)))
    return logp - torch.where(near, log1m_near, log1m_far)


def orpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float,
) -> Tensor:
    """ORPO: SFT on the chosen answer and an odds-ratio penalty (Hong et al. 2024,
    arXiv:2403.07691, eq. 6-7).

        L = NLL(y_w) - beta log sigma( log odds(y_w) / odds(y_l) ),   odds(y) = P / (1 - P)
        log P = 1/|y| log pi(y|x)

    Args:
        chosen, rejected: [C] summed log-probs.
        chosen_length, rejected_length: [C] tokens.
        beta: the paper's lambda, typically 0.1.

    Returns:
        [C]; the NLL is the mean over each response's tokens.
    """
    require_same_shape(chosen=chosen, rejected=rejected)
    nll = nll_term(chosen, chosen_length)
    log_odds_ratio = log_odds(-nll) - log_odds(-nll_term(rejected, rejected_length))
    return nll - beta * logsigmoid(log_odds_ratio)


def cpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_length: Tensor,
    *,
    beta: float,
    nll_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """CPO: DPO with a uniform reference, plus behaviour cloning (Xu et al. 2024, arXiv:2401.08417).

        L = -log sigma( beta (log pi(y_w|x) - log pi(y_l|x)) ) + nll_weight NLL(y_w)

    Args:
        chosen, rejected: [C] summed log-probs.
        chosen_length: [C] tokens; the NLL is per token, so that it does not drown the first term.
        beta: > 0.
        nll_weight: 0 for the preference term alone.
        label_smoothing: probability of a flipped label, in [0, 0.5].

    Returns:
        [C].
    """
    require_same_shape(chosen=chosen, rejected=rejected)
    if not 0.0 <= label_smoothing <= 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5], got {label_smoothing}")
    z = beta * (chosen - rejected)
    preference = -(1.0 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)
    return preference + nll_weight * nll_term(chosen, chosen_length)
