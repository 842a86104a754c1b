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

from gnomon.errors import RunError
from gnomon.models import compiled, packed
from gnomon.models.compiled import CompiledLayers
from gnomon.models.roles import LoraSettings, Role, Trunk

LORA = LoraSettings(rank=3, alpha=6.0, targets=("q_proj",))


class Backend:
    """Runs graphs as they are and counts them."""

    def __init__(self) -> None:
        self.graphs = 0
        self.fails = False

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        if self.fails:
            raise OSError("no C++ compiler found")
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
        trunk.add_adapter(name, LORA, seed=len(found))
        zoo.shake(trunk.adapter_parameters(name), seed=len(found))
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


def test_roles_take_turns_on_one_compiled_trunk(backend: Backend) -> None:
    """A graph of one adapter or mode is never used for another, and no graph is made twice."""
    plain, fast = (roles(zoo.trunk(compile=c)) for c in (False, True))
    seen = []
    for seed in (1, 2):
        for a, b in zip(plain, fast, strict=True):
            assert_same(run(b, seed), run(a, seed))
        policy, critic, reference = (run(role, 1)[0] for role in fast)
        assert not torch.allclose(policy, critic)
        assert not torch.allclose(policy, reference)
        assert_same(run(fast[0].train(), seed), run(plain[0].train(), seed))
        fast[0].eval()
        seen.append(backend.graphs)
    assert seen[1] == seen[0] > 0


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


def test_all_weights_of_another_family_and_a_copy_of_the_trunk(backend: Backend) -> None:
    first = zoo.trunk("gpt2", compile=True)
    twin = first.copy()
    zoo.shake(dict(twin.model.named_parameters()), size=0.05)
    for trunk in (first, twin):
        role = Role("policy", trunk, trainable=True)
        alike = Role("policy", trunk.copy(compile=False), trainable=True)
        assert_same(run(role, 1), run(alike, 1))
    assert backend.graphs


def broken(graph: Any, inputs: Any) -> Any:
    if len(inputs) < 8:  # the first pieces pass, so that something is saved when it fails
        return graph.forward
    raise OSError("no C++ compiler found\nand more lines")


def test_a_failure_to_compile_is_said_once_and_the_layers_run(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "CompiledLayers", partial(CompiledLayers, backend=broken))
    role = roles(zoo.trunk(compile=True, gradient_checkpointing=True))[0]
    loud = pytest.warns(UserWarning, match="as they are: OSError: no C.. compiler found. Results")
    with torch._dynamo.config.patch(suppress_errors=True), loud:  # torch would keep it to its logs
        found = run(role, 1)
    assert_same(found, run(roles(zoo.trunk())[0], 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(run(role, 1), found)


def test_a_failure_in_the_backward_pass_says_how_to_go_on(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs that the forward pass had are gone by then, and cannot be made again."""
    trunk = zoo.trunk(compile=True, gradient_checkpointing=True)
    role = Role("policy", trunk, trainable=True)
    loss = role.logprobs(zoo.batch(1)).logprobs.sum()
    assert backend.graphs
    torch._dynamo.reset()
    monkeypatch.setattr(backend, "fails", True)
    with pytest.raises(RunError, match=r"backward pass.*OSError: no C.. compiler.*compile=false"):
        loss.backward()
    assert trunk.packed._compiled is not None
    assert trunk.packed._compiled.trouble is None


def test_a_model_without_marked_layers_is_named() -> None:
    with pytest.warns(UserWarning, match="Linear has no layers"):
        assert compiled.CompiledLayers(torch.nn.Linear(2, 2)).trouble
