"""Advantages with a critic: generalised advantage estimation, and whitening.

All results are constants (no gradient flows through an advantage).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnomon.losses.reduce import masked_mean, require_same_shape, segment_sum


@torch.no_grad()
def gae(
    rewards: Tensor,
    values: Tensor,
    response_start: Tensor,
    *,
    gamma: float,
    lam: float,
    bootstrap: Tensor | None = None,
    response_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t = sum_l (gamma lam)^l delta_{t+l},   R_t = A_t + V_t

    V_t is the value *before* token t is chosen. V after a response's last token is 0 (it ended with
    EOS) or ``bootstrap`` (it was cut off and would have continued). Rewards already hold the KL
    penalty, if any; it is discounted here once.

    The sum is built by doubling: after k rounds A_t holds 2^k terms, so R tokens cost
    O(R log T) with no padding and no loop over time.

    Args:
        rewards: [R] per-token rewards.
        values: [R].
        response_start: [S + 1] offsets of the responses.
        gamma, lam: in [0, 1]. Whole answers usually take gamma = 1.
        bootstrap: [S] value after the last token; None for 0 everywhere.
        response_mask: [R] bool; tokens that the policy did not choose (tool output, user turns)
            are not steps: they are skipped, get advantage 0 and return 0, and a reward on one is
            credited to the last chosen token before it (the first, if none is before).

    Returns:
        (advantages [R], returns [R]).
    """
    require_same_shape(rewards=rewards, values=values, response_mask=response_mask)
    num_responses = response_start.numel() - 1
    if bootstrap is not None and bootstrap.shape != (num_responses,):
        raise ValueError(f"bootstrap has shape {tuple(bootstrap.shape)}, not ({num_responses},)")
    if response_mask is not None:
        return _gae_chosen_only(
            rewards, values, response_start, gamma, lam, bootstrap, response_mask
        )
    lengths = response_start.diff()
    # [R] one past the last token of the response each token belongs to.
    end = torch.repeat_interleave(response_start[1:], lengths, output_size=rewards.numel())
    here = torch.arange(rewards.numel(), device=rewards.device)

    def ahead(x: Tensor, k: int) -> Tensor:
        """x[t + k] inside the same response, 0 beyond its end."""
        shifted = torch.zeros_like(x)
        shifted[: x.numel() - k] = x[k:]
        return shifted.masked_fill(here + k >= end, 0.0)

    next_values = ahead(values, 1)
    if bootstrap is not None:
        after_last = torch.repeat_interleave(
            bootstrap.to(values.dtype), lengths, output_size=values.numel()
        )
        next_values = torch.where(here + 1 == end, after_last, next_values)

    advantages = rewards + gamma * next_values - values
    longest = int(lengths.max()) if num_responses else 0
    step, discount = 1, gamma * lam
    while step < longest:
        advantages = advantages + discount * ahead(advantages, step)
        step, discount = 2 * step, discount * discount
    return advantages, advantages + values


def _gae_chosen_only(
    rewards: Tensor,
    values: Tensor,
    response_start: Tensor,
    gamma: float,
    lam: float,
    bootstrap: Tensor | None,
    response_mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """GAE on the chosen tokens laid end to end, put back in place."""
    chosen_before = torch.cat([response_start.new_zeros(1), response_mask.cumsum(0)])
    start = chosen_before[response_start]
    lengths = response_start.diff()
    size = rewards.numel()
    first = torch.repeat_interleave(start[:-1], lengths, output_size=size)
    after = torch.repeat_interleave(start[1:], lengths, output_size=size)
    # The last chosen token at or before each token, among chosen tokens of its own response.
    credited = torch.maximum(chosen_before[1:] - 1, first)
    has_chosen = after > first
    chosen_rewards = segment_sum(
        rewards[has_chosen], credited[has_chosen], int(response_mask.sum())
    )
    packed, packed_returns = gae(
        chosen_rewards, values[response_mask], start, gamma=gamma, lam=lam, bootstrap=bootstrap
    )
    advantages, returns = torch.zeros_like(values), torch.zeros_like(values)
    advantages[response_mask] = packed.to(values.dtype)
    returns[response_mask] = packed_returns.to(values.dtype)
    return advantages, returns


@torch.no_grad()
def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Counted values moved to mean 0 and scaled to variance 1.

    Args:
        values: [R], of the *whole* step: whitening per micro-batch changes the objective.
        mask: [R] bool. Statistics (population variance) are over counted values only.

    Returns:
        [R], 0 where masked. Values without spread come out exactly 0.
    """
    if not values.numel():
        return values
    mean = masked_mean(values, mask)
    centred = (values - mean).masked_fill(~mask, 0.0)
    variance = masked_mean(centred.square(), mask)
    inf = float("inf")
    spread = values.masked_fill(~mask, -inf).amax() - values.masked_fill(~mask, inf).amin()
    flat = spread <= 0  # rounding of the mean must not be blown up to unit size
    return torch.where(flat, torch.zeros_like(centred), centred * torch.rsqrt(variance + 1e-8))
