"""Distillation on the student's own samples: divergences between two distributions over tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gnomon.losses.reduce import require_same_shape


def reverse_kl_advantages(logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """A_t = log teacher(y_t) - log pi(y_t): the sampled reverse KL as a reward of its own token.

    With y_t drawn from pi, E[ -A_t grad log pi(y_t) ] is the gradient of
    KL(pi(.|y_<t) || teacher(.|y_<t)), the prefix held fixed (Thinking Machines 2025, "On-policy
    distillation"; as a policy gradient Gu et al. 2023, MiniLLM, arXiv:2306.08543).

    Args:
        logprobs, teacher_logprobs: [R] of the sampled tokens, in nats.

    Returns:
        [R], a constant.
    """
    require_same_shape(logprobs=logprobs, teacher_logprobs=teacher_logprobs)
    return (teacher_logprobs - logprobs).detach()


def generalised_jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """GKD's divergence of whole distributions (Agarwal et al. 2024, arXiv:2306.13649, eq. 1).

        D = beta KL(T || M) + (1 - beta) KL(S || M),   M = beta T + (1 - beta) S

    At the ends D is 0, so KL itself is taken there, as GKD and TRL do: beta = 0 is the forward
    KL(T || S), which covers all that the teacher does, beta = 1 the reverse KL(S || T), which keeps
    to what the teacher finds likely.

    Args:
        student, teacher: [n, V] log-probabilities.
        beta: in [0, 1].

    Returns:
        [n] in nats.
    """
    require_same_shape(student=student, teacher=teacher)
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must lie in [0, 1], got {beta}")
    if beta == 0.0:
        return _kl(teacher, student)
    if beta == 1.0:
        return _kl(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * _kl(teacher, mixture) + (1.0 - beta) * _kl(student, mixture)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities [n, V]; [n]."""
    return (p.exp() * (p - q)).sum(-1)
