"""Reward-model losses: pairs, ties and rankings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gnomon.losses.reduce import require_same_shape, segment_sum


def bradley_terry(
    better: Tensor,
    worse: Tensor,
    *,
    margin: Tensor | None = None,
    label_smoothing: float = 0.0,
    tie: Tensor | None = None,
) -> Tensor:
    """Negative log-likelihood of each comparison under Bradley and Terry (1952).

        L = -p log sigma(z) - (1 - p) log sigma(-z),   z = r_better - r_worse - m

    with p = 1 - label_smoothing, and p = 1/2, m = 0 for a tie (its order means nothing). Without
    smoothing or ties this is Ouyang et al. 2022 (InstructGPT, arXiv:2203.02155, eq. 1) and, with a
    margin, Touvron et al. 2023 (Llama 2, arXiv:2307.09288, eq. 2).

    Args:
        better, worse: [C] rewards of the two responses.
        margin: [C] by how much ``better`` should win, in units of reward.
        label_smoothing: the probability that a label is flipped, in [0, 0.5].
        tie: [C] bool, True where the labeller called them equal.

    Returns:
        [C] in nats.

    Raises:
        ValueError: shapes differ, or label_smoothing lies outside [0, 0.5].
    """
    require_same_shape(better=better, worse=worse, margin=margin, tie=tie)
    if not 0.0 <= label_smoothing <= 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5], got {label_smoothing}")
    gap = better - worse
    z = gap if margin is None else gap - margin
    p = torch.full_like(gap, 1.0 - label_smoothing)
    if tie is not None:
        z = torch.where(tie, gap, z)
        p = p.masked_fill(tie, 0.5)
    return -p * logsigmoid(z) - (1.0 - p) * logsigmoid(-z)


def with_errors(loss: Tensor, error: float) -> Tensor:
    """A comparison's negative log-likelihood where a share of all answers is the toss of a coin.

        L' = -log((1 - e) exp(-L) + e / 2)

    Christiano et al. 2017 (arXiv:1706.03741), section 2.2.3, with e = 0.1. Unlike label smoothing
    it is bounded, by log(2 / e): one answer that contradicts everything else moves nothing.

    Args:
        loss: [...] nats, of answers that are meant (:func:`bradley_terry`).
        error: e, in [0, 1).

    Raises:
        ValueError: error lies outside [0, 1).
    """
    if not 0.0 <= error < 1.0:
        raise ValueError(f"error must lie in [0, 1), got {error}")
    return loss if error == 0 else -torch.log((1 - error) * torch.exp(-loss) + error / 2)


def plackett_luce(scores: Tensor, rank: Tensor, group_of: Tensor, num_groups: int) -> Tensor:
    """Negative log-likelihood of each group's ranking under Plackett (1975) and Luce (1959).

    A ranking of K responses is K - 1 choices of the best among those that are left:

        L = sum_i w_i [ log sum_{j: rank_j >= rank_i} exp(s_j) - s_i ],   w_i = 1

    Ties follow Breslow (1974): each of m tied responses is a choice among the tied ones and all
    that rank lower. In the last (lowest) block of m, w_i = (m - 1) / m, since choosing the only
    response left is not a choice. So every ranking makes K - 1 choices, one response alone makes
    none, and K = 2 equals :func:`bradley_terry`, tie or not.

    Args:
        scores: [S] rewards (or beta times log-ratios) of the responses.
        rank: [S] 1 for the best; equal ranks tie. Only the order within a group matters.
        group_of: [S] the group (0..G-1) of each response.
        num_groups: G.

    Returns:
        [G] in nats; 0 for a group with fewer than two responses. Memory is O(S^2).
    """
    require_same_shape(scores=scores, rank=rank, group_of=group_of)
    same_group = group_of[:, None] == group_of[None, :]
    left = same_group & (rank[None, :] >= rank[:, None])
    log_total = torch.where(left, scores[None, :], float("-inf")).logsumexp(dim=1)

    tied = (same_group & (rank[None, :] == rank[:, None])).sum(dim=1)
    in_last_block = left.sum(dim=1) == tied
    w = torch.where(in_last_block, (tied - 1) / tied, torch.ones_like(scores))
    return segment_sum(w * (log_total - scores), group_of, num_groups)
