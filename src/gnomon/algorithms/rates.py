"""The field's learning rates, and what ``lr: auto`` makes of them; needs no torch."""

from __future__ import annotations

import math

SUPERVISED_LR = 1e-5
REINFORCEMENT_LR = 1e-6
PREFERENCE_LR = 5e-7
"""The field's learning rates for full fine-tuning at 7e9 parameters."""
_REFERENCE_SIZE = 7e9
_SCALING_EXPONENT = 0.6
_LORA_FACTOR = 10.0
_LORA_CAP = 2e-3


def default_lr(base: float, num_parameters: int, lora: bool = False) -> float:
    """What ``lr: auto`` means: the field's rate at 7e9 parameters, scaled to the model's size.

    lr = base (7e9 / N)^0.6, with base 1e-5 for SFT and reward models, 1e-6 for PPO and the other
    policy-gradient methods, 5e-7 for DPO and its relatives. The exponent is a rule of thumb
    between "constant" (0) and "inverse size" (1); for PPO it gives 1.07e-5 at 135M parameters and
    1.3e-4 at 2M. LoRA takes ten times as much, at most 2e-3.

    Args:
        base: the method's rate at 7e9 parameters.
        num_parameters: N, all parameters of the model (with LoRA too, not the adapter's).
    """
    lr = base * math.pow(_REFERENCE_SIZE / max(1, num_parameters), _SCALING_EXPONENT)
    return min(lr * _LORA_FACTOR, _LORA_CAP) if lora else lr
