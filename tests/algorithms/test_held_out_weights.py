"""A held-out row's weight counts as a training row's does: of 2 the row twice, of 0 no row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import offline_zoo as zoo
import pytest

import tiny_world as tw
from gnomon.algorithms.base import Workbench
from gnomon.models.roles import Role
from gnomon.records import TokenGroup
from gnomon.training.learner import Learner

METHODS = ("sft", "dpo", "simpo", "orpo", "cpo", "kto", "reward_model")


def rows(name: str) -> list[TokenGroup]:
    if name == "kto":
        return zoo.labelled(6)
    return tw.demonstrations(3) if name == "sft" else zoo.pairs(6, seed=2)


def learner_of(name: str, held_out: list[TokenGroup]) -> Learner:
    train = rows(name)
    if name == "reward_model":
        role = Role("reward_model", tw.trunk(), head=tw.head(1), trainable=True)
        bench = Workbench({"reward_model": role}, seed=1, batch_size=len(train))
        return tw.on_groups(name, bench, train, {}, held_out=held_out)
    if name == "sft":
        bench = Workbench({"policy": Role("policy", tw.trunk(), trainable=True)}, batch_size=3)
        return tw.on_groups(name, bench, train, {}, held_out=held_out)
    reference = "frozen" if name in ("dpo", "kto") else None
    learner = zoo.make(name, zoo.given(train, reference=reference, held_out=held_out))
    zoo.move(learner, zoo.shaken(zoo.model(), size=0.1))
    return learner


def figures(name: str, held_out: list[TokenGroup]) -> dict[str, Any]:
    """What a curve shows, without the ends of intervals: twice the same row is no second row."""
    learner = learner_of(name, held_out)
    if name == "kto":  # its baseline depends on which answers the rows are paired with
        learner.algorithm.baseline = lambda mismatched: 0.0  # type: ignore[attr-defined]
    found = learner.evaluate().metrics
    return {key: value for key, value in found.items() if not key.endswith(("_low", "_high", "_n"))}


@pytest.mark.parametrize("name", METHODS)
def test_a_held_out_weight_of_two_is_the_row_twice_and_of_zero_no_row(name: str) -> None:
    groups = rows(name)
    twice = [groups[0], replace(groups[0], id="again"), *groups[1:]]
    double = figures(name, [replace(groups[0], weight=2.0), *groups[1:]])
    assert double == pytest.approx(figures(name, twice), rel=1e-4)
    none = figures(name, [replace(groups[0], weight=0.0), *groups[1:]])
    assert none == pytest.approx(figures(name, groups[1:]), rel=1e-4)
    assert double != pytest.approx(figures(name, groups), rel=1e-4)  # it is not ignored
