"""What labellers are believed reaches the gradient: by weight, and by probability."""

from __future__ import annotations

from dataclasses import replace

import offline_zoo as zoo
import pytest
import torch
from torch import Tensor

import tiny_world as tw
from gnomon.algorithms.base import Workbench
from gnomon.data.fields import ReadOptions
from gnomon.data.formats import convert
from gnomon.models.roles import Role
from gnomon.records import Comparison, Group, Message, Prompt, Response, TokenGroup

Gradient = dict[str, Tensor]


def judged(comparison: Comparison, count: int = 1) -> list[TokenGroup]:
    return [replace(g, comparisons=(comparison,)) for g in zoo.pairs(count)]


def reward_model(groups: list[TokenGroup]) -> Gradient:
    role = Role("reward_model", tw.trunk(), head=tw.head(1), trainable=True)
    bench = Workbench({"reward_model": role}, seed=1, batch_size=len(groups))
    learner = tw.on_groups("reward_model", bench, groups, {})
    return tw.step_gradient(learner, groups)[1]


def dpo(groups: list[TokenGroup]) -> Gradient:
    learner = zoo.make("dpo", zoo.given(groups, reference="frozen"))
    zoo.move(learner, zoo.shaken(zoo.model()))
    return zoo.step(learner)[1]


@pytest.mark.parametrize("method", [reward_model, dpo])
def test_a_weight_scales_the_step(method: object) -> None:
    assert callable(method)
    whole, part = method(judged(Comparison(0, 1))), method(judged(Comparison(0, 1, weight=0.3)))
    zoo.assert_same({n: 0.3 * g for n, g in whole.items()}, part)
    with pytest.raises(AssertionError):
        zoo.assert_same(whole, part)


@pytest.mark.parametrize("method", [reward_model, dpo])
def test_a_probability_scales_it_by_how_far_it_is_from_a_guess(method: object) -> None:
    assert callable(method)
    whole = method(judged(Comparison(0, 1)))
    soft = method(judged(Comparison(0, 1, probability=0.8)))
    zoo.assert_same({n: 0.6 * g for n, g in whole.items()}, soft)


def test_a_doubtful_pair_moves_the_reward_model_less_than_a_sure_one() -> None:
    """Beside a sure pair, a doubtful one keeps its share: the step is not normalised by weight."""
    sure = judged(Comparison(0, 1), 2)
    mixed = [sure[0], replace(sure[1], comparisons=(Comparison(0, 1, probability=0.55),))]
    both, one = reward_model(sure), reward_model(mixed)
    first = reward_model(sure[:1])
    expected = {n: first[n] / 2 + 0.1 * (both[n] - first[n] / 2) for n in both}
    zoo.assert_same(expected, one)


def test_kto_weighs_both_answers_by_how_sure_the_pair_is() -> None:
    answers = [Response((Message("assistant", text),), id=text) for text in ("yes", "no")]
    pair = Group(Prompt("p", (Message("user", "?"),)), tuple(answers))
    doubtful = replace(pair, comparisons=(Comparison(1, 0, probability=0.8),))
    rows = convert(doubtful, "unpaired", ReadOptions())
    assert [(r.responses[0].meta["label"], round(r.weight, 9)) for r in rows] == [
        (False, 0.6),
        (True, 0.6),
    ]


def test_a_rows_weight_scales_its_part_of_ktos_step() -> None:
    """The loss is a sum over answers, divided by the step's summed weight."""
    groups = zoo.labelled(6)

    def gradient(weights: list[float]) -> Gradient:
        weighed = [replace(g, weight=w) for g, w in zip(groups, weights, strict=True)]
        learner = zoo.make("kto", zoo.given(weighed, reference="frozen"), desirable_weight=1.0)
        zoo.move(learner, zoo.shaken(zoo.model()))
        return {n: g * sum(weights) for n, g in zoo.step(learner)[1].items()}

    whole = gradient([1.0] * 6)
    less = gradient([0.5, 1.0, 1.0, 1.0, 1.0, 1.0])
    half = gradient([0.5] * 6)
    zoo.assert_same({n: g / 2 for n, g in whole.items()}, half)
    assert any(not torch.allclose(whole[n], less[n], rtol=1e-3) for n in whole)
