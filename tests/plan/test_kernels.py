"""Kernels of a layer as counted by the planner, against what torch dispatches here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from gnomon.data.batch import Batch, pack
from gnomon.models.packed import PackedForward
from gnomon.models.precision import Precision
from gnomon.models.roles import LoraSettings, Trunk
from gnomon.plan.kernels import Kernels, layer_kernels
from gnomon.plan.shapes import Shape
from gnomon.records import TokenGroup, TokenResponse
from gnomon.tasks.tunnel.tokenizer import build_tokenizer

VIEWS = {
    *("view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "detach"),
    *("unsqueeze", "squeeze", "alias", "as_strided", "split", "split_with_sizes", "unbind"),
}
KINDS: dict[str, Any] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


class Counted(TorchDispatchMode):
    """Counts what is no view."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ not in VIEWS
        return func(*args, **(kwargs or {}))


def batch() -> Batch:
    return pack([TokenGroup("a", [3] * 8, (TokenResponse([5] * 8, [True] * 8),))])


def counted(kind: str, layers: int, precision: str, lora: bool) -> Kernels:
    config, made = KINDS[kind]
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = made(config(num_hidden_layers=layers, **sizes, **heads))
    p = Precision(precision)
    model.to(getattr(torch, p.frozen if lora else p.trained))
    trunk, rows = Trunk(model, build_tokenizer(), precision=p), batch()
    if lora:
        trunk.add_adapter("policy", LoraSettings(rank=4))
    packed = PackedForward(model, probe=False)
    with trunk.active("policy" if lora else None, keep=False):
        packed.hidden(rows)  # makes the plan
        with Counted() as forward:
            hidden = packed.hidden(rows)
    with Counted() as backward:
        hidden.float().sum().backward()
    return Kernels(forward.count, backward.count)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize(
    ("precision", "lora"), [("bfloat16", False), ("mixed", False), ("mixed", True)]
)
def test_a_layer_launches_as_many_kernels_as_torch_dispatches(
    kind: str, precision: str, lora: bool
) -> None:
    one, three = (counted(kind, layers, precision, lora) for layers in (1, 3))
    shape = Shape(kind, 1, 32, 48, 4, 2, 8, 64, qk_norm=kind == "qwen3")
    found = layer_kernels(shape, cast=precision == "mixed" and not lora, adapters=lora)
    assert found.forward == pytest.approx((three.forward - one.forward) / 2, rel=0.03)
    assert found.backward == pytest.approx((three.backward - one.backward) / 2, rel=0.03)
