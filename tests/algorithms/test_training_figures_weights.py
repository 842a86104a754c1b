"""Figures of training count a row by its weight, as the loss and the held-out figures do: of 2 the
row twice, of 0 no row; a comparison by its own weight, and a tie not at all."""

from __future__ import annotations

from dataclasses import replace

import offline_zoo as zoo
import pytest

import tiny_world as tw
from gnomon.algorithms.base import Workbench
from gnomon.algorithms.metric import MetricSums
from gnomon.models.roles import Role
from gnomon.records import TokenGroup
from gnomon.training.learner import Learner

METHODS = ("dpo", "simpo", "orpo", "cpo", "kto", "reward_model")


def rows(name: str) -> list[TokenGroup]:
    return zoo.labelled(6) if name == "kto" else zoo.pairs(6, seed=2)


def learner_of(name: str, groups: list[TokenGroup]) -> Learner:
    """On the same rows to train on and held out."""
    if name == "reward_model":
        role = Role("reward_model", tw.trunk(), head=tw.head(1), trainable=True)
        bench = Workbench({"reward_model": role}, seed=1, batch_size=len(groups))
        return tw.on_groups(name, bench, groups, {}, held_out=groups)
    reference = "frozen" if name in ("dpo", "kto") else None
    learner = zoo.make(name, zoo.given(groups, reference=reference, held_out=groups))
    zoo.move(learner, zoo.shaken(zoo.model(), size=0.1))
    if name == "kto":  # its baseline depends on which answers the rows are paired with
        learner.algorithm.baseline = lambda mismatched: 0.0  # type: ignore[attr-defined]
    return learner


def training(name: str, groups: list[TokenGroup], tokens: int = 100_000) -> dict[str, float]:
    learner = learner_of(name, groups)
    learner.bench.tokens_per_microbatch = tokens
    experience, sums = learner.experience(0), MetricSums()
    (minibatch,) = experience.minibatches
    step = learner.step_of(experience, minibatch.totals())
    for batch in learner.bench.batches(minibatch.trained):
        sums.add(learner.loss(batch, step).metrics)
    return sums.values()


@pytest.mark.parametrize("name", METHODS)
def test_a_weight_of_two_is_the_row_twice_and_of_zero_no_row(name: str) -> None:
    groups = rows(name)
    twice = [groups[0], replace(groups[0], id="again"), *groups[1:]]
    heavy = [replace(groups[0], weight=2.0), *groups[1:]]
    double = training(name, heavy)
    assert double == pytest.approx(training(name, twice), rel=1e-4)
    assert double == pytest.approx(training(name, heavy, tokens=40), rel=1e-4)
    none = training(name, [replace(groups[0], weight=0.0), *groups[1:]])
    assert none == pytest.approx(training(name, groups[1:]), rel=1e-4)
    assert double != pytest.approx(training(name, groups), rel=1e-4)  # it is not ignored


@pytest.mark.parametrize("name", METHODS)
def test_they_agree_with_the_held_out_figures_of_the_same_rows(name: str) -> None:
    groups = [replace(g, weight=1.0 + 3 * i) for i, g in enumerate(rows(name))]
    if name != "kto":
        sure = tuple(replace(c, weight=0.25) for c in groups[0].comparisons)
        groups[0] = replace(groups[0], comparisons=sure)
    if name in ("dpo", "reward_model"):  # which learn from whole rankings: some are tied
        groups += zoo.rankings(2)
        first, *others = groups[-1].comparisons
        groups[-1] = replace(groups[-1], comparisons=(replace(first, tie=True), *others))
    held_out = learner_of(name, groups).evaluate().metrics
    found = training(name, groups)
    shared = [key for key in ("accuracy", "margin") if f"eval/{key}" in held_out]
    assert "accuracy" in shared
    for key in shared:
        assert found[key] == pytest.approx(held_out[f"eval/{key}"], rel=1e-4)
