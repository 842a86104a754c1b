"""The ledger: what labels cost, and how many bits they say."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gnomon.cli.label_cost import cost
from gnomon.cli.main import app
from gnomon.errors import ConfigError
from gnomon.feedback.adjudication import ADJUDICATION
from gnomon.feedback.information import (
    bits,
    information,
    miller_madow,
    others_truth,
    per_bit,
    per_point,
)
from gnomon.feedback.ledger import Tariff, ledger
from gnomon.feedback.records import Item, Label, Vote
from gnomon.feedback.store import Expense, Store
from gnomon.records import Cost, Message, Prompt, Response
from gnomon.runs.labels import LABEL_COSTS, STORE_COSTS, LabelCosts
from gnomon.runs.records import StageInfo
from gnomon.stats.intervals import Interval


def said(
    right: int, tie: int, wrong: int
) -> tuple[list[Vote], dict[tuple[str, str, int, int], float]]:
    """Votes of anna on pairs of which a is the better one."""
    wins = [1.0] * right + [0.5] * tie + [0.0] * wrong
    votes = [Vote(str(i), "anna", 0, 1, w) for i, w in enumerate(wins)]
    return votes, {("anna", v.item, 0, 1): 1.0 for v in votes}


# -- bits ------------------------------------------------------------------------------------------


def test_bits_by_hand() -> None:
    table = np.array([[75.0, 0.0, 25.0], [50.0, 0.0, 50.0], [10.0, 0.0, 0.0], [45.0, 50.0, 5.0]])
    h = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
    assert bits(table) == pytest.approx([0.1887219, 0.0, 1.0, 0.5 * (1 - h)], abs=1e-6)


def test_bits_are_the_mutual_information_of_the_whole_table() -> None:
    """I(vote; truth) summed over the 3 x 2 table, with both sides equally likely the first."""
    r, t, w = 0.5, 0.2, 0.3
    joint = np.array([[r, t, w], [w, t, r]]) / 2
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    expected = float((joint * np.log2(joint / product)).sum())
    assert float(bits(np.array([r, t, w]))) == pytest.approx(expected)


def test_the_correction_by_hand() -> None:
    # H(vote | truth) has 2 kinds, H(vote) one that decides: 1 / (2 n ln 2)
    assert miller_madow(np.array([75.0, 0.0, 25.0])) == pytest.approx(1 / (200 * math.log(2)))
    assert miller_madow(np.array([70.0, 10.0, 20.0])) == pytest.approx(1 / (200 * math.log(2)))
    assert miller_madow(np.array([100.0, 0.0, 0.0])) == 0.0
    votes, truth = said(75, 0, 25)
    assert information(votes, truth).value == pytest.approx(0.1887219 - 0.0072135, abs=1e-6)


def test_the_correction_takes_the_bias_off() -> None:
    rng = np.random.default_rng(0)
    truth = 1.0 + 0.8 * math.log2(0.8) + 0.2 * math.log2(0.2)
    tables = np.array([[k, 0, 40 - k] for k in rng.binomial(40, 0.8, 4000)], dtype=float)
    plain = bits(tables)
    corrected = plain - np.array([miller_madow(t) for t in tables])
    assert plain.mean() - truth > 0.01
    assert abs(corrected.mean() - truth) < 0.005


def test_its_interval_covers() -> None:
    rng = np.random.default_rng(0)
    truth = 1.0 + 0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)
    covered = 0
    for k in rng.binomial(150, 0.75, 150):
        found = information(*said(int(k), 0, 150 - int(k)))
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / 150 <= 0.99


def test_pairs_of_one_item_hang_together() -> None:
    alone = [Vote(str(i), "anna", 0, 1, float(i % 4 > 0)) for i in range(120)]
    together = [Vote(str(i // 6), "anna", i % 6, 9, float(i // 6 % 4 > 0)) for i in range(120)]
    wide, narrow = (
        information(v, {("anna", x.item, x.a, x.b): 1.0 for x in v}) for v in (together, alone)
    )
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


# -- against whom ----------------------------------------------------------------------------------


def crowd(
    n: int, accuracies: dict[str, float], seed: int = 0
) -> tuple[list[Label], dict[str, bool]]:
    rng = np.random.default_rng(seed)
    truth = {f"i{i}": bool(rng.random() < 0.5) for i in range(n)}
    labels = [
        Label(
            f"{who}-{item}", item, who, "ranking",
            ranks=(1.0, 2.0) if a == (rng.random() < accuracy) else (2.0, 1.0),
            cost=Cost(seconds=30.0, money=0.5 if who != "judge" else 0.02),
        )
        for item, a in truth.items()
        for who, accuracy in accuracies.items()
    ]  # fmt: skip
    return labels, truth


def test_nobodys_own_vote_is_among_the_others() -> None:
    votes = [Vote(str(i), "anna", 0, 1, 1.0) for i in range(20)]
    assert others_truth(votes, {}) == {}  # alone, she agrees with nobody
    both = votes + [Vote(str(i), "ben", 0, 1, 0.0) for i in range(10)]
    found = others_truth(both, {})
    assert found["anna", "3", 0, 1] < 0.5  # ben says b
    assert ("anna", "15", 0, 1) not in found


def test_people_are_what_machines_are_measured_by() -> None:
    labels, _ = crowd(150, {"anna": 0.9, "ben": 0.9, "judge": 0.75, "copy": 0.75})
    same = [
        Label(x.id.replace("judge", "copy"), x.item, "copy", "ranking", ranks=x.ranks)
        for x in labels
        if x.labeller == "judge"
    ]
    labels = [x for x in labels if x.labeller != "copy"] + same
    found = ledger(labels, {"judge": "model", "copy": "model"})
    lines = {line.who: line for line in found.lines}
    assert lines["judge"].bits == lines["copy"].bits  # that they are one says nothing for either
    assert lines["judge"].bits.value < 0.35  # type: ignore[union-attr]
    assert lines["anna"].bits.value > lines["judge"].bits.value  # type: ignore[union-attr]


def test_a_decision_is_paid_for_and_is_no_vote() -> None:
    labels, _ = crowd(50, {"anna": 0.9, "ben": 0.9})
    before = {line.who: line.bits for line in ledger(labels, {}).lines}
    decision = replace(labels[0], id="d", labeller="eve", tags=(ADJUDICATION,))
    after = {line.who: line for line in ledger([*labels, decision], {}).lines}
    assert {who: after[who].bits for who in before} == before
    assert (after["eve"].labels, after["eve"].pairs, after["eve"].money) == (1, 0, 0.5)


def test_bits_by_gold_are_the_truth() -> None:
    labels, truth = crowd(1500, {"anna": 0.9, "judge": 0.7})
    gold = {(item, 0, 1): float(a) for item, a in truth.items()}
    found = {x.who: x for x in ledger(labels, {"judge": "model"}, gold=gold).lines}
    for who in ("anna", "judge"):
        own = [x for x in labels if x.labeller == who]
        p = sum((x.ranks == (1.0, 2.0)) == truth[x.item] for x in own) / 1500
        h = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
        figure = found[who].bits
        assert figure is not None
        assert figure.value == pytest.approx(1 - h, abs=1e-3)
        assert figure.low < 1 - h < figure.high
    assert found["anna"].per_bit.value == pytest.approx(0.5 / found["anna"].bits.value)  # type: ignore[union-attr]


# -- money -----------------------------------------------------------------------------------------


def test_money_is_counted_once_and_corrections_are_paid_for() -> None:
    first = Label("1", "i", "anna", "ranking", ranks=(1.0, 2.0), cost=Cost(60.0, 0, 0.5))
    again = Label("2", "i", "anna", "ranking", ranks=(2.0, 1.0), cost=Cost(30.0), replaces="1")
    beside = [Expense("fee", Cost(money=7.0)), Expense("bonus", Cost(money=1.0), labeller="anna")]
    found = ledger([first, again], {}, expenses=beside, tariff=Tariff({}, wage=12.0))
    anna, fee = found.lines
    assert (anna.labels, anna.pairs, anna.seconds) == (2, 1, 90.0)
    assert anna.money == pytest.approx(0.5 + 1.0 + 0.1)  # the second label by the wage
    assert anna.estimated == pytest.approx(0.1)
    assert (fee.who, fee.money) == ("fee", 7.0)
    assert any("replaced" in note for note in found.notes)
    (people,) = found.sums
    assert people.money == anna.money


def test_prices_by_name_come_before_those_by_kind() -> None:
    labels = [
        Label(who, "i", who, "ranking", ranks=(1.0, 2.0), cost=Cost(tokens=10))
        for who in ("anna", "gpt")
    ]
    tariff = Tariff({"person": 0.4, "anna": 0.6, "model": 0.01}, wage=100.0)
    found = {x.who: x for x in ledger(labels, {"gpt": "model"}, tariff=tariff).lines}
    assert (found["anna"].money, found["gpt"].money) == (0.6, 0.01)
    assert found["gpt"].tokens == 10
    with pytest.raises(ConfigError, match="'bob'"):
        ledger(labels, {}, tariff=Tariff({"bob": 1.0}))


def test_prices_of_bits_and_points() -> None:
    assert per_bit(0.5, Interval(0.25, 0.0, 0.5)).value == 2.0
    assert per_bit(0.5, Interval(0.25, 0.0, 0.5)).high == math.inf
    found = per_point(200.0, Interval(0.7, 0.6, 0.75))
    assert (found.value, found.low, found.high) == pytest.approx((10.0, 8.0, 20.0))
    assert per_point(200.0, Interval(0.45, 0.4, 0.49)).value == math.inf


# -- the command -----------------------------------------------------------------------------------


def run(*args: str) -> str:
    done = CliRunner().invoke(app, ["label", "cost", *args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def fill(file: Path) -> None:
    labels, truth = crowd(40, {"anna": 0.9, "ben": 0.9, "judge": 0.7})
    answers = tuple(Response((Message("assistant", t),)) for t in ("one", "two"))
    with Store.open(file) as store:
        store.people.add("judge", "model")
        store.add_items(
            Item(i, Prompt(i, (Message("user", f"question {i}"),)), answers, "c") for i in truth
        )
        store.add_labels(labels, add_labellers="person")
        store.add_expense(Expense("platform fee", Cost(money=3.0), "c"))


def test_nothing_paid_for_is_said(tmp_path: Path) -> None:
    Store.open(tmp_path / "labels.db").close()
    assert "no labels" in run(str(tmp_path / "labels.db"))


def test_a_stores_ledger_is_shown_and_written(tmp_path: Path) -> None:
    fill(tmp_path / "labels.db")
    shown = json.loads(run(str(tmp_path / "labels.db"), "--output", str(tmp_path), "--json"))
    kept = LabelCosts.read(tmp_path / STORE_COSTS)
    assert [x["who"] for x in shown["lines"]] == [x.who for x in kept.lines]
    by = {x.who: x for x in kept.lines}
    assert by["anna"].money == pytest.approx(20.0)
    assert by["judge"].kind == "model"
    assert by["platform fee"].money == 3.0
    assert by["anna"].bits is not None
    assert by["anna"].bits.known
    words = run(str(tmp_path / "labels.db"), "--campaign", "c")
    assert "anna" in words
    assert "euros a bit" in words
    assert "bits a pair: how much one comparison tells" in " ".join(words.split())
    assert "limit]" in words  # of what a bit by somebody costs who may tell nothing


def test_bad_requests_name_the_cure(tmp_path: Path) -> None:
    fill(tmp_path / "labels.db")
    file = str(tmp_path / "labels.db")
    with pytest.raises(ConfigError, match="it has 'c'"):
        cost(file, campaign="d")
    for price in ("anna=free", "anna=-1", "anna=nan", "anna=inf"):
        with pytest.raises(ConfigError, match="give euros"):
            cost(file, price=[price])
    (tmp_path / "run").mkdir()
    with pytest.raises(ConfigError, match="of a store"):
        cost(str(tmp_path / "run"), price=["anna=1"])


def test_a_runs_judges_are_in_its_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    judges = {
        "my-judge": {
            "version": "v1",
            "judged": 80,
            "errors": 2,
            "seconds": 9.0,
            "tokens": 5000,
            "money": 4.0,
        }
    }
    StageInfo(name="feedback", algorithm="collect", status="done", judges=judges).write(
        folder / "stages" / "01-feedback" / "stage.json"
    )
    for number, (name, algorithm) in enumerate([("cai", "revise"), ("ppo", "ppo")], start=1):
        StageInfo(
            name=name, algorithm=algorithm, status="done", judges={"other": {"money": 50.0}}
        ).write(folder / "stages" / f"{2 * number - 1:02d}-{name}" / "stage.json")
    held = {"accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.75, "accuracy_n": 90.0}
    StageInfo(name="rm", algorithm="reward_model", status="done", held_out=held).write(
        folder / "stages" / "02-rm" / "stage.json"
    )
    (folder / "manifest.json").write_text("{}")
    (folder / "recipe.yaml").write_text("name: run\n")
    shown = json.loads(run(str(folder), "--json"))
    (line,) = [x for x in shown["lines"] if x["who"] != "other"]
    assert (line["who"], line["stage"], line["errors"], line["money"]) == (
        "my-judge",
        "feedback",
        2,
        4.0,
    )
    assert shown["per_point"]["value"] == pytest.approx(0.2)
    assert (folder / LABEL_COSTS).is_file()
