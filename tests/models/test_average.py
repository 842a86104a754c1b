"""Averages of weights: SLERP by its definition, LoRA's mean by the mean of the merged weights."""

from __future__ import annotations

import math

import pytest
import torch

import tiny_world as tw
from gnomon.models.average import average_role, merge_step
from gnomon.models.merge import merged_state
from gnomon.models.roles import Role

START = torch.tensor([10.0, -3.0])


def arc(degrees: float, length: float = 1.0) -> torch.Tensor:
    """A point at an angle around START."""
    at = math.radians(degrees)
    return START + length * torch.tensor([math.cos(at), math.sin(at)])


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_slerp_goes_along_the_arc_between_task_vectors(share: float) -> None:
    found = merge_step(arc(10), arc(100), share, "slerp", START)
    torch.testing.assert_close(found, arc(10 + 90 * share), atol=1e-5, rtol=1e-5)
    straight = merge_step(arc(10), arc(100), share, "linear", START)
    torch.testing.assert_close(straight, (1 - share) * arc(10) + share * arc(100))
    if share in (0.25, 0.5):  # which is shorter
        assert float((straight - START).norm()) < 0.9 < float((found - START).norm())


def test_parallel_and_absent_task_vectors_are_averaged_straight() -> None:
    for other in (arc(10, 3.0), START, arc(190)):
        found = merge_step(arc(10), other, 0.5, "slerp", START)
        torch.testing.assert_close(found, (arc(10) + other) / 2, atol=1e-5, rtol=1e-5)


def test_one_after_the_other_gives_the_mean_of_all() -> None:
    points = [torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    merged = points[0]
    for n, point in enumerate(points[1:], start=2):
        merged = merge_step(merged, point, 1 / n, "linear", None)
    torch.testing.assert_close(merged, torch.stack(points).mean(0))


def trained(lora: bool, seeds: range) -> tuple[Role, list[dict[str, torch.Tensor]]]:
    """A role, and its parameters after moves in different directions."""
    trunk = tw.trunk()
    if lora:
        trunk.add_adapter("policy", tw.LORA, seed=1)
    role = Role("policy", trunk, adapter="policy" if lora else None, trainable=True)
    states = []
    for seed in seeds:
        tw.shake(role, 0.1, seed=seed)
        states.append({n: p.detach().clone() for n, p in role.named_parameters().items()})
    return role, states


@pytest.mark.parametrize("lora", [False, True])
def test_the_mean_of_checkpoints_is_that_of_their_merged_weights(lora: bool) -> None:
    role, states = trained(lora, range(3))
    merged = []
    for state in states:
        with torch.no_grad():
            for name, weight in role.named_parameters().items():
                weight.copy_(state[name])
        whole = merged_state(role.trunk.model, role.adapter)
        merged.append({k: v.double().clone() for k, v in whole.items()})
    mean = average_role(role, states)
    found = merged_state(mean.trunk.model, mean.adapter)
    for key, value in found.items():
        expected = sum(m[key] for m in merged) / 3
        torch.testing.assert_close(value.double(), expected, atol=1e-5, rtol=1e-4)
    assert any((merged[0][k] - merged[2][k]).abs().max() > 0.05 for k in found)


def test_the_mean_of_adapters_is_not_the_adapter_of_the_means() -> None:
    """So the test above would notice A and B averaged by themselves."""
    role, states = trained(True, range(3))
    mean = average_role(role, states)
    exact = merged_state(mean.trunk.model, mean.adapter)
    with torch.no_grad():
        for name, weight in role.named_parameters().items():
            weight.copy_(torch.stack([s[name] for s in states]).mean(0))
    naive = merged_state(role.trunk.model, role.adapter)
    assert any((exact[k] - naive[k]).abs().max() > 1e-3 for k in exact)
