"""The two formulas of the policy-gradient family: a token's advantage and a token's loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gnomon.algorithms.policy_gradient_settings import PolicyGradientSettings
from gnomon.data.batch import Batch
from gnomon.losses import policy_gradient as pg
from gnomon.losses.advantages import group_advantages, leave_one_out
from gnomon.losses.reduce import masked_mean, response_logprobs, segment_sum
from gnomon.records import TokenGroup

EPS = 1e-4
"""Added to a standard deviation before dividing (as TRL does)."""


@dataclass(frozen=True)
class Layout:
    """Where tokens and responses of a list of groups belong, in order.

    Attributes:
        mask: [R] bool, tokens that count.  response_of: [R].  group_of: [S].
        lengths: [S] counted tokens.
    """

    mask: Tensor
    response_of: Tensor
    group_of: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, groups: Sequence[TokenGroup]) -> Layout:
        responses = [r for g in groups for r in g.responses]
        sizes = torch.tensor([len(r.ids) for r in responses], dtype=torch.int64)
        counts = torch.tensor([len(g.responses) for g in groups], dtype=torch.int64)
        return cls(
            mask=torch.tensor([bool(m) for r in responses for m in r.mask], dtype=torch.bool),
            response_of=torch.repeat_interleave(torch.arange(len(responses)), sizes),
            group_of=torch.repeat_interleave(torch.arange(len(groups)), counts),
            lengths=torch.tensor([sum(map(bool, r.mask)) for r in responses], dtype=torch.int64),
        )


def kl_before(kl: Tensor, layout: Layout) -> Tensor:
    """[R] the KL summed over a response's counted tokens before each token."""
    counted = kl.masked_fill(~layout.mask, 0.0).double()
    totals = segment_sum(counted, layout.response_of, layout.lengths.numel())
    start = totals.cumsum(0) - totals
    return (counted.cumsum(0) - counted - start[layout.response_of]).to(kl.dtype)


@torch.no_grad()
def token_advantages(
    rewards: Tensor,
    layout: Layout,
    settings: PolicyGradientSettings,
    *,
    kl: Tensor | None = None,
    ema: float | None = None,
) -> Tensor:
    """[R] advantages of the tokens of an iteration's responses.

        R_i = r_i - beta KL_i,   A_i = (R_i - baseline) / scale,   the same for all its tokens

    With kl_in "reward_to_go" a token answers only for the KL from it on: R_t = R_i + beta times
    the KL before it, and "batch" statistics are over tokens (REINFORCE++, Hu 2025,
    arXiv:2501.03262).

    Args:
        rewards: [S].
        kl: [R] the estimate of each token, where the penalty is in the reward.
        ema: the mean reward of earlier iterations; None takes this iteration's.

    Returns:
        [R]; exactly 0 all over a group whose R_i are equal, with a baseline by group. A scale of 0
        is taken as 1: what does not spread is not blown up.
    """
    s = settings
    before = torch.zeros_like(layout.response_of, dtype=rewards.dtype)
    if kl is not None:
        penalty = response_logprobs(kl, layout.mask, layout.response_of, rewards.numel())
        rewards = rewards - s.beta * penalty
        if s.kl_in == "reward_to_go":
            before = s.beta * kl_before(kl, layout)
    by_token = s.kl_in == "reward_to_go"
    returns = rewards[layout.response_of] + before
    centred = _centred(rewards, layout, s, ema)[layout.response_of] + before
    if s.baseline == "batch" and by_token:
        centred = returns - masked_mean(returns, layout.mask)
    if s.advantage_scale == "group":
        spread = _group_std(rewards, layout.group_of)[layout.group_of][layout.response_of]
    elif s.advantage_scale == "batch":
        spread = _std(returns[layout.mask] if by_token else rewards)
    else:
        return centred
    return centred / torch.where(spread > 0, spread + EPS, torch.ones_like(spread))


def _centred(
    rewards: Tensor, layout: Layout, s: PolicyGradientSettings, ema: float | None
) -> Tensor:
    """[S] rewards less their baseline."""
    if s.baseline == "group":
        return group_advantages(rewards, layout.group_of, scale="none")
    if s.baseline == "leave_one_out":
        return leave_one_out(rewards, layout.group_of)
    if s.baseline == "none":
        return rewards
    if s.baseline == "ema" and ema is not None:
        return rewards - ema
    return rewards - rewards.mean()


def _std(values: Tensor) -> Tensor:
    """The unbiased std; 0 where all are equal, whatever rounding says."""
    flat = values.numel() < 2 or bool(values.max() <= values.min())
    return values.new_zeros(()) if flat else values.std()


def _group_std(rewards: Tensor, group_of: Tensor) -> Tensor:
    """[G] the unbiased std of each group's rewards; 0 where all are equal."""
    centred = group_advantages(rewards, group_of, scale="none")
    groups = int(group_of.max()) + 1
    freedom = (torch.bincount(group_of, minlength=groups) - 1).clamp(min=1)
    return (segment_sum(centred.square(), group_of, groups) / freedom).sqrt()


@dataclass(frozen=True)
class TokenLoss:
    """A loss [R] and the tokens whose gradient, or weight, was clipped below and above [R]."""

    loss: Tensor
    low: Tensor
    high: Tensor


def token_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, batch: Batch, s: PolicyGradientSettings
) -> TokenLoss:
    """The policy loss [R] with the ratio that the settings name; see ``losses.policy_gradient``."""
    low, high = s.clip_low, s.clip_low if s.clip_high is None else s.clip_high
    layout = (batch.response_mask, batch.response_of, batch.lengths)
    three = (logprobs, old, advantages)
    if s.ratio == "none":
        none = torch.zeros_like(batch.response_mask)
        return TokenLoss(pg.reinforce(logprobs, advantages), none, none)
    ratio = pg.importance_ratio(logprobs.detach(), old)
    if s.ratio == "cispo":
        loss = pg.cispo(*three, eps_low=low, eps_high=high)
        return TokenLoss(loss, ratio < 1 - low, ratio > 1 + high)
    if s.ratio == "gmpo":
        loss = pg.gmpo(*three, *layout, eps_low=low, eps_high=high)
        below, above = ratio.log() < -low, ratio.log() > high
    elif s.ratio == "sequence":
        loss = pg.gspo(*three, *layout, eps_low=low, eps_high=high)
        ratio = pg.sequence_ratio(logprobs.detach(), old, *layout)[batch.response_of]
        below, above = ratio < 1 - low, ratio > 1 + high
    else:
        loss = pg.ppo_clip(*three, eps_low=low, eps_high=high, dual_clip=s.dual_clip)
        below, above = ratio < 1 - low, ratio > 1 + high
    return TokenLoss(loss, below & (advantages < 0), above & (advantages > 0))


@torch.no_grad()
def sampler_weights(old: Tensor, batch: Batch, s: PolicyGradientSettings) -> Tensor:
    """[R] importance weights against the sampler; of a whole response where the ratio is one.

    A response's weight is the geometric mean of its tokens', as its ratio is.
    """
    sampler = batch.token["sampler_logprobs"]
    if s.importance_correction == "off":
        return torch.ones_like(old)
    if s.ratio in ("sequence", "gmpo"):
        layout = (batch.response_mask, batch.response_of, batch.lengths)
        sampler = old - pg.sequence_ratio(old, sampler, *layout).log()[batch.response_of]
    if s.importance_correction == "mask":
        cap = s.importance_cap
        return pg.masked_importance_weights(old, sampler, low=1 / cap, high=cap)
    return pg.truncated_importance_weights(old, sampler, s.importance_cap)
