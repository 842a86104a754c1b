"""Advantages without a critic: a reward against a baseline, over a spread.

    R_i = r_i - beta KL_i,   A_i = (R_i - baseline) / (spread + eps)

All results are constants (no gradient flows through an advantage).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gnomon.losses.reduce import masked_mean, require_same_shape, response_logprobs, segment_sum

Baseline = Literal["none", "group", "leave_one_out", "batch", "ema"]
AdvantageScale = Literal["none", "group", "batch", "group_mean"]
EPS = 1e-4
"""Added to a standard deviation before dividing (as TRL does)."""


@torch.no_grad()
def token_advantages(
    rewards: Tensor,
    response_mask: Tensor,
    response_of: Tensor,
    group_of: Tensor,
    *,
    baseline: Baseline = "group",
    scale: AdvantageScale = "group",
    ema: float | None = None,
    kl: Tensor | None = None,
    beta: float = 0.0,
    to_go: bool = False,
) -> Tensor:
    """Advantages [R] of the tokens of an iteration's responses, the same for all of a response's.

    Args:
        rewards: [S] of the *whole* step.
        response_mask, response_of: [R] tokens that count, and their response.
        group_of: [S] the group of each response.
        baseline, scale, ema: see :func:`centred` and :func:`spread`.
        kl, beta: [R] the KL of each token; beta times a response's sum is taken off its reward.
        to_go: a token answers only for the KL from it on, and "batch" statistics are over
            tokens (REINFORCE++, Hu 2025, arXiv:2501.03262).

    Returns:
        [R]; exactly 0 all over a group whose R_i are equal, with a baseline by group. A spread of 0
        is taken as 1: what does not spread is not blown up.
    """
    before = torch.zeros_like(response_of, dtype=rewards.dtype)
    if kl is not None:
        layout = (response_mask, response_of, rewards.numel())
        rewards = rewards - beta * response_logprobs(kl, *layout)
        if to_go:
            before = beta * kl_before(kl, *layout)
    advantages = centred(rewards, group_of, baseline, ema)[response_of] + before
    divisor = spread(rewards, group_of, scale)
    if to_go and "batch" in (baseline, scale):
        returns = rewards[response_of] + before
        if baseline == "batch":
            advantages = returns - masked_mean(returns, response_mask)
        if scale == "batch":
            return _over(advantages, _std(returns[response_mask]))
    return advantages if divisor is None else _over(advantages, divisor[response_of])


def centred(
    rewards: Tensor, group_of: Tensor, baseline: Baseline, ema: float | None = None
) -> Tensor:
    """[S] rewards less their baseline.

    Args:
        baseline: "group": the mean of the response's group. "leave_one_out": that of the *other*
            responses to the prompt (RLOO, Kool et al. 2019; Ahmadian et al. 2024,
            arXiv:2402.14740), A_i = K/(K-1) (r_i - mean_group). "batch": the mean of all.
            "ema": ``ema``, or the mean of all while that is None. "none": 0.

    Returns:
        Exactly 0 in groups without spread and for K = 1, with a baseline by group.
    """
    require_same_shape(rewards=rewards, group_of=group_of)
    if baseline == "none":
        return rewards
    if baseline == "ema" and ema is not None:
        return rewards - ema
    if baseline in ("batch", "ema"):
        return rewards - rewards.mean()
    if baseline not in ("group", "leave_one_out"):
        raise ValueError(f"unknown baseline {baseline!r}")
    counts = _counts(group_of)
    mean = segment_sum(rewards, group_of, counts.numel()) / counts.clamp(min=1)
    flat = zero_spread(rewards, group_of)
    centre = (rewards - mean[group_of]).masked_fill(flat[group_of], 0.0)
    if baseline == "group":
        return centre
    size = counts[group_of]
    return centre * size / (size - 1).clamp(min=1)


def spread(rewards: Tensor, group_of: Tensor, scale: AdvantageScale) -> Tensor | None:
    """[S] what advantages are divided by; None for no division (Dr. GRPO).

    Args:
        scale: "group": the std of the response's own group (GRPO; favours very easy and very hard
            prompts). "batch": the std of all rewards of the step (Liu et al. 2025,
            arXiv:2508.08221). Both are the unbiased ones (n - 1), and 0 where all are equal.
            "group_mean": the group's mean reward (MaxRL, Tajwar et al. 2026, arXiv:2602.02710). Of
            0/1 rewards with K samples it makes the expected gradient that of the log-likelihood of
            being right, log p, cut after K - 1 terms of its expansion in 1 - p, where no division
            gives that of p: rare successes count more.

    Raises:
        ValueError: "group_mean" and a reward below 0.
    """
    if scale == "none":
        return None
    if scale == "batch":
        return _std(rewards).expand_as(rewards)
    if scale == "group_mean":
        if bool((rewards < 0).any()):
            low = float(rewards.min())
            raise ValueError(f"group_mean needs rewards of 0 and above; one is {low:g}")
        sizes = _counts(group_of)
        return (segment_sum(rewards, group_of, sizes.numel()) / sizes.clamp(min=1))[group_of]
    if scale != "group":
        raise ValueError(f"unknown advantage scale {scale!r}: use none, group, batch or group_mean")
    centre = centred(rewards, group_of, "group")
    counts = _counts(group_of)
    squares = segment_sum(centre.square(), group_of, counts.numel())
    return (squares / (counts - 1).clamp(min=1)).sqrt()[group_of]


def kl_before(kl: Tensor, response_mask: Tensor, response_of: Tensor, num_responses: int) -> Tensor:
    """[R] the KL summed over a response's counted tokens before each token."""
    counted = kl.masked_fill(~response_mask, 0.0).double()
    totals = segment_sum(counted, response_of, num_responses)
    start = totals.cumsum(0) - totals
    return (counted.cumsum(0) - counted - start[response_of]).to(kl.dtype)


@torch.no_grad()
def zero_spread(rewards: Tensor, group_of: Tensor) -> Tensor:
    """[G] bool: groups whose rewards are all equal (K = 1 and empty groups included).

    They carry no signal: leave them out of the forward pass and count them (DAPO's dynamic
    sampling drops them, Yu et al. 2025, eq. 11). A NaN reward is not "equal".
    """
    require_same_shape(rewards=rewards, group_of=group_of)
    groups = _counts(group_of).numel()
    low = rewards.new_full((groups,), float("inf"))
    high = -low
    low = low.scatter_reduce(0, group_of, rewards, "amin")
    high = high.scatter_reduce(0, group_of, rewards, "amax")
    return high <= low


def _counts(group_of: Tensor) -> Tensor:
    return torch.bincount(group_of)


def _std(values: Tensor) -> Tensor:
    """The unbiased std; 0 where all are equal, whatever rounding says."""
    flat = values.numel() < 2 or bool(values.max() <= values.min())
    return values.new_zeros(()) if flat else values.std()


def _over(values: Tensor, divisor: Tensor) -> Tensor:
    return values / torch.where(divisor > 0, divisor + EPS, torch.ones_like(divisor))
