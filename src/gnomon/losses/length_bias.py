"""How far rewards follow length: two fits.

Labellers and reward models favour longer answers, and a policy finds that quickly (Singhal et al.
2023, arXiv:2310.03716). Before training, the part of the labels that length alone explains can be
fitted and held in the Bradley-Terry logit, so that the reward need not learn it; afterwards, the
slope of scores on length, fitted within prompts, says what is left. Quality that truly goes with
length is removed too, so look at accuracy on length-matched pairs before and after.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnomon.losses.reduce import require_same_shape, segment_sum


def _within_groups(values: Tensor, group_of: Tensor | None) -> Tensor:
    """Values minus their group's mean (the overall mean without groups), in float64.

    Differences that are only rounding become exactly 0.
    """
    values = values.double()
    if group_of is None:
        centred = values - values.mean()
    else:
        require_same_shape(values=values, group_of=group_of)
        num_groups = int(group_of.max()) + 1 if group_of.numel() else 0
        counts = torch.bincount(group_of, minlength=num_groups).clamp(min=1)
        centred = values - (segment_sum(values, group_of, num_groups) / counts)[group_of]
    return centred.masked_fill(centred.abs() <= 1e-12 * values.abs(), 0.0)


@torch.no_grad()
def fit_length_slope(scores: Tensor, lengths: Tensor, group_of: Tensor | None = None) -> float:
    """Reward per token of length, by least squares.

        slope = sum (l - mean l)(s - mean s) / sum (l - mean l)^2

    With ``group_of`` the means are each prompt's own, so that prompts which call for long answers
    and also score high do not count as length bias.

    Args:
        scores: [S] rewards.
        lengths: [S] tokens.
        group_of: [S] the prompt of each response, or None.

    Returns:
        The slope; 0 where lengths do not vary.
    """
    require_same_shape(scores=scores, lengths=lengths)
    length, score = _within_groups(lengths, group_of), _within_groups(scores, group_of)
    total = length.square().sum()
    return float((length * score).sum() / total) if total > 0 else 0.0


@torch.no_grad()
def fit_length_coefficient(
    better_length: Tensor,
    worse_length: Tensor,
    weight: Tensor | None = None,
    *,
    scale: float,
    iterations: int = 25,
) -> float:
    """How far length alone predicts the labels: c in P(better wins) = sigma(c (l_b - l_w) / scale).

    Maximum likelihood by Newton's method, with a unit Gaussian prior on c so that labels that
    length predicts perfectly still give a finite c. Fitted before training and added to the logit,
    it leaves to the reward only what length does not explain (a product of experts: Clark et al.
    2019, arXiv:1909.03683; in length-controlled AlpacaEval: Dubois et al. 2024, arXiv:2404.04475).

    Args:
        better_length, worse_length: [C] tokens.
        weight: [C] weight of each comparison (0 for ties), or None.
        scale: a typical length difference, so that c is of order 1.

    Returns:
        c, reward units per ``scale`` tokens.
    """
    require_same_shape(better_length=better_length, worse_length=worse_length)
    x = (better_length - worse_length).double() / scale
    w = torch.ones_like(x) if weight is None else weight.double()
    c = torch.zeros((), dtype=torch.float64, device=x.device)
    for _ in range(iterations):
        p = torch.sigmoid(c * x)
        gradient = (w * (1 - p) * x).sum() - c
        curvature = (w * p * (1 - p) * x.square()).sum() + 1
        c = c + gradient / curvature
    return float(c)
