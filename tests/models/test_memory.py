"""What an empty model shows, against the bytes of real models and forward passes."""

from __future__ import annotations

import pytest
import torch
import zoo
from torch import Tensor

from gnomon.errors import ModelError
from gnomon.models.memory import adapter_count, kept_numbers, parameter_count
from gnomon.models.roles import LoraSettings, Role

LORA = LoraSettings(rank=4)


def kept_bytes(role: Role) -> int:
    """What autograd really keeps for the backward pass, weights left out."""
    batch = zoo.batch()
    role.hidden(batch)
    weights = {p.untyped_storage().data_ptr() for p in role.trunk.model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = role.hidden(batch)
    del out
    return sum(s.nbytes() for s in kept.values())


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_parameters_and_adapters_equal_the_real_ones(family: str) -> None:
    trunk = zoo.trunk(family)
    assert parameter_count(zoo.FAMILIES[family]()) == sum(
        p.numel() for p in trunk.model.parameters()
    )
    trunk.add_adapter("policy", LORA)
    real = sum(p.numel() for p in trunk.adapter_parameters("policy").values())
    assert adapter_count(zoo.FAMILIES[family](), LORA) == real
    with pytest.raises(ModelError, match="nowhere"):
        adapter_count(zoo.FAMILIES[family](), LoraSettings(targets=("nowhere",)))


@pytest.mark.parametrize("family", zoo.FAMILIES)
@pytest.mark.parametrize("adapted", [False, True])
def test_activations_come_close_to_what_a_real_packed_pass_keeps(
    family: str, adapted: bool
) -> None:
    trunk = zoo.trunk(family)
    if adapted:
        trunk.add_adapter("policy", LoraSettings())
    role = Role("policy", trunk, adapter="policy" if adapted else None, trainable=True)
    counted = 4 * kept_numbers(zoo.FAMILIES[family](), adapted) * zoo.batch().num_tokens
    assert counted == pytest.approx(kept_bytes(role), rel=0.15)
