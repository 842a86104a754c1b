"""The maths of training, as pure functions of tensors: what is tested is what trains.

    gnomon.losses.policy_gradient.ppo_clip(logprobs, old_logprobs, advantages, eps_low=0.2)

Losses are minimised and come per token [R], per response [S] or per comparison [C];
``losses.reduce`` makes them one number.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gnomon.losses import advantages as advantages
    from gnomon.losses import dpo as dpo
    from gnomon.losses import gae as gae
    from gnomon.losses import kl as kl
    from gnomon.losses import kto as kto
    from gnomon.losses import length_bias as length_bias
    from gnomon.losses import policy_gradient as policy_gradient
    from gnomon.losses import policy_variants as policy_variants
    from gnomon.losses import preference as preference
    from gnomon.losses import reduce as reduce
    from gnomon.losses import reference_free as reference_free
    from gnomon.losses import sft as sft
    from gnomon.losses import value as value

__all__ = [
    *("advantages", "dpo", "gae", "kl", "kto", "length_bias", "policy_gradient"),
    *("policy_variants", "preference", "reduce", "reference_free", "sft", "value"),
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gnomon.losses' has no attribute {name!r}; it has {__all__}")
    return import_module(f"gnomon.losses.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
