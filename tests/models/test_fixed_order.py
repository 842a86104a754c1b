"""Sums that a GPU would add up in no fixed order are added in one there, so that runs repeat.

Attention's (``deterministic: true``) with the reference kernels and a CPU's in the place of a
GPU's: what they see of torch's switch, and what everything else sees.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import varlen_cpu
from fake_cuda import fake_cuda
from gnomon.data.batch import pack
from gnomon.losses.reduce import segment_sum
from gnomon.models import fixed_order, packed, varlen
from gnomon.models.compiled import CompiledLayers
from gnomon.models.gather import take
from gnomon.models.precision import Precision
from gnomon.models.roles import Role, Trunk
from gnomon.models.varlen import Attention
from gnomon.records import TokenGroup, TokenResponse
from gnomon.training.strategy import OneDevice

INDEX = torch.tensor([0, 0, 2, 0, 1, 2])
WARN, STRICT = 1, 2  # torch's modes of deterministic algorithms


def test_gradients_of_rows_that_are_taken_again() -> None:
    x = torch.randn(3, 4)
    with fake_cuda() as cuda:
        taken = take(cuda.of(x).requires_grad_(), cuda.of(INDEX))
        assert taken.grad_fn is not None
        assert taken.grad_fn.name() == "IndexBackward0"  # index_put, which sorts first
        assert cuda.syncs == []
    here = take(x, INDEX)
    assert torch.equal(here, x[INDEX])


def test_sums_of_segments() -> None:
    values = torch.randn(6)
    with fake_cuda() as cuda:
        total = segment_sum(cuda.of(values).requires_grad_(), cuda.of(INDEX), 3)
        assert total.grad_fn is not None
        assert total.grad_fn.name() == "IndexPutBackward0"
        assert cuda.syncs == []
    other = torch.zeros(3).index_put((INDEX,), values, accumulate=True)  # as there
    assert torch.allclose(segment_sum(values, INDEX, 3), other)


# -- attention ------------------------------------------------------------------------------------


class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations by torch's mode of deterministic algorithms."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_mode: dict[int, Counter[str]] = {mode: Counter() for mode in (0, WARN, STRICT)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        mode = torch.get_deterministic_debug_mode()
        self.by_mode[mode][func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU that is taken for a GPU whose kernels take what it computes."""
    monkeypatch.setattr(Attention, "_is_gpu", staticmethod(lambda device: True))
    for name in ("refused", "_checked"):
        monkeypatch.setattr(varlen, name, lambda *given: None)
    yield
    left = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    assert left == 0


def policy(deterministic: bool = True, **how: bool) -> Role:
    """A role whose trunk has tried out how it is run."""
    precision = Precision(deterministic=deterministic)
    trunk = Trunk(zoo.model(), zoo.tokenizer(), precision=precision, **how)
    role = Role("policy", trunk, trainable=True)
    loss(role)
    varlen_cpu.MODES.clear()
    return role


def loss(role: Role) -> Tensor:
    return role.logprobs(zoo.batch(0)).logprobs.sum()


def modes(call: str) -> Counter[int]:
    return Counter(mode for name, mode in varlen_cpu.MODES if name == call)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("before", [0, WARN])
def test_the_kernels_backward_alone_sees_the_switch(
    gpu: None, recompute: bool, before: int
) -> None:
    role, seen = policy(gradient_checkpointing=recompute), Seen()
    layers = role.trunk.model.config.num_hidden_layers
    torch.set_deterministic_debug_mode(before)
    total = loss(role)
    with seen:
        OneDevice().backward(total)
    left = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    assert left == before
    assert modes("backward") == {STRICT: layers}
    assert modes("forward") == {before: layers * (2 if recompute else 1)}
    strict = seen.by_mode[STRICT]
    assert strict["_varlen_attn_backward"] == layers
    assert strict.keys() <= {"_varlen_attn_backward", "zeros", "detach"}  # what wraps the kernel
    assert seen.by_mode[before]["mm"] > layers


