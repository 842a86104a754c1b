"""The models that a stage needs, and what an empty model of an architecture shows of them.

An empty model (on torch's ``meta`` device) has no numbers: its parameters are counted, and it is
run to see what autograd would keep of a token. How much memory a stage takes is worked out from
shapes, in :mod:`gnomon.plan.memory`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig

from gnomon.errors import ModelError
from gnomon.models.adapters import LoraSettings
from gnomon.models.load import building, shell
from gnomon.models.packed import attention_implementation
from gnomon.models.roles import Trunk


@dataclass(frozen=True)
class RoleNeed:
    """One role of a stage, as its method declares it.

    Attributes:
        name: what the method calls it.
        trainable: gets gradients and optimizer state, and its activations are kept.
        outputs: numbers its scalar head gives per position; 0 without a head.
        moves: a frozen role that takes over the policy's weights now and then, so that it needs
            weights of its own under LoRA too.
        averaged: it moves part of the way, so that a float32 average is held beside weights that
            are narrower.
        critic: its head judges states and starts at zero.
        from_reward: its trunk is the stage's reward model's, where there is one.
        watches: the method does without it: it looks at a few responses now and then.
        model: a frozen role's own weights (a teacher's): a stage, a folder or a model's name, as
            the recipe writes it; None for the model that the stage starts from.
    """

    name: str
    trainable: bool = False
    outputs: int = 0
    moves: bool = False
    averaged: bool = False
    critic: bool = False
    from_reward: bool = False
    watches: bool = False
    model: str | None = None


def parameter_count(config: PretrainedConfig) -> int:
    """Parameters of a causal language model, tied ones once; nothing is loaded or allocated."""
    return sum(p.numel() for p in _empty(config, torch.float32).parameters())


def adapter_count(config: PretrainedConfig, lora: LoraSettings) -> int:
    """Parameters of one LoRA adapter on such a model.

    Raises:
        ModelError: its targets match nothing.
    """
    trunk = Trunk(_empty(config, torch.float32), None)
    trunk.add_adapter("adapter", lora)
    return sum(p.numel() for p in trunk.adapter_parameters("adapter").values())


def kept_numbers(config: PretrainedConfig, adapted: bool) -> float:
    """Float32 numbers that all layers together keep of a token for the backward pass.

    Args:
        adapted: LoRA is trained, not the weights.

    Raises:
        ModelError: the architecture cannot be run empty.
    """
    trunk = Trunk(_empty(config, torch.float32), None)
    if adapted:
        trunk.add_adapter("adapter", LoraSettings())
    try:
        return _kept(trunk, "adapter" if adapted else None) / (4 * _PROBE_TOKENS)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        name = type(trunk.model).__name__
        raise ModelError(f"{name} cannot be run without its weights: {error}") from error


def _empty(config: PretrainedConfig, dtype: torch.dtype) -> Any:
    config = copy.deepcopy(config)
    config.get_text_config().pad_token_id = None  # models look for it in the ids, which are empty
    with building(config.name_or_path or "the model"):
        model = shell(AutoModelForCausalLM, config, dtype)
        model.tie_weights()
    return model


_PROBE = "gnomon_memory_probe"
_PROBE_TOKENS = 64


class _Attention(torch.autograd.Function):
    """Keeps what memory-efficient attention keeps: queries, keys, values and the output."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError("the probe only counts what a forward pass keeps")


def _probe_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    # the packed forward lays heads out token by token, which makes copies of its own
    out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query.contiguous(), key.contiguous(), value.contiguous()
    )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(_PROBE, _probe_attention)


def _kept(trunk: Trunk, adapter: str | None) -> int:
    """Bytes autograd keeps for ``_PROBE_TOKENS`` tokens, weights not counted."""
    model = trunk.model.base_model
    weights = {p.untyped_storage()._cdata for p in trunk.model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            storages[storage._cdata] = storage  # held, so that its address is not used again
        return tensor

    ids = torch.zeros(1, _PROBE_TOKENS, dtype=torch.int64, device="meta")
    position_ids = torch.arange(_PROBE_TOKENS, device="meta")[None]
    with (
        trunk.active(adapter),
        attention_implementation(model, _PROBE),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        model(input_ids=ids, position_ids=position_ids, use_cache=False)
    return sum(s.nbytes() for s in storages.values())
