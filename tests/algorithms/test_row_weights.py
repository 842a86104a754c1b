"""A row's weight in every method that learns from pairs, rankings or labels: a weight of 2 is the
row twice, a weight of 0 is no row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import offline_zoo as zoo
import pytest
import torch
from torch import Tensor

import tiny_world as tw
from gnomon.algorithms.base import Workbench
from gnomon.data.batch import pack
from gnomon.data.encode import Encoder
from gnomon.data.readers import read_groups
from gnomon.losses.kto import kto_baseline
from gnomon.models.roles import Role
from gnomon.records import TokenGroup
from gnomon.training.learner import Learner

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo": ("dpo", {}),
    "cdpo": ("dpo", {"label_smoothing": 0.1}),
    "robust": ("dpo", {"loss": "robust", "label_smoothing": 0.1}),
    "ipo": ("dpo", {"loss": "ipo"}),
    "hinge": ("dpo", {"loss": "hinge"}),
    "f-dpo": ("dpo", {"divergence": "js"}),
    "r-dpo": ("dpo", {"length_regularisation": 0.05}),
    "ld-dpo": ("dpo", {"length_desensitise": 0.5}),
    "rpo": ("dpo", {"nll_coef": 0.5}),
    "rankings": ("dpo", {"loss": "plackett_luce"}),
    "simpo": ("simpo", {}),
    "orpo": ("orpo", {}),
    "cpo": ("cpo", {}),
    "kto": ("kto", {"desirable_weight": 1.0}),
    "reward model": ("reward_model", {}),
    "reward model on rankings": ("reward_model", {"loss": "plackett_luce"}),
}
WITH_REFERENCE = ("dpo", "kto")


def rows(kind: str) -> list[TokenGroup]:
    if METHODS[kind][0] == "kto":
        return zoo.labelled(6)
    return zoo.rankings(4) if "rankings" in kind else zoo.pairs(4)


def learner_of(kind: str, groups: list[TokenGroup]) -> Learner:
    name, settings = METHODS[kind]
    if name == "reward_model":
        role = Role("reward_model", tw.trunk(), head=tw.head(1), trainable=True)
        bench = Workbench({"reward_model": role}, seed=1, batch_size=len(groups))
        return tw.on_groups(name, bench, groups, settings)
    reference = "frozen" if name in WITH_REFERENCE else None
    learner = zoo.make(name, zoo.given(groups, reference=reference), **settings)
    zoo.move(learner, zoo.shaken(zoo.model()))
    return learner


def gradient(kind: str, groups: list[TokenGroup]) -> dict[str, Tensor]:
    """Of one step on all groups; KTO's baseline is taken as 0, since it depends on which answers
    the rows are paired with."""
    learner = learner_of(kind, groups)
    if METHODS[kind][0] == "kto":
        learner.algorithm.baseline = lambda mismatched: 0.0  # type: ignore[attr-defined]
    if METHODS[kind][0] == "reward_model":
        return tw.step_gradient(learner, groups)[1]
    return zoo.step(learner)[1]


def weighted(groups: list[TokenGroup], weight: float) -> list[TokenGroup]:
    return [replace(groups[0], weight=weight), *groups[1:]]


@pytest.mark.parametrize("kind", METHODS)
def test_a_weight_of_two_is_the_row_twice_and_of_zero_no_row(kind: str) -> None:
    groups = rows(kind)
    twice = [groups[0], replace(groups[0], id="again"), *groups[1:]]
    double = gradient(kind, weighted(groups, 2.0))
    zoo.assert_same(gradient(kind, twice), double)
    zoo.assert_same(gradient(kind, groups[1:]), gradient(kind, weighted(groups, 0.0)))
    with pytest.raises(AssertionError):  # a method that ignored weights would be noticed
        zoo.assert_same(gradient(kind, groups), double)


@pytest.mark.parametrize("kind", ["rankings", "reward model on rankings"])
def test_a_rankings_own_weight_scales_its_part(kind: str) -> None:
    """A labeller's weight lies on the comparisons: of a whole ranking their mean counts."""
    groups = rows(kind)

    def judged(weight: float) -> list[TokenGroup]:
        sure = tuple(replace(c, weight=weight) for c in groups[0].comparisons)
        return [replace(groups[0], comparisons=sure), *groups[1:]]

    whole, half = gradient(kind, judged(1.0)), gradient(kind, judged(0.5))
    alone = gradient(kind, groups[:1])
    expected = {n: g - 0.5 * alone[n] / len(groups) for n, g in whole.items()}
    zoo.assert_same(expected, half)


