"""Compiled layers against the layers as they are: adapters, modes, recomputation, failures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor

from gnomon.models import compiled, packed
from gnomon.models.compiled import CompiledLayers
from gnomon.models.roles import LoraSettings, Role, Trunk

LORA = LoraSettings(rank=3, alpha=6.0)


class Backend:
    """Runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    torch._dynamo.reset()
    counting = Backend()
    monkeypatch.setattr(packed, "CompiledLayers", partial(CompiledLayers, backend=counting))
    yield counting
    torch._dynamo.reset()


def roles(trunk: Trunk) -> list[Role]:
    """A policy, a critic and the plain reference on one trunk, adapters away from zero."""
    found = []
    for name in ("policy", "critic"):
        trunk.add_adapter(name, LORA, seed=len(name))
        zoo.shake(trunk.adapter_parameters(name), seed=len(name))
        found.append(Role(name, trunk, adapter=name, trainable=True))
    return [*found, Role("reference", trunk)]


def run(role: Role, seed: int) -> tuple[Tensor, list[Tensor]]:
    """Log-probs of a batch and gradients of their sum, if the role has any."""
    found = role.logprobs(zoo.batch(seed)).logprobs
    parameters = role.parameters()
    grads = torch.autograd.grad(found.sum(), parameters) if parameters else []
    return found.detach(), list(grads)


def assert_same(a: tuple[Tensor, list[Tensor]], b: tuple[Tensor, list[Tensor]]) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_roles_take_turns_on_one_compiled_trunk(checkpointing: bool, backend: Backend) -> None:
    """A graph of one adapter is never used for another, and no graph is made twice."""
    options = {"gradient_checkpointing": checkpointing}
    plain, fast = (roles(zoo.trunk(**options, compile=c)) for c in (False, True))
    for role in (*plain, *fast):
        role.train()
    seen = []
    for seed in (1, 2, 3):
        for a, b in zip(plain, fast, strict=True):
            assert_same(run(b, seed), run(a, seed))
        for a, b in zip(reversed(plain), reversed(fast), strict=True):
            assert_same(run(b.eval(), seed), run(a.eval(), seed))
        seen.append(backend.graphs)
        for role in (*plain, *fast):
            role.train()
    assert seen[0] > 0
    assert seen[0] == seen[2]
    policy, critic, reference = (run(role, 1)[0] for role in fast)
    assert not torch.allclose(policy, critic)
    assert not torch.allclose(policy, reference)


def test_the_adapter_is_that_of_the_forward_pass_when_layers_are_recomputed(
    backend: Backend,
) -> None:
    trunk = zoo.trunk(gradient_checkpointing=True, compile=True)
    policy, critic, _ = roles(trunk)
    expected = run(policy, 1)[1]
    found = policy.logprobs(zoo.batch(1)).logprobs
    run(critic, 1)  # the trunk has moved on
    for a, b in zip(torch.autograd.grad(found.sum(), policy.parameters()), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_all_weights_of_other_families_and_a_copy_of_the_trunk(backend: Backend) -> None:
    for family in ("gemma", "gpt2"):
        first = zoo.trunk(family, compile=True)
        twin = first.copy()
        zoo.shake(dict(twin.model.named_parameters()), size=0.05)
        for trunk in (first, twin):
            role = Role("policy", trunk, trainable=True)
            alike = Role("policy", trunk.copy(compile=False), trainable=True)
            assert_same(run(role, 1), run(alike, 1))
            assert "forward" not in vars(trunk.packed._compiled._layers[0])
    assert backend.graphs


def broken(graph: Any, inputs: Any) -> Any:
    raise OSError("no C++ compiler found\nand more lines")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_failure_to_compile_is_said_once_and_the_layers_run(
    checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(packed, "CompiledLayers", partial(CompiledLayers, backend=broken))
    role = roles(zoo.trunk(compile=True, gradient_checkpointing=checkpointing))[0]
    with pytest.warns(UserWarning, match="as they are: OSError: no C.. compiler found. Results"):
        found = run(role, 1)
    assert_same(found, run(roles(zoo.trunk())[0], 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(run(role, 1), found)


def test_a_model_without_marked_layers_is_named() -> None:
    with pytest.warns(UserWarning, match="Linear has no layers"):
        assert compiled.CompiledLayers(torch.nn.Linear(2, 2)).trouble
