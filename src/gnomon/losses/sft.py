"""Supervised fine-tuning."""

from __future__ import annotations

from torch import Tensor


def negative_log_likelihood(logprobs: Tensor) -> Tensor:
    """-log pi(y_t | x, y_<t) per token, in nats.

    Args:
        logprobs: [R] log-probabilities of the target tokens, in nats.

    Returns:
        [R]. Aggregate with mode "token" for the usual mean over the step's trained tokens.
    """
    return -logprobs
