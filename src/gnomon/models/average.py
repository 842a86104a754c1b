"""Averages of trained weights: of a run's checkpoints, and of several policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from gnomon.models.adapters import LoraSettings
from gnomon.models.roles import Role

How = Literal["linear", "slerp"]


def merge_step(one: Tensor, other: Tensor, share: float, how: How, init: Tensor | None) -> Tensor:
    """Take ``share`` of ``other`` into ``one``; float32, any shape.

    - "linear": (1 - share) one + share other.
    - "slerp": the same along the arc between the task vectors d = w - init, whose length it keeps
      where a straight mean shortens it (Rame et al. 2024, "WARP: on the benefits of weight averaged
      rewarded policies", arXiv:2406.16768; Shoemake 1985), one tensor at a time:

          init + sin((1 - share) W) / sin W d_one + sin(share W) / sin W d_other

      with W the angle between the two; where they are (anti)parallel or one is zero, the straight
      mean.

    Taken one after the other with shares 1/2, 1/3, ... "linear" gives the mean of all.
    """
    one, other = one.float(), other.float()
    if how == "linear" or init is None:
        return torch.lerp(one, other, share)
    start = init.float()
    a, b = one - start, other - start
    sizes = a.double().norm() * b.double().norm()
    cosine = float((a.double() * b.double()).sum() / sizes) if sizes > 0 else 1.0
    angle = torch.tensor(cosine, dtype=torch.float64).clamp(-1.0, 1.0).arccos()
    sine = float(angle.sin())
    if sine < 1e-6:
        return torch.lerp(one, other, share)
    first, second = float(((1 - share) * angle).sin()) / sine, float((share * angle).sin()) / sine
    return start + first * a + second * b


@torch.no_grad()
def average_role(role: Role, states: Sequence[Mapping[str, Tensor]]) -> Role:
    """The role with the mean of several states of its parameters as its weights (Izmailov et al.
    2018, "Averaging weights leads to wider optima", arXiv:1803.05407).

    All weights are averaged in place. Of adapters the products B A are: the mean of n of rank r is
    exactly one of rank n r, whose A are stacked and whose B stand side by side, over n.

    Args:
        states: by the names of :meth:`Role.named_parameters`.

    Returns:
        The same role, or with LoRA one on a new adapter beside the trained one.
    """
    count = len(states)
    if role.adapter is None:
        for name, weight in role.named_parameters().items():
            mean = sum((s[name].double() for s in states), torch.zeros((), dtype=torch.float64))
            weight.copy_(mean / count)
        return role
    config = role.trunk.model.peft_config[role.adapter]
    targets = config.target_modules
    lora = LoraSettings(
        rank=config.r * count,
        alpha=config.lora_alpha * count,  # the factor alpha / rank stays
        dropout=config.lora_dropout,
        targets=targets if isinstance(targets, str) else tuple(targets),
    )
    wide = f"{role.adapter}-mean"
    role.trunk.add_adapter(wide, lora)
    for key, weight in role.trunk.adapter_parameters(wide).items():
        parts = [state[f"adapter.{role.adapter}.{key}"].float() for state in states]
        outer = ".lora_B." in f".{key}."
        weight.copy_(torch.cat(parts, dim=1) / count if outer else torch.cat(parts, dim=0))
    return Role(role.name, role.trunk, adapter=wide, trainable=True)
