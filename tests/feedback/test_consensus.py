"""Consensus against crowd-kit, brute force, and worlds whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from gnomon.errors import ConfigError, DataError
from gnomon.feedback.ballots import Ballots
from gnomon.feedback.consensus import (
    believed_groups,
    consensus,
    gold_pairs,
    majority,
)
from gnomon.feedback.crowd_bt import fit_scores
from gnomon.feedback.dawid_skene import fit, without_own
from gnomon.feedback.records import Item, Label, Vote
from gnomon.feedback.records import votes as votes_of
from gnomon.records import Comparison, Message, Prompt, Response
from gnomon.stats.reward_model import expected_calibration_error


def crowd(
    skills: Sequence[float], pairs: int, seed: int, ties: float = 0.0, per: int = 3
) -> tuple[list[Vote], np.ndarray]:
    """``per`` labellers a pair, each right with their own chance, tied with chance ``ties``."""
    rng = np.random.default_rng(seed)
    truth, given = rng.integers(0, 2, pairs), np.zeros(len(skills))
    votes = []
    for i in range(pairs):
        chosen = np.lexsort((rng.random(len(skills)), given))[:per]
        given[chosen] += 1
        for k in chosen:
            right = rng.random() < skills[k]
            won = float(truth[i] if right else 1 - truth[i])
            votes.append(Vote(f"{i}", f"l{k}", 0, 1, 0.5 if rng.random() < ties else won))
    return votes, truth


def test_dawid_skene_is_crowd_kits_on_pairs_and_their_mirror_images() -> None:
    pd = pytest.importorskip("pandas")
    from crowdkit.aggregation import DawidSkene

    rng, votes = np.random.default_rng(3), list[Vote]()
    for i in range(100):
        truth = float(rng.choice([0.0, 0.5, 1.0]))
        for k, right in enumerate((0.75, 0.8, 0.85, 0.9, 0.9, 0.95)):
            wrong = float(rng.choice([x for x in (0.0, 0.5, 1.0) if x != truth]))
            votes.append(Vote(f"{i}", f"l{k}", 0, 1, truth if rng.random() < right else wrong))
    rows = [(v.item, v.labeller, v.won) for v in votes]
    rows += [(f"mirror {v.item}", v.labeller, 1.0 - v.won) for v in votes]
    frame = pd.DataFrame(rows, columns=["task", "worker", "label"])
    theirs = DawidSkene(n_iter=60, tol=1e-9).fit(frame).probas_
    assert theirs is not None
    ballots = Ballots.of(votes)
    ours = fit(ballots, prior=0.0, rounds=60, tolerance=0.0).posterior
    for p, (item, _, _) in enumerate(ballots.pairs):
        expected = [theirs.loc[item].get(won, 0.0) for won in (1.0, 0.5, 0.0)]
        assert ours[p].tolist() == pytest.approx(expected, abs=5e-3)


def test_the_posterior_by_brute_force() -> None:
    """At the fitted abilities: Bayes' rule over the truths of a pair, vote by vote."""
    votes, _ = crowd((0.6, 0.8, 0.9), 30, 5)
    ballots = Ballots.of(votes)
    found = fit(ballots)
    skill = dict(zip(ballots.labellers, found.ability, strict=True))
    rest = without_own(ballots, found)
    for n, vote in enumerate(votes):
        others = [v for v in votes if v.item == vote.item and v is not vote]
        odds = math.prod(
            skill[v.labeller] / (1 - skill[v.labeller])
            if v.won
            else (1 - skill[v.labeller]) / skill[v.labeller]
            for v in others
        )
        assert rest[n, 0] == pytest.approx(odds / (1 + odds), abs=1e-4)


