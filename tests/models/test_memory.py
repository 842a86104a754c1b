"""Memory estimates against the bytes of real models, optimizers and forward passes."""

from __future__ import annotations

import io

import pytest
import torch
import zoo
from rich.console import Console
from torch import Tensor, nn

from gnomon.errors import ModelError
from gnomon.models.heads import ScalarHead
from gnomon.models.memory import RoleNeed, estimate, parameter_count
from gnomon.models.roles import LoraSettings, Role, Trunk

LORA = LoraSettings(rank=4)
PPO_ROLES = (
    RoleNeed("policy", trainable=True),
    RoleNeed("reference"),
    RoleNeed("reward_model", outputs=1),
    RoleNeed("value_model", trainable=True, outputs=1),
)


def size(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())


def optimizer_bytes(parameters: list[nn.Parameter]) -> int:
    optimizer = torch.optim.AdamW(parameters)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moments = [t for s in optimizer.state.values() for k, t in s.items() if k != "step"]
    return size(moments)


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
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_and_optimizer_equal_the_real_ones(family: str, dtype: str) -> None:
    got = estimate(
        zoo.FAMILIES[family](), roles=PPO_ROLES, tokens_per_microbatch=64, lora=LORA, dtype=dtype
    )

    def model() -> nn.Module:
        return zoo.model(family).to(getattr(torch, dtype))

    trunk = Trunk(model(), zoo.tokenizer())
    roles = [Role("reference", trunk)]
    for name in ("policy", "reward_model", "value_model"):
        trunk.add_adapter(name, LORA)
        head = None if name == "policy" else ScalarHead(zoo.H, bias=True)
        trainable = name != "reward_model"
        roles.append(Role(name, trunk, adapter=name, head=head, trainable=trainable))
    heads = [p for r in roles if r.head for p in r.head.parameters()]
    trained = [p for r in roles for p in r.parameters()]
    assert got.parameters == sum(p.numel() for p in model().parameters())
    assert got.parameters == parameter_count(zoo.FAMILIES[family]())
    assert got.shared.weights == size([*trunk.model.parameters(), *heads])
    assert got.shared.gradients == size(trained)
    assert got.shared.optimizer == optimizer_bytes(trained)

    copies = [list(model().parameters()) for _ in range(4)]
    full = [*copies[0], *copies[1], *ScalarHead(zoo.H, bias=True).parameters()]
    assert got.separate.weights == size([*[p for c in copies for p in c], *heads])
    assert got.separate.gradients == size(full)
    assert got.separate.optimizer == optimizer_bytes(full)
    assert got.separate.total > got.shared.total


@pytest.mark.parametrize(("dtype", "bytes_each"), [("float32", 0), ("bfloat16", 4)])
def test_an_average_of_narrow_weights_is_held_in_float32(dtype: str, bytes_each: int) -> None:
    config = next(iter(zoo.FAMILIES.values()))()
    held = []
    for averaged in (False, True):
        roles = [
            RoleNeed("policy", trainable=True),
            RoleNeed("reference", moves=True, averaged=averaged),
        ]
        got = estimate(config, roles=roles, tokens_per_microbatch=64, dtype=dtype)
        held.append(got.separate.weights)
    assert held[1] - held[0] == bytes_each * parameter_count(config)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_activations_come_close_to_what_a_real_packed_pass_keeps(family: str) -> None:
    got = estimate(
        zoo.FAMILIES[family](),
        roles=PPO_ROLES,
        tokens_per_microbatch=zoo.batch().num_tokens,
        lora=LORA,
    )
    trunk = zoo.trunk(family)
    trunk.add_adapter("policy", LORA)
    adapted = Role("policy", trunk, adapter="policy", trainable=True)
    full = Role("policy", zoo.trunk(family), trainable=True)
    assert got.shared.activations == pytest.approx(kept_bytes(adapted), rel=0.15)
    assert got.separate.activations == pytest.approx(kept_bytes(full), rel=0.15)


def test_what_makes_it_smaller() -> None:
    config, policy = zoo.FAMILIES["llama"](), [RoleNeed("policy", trainable=True)]

    def total(**changes: object) -> object:
        return estimate(config, **{"roles": policy, "tokens_per_microbatch": 512, **changes})

    plain = total()
    assert total(gradient_checkpointing=True).shared.activations < plain.shared.activations
    assert total(roles=[RoleNeed("reference")]).shared.activations == 0
    # two layers of keys and values for two heads of width 8, in float32
    assert total(rollout_tokens=10).shared.kv_cache == 10 * 2 * 2 * 2 * 8 * 4
    assert plain.shared.logits_chunks == 2 * 512 * zoo.V * 4


def test_the_table_and_the_errors() -> None:
    config = zoo.FAMILIES["llama"]()
    console = Console(width=100, file=io.StringIO())
    got = estimate(config, roles=PPO_ROLES, tokens_per_microbatch=64)
    console.print(got.table("ppo"))
    text = console.file.getvalue()
    assert all(word in text for word in ("shared trunk", "separate", "optimizer", "total"))
    with pytest.raises(ModelError, match="dtype"):
        estimate(config, roles=PPO_ROLES, tokens_per_microbatch=64, dtype="int8")
