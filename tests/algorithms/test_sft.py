"""SFT's step against transformers' own loss, on any split into micro-batches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import tiny_world as tw
from gnomon.algorithms.base import Workbench
from gnomon.models.roles import Role
from gnomon.records import TokenGroup
from gnomon.training.learner import Learner


def sft(text: list[TokenGroup] | None = None, seed: int = 0, **settings: float) -> Learner:
    policy = Role("policy", tw.trunk(seed), trainable=True)
    return tw.on_groups(
        "sft",
        Workbench({"policy": policy}, batch_size=3, tokens_per_microbatch=100_000),
        tw.demonstrations(),
        settings,
        held_out=tw.demonstrations(3),
        text=text or [],
    )


def padded_loss(groups: list[TokenGroup], *, prompts_too: bool = False) -> tuple[Tensor, dict]:
    """transformers' loss on a right-padded batch, labels -100 off the assistant's tokens."""
    model = tw.tiny_model()
    rows = [[*g.prompt_ids, *r.ids] for g in groups for r in g.responses]
    labels = [
        [t if prompts_too else -100 for t in g.prompt_ids]
        + [t if m else -100 for t, m in zip(r.ids, r.mask, strict=True)]
        for g in groups
        for r in g.responses
    ]
    width = max(map(len, rows))
    input_ids = torch.tensor([r + [0] * (width - len(r)) for r in rows])
    attention = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
    padded = torch.tensor([x + [-100] * (width - len(x)) for x in labels])
    loss = model(input_ids=input_ids, attention_mask=attention, labels=padded).loss
    loss.backward()
    return loss, {f"policy.trunk.{n}": p.grad for n, p in model.named_parameters()}


def test_the_step_is_transformers_own_loss() -> None:
    loss, gradient = tw.step_gradient(sft(), tw.demonstrations())
    expected, expected_gradient = padded_loss(tw.demonstrations())
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert tw.distance(expected_gradient, gradient) < 1e-4


def test_it_would_be_noticed_if_prompt_tokens_were_in_the_loss() -> None:
    loss, gradient = tw.step_gradient(sft(), tw.demonstrations())
    wrong, wrong_gradient = padded_loss(tw.demonstrations(), prompts_too=True)
    assert abs(loss - wrong.item()) > 1e-3
    assert tw.distance(wrong_gradient, gradient) > 0.05


def test_it_would_be_noticed_if_a_later_user_turn_were_in_the_loss() -> None:
    group = tw.demonstrations()[-1]
    everything = replace(group.responses[0], mask=[True] * len(group.responses[0].ids))
    right, _ = tw.step_gradient(sft(), [group])
    wrong, _ = tw.step_gradient(sft(), [replace(group, responses=(everything,))])
    assert abs(right - wrong) > 1e-3


@pytest.mark.parametrize("tokens", [1, 20, 37])
def test_any_split_gives_the_same_gradient_with_and_without_pretraining_text(tokens: int) -> None:
    algorithm = sft(tw.documents(), pretraining_coef=0.3)
    groups = [replace(g, weight=1.0 + i % 3) for i, g in enumerate(tw.demonstrations())]
    for text in ([], tw.documents()):
        loss, whole = tw.step_gradient(algorithm, groups, text)
        split_loss, split = tw.step_gradient(algorithm, groups, text, tokens=tokens)
        assert split_loss == pytest.approx(loss, rel=1e-5)
        assert tw.distance(whole, split) < 1e-5


def test_pretraining_text_enters_per_token_times_its_coefficient() -> None:
    algorithm = sft(tw.documents(), pretraining_coef=0.3)
    alone, gradient = tw.step_gradient(algorithm, tw.demonstrations())
    mixed, mixed_gradient = tw.step_gradient(algorithm, tw.demonstrations(), tw.documents())
    text, text_gradient = padded_loss(tw.documents())
    assert mixed == pytest.approx(alone + 0.3 * float(text), rel=1e-5)
    expected = {k: gradient[k] + 0.3 * text_gradient[k] for k in gradient}
    assert tw.distance(expected, mixed_gradient) < 1e-4


def test_a_groups_weight_counts_it_that_many_times() -> None:
    first, second = tw.demonstrations()[:2]
    weighted, gradient = tw.step_gradient(sft(), [replace(first, weight=2.0), second])
    copy = replace(first, id="again")
    repeated, repeated_gradient = tw.step_gradient(sft(), [first, copy, second])
    assert weighted == pytest.approx(repeated, rel=1e-5)
    assert tw.distance(repeated_gradient, gradient) < 1e-5


def test_the_held_out_loss_is_per_token_over_everything() -> None:
    expected, _ = padded_loss(tw.demonstrations(3))
    for tokens in (1, 10_000):
        algorithm = sft()
        algorithm.bench.tokens_per_microbatch = tokens
        found = algorithm.evaluate()
        assert found.metrics["eval/loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_every_epoch_visits_every_group_once_whatever_the_batch_size() -> None:
    algorithm = sft()
    seen = [g.id for i in range(4) for g in algorithm.experience(i).minibatches[0].groups]
    names = sorted(g.id for g in tw.demonstrations())
    assert sorted(seen[:6]) == names
    assert sorted(seen[6:]) == names
    assert seen[:6] != seen[6:]  # in another order
    assert [g.id for g in sft().experience(2).minibatches[0].groups] == seen[6:9]  # no history


def test_no_text_is_mixed_in_without_a_coefficient() -> None:
    assert not sft(tw.documents()).experience(0).minibatches[0].text
    mixed = sft(tw.documents(), pretraining_coef=0.1, pretraining_batch=2)
    assert len(mixed.experience(0).minibatches[0].text) == 2