def test_scores_by_brute_force() -> None:
    """Three responses: the posterior of the scores on a fine grid, at the fitted slopes."""
    votes = [
        Vote("x", "k", 0, 1, 1.0), Vote("x", "k", 1, 2, 1.0), Vote("x", "m", 0, 2, 0.0),
        Vote("x", "m", 1, 2, 0.5),
    ]  # fmt: skip
    ballots = Ballots.of(votes)
    found = fit_scores(ballots)
    slope = dict(zip(ballots.labellers, found.slope, strict=True))
    grid = np.linspace(-4, 4, 41)
    total, above = 0.0, np.zeros(3)
    for s in product(grid, repeat=3):
        weight = math.exp(-sum(x * x for x in s) / 2)
        for v in votes:
            p = 1 / (1 + math.exp(-slope[v.labeller] * (s[v.a] - s[v.b])))
            weight *= math.sqrt(p * (1 - p)) if v.won == 0.5 else p if v.won else 1 - p
        total += weight
        above += [
            weight * ((s[a] > s[b]) + (s[a] == s[b]) / 2) for a, b in ((0, 1), (0, 2), (1, 2))
        ]
    ours = {pair[1:]: p for pair, p in zip(ballots.pairs, found.better, strict=True)}
    for p, pair in zip(above / total, ((0, 1), (0, 2), (1, 2)), strict=True):
        assert ours[pair] == pytest.approx(p, abs=0.02)


@pytest.mark.parametrize("method", ["dawid_skene", "bradley_terry"])
def test_abilities_of_twelve_labellers_are_recovered(method: str) -> None:
    """Accuracy evenly .55 to .95, 3 labels a pair, 200 each."""
    skills = np.linspace(0.55, 0.95, 12)
    rhos, inside, errors = [], [], []
    for seed in range(3):
        votes, truth = crowd(skills.tolist(), 800, seed)
        found = consensus(votes, method)  # type: ignore[arg-type]
        known = [found.labellers[f"l{k}"].accuracy for k in range(12)]
        rhos.append(spearmanr(skills, [a.value for a in known])[0])
        inside += [a.low <= s <= a.high for a, s in zip(known, skills, strict=True)]
        p = np.array([found.beliefs[f"{i}", 0, 1].probability for i in range(800)])
        sure, right = np.maximum(p, 1 - p), (p > 0.5) == truth
        errors.append(expected_calibration_error(sure, right, lower=0.5).ece)
        most = majority(votes).beliefs
        plain = np.array([most[f"{i}", 0, 1].probability for i in range(800)])
        assert right.mean() > ((plain > 0.5) == truth).mean()
    assert np.mean(rhos) >= 0.9
    if method == "dawid_skene":  # the world is its own: every pair is as hard as the others
        assert np.mean(inside) >= 0.85
        assert np.mean(errors) < 0.04


def test_a_contrary_labeller_is_believed_the_other_way_round() -> None:
    votes, _ = crowd((0.9, 0.85, 0.8, 0.8, 0.1), 300, 2)
    found = consensus(votes)
    assert found.method == "dawid_skene"
    assert [a.labeller for a in found.labellers.values() if a.adversarial] == ["l4"]
    assert any("'l4' names the worse side" in note for note in found.notes)
    alone = [*votes, Vote("new", "l4", 0, 1, 1.0)]
    assert consensus(alone).beliefs["new", 0, 1].probability < 0.25
    assert majority(alone).beliefs["new", 0, 1].probability == 1.0


def test_gold_questions_say_which_half_is_right() -> None:
    votes, truth = crowd((0.15, 0.15, 0.15, 0.9), 200, 4)
    misled = consensus(votes)
    gold = {(f"{i}", 0, 1): float(truth[i]) for i in range(60)}
    told = consensus(votes, gold=gold)
    assert misled.labellers["l3"].adversarial
    assert any("half is right" in n for n in told.notes) or not told.labellers["l3"].adversarial
    assert told.labellers["l3"].accuracy.value > 0.8
    assert told.labellers["l0"].adversarial


