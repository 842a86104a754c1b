"""The critic's loss and its fit."""

from __future__ import annotations

import torch
from torch import Tensor

from gnomon.losses.reduce import masked_mean, require_same_shape


def value_loss(
    values: Tensor,
    returns: Tensor,
    old_values: Tensor | None = None,
    *,
    clip_eps: float | None = None,
) -> Tensor:
    """Squared error of the value function per token, clipped as in PPO2 when asked.

        L = 1/2 max( (V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2 )

    The max takes the gradient away only where the new value left the trust region towards the
    return (OpenAI baselines' ppo2; an implementation detail, not in the PPO paper).

    Args:
        values: [R] the critic's present values.
        returns: [R] targets, constants.
        old_values: [R] values when the rollout was scored; needed with ``clip_eps``.
        clip_eps: the trust region's half-width, in units of reward; None for no clipping.

    Returns:
        [R].
    """
    require_same_shape(values=values, returns=returns, old_values=old_values)
    error = (values - returns).square()
    if clip_eps is not None:
        if old_values is None:
            raise ValueError("clip_eps needs old_values")
        clipped = old_values + (values - old_values).clamp(-clip_eps, clip_eps)
        error = torch.maximum(error, (clipped - returns).square())
    return 0.5 * error


@torch.no_grad()
def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(R - V) / Var(R) over counted tokens: 1 is perfect, 0 no better than a constant.

    Args:
        values, returns: [R].
        mask: [R] bool.

    Returns:
        A scalar; NaN (undefined) when the returns do not vary.
    """
    require_same_shape(values=values, returns=returns, mask=mask)

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)).square(), mask)

    total = variance(returns)
    unexplained = variance(returns - values)
    return torch.where(total > 0, 1.0 - unexplained / total, float("nan"))
