"""What a stage needs in memory, counted from the configuration alone, before anything is loaded.

Weights, gradients and optimizer state are exact: an empty model of the same architecture is built
(on torch's ``meta`` device) and its parameters counted, adapters included. Activations come from
running that empty model and adding up what autograd would keep. The same roles are counted twice,
sharing one trunk through LoRA and each with a copy of its own, so that both can be compared.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig

from gnomon.models.adapters import LoraSettings
from gnomon.models.load import building, dtype_of, shell
from gnomon.models.packed import attention_implementation
from gnomon.models.roles import Trunk

log = logging.getLogger(__name__)

ADAMW_STATES = 2  # the two moments of every trained number
LOGITS_CHUNK = 128 * 2**20  # bytes; models/logprobs.py works on two such chunks at most
FLOAT = 4
PARTS = ("weights", "gradients", "optimizer", "activations", "logits chunks", "KV cache")


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


@dataclass(frozen=True)
class Footprint:
    """Bytes of one way to hold the roles, by part."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits_chunks: int
    kv_cache: int

    @property
    def total(self) -> int:
        return sum(astuple(self))


@dataclass(frozen=True)
class MemoryEstimate:
    """The same roles held in two ways.

    Attributes:
        parameters: of the model, without adapters and heads.
        shared: one frozen trunk, an adapter for every role but the reference.
        separate: full fine-tuning, a copy of the model for every role.
    """

    parameters: int
    roles: tuple[RoleNeed, ...]
    shared: Footprint
    separate: Footprint

    def table(self, title: str = "memory") -> Table:
        """Both ways side by side."""
        table = Table(title=f"{title}: {self.parameters / 1e6:,.1f} M parameters")
        table.add_column("")
        table.add_column("shared trunk (LoRA)", justify="right")
        table.add_column("separate (full)", justify="right")
        for part, shared, separate in zip(
            PARTS, astuple(self.shared), astuple(self.separate), strict=True
        ):
            if shared or separate:
                estimated = " (estimated)" if part == "activations" else ""
                table.add_row(part + estimated, human(shared), human(separate))
        table.add_section()
        table.add_row("total", human(self.shared.total), human(self.separate.total), style="bold")
        return table


def parameter_count(config: PretrainedConfig) -> int:
    """Parameters of a causal language model, tied ones once; nothing is loaded or allocated."""
    return sum(p.numel() for p in _empty(config, torch.float32).parameters())


def estimate(
    config: PretrainedConfig,
    *,
    roles: Sequence[RoleNeed],
    tokens_per_microbatch: int,
    lora: LoraSettings | None = None,
    dtype: str = "float32",
    gradient_checkpointing: bool = False,
    rollout_tokens: int = 0,
    others: Sequence[PretrainedConfig] = (),
) -> MemoryEstimate:
    """Estimate what a stage's roles need, shared and separate.

    Args:
        config: the model's configuration.
        roles: those of the stage.
        tokens_per_microbatch: packed tokens in one forward and backward pass.
        lora: the adapters' settings, for the shared column; the defaults when None.
        dtype: of the weights. Adapters and heads are float32 always.
        gradient_checkpointing: keep each layer's input only.
        rollout_tokens: most tokens in the KV cache at once (sequences x length).
        others: configurations of the models of roles with weights of their own.

    Raises:
        ModelError: an architecture transformers does not know, an unknown dtype, LoRA targets that
            match nothing.
    """
    precision = dtype_of(dtype)
    model = _empty(config, precision)
    counted = sum(p.numel() for p in model.parameters())
    beside = sum(_bytes(_empty(other, precision)) for other in others)
    ours = [role for role in roles if role.model is None]
    text = config.get_text_config()
    head = [(text.hidden_size + 1) * r.outputs * FLOAT for r in roles]  # weight and bias
    training = any(r.trainable for r in roles)
    tokens = tokens_per_microbatch if training else 0
    common = {
        "logits_chunks": min(2 * LOGITS_CHUNK, 2 * tokens_per_microbatch * text.vocab_size * FLOAT),
        "kv_cache": _kv_bytes(text, precision) * rollout_tokens,
    }
    heads = sum(head)
    trained_heads = sum(size for size, r in zip(head, roles, strict=True) if r.trainable)

    full = _bytes(model)
    averages = counted * FLOAT * sum(r.averaged for r in roles) * (precision.itemsize < FLOAT)
    full_trained = full * sum(r.trainable for r in roles) + trained_heads
    separate = Footprint(
        weights=full * len(ours) + averages + heads + beside,
        gradients=full_trained,
        optimizer=ADAMW_STATES * full_trained,
        activations=_activations(Trunk(model, None), None, tokens, gradient_checkpointing),
        **common,
    )
    trunk = Trunk(_empty(config, precision), None)
    trunk.add_adapter("adapter", lora or LoraSettings())
    adapter = sum(p.numel() for p in trunk.adapter_parameters("adapter").values()) * FLOAT
    adapted = [r for r in roles if r.trainable or r.outputs]
    trained = adapter * sum(r.trainable for r in roles) + trained_heads
    shared = Footprint(
        weights=full + adapter * len(adapted) + heads + beside,
        gradients=trained,
        optimizer=ADAMW_STATES * trained,
        activations=_activations(trunk, "adapter", tokens, gradient_checkpointing),
        **common,
    )
    return MemoryEstimate(counted, tuple(roles), shared, separate)


def human(size: int) -> str:
    """Bytes in words, decimal units."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def _empty(config: PretrainedConfig, dtype: torch.dtype) -> Any:
    config = copy.deepcopy(config)
    config.get_text_config().pad_token_id = None  # models look for it in the ids, which are empty
    with building(config.name_or_path or "the model"):
        model = shell(AutoModelForCausalLM, config, dtype)
        model.tie_weights()
    return model


def _bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _kv_bytes(text: PretrainedConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values per token."""
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return int(2 * text.num_hidden_layers * kv_heads * width * dtype.itemsize)


# -- activations ----------------------------------------------------------------------------------

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


def _activations(trunk: Trunk, adapter: str | None, tokens: int, checkpointing: bool) -> int:
    """Bytes that one forward pass keeps for the backward pass (one role's; they take turns)."""
    if not tokens:
        return 0
    text = trunk.model.config.get_text_config()
    try:
        kept = _kept(trunk, adapter) * tokens // _PROBE_TOKENS
    except (RuntimeError, NotImplementedError, TypeError) as error:
        log.info("%s cannot be run empty (%s)", type(trunk.model).__name__, error)
        inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
        layer = 16 * text.hidden_size + 5 * inner  # what a Llama layer keeps per token
        kept = layer * text.num_hidden_layers * trunk.model.dtype.itemsize * tokens
    if not checkpointing:
        return kept
    inputs = text.num_hidden_layers * text.hidden_size * trunk.model.dtype.itemsize * tokens
    return int(inputs + kept // text.num_hidden_layers)


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