@pytest.mark.parametrize("kind", ["rankings", "reward model on rankings"])
def test_a_guess_counts_in_the_mean_of_its_ranking(kind: str) -> None:
    """Of probabilities 1, 0.5 and 0.5 the strengths are 1, 0 and 0: a third, not the whole."""
    groups = rows(kind)
    sure = [replace(c, tie=False) for c in groups[0].comparisons]
    guessed = (sure[0], *(replace(c, probability=0.5) for c in sure[1:]))
    assert len(guessed) == 3
    doubtful = [replace(groups[0], comparisons=guessed), *groups[1:]]
    whole = [replace(groups[0], comparisons=tuple(sure)), *groups[1:]]
    alone = gradient(kind, whole[:1])
    expected = {n: g - 2 / 3 * alone[n] / len(groups) for n, g in gradient(kind, whole).items()}
    zoo.assert_same(expected, gradient(kind, doubtful))


def test_the_weight_of_a_ranking_is_its_comparisons_mean() -> None:
    one, removed = zoo.rankings(2)
    judged = tuple(replace(c, tie=False) for c in one.comparisons)
    weights = [replace(c, weight=w) for c, w in zip(judged, (0.5, 1.0, 0.0), strict=True)]
    found = pack([replace(one, comparisons=tuple(weights)), replace(removed, comparisons=())])
    assert found.ranking_weight.tolist() == pytest.approx([0.75, 1.0])  # weight 0 removes one


def test_ktos_baseline_counts_rows_by_weight() -> None:
    gain = torch.tensor([1.0, 4.0])
    nothing = torch.zeros(2)
    assert kto_baseline(gain, nothing).item() == pytest.approx(2.5)
    assert kto_baseline(gain, nothing, torch.tensor([2.0, 1.0])).item() == pytest.approx(2.0)
    rows = torch.tensor([1.0, 1.0, 4.0])
    assert kto_baseline(rows, torch.zeros(3)).item() == pytest.approx(2.0)
    groups = zoo.labelled(6)
    learner = learner_of("kto", weighted(groups, 5.0))
    plain = learner_of("kto", groups)
    found = [float(one.experience(0).metrics["kl"]) for one in (learner, plain)]
    assert found[0] != pytest.approx(found[1], rel=1e-6)


def test_a_weight_column_of_a_file_reaches_dpo(tmp_path: Path) -> None:
    pairs = [
        {"prompt": "a?", "chosen": "yes", "rejected": "no no"},
        {"prompt": "b?", "chosen": "one", "rejected": "two"},
    ]
    files = {"weight": [{**pairs[0], "weight": 2}, pairs[1]], "twice": [pairs[0], *pairs]}
    encoder = Encoder(tw.tokenizer(), max_length=64)
    found = {}
    for name, lines in files.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        read = read_groups(path, kind="preferences").groups
        groups = [encoder.encode_group(g) for g in read]
        groups = [replace(g, id=str(i)) for i, g in enumerate(groups)]
        trunk = tw.trunk()
        policy = Role("policy", trunk, trainable=True)
        bench = Workbench(
            {"policy": policy, "reference": Role("reference", tw.trunk())}, batch_size=len(groups)
        )
        learner = tw.on_groups("dpo", bench, groups, {"reference": "live"})
        tw.shake(policy, 0.02)
        found[name] = tw.step_gradient(learner, groups)[1]
    zoo.assert_same(found["twice"], found["weight"])
