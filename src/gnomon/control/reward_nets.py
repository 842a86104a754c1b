"""A reward learned from comparisons of clips: an ensemble of small nets.

Christiano et al. 2017 (arXiv:1706.03741), section 2.2 and appendix A: a clip is worth the sum of
its steps' rewards, of two clips the better one is preferred as Bradley and Terry (1952) say, and a
share of all answers is the toss of a coin. Every net has a bootstrap of the comparisons of its own;
those it does not see (1/e of them) are its held-out ones, by which its L2 penalty is set. Their
rewards are brought to mean 0 and standard deviation 1 each, then averaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from gnomon.control.episodes import Floats
from gnomon.losses.preference import bradley_terry, with_errors

WIDTH, SLOPE = 64, 0.01
BATCH, RATE = 32, 1e-3
L2_START, RATIO_LOW, RATIO_HIGH = 1e-4, 1.1, 1.5
_CHUNK = 16384


@dataclass
class Comparisons:
    """C pairs of clips, by the steps of the experience that they begin with.

    Attributes:
        first, second: [C].
        preferred: [C] the probability with which the first is the better one; 1/2 for a tie.
    """

    first: torch.Tensor
    second: torch.Tensor
    preferred: torch.Tensor

    @classmethod
    def none(cls) -> Comparisons:
        return cls(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long),
                   torch.zeros(0))  # fmt: skip

    def __len__(self) -> int:
        return len(self.preferred)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The steps that each pair begins with."""
        return list(zip(self.first.tolist(), self.second.tolist(), strict=True))

    def add(self, pairs: Sequence[tuple[int, int]], preferred: Sequence[float]) -> None:
        """More of them."""
        for name, new in (("first", [a for a, _ in pairs]), ("second", [b for _, b in pairs])):
            setattr(self, name, torch.cat([getattr(self, name), torch.tensor(new).long()]))
        self.preferred = torch.cat([self.preferred, torch.tensor(preferred).float()])


class RewardNets(nn.Module):
    """M nets with two hidden layers, r_m(o, a).

    Args:
        width: of an input, O + A.
        members: M.
        seed: of the weights.

    Attributes:
        mean, scale: [O + A], what inputs are standardised by.
        reward_mean, reward_scale: [M], what rewards are.
        l2: [M], the penalty of each net.
        fitted: whether it has seen a comparison.
    """

    mean: Tensor
    scale: Tensor
    reward_mean: Tensor
    reward_scale: Tensor
    l2: Tensor
    fitted: Tensor

    def __init__(self, width: int, members: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shapes = [(width, WIDTH), (WIDTH, WIDTH), (WIDTH, 1)]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(members, i, o, generator=generator) / math.sqrt(i))
            for i, o in shapes
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, o)) for _, o in shapes)
        for name, value in (
            ("mean", torch.zeros(width)), ("scale", torch.ones(width)),
            ("reward_mean", torch.zeros(members)), ("reward_scale", torch.ones(members)),
            ("l2", torch.full((members,), L2_START)), ("fitted", torch.zeros(())),
        ):  # fmt: skip
            self.register_buffer(name, value)

    @property
    def members(self) -> int:
        return len(self.l2)

    def standardise(self, inputs: Tensor) -> None:
        """Have these inputs [N, O + A] come to mean 0 and standard deviation 1."""
        self.mean.copy_(inputs.mean(0))
        self.scale.copy_(inputs.std(0).clamp_min(1e-3))

    def forward(self, inputs: Tensor) -> Tensor:
        """[M, N] rewards, before they are normalised, of inputs [N, O + A]."""
        x = ((inputs - self.mean) / self.scale).expand(self.members, *inputs.shape)
        for last, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True), start=1):
            x = torch.baddbmm(bias, x, weight)
            x = x if last == len(self.weights) else leaky_relu(x, SLOPE)
        return x.squeeze(-1)

    @torch.no_grad()
    def normalise(self, inputs: Tensor) -> None:
        """Have the rewards of these inputs [N, O + A] come to mean 0 and standard deviation 1."""
        rewards = self.chunked(inputs)
        self.reward_mean.copy_(rewards.mean(1))
        self.reward_scale.copy_(rewards.std(1).clamp_min(1e-6))

    @torch.no_grad()
    def chunked(self, inputs: Tensor) -> Tensor:
        """:meth:`forward` for any number of inputs."""
        return torch.cat([self(part) for part in torch.split(inputs, _CHUNK)], 1)

    @torch.no_grad()
    def rewards(self, inputs: Tensor) -> Tensor:
        """[M, N] normalised rewards; 0 before the first fit."""
        rewards = (self.chunked(inputs) - self.reward_mean[:, None]) / self.reward_scale[:, None]
        return rewards * self.fitted

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        made: Tensor = super().__call__(*args, **kwargs)
        return made


