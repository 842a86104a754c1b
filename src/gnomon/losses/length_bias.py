"""Length in rewards: measured, fitted and removed.

Labellers and reward models favour longer answers, and a policy finds that quickly (Singhal et al.
2023, arXiv:2310.03716). Two cures are here. Joint: a length term of its own in the Bradley-Terry
logit explains that part of the labels while training and is left out when scoring. Afterwards: the
slope of scores on length, fitted within prompts, is subtracted. Both also remove quality that truly
goes with length, so look at accuracy on length-matched pairs before and after.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnomon.losses.reduce import require_same_shape, segment_sum


def length_term(
    better_length: Tensor, worse_length: Tensor, coefficient: Tensor | float, *, scale: float
) -> Tensor:
    """What length alone adds to a comparison's logit: c (|y_better| - |y_worse|) / scale.

    The joint model is P(better wins) = sigma(r_better - r_worse + term): pass

        bradley_terry(better + length_term(...), worse)

    with ``coefficient`` a learned scalar (start at 0), and score with r alone. The same idea as
    in length-controlled AlpacaEval (Dubois et al. 2024, arXiv:2404.04475). It removes only what is
    linear in length, and r itself can still encode length, so check :func:`length_correlation` of
    the scores.

    Args:
        better_length, worse_length: [C] tokens.
        coefficient: c, reward units per ``scale`` tokens.
        scale: a typical length difference, so that c is of order 1.

    Returns:
        [C] in reward units; differentiable in ``coefficient``.
    """
    require_same_shape(better_length=better_length, worse_length=worse_length)
    if scale <= 0:
        raise ValueError(f"scale must be positive, got {scale}")
    return coefficient * ((better_length - worse_length) / scale)


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


def remove_length(
    scores: Tensor, lengths: Tensor, slope: float, *, reference_length: float
) -> Tensor:
    """Scores as if every response had ``reference_length`` tokens: s - slope (l - reference).

    Args:
        scores, lengths: [S].
        slope: from :func:`fit_length_slope`, on data the scores were not trained on.
        reference_length: usually the mean length of the data the slope was fitted on, which leaves
            their mean score as it was.

    Returns:
        [S].
    """
    require_same_shape(scores=scores, lengths=lengths)
    return scores - slope * (lengths.to(scores.dtype) - reference_length)


def length_correlation(scores: Tensor, lengths: Tensor, group_of: Tensor | None = None) -> Tensor:
    """Pearson correlation of scores and lengths, within prompts when ``group_of`` is given.

    Differentiable in ``scores``: its absolute value is the decorrelation penalty of ODIN (Chen et
    al. 2024, arXiv:2402.07319). As a penalty it is a statistic of the batch at hand and does not
    add up over micro-batches.

    Args:
        scores, lengths: [S].
        group_of: [S] or None.

    Returns:
        A scalar in [-1, 1]; 0 (with zero gradient) where either does not vary.
    """
    require_same_shape(scores=scores, lengths=lengths)
    length, score = _within_groups(lengths, group_of), _within_groups(scores, group_of)
    product = length.square().sum() * score.square().sum()
    safe = torch.where(product > 0, product, torch.ones_like(product))
    correlation = (length * score).sum() / safe.sqrt()
    return torch.where(product > 0, correlation, torch.zeros_like(correlation)).to(scores.dtype)


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
    length predicts perfectly still give a finite c. Fitted before training and held fixed in
    :func:`length_term`, it leaves to the reward only what length does not explain (a product of
    experts: Clark et al. 2019, arXiv:1909.03683).

    Args:
        better_length, worse_length: [C] tokens.
        weight: [C] weight of each comparison (0 for ties), or None.
        scale: as in :func:`length_term`.

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
