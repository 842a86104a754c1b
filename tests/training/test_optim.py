"""Optimizer groups, learning rates and clipping against hand-worked values and torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

import tiny_world as tw
from gnomon.algorithms.rates import default_lr
from gnomon.errors import ConfigError
from gnomon.training.optim import clip_grads, grad_norm, lr_at, make_optimizer


def toy() -> list[tuple[str, nn.Parameter]]:
    def p(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.ones(shape))

    tied = p(8, 4)
    frozen = nn.Parameter(torch.ones(4, 4), requires_grad=False)
    return [
        ("policy.trunk.embed_tokens.weight", tied),
        ("policy.trunk.lm_head.weight", tied),
        ("policy.trunk.q_proj.weight", p(4, 4)),
        ("policy.trunk.q_proj.bias", p(4)),
        ("policy.trunk.norm.weight", p(4)),
        ("adapter.policy.q_proj.lora_A.weight", p(2, 4)),
        ("value_model.head.weight", p(1, 4)),
        ("reward_model.length_coef", p()),
        ("policy.trunk.frozen.weight", frozen),
    ]


def test_what_decays_and_what_does_not() -> None:
    named = toy()
    optimizer = make_optimizer(named, lr=0.1, weight_decay=0.5)
    groups = {g["name"]: g for g in optimizer.param_groups}
    name_of = {id(p): n for n, p in reversed(named)}
    members = {k: [name_of[id(p)] for p in g["params"]] for k, g in groups.items()}
    assert members == {
        "decay": [
            "policy.trunk.embed_tokens.weight",
            "policy.trunk.q_proj.weight",
            "adapter.policy.q_proj.lora_A.weight",
        ],
        "no_decay": [
            "policy.trunk.q_proj.bias",
            "policy.trunk.norm.weight",
            "value_model.head.weight",
            "reward_model.length_coef",
        ],
    }
    assert groups["decay"]["betas"] == (0.9, 0.95)
    # with zero gradients AdamW only decays: w (1 - lr wd) = 0.95, and 1 where nothing decays
    for _, parameter in named:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    values = {name: float(p.detach().flatten()[0]) for name, p in named}
    assert values["policy.trunk.q_proj.weight"] == pytest.approx(0.95)
    assert values["policy.trunk.lm_head.weight"] == pytest.approx(0.95)  # once, though tied
    assert values["value_model.head.weight"] == 1.0
    assert values["policy.trunk.norm.weight"] == 1.0


def test_heads_decay_only_where_it_is_asked_for() -> None:
    named = toy()
    optimizer = make_optimizer(named, lr=0.1, weight_decay=0.5, head_weight_decay=0.2)
    groups = {g["name"]: g for g in optimizer.param_groups}
    assert {name: g["weight_decay"] for name, g in groups.items()} == {
        "decay": 0.5,
        "no_decay": 0.0,
        "heads": 0.2,
    }
    (head,) = groups["heads"]["params"]
    assert head is dict(named)["value_model.head.weight"]
    assert dict(named)["reward_model.length_coef"] in set(groups["no_decay"]["params"])
    for _, parameter in named:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert float(head.detach()[0, 0]) == pytest.approx(0.98)  # 1 - lr 0.2


def test_betas_and_eps_are_adams() -> None:
    """One step on a gradient g moves a weight by lr g / (|g| + eps), the second by the betas'."""
    weight = nn.Parameter(torch.zeros(1, 1))
    optimizer = make_optimizer([("w", weight)], lr=1.0, betas=(0.5, 0.25), eps=1.0)
    gradients, mean, square, expected = (3.0, -1.0), 0.0, 0.0, 0.0
    for step, g in enumerate(gradients, 1):
        weight.grad = torch.full((1, 1), g)
        optimizer.step()
        mean, square = 0.5 * mean + 0.5 * g, 0.25 * square + 0.75 * g * g
        root = math.sqrt(square / (1 - 0.25**step))
        expected -= mean / (1 - 0.5**step) / (root + 1.0)
        assert float(weight.detach()) == pytest.approx(expected)


def test_nothing_to_train_is_said() -> None:
    with pytest.raises(ConfigError, match="Nothing to train"):
        make_optimizer([("a", nn.Parameter(torch.ones(2), requires_grad=False))], lr=1.0)


def test_one_kind_of_parameter_makes_one_group() -> None:
    optimizer = make_optimizer([("a.weight", nn.Parameter(torch.ones(2, 2)))], lr=1.0)
    assert [g["name"] for g in optimizer.param_groups] == ["decay"]


