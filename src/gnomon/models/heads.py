"""The scalar head of a reward or value model, and how raw rewards are put on a common scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class ScalarHead(nn.Module):
    """A linear map from hidden states to one number, or to ``outputs`` of them (an ensemble).

    Kept and computed in float32 whatever the trunk's precision: differences between rewards are
    small, and bfloat16 has three digits.

    A value head starts at zero (``init_std=0``), so that the first advantages are the returns
    themselves and an untrained critic cannot wreck the policy. A reward head starts at
    1 / sqrt(hidden_size + 1) (Stiennon et al. 2020, "Learning to summarize", appendix B.1), which
    is the default here.

    Args:
        hidden_size: H, the trunk's width.
        outputs: how many numbers per position.
        init_std: standard deviation of the initial weights.
        bias: add a bias (value heads; plain transformers reward models have none).
    """

    def __init__(
        self,
        hidden_size: int,
        outputs: int = 1,
        *,
        init_std: float | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.outputs = outputs
        self.weight = nn.Parameter(torch.empty(outputs, hidden_size, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=torch.float32)) if bias else None
        std = (hidden_size + 1) ** -0.5 if init_std is None else init_std
        nn.init.normal_(self.weight, std=std) if std > 0 else nn.init.zeros_(self.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., H] -> [..., outputs], in float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(
                hidden.float(),
                self.weight.float(),
                None if self.bias is None else self.bias.float(),
            )


@dataclass(frozen=True)
class RewardNormaliser:
    """Puts raw scores on the scale that training uses.

        reward = (score - length_coef * length - mean) / scale

    InstructGPT (Ouyang et al. 2022, section 3.5) shifts rewards so that demonstrations score zero
    on average; ``length_coef`` removes a fitted linear effect of length.

    Attributes:
        mean: mean of the length-corrected scores on the reference set (demonstrations).
        scale: what scores are divided by; 1 keeps the model's own units.
        length_coef: reward per token that is due to length alone.

    Each is one number, or one per member of an ensemble.
    """

    mean: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0
    length_coef: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        if not all(s > 0 for s in scales):
            raise ValueError(f"a reward scale must be above zero, not {self.scale}")

    def apply(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """scores [S] or [S, n] and lengths [S] (counted tokens) -> rewards of scores' shape."""

        def constant(value: float | tuple[float, ...]) -> Tensor:
            return torch.as_tensor(value, dtype=scores.dtype, device=scores.device)

        tokens = lengths.to(scores.dtype)
        if scores.dim() == 2:
            tokens = tokens[:, None]
        corrected = scores - constant(self.length_coef) * tokens
        return (corrected - constant(self.mean)) / constant(self.scale)