def test_it_changes_no_number_and_without_it_nothing_is_set(gpu: None) -> None:
    found = []
    for deterministic in (True, False):
        role = policy(deterministic)
        found.append(torch.autograd.grad(loss(role), role.parameters()))
        assert modes("backward").keys() == {STRICT if deterministic else 0}
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_on_a_cpu_it_does_nothing() -> None:
    role, seen = policy(), Seen()
    total = loss(role)
    with seen:
        OneDevice().backward(total)
    assert not seen.by_mode[STRICT]
    assert "_scaled_dot_product_flash_attention_for_cpu_backward" in seen.by_mode[0]


@pytest.mark.parametrize("own_loop", [False, True])
def test_a_kernel_that_raises(gpu: None, monkeypatch: pytest.MonkeyPatch, own_loop: bool) -> None:
    """The loop's backward pass puts back what was set; after a loop of one's own, the next pass."""
    role = policy()
    total = loss(role)
    with monkeypatch.context() as patch:
        patch.setattr(varlen_cpu, "_scores", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            total.backward() if own_loop else OneDevice().backward(total)
    if own_loop:
        loss(role)
    assert torch.get_deterministic_debug_mode() == 0
    varlen_cpu.MODES.clear()
    OneDevice().backward(loss(role))
    assert modes("backward").keys() == {STRICT}


def test_devices_at_once() -> None:
    """Autograd's threads of two devices: the switch is on until both are done."""
    switch, seen = fixed_order._Switch(), []
    for step in (switch.begin, switch.begin, switch.end, switch.end, switch.end, switch.reset):
        step()
        seen.append(torch.get_deterministic_debug_mode())
    assert seen == [STRICT, STRICT, STRICT, 0, 0, 0]


def test_blocks_that_remain_leave_cudnn_out(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "refused", lambda *given: "this is a test")
    cuda, plain = torch.backends.cuda, torch.nn.functional.scaled_dot_product_attention
    allowed: set[tuple[bool, ...]] = set()

    def watched(*given: Any, **how: Any) -> Tensor:
        allowed.add((cuda.cudnn_sdp_enabled(), cuda.flash_sdp_enabled()))
        return plain(*given, **how)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    varlen._say.cache_clear()
    with pytest.warns(UserWarning, match="this is a test"):
        role, seen = policy(), Seen()
    allowed.clear()
    total = loss(role)
    assert allowed == {(False, True)}
    with seen:
        OneDevice().backward(total)
    kernel = "_scaled_dot_product_flash_attention_for_cpu_backward"
    assert seen.by_mode[STRICT].keys() - {"detach"} == {kernel}
    role = policy(deterministic=False)
    allowed.clear()
    loss(role)
    assert allowed == {(True, True)}


def test_large_rows_take_the_kernels_that_have_an_order(
    gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen, "_PLANNED", 0)
    batch = pack([TokenGroup("a", [1, 2], (TokenResponse([3], [True]),))])
    q = torch.randn(2, batch.num_tokens, 8)
    for deterministic in (True, False):
        varlen_cpu.CALLS.clear()
        Attention(packed.plan_of(batch), "auto", deterministic).attend(q, q, q)
        assert len(varlen_cpu.CALLS) == deterministic


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_layers(gpu: None, monkeypatch: pytest.MonkeyPatch, recompute: bool) -> None:
    torch._dynamo.reset()
    plain: Any = lambda graph, inputs: graph.forward  # noqa: E731
    monkeypatch.setattr(packed, "CompiledLayers", partial(CompiledLayers, backend=plain))
    found = []
    for compile in (True, False):
        role = policy(compile=compile, gradient_checkpointing=recompute)
        OneDevice().backward(loss(role))
        assert modes("backward").keys() == {STRICT}
        assert modes("forward").keys() == {0}
        found.append([p.grad for p in role.parameters()])
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)
    torch._dynamo.reset()