class Learned:
    """The nets as a reward of steps: the mean of their normalised rewards."""

    def __init__(self, nets: RewardNets) -> None:
        self.nets = nets

    def __call__(self, inputs: Floats, true: Floats) -> Floats:
        """[N] rewards; what is true is not looked at."""
        rewards: Floats = self.nets.rewards(torch.from_numpy(inputs)).mean(0).numpy()
        return rewards


def clip_returns(rewards: Tensor, starts: Tensor, steps: int) -> Tensor:
    """[M, C] sums of [M, N] rewards over the ``steps`` from each of [C] starts on."""
    total = torch.nn.functional.pad(rewards.double().cumsum(1), (1, 0))
    return (total[:, starts + steps] - total[:, starts]).float()


def preference_loss(gap: Tensor, preferred: Tensor, error: float) -> Tensor:
    """Cross-entropy of comparisons in nats, where answers are a coin's with probability ``error``.

    Args:
        gap: [M, C] by how much the first clip's return is above the second's.
        preferred: [C] the probability with which the first is the better one.
    """
    zero = torch.zeros_like(gap)
    first = with_errors(bradley_terry(gap, zero), error)
    second = with_errors(bradley_terry(zero, gap), error)
    return preferred * first + (1 - preferred) * second


def bootstrap(seed: int, count: int, members: int) -> Tensor:
    """[M, C] how often each net sees each comparison: Poisson(1), so that later comparisons leave
    the draws of earlier ones as they are. A net sees none of 1/e of them."""
    draws = [np.random.default_rng([seed, i]).poisson(1.0, members) for i in range(count)]
    return torch.from_numpy(np.asarray(draws).reshape(count, members).T.copy()).float()


@dataclass(frozen=True)
class Fit:
    """How well the nets predict comparisons: losses in nats, on those that a net sees and on those
    that it does not; ``accuracy`` on the latter, ties left out."""

    loss: float
    held_out: float
    accuracy: float


def fit(
    nets: RewardNets,
    inputs: Tensor,
    known: Comparisons,
    steps: int,
    *,
    error: float,
    updates: int,
    seed: int,
    place: int,
) -> Fit:
    """Fit the nets to all comparisons, from where they are.

    Args:
        inputs: [N, O + A] of the experience.
        steps: of a clip.
        error: share of answers taken for the toss of a coin.
        seed: of the bootstrap, which is the same in every round.
        place: the round, which the draw of batches depends on as well.
    """
    draws = bootstrap(seed, len(known), nets.members)
    generator = torch.Generator().manual_seed(seed * 1009 + place)
    adam = torch.optim.Adam(nets.parameters(), lr=RATE)
    offsets = torch.arange(steps)
    for _ in range(updates):
        batch = torch.randint(len(known), (min(BATCH, len(known)),), generator=generator)
        starts = torch.cat([known.first[batch], known.second[batch]])
        rewards = nets(inputs[(starts[:, None] + offsets).flatten()])
        first, second = rewards.reshape(nets.members, 2, len(batch), steps).sum(3).unbind(1)
        losses = preference_loss(first - second, known.preferred[batch], error)
        weight = draws[:, batch]
        squares = torch.stack([w.square().sum((1, 2)) for w in nets.weights]).sum(0)
        per_net = (losses * weight).sum(1) / weight.sum(1).clamp_min(1) + nets.l2 * squares
        adam.zero_grad()
        per_net.sum().backward()  # type: ignore[no-untyped-call]
        adam.step()
    nets.fitted.fill_(1)
    nets.normalise(inputs)
    return _measure(nets, inputs, known, steps, error, draws)


@torch.no_grad()
def _measure(
    nets: RewardNets, inputs: Tensor, known: Comparisons, steps: int, error: float, draws: Tensor
) -> Fit:
    """How well it fits; every net's L2 penalty goes up or down for the next time."""
    rewards = nets.chunked(inputs)
    gap = clip_returns(rewards, known.first, steps) - clip_returns(rewards, known.second, steps)
    losses, unseen = preference_loss(gap, known.preferred, error), (draws == 0).float()
    seen = (losses * draws).sum(1) / draws.sum(1).clamp_min(1)
    held_out = (losses * unseen).sum(1) / unseen.sum(1).clamp_min(1)
    said = (known.preferred != 0.5).float()
    # Ties cost ln 2, seen or not: with many of them the ratio would be 1, and the L2 soon nothing.
    by_heart, new = (
        (losses * weight * said).sum(1) / (weight * said).sum(1).clamp_min(1)
        for weight in (draws, unseen)
    )
    ratio = new / by_heart.clamp_min(1e-6)
    nets.l2.mul_(torch.where(ratio > RATIO_HIGH, 2.0, torch.where(ratio < RATIO_LOW, 0.5, 1.0)))
    said = unseen * said
    right = ((gap > 0) == (known.preferred > 0.5)).float() * said
    return Fit(
        float(seen.mean()), float(held_out.mean()), float(right.sum() / said.sum().clamp_min(1))
    )