def test_schedules_by_hand() -> None:
    def rates(**kwargs: object) -> list[float]:
        return [lr_at(i, 8, peak=2.0, **kwargs) for i in range(8)]  # type: ignore[arg-type]

    assert rates(schedule="constant") == [2.0] * 8
    assert rates(schedule="linear", warmup=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 1.5, 1.0, 0.5]
    assert rates(schedule="linear", warmup=0.5) == rates(schedule="linear", warmup=4)
    assert rates(schedule="linear", warmup=0, floor=0.5)[-1] == 2.0 * (0.5 + 0.5 / 8)
    cosine = rates(schedule="cosine", floor=0.1)
    assert cosine[0] == 2.0
    assert cosine[4] == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert lr_at(8, 8, peak=2.0, floor=0.1) == pytest.approx(0.2)
    assert lr_at(99, 8, peak=2.0, floor=0.1) == pytest.approx(0.2)
    assert lr_at(0, 1, peak=2.0, warmup=1) == 2.0


@pytest.mark.parametrize(
    ("schedule", "oracle"),
    [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)],
)
def test_after_warmup_the_schedules_are_those_of_transformers(
    schedule: str, oracle: object
) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=3.0)
    scheduler = oracle(optimizer, 5, 40)  # type: ignore[operator]
    for i in range(40):
        if i >= 5:
            expected = scheduler.get_last_lr()[0]
            assert lr_at(i, 40, peak=3.0, schedule=schedule, warmup=5) == pytest.approx(expected)
        optimizer.step()
        scheduler.step()


def test_bad_schedules_are_refused() -> None:
    with pytest.raises(ConfigError, match="cosine, linear or constant"):
        lr_at(0, 10, peak=1.0, schedule="step")
    with pytest.raises(ConfigError, match="not a share"):
        lr_at(0, 10, peak=1.0, floor=2.0)


@pytest.mark.parametrize(
    ("method", "size", "lora", "expected"),
    [
        ("ppo", 7_000_000_000, False, 1e-6),
        ("ppo", 135_000_000, False, 1.07e-5),
        ("ppo", 2_000_000, False, 1.34e-4),
        ("sft", 7_000_000_000, False, 1e-5),
        ("reward_model", 7_000_000_000, False, 1e-5),
        ("dpo", 7_000_000_000, False, 5e-7),
        ("dpo", 7_000_000_000, True, 5e-6),
        ("sft", 2_000_000, True, 2e-3),
        ("sft", 2_000_000, False, 1e-5 * math.exp(0.6 * math.log(3500))),
    ],
)
def test_default_lr(method: str, size: int, lora: bool, expected: float) -> None:
    base = tw.method(method).base_lr
    assert base is not None
    assert default_lr(base, size, lora) == pytest.approx(expected, rel=0.01)


def with_grads(*grads: list[float], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(len(g), dtype=dtype)) for g in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = torch.tensor(grad, dtype=dtype)
    return [*parameters, nn.Parameter(torch.zeros(3))]  # the last has no gradient


def grads_of(parameters: list[nn.Parameter]) -> list[list[float]]:
    return [p.grad.tolist() for p in parameters if p.grad is not None]


def clip(parameters: list[nn.Parameter], limit: float) -> float:
    """The norm before clipping."""
    norm = float(grad_norm(parameters))
    clip_grads(parameters, norm, limit)
    return norm


def test_clipping_scales_all_gradients_together() -> None:
    parameters = with_grads([3.0, 0.0], [0.0, 4.0])
    assert clip(parameters, 1.0) == pytest.approx(5.0)
    # one factor 1/5 for both; clipping each on its own would give [1, 0] and [0, 1]
    assert grads_of(parameters) == [pytest.approx([0.6, 0.0]), pytest.approx([0.0, 0.8])]
    small = with_grads([3.0, 0.0], [0.0, 4.0])
    assert clip(small, 10.0) == pytest.approx(5.0)
    assert grads_of(small) == [[3.0, 0.0], [0.0, 4.0]]


def test_clipping_agrees_with_torch() -> None:
    ours = with_grads(*torch.randn(4, 7).tolist())
    theirs = with_grads(*grads_of(ours))
    expected = float(nn.utils.clip_grad_norm_(theirs, 0.7))
    assert clip(ours, 0.7) == pytest.approx(expected)
    for a, b in zip(grads_of(ours), grads_of(theirs), strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_the_norm_of_half_precision_gradients_is_exact() -> None:
    parameters = with_grads([1.0] * 1001, dtype=torch.bfloat16)
    assert clip(parameters, 1e9) == pytest.approx(math.sqrt(1001), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_no_number_shows(bad: float) -> None:
    assert not math.isfinite(float(grad_norm(with_grads([3.0, bad], [4.0]))))


def test_no_gradients_at_all() -> None:
    assert clip(with_grads(), 1.0) == 0.0
