"""Distillation's divergences: by numpy, by TRL, and the sampled gradient against the whole one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gnomon.losses.distill import generalised_jsd, reverse_kl_advantages
from gnomon.losses.policy_gradient import ppo_clip

BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)


def logs(seed: int, rows: int = 5, vocabulary: int = 7) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(rows, vocabulary, generator=draw, dtype=torch.float64)
    return z.log_softmax(-1)


def by_numpy(student: Tensor, teacher: Tensor, beta: float) -> np.ndarray:
    """Sums of p log(p / q), in probabilities."""
    s, t = student.exp().numpy(), teacher.exp().numpy()

    def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return (p * np.log(p / q)).sum(1)

    if beta in (0.0, 1.0):
        return kl(s, t) if beta else kl(t, s)
    m = beta * t + (1 - beta) * s
    return beta * kl(t, m) + (1 - beta) * kl(s, m)


@pytest.mark.parametrize("beta", BETAS)
def test_the_divergence_by_numpy_and_by_trl(beta: float) -> None:
    student, teacher = logs(1), logs(2)
    ours = generalised_jsd(student, teacher, beta)
    np.testing.assert_allclose(ours.numpy(), by_numpy(student, teacher, beta), rtol=1e-10)
    gkd = pytest.importorskip("trl.experimental.gkd")
    theirs = gkd.GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], beta=beta, reduction="none"
    )
    torch.testing.assert_close(ours, theirs[0].sum(-1))


def test_the_two_ends_are_not_the_same() -> None:
    """So the test above would notice student and teacher exchanged."""
    student, teacher = logs(1), logs(2)
    forward, reverse = (generalised_jsd(student, teacher, b) for b in (0.0, 1.0))
    assert (forward - reverse).abs().max() > 0.05
    torch.testing.assert_close(forward, generalised_jsd(teacher, student, 1.0))


def test_equal_distributions_are_at_distance_zero() -> None:
    for beta in BETAS:
        assert generalised_jsd(logs(3), logs(3), beta).abs().max() < 1e-12


def sampled_gradient(logits: Tensor, teacher: Tensor) -> Tensor:
    """The expectation over all tokens of the sampled loss's gradient, at pi = pi_old."""
    total = torch.zeros_like(logits)
    for token in range(len(teacher)):
        z = logits.clone().requires_grad_()
        logp = z.log_softmax(-1)
        old = logp.detach()[[token]]
        advantages = reverse_kl_advantages(old, teacher[[token]])
        (grad,) = torch.autograd.grad(ppo_clip(logp[[token]], old, advantages).sum(), z)
        total += old.exp() * grad
    return total


def test_the_sampled_gradient_is_on_average_that_of_the_whole_reverse_kl() -> None:
    teacher = logs(2)[0]
    logits = logs(1)[0]
    z = logits.clone().requires_grad_()
    (whole,) = torch.autograd.grad(
        generalised_jsd(z.log_softmax(-1)[None], teacher[None], 1.0).sum(), z
    )
    torch.testing.assert_close(sampled_gradient(logits, teacher), whole)
    (other,) = torch.autograd.grad(
        generalised_jsd(z.log_softmax(-1)[None], teacher[None], 0.0).sum(), z
    )
    assert (other - whole).abs().max() > 0.05  # the forward KL's is another one


def test_an_advantage_has_no_gradient_and_is_the_log_ratio() -> None:
    own = torch.tensor([math.log(0.5)]).requires_grad_()
    found = reverse_kl_advantages(own, torch.tensor([math.log(0.25)]))
    assert not found.requires_grad
    assert found.item() == pytest.approx(-math.log(2))


def test_shapes_and_betas_are_checked() -> None:
    with pytest.raises(ValueError, match="shapes must be equal"):
        generalised_jsd(logs(1), logs(2)[:, :6], 0.5)
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\]"):
        generalised_jsd(logs(1), logs(2), 1.5)