def test_a_third_response_says_something_of_the_other_two() -> None:
    """0 beats 1 and 1 beats 2 by everybody: bradley_terry believes that 0 beats 2 though one says
    the contrary; pairs by themselves cannot."""
    votes = [Vote("x", k, a, a + 1, 1.0) for k in "klmn" for a in (0, 1)]
    votes += [Vote("x", "k", 0, 2, 0.0)]
    found = consensus(votes)
    assert found.method == "bradley_terry"
    assert found.beliefs["x", 0, 2].probability > 0.8
    assert consensus(votes, "dawid_skene").beliefs["x", 0, 2].probability < 0.5


def test_ties_are_a_truth_of_their_own() -> None:
    votes = [Vote(f"t{i}", k, 0, 1, 0.5) for i in range(30) for k in "abc"]
    votes += [Vote(f"s{i}", k, 0, 1, 1.0) for i in range(30) for k in "abc"]
    votes += [Vote("odd", "a", 0, 1, 0.5), Vote("odd", "b", 0, 1, 0.5), Vote("odd", "c", 0, 1, 1.0)]
    found = consensus(votes)
    assert found.beliefs["t0", 0, 1].tie > 0.95
    assert found.beliefs["s0", 0, 1].probability > 0.95
    assert found.beliefs["odd", 0, 1].tie > 0.5


def item(name: str, gold: tuple[float, ...] | None = None) -> Item:
    responses = tuple(Response((Message("assistant", t),)) for t in ("first", "second"))
    return Item(name, Prompt(name, (Message("user", name),)), responses, gold=gold)


def ranked(name: str, who: str, *ranks: float, replaces: str | None = None) -> Label:
    return Label(f"{who}/{name}/{ranks}", name, who, "ranking", ranks, replaces=replaces)


def test_groups_carry_the_posterior() -> None:
    items = [item("x"), item("y"), item("unlabelled"), item("gold", (1.0, 2.0))]
    labels = [ranked("x", who, 2, 1) for who in "abc"] + [ranked("y", "a", 1, 1)]
    labels += [ranked("gold", "a", 2, 1), ranked("y", "b", 1, 2, replaces="a/y/(1, 1)")]
    given = {"gold": gold_pairs(items)}
    groups = believed_groups(items, consensus(votes_of(labels), **given))
    assert [g.prompt.id for g in groups] == ["x", "y", "gold"]
    (said,) = groups[0].comparisons
    assert (said.better, said.worse, said.tie) == (1, 0, False)
    assert 0.5 < said.probability < 1.0
    assert groups[2].comparisons == (Comparison(0, 1, probability=1.0),)  # what is known
    plain = believed_groups(items, consensus(votes_of(labels), "majority", **given))
    assert plain[0].comparisons == (Comparison(1, 0),)
    assert gold_pairs(items) == {("gold", 0, 1): 1.0}


def test_the_last_of_a_labellers_votes_counts_and_is_said() -> None:
    found = consensus([Vote("x", "a", 0, 1, 1.0), Vote("x", "a", 0, 1, 0.0)])
    assert found.beliefs["x", 0, 1].votes == 1
    assert found.beliefs["x", 0, 1].probability < 0.5
    assert any("voted on the pair again" in note for note in found.notes)
    assert any("no pair has two labellers" in note for note in found.notes)


def test_bad_votes_and_methods_are_named() -> None:
    with pytest.raises(DataError, match=r"'x'.*'kim'.*0\.7"):
        consensus([Vote("x", "kim", 0, 1, 0.7)])
    with pytest.raises(DataError, match="lower first"):
        consensus([Vote("x", "kim", 1, 0, 1.0)])
    with pytest.raises(ConfigError, match="dawid_skene"):
        consensus([], "dawidskene")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="up to 6"):
        consensus([Vote("x", "kim", 0, 8, 1.0)], "bradley_terry")
    large = [Vote("x", k, 0, b, 1.0) for k in "klm" for b in (1, 7)]
    assert consensus(large).method == "dawid_skene"
    assert consensus([]).beliefs == {}
