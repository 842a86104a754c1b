"""Judges with planted faults are found out, honest ones are not; and what is asked of a judge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gnomon.errors import ConfigError, DataError
from gnomon.evals.calibration import Options, calibrate, write_calibration
from gnomon.evals.calibration_answers import calibrate_answers, labelled_answers
from gnomon.evals.calibration_drift import drift, drift_words, read_calibration
from gnomon.evals.calibration_pairs import labelled_pairs
from gnomon.evals.calibration_probes import (
    CONTROLLED,
    changed_model,
    controlled_pairs,
    fingerprint_pairs,
)
from gnomon.evals.calibration_words import shown_biases
from gnomon.evals.planted_judges import OTHER, OWN, PlantedJudge, World
from gnomon.judges.protocol import Judge
from gnomon.records import Comparison, Group, Judgement, Message, Prompt, Response, Score

WORLD = World(pairs=200)


def measured(judge: Judge, world: World = WORLD, seed: int = 0, **options):
    how = Options(own=(OWN,), **{"controls": 30, **options})
    return calibrate(judge, world.draw(seed), options=how)


# -- what was planted ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ({"position": 0.4}, "position"),
        ({"length": 0.6}, "longer"),
        ({"own": 0.6}, "own"),
        ({"bold": 1.5}, "edit bold"),
        ({"bullets": 1.5}, "edit bullets"),
        ({"padding": 1.5}, "edit padding"),
        ({"flattery": 1.5}, "edit flattery"),
        ({"authority": 1.5}, "edit authority"),
        ({"plea": 1.5}, "edit plea"),
    ],
)
def test_a_planted_bias_is_found_and_said(fault: dict[str, float], found: str) -> None:
    record, _ = measured(PlantedJudge(**fault))
    assert found in shown_biases(record)
    assert len(record.warnings) >= 1
    assert record.smallest[found] < 0.25


def test_honest_judges_are_not_accused() -> None:
    """Not even where people like long answers and those of the judge's own model."""
    worlds = [WORLD, replace(WORLD, own_better=0.75, longer_better=0.75)]
    found = [
        shown_biases(measured(PlantedJudge(seed=seed), world, seed)[0])
        for world in worlds
        for seed in range(6)
    ]
    assert sum(bool(biases) for biases in found) <= 2


def test_what_is_worse_for_nothing_may_be_disliked() -> None:
    record, _ = measured(PlantedJudge(flattery=-2.0))
    assert record.edits["flattery"].high < 0
    assert "edit flattery" not in shown_biases(record)


def test_a_judge_that_is_too_sure_gets_a_map() -> None:
    sure = World(pairs=300, right=1.0, people=1)
    record, _ = measured(PlantedJudge(too_sure=3.0), sure, controls=0)
    assert record.slope.high < 0.7
    assert record.map["kind"] in ("platt", "isotonic")
    assert record.ece_mapped < record.ece.value / 2
    assert any("surer than it is right" in w for w in record.warnings)
    honest, _ = measured(PlantedJudge(), sure, controls=0)
    assert honest.slope.low < 1 < honest.slope.high


def test_people_who_disagree_entirely_are_said_so() -> None:
    groups = [
        replace(g, comparisons=(Comparison(0, 1), Comparison(1, 0)))
        for g in World(pairs=60, people=2).draw(0)
    ]
    record, _ = calibrate(PlantedJudge(), groups)
    assert any("people are not shown to agree with each other" in w for w in record.warnings)
    assert record.detectable is None
    assert not record.opens_gates
    assert "more than a coin" in record.doubt


# -- what is asked ---------------------------------------------------------------------------------


class Scores(Judge):
    """Rates an answer by itself."""

    name = "scores"

    def __init__(self, of) -> None:
        self.of = of
        self.asked = 0

    def judge(self, groups: Sequence[Group]) -> list[Judgement]:
        self.asked += sum(len(g.responses) for g in groups)
        return [Judgement("scores", tuple(Score(self.of(r.text)) for r in g.responses))
                for g in groups]  # fmt: skip


def test_edits_leave_what_an_answer_says_and_apply_where_they_can() -> None:
    items = labelled_pairs(World(pairs=20).draw(0))
    cases = controlled_pairs(items, 20)
    assert {case.edit for case in cases} == set(CONTROLLED)
    for case in cases:
        assert case.pair.a != case.pair.b
        said = "".join(case.pair.b.split())
        kept = "".join(case.pair.a.replace("*", "").replace("- ", "").split())
        if case.edit != "padding":  # which goes before the last sentence
            assert said in kept.removeprefix("##Answer")
    code = "```\nx = 1\n```"
    group = replace(items[0].group, responses=_two(code, "| a | b |"))
    coded = replace(items[0], group=group)
    assert {case.edit for case in controlled_pairs([coded], 1)} == {"flattery", "authority", "plea"}
    again = controlled_pairs(items, 20)
    assert [c.pair for c in again] == [c.pair for c in cases]


def _two(a: str, b: str) -> tuple[Response, Response]:
    return Response((Message("assistant", a),)), Response((Message("assistant", b),))


def test_a_judge_without_an_order_is_asked_once_and_without_controls_about_labels_alone() -> None:
    judge = Scores(len)
    record, _ = calibrate(judge, World(pairs=30).draw(0), options=Options(controls=0))
    assert judge.asked == 60
    assert record.first is None
    assert record.edits == {}
    assert "no controls were asked for" in record.not_measured["edits, repeat"]
    assert "has none" in record.not_measured["first"]


# -- labels ----------------------------------------------------------------------------------------


def test_authors_come_from_columns_or_responses() -> None:
    ids = ("a", "b")
    responses = tuple(replace(r, id=i) for r, i in zip(_two("x", "y"), ids, strict=True))
    prompt = Prompt("p", text="q", meta={"model_a": "gpt", "model_b": "llama", "who": 1})
    (pair,) = labelled_pairs([Group(prompt, responses, (Comparison(1, 0),))])
    assert pair.authors == ("gpt", "llama")
    assert (pair.own(["GPT "]), pair.own(["llama"]), pair.own(["gpt", "llama"])) == (1, -1, 0)
    (pair,) = labelled_pairs([Group(prompt, responses, (Comparison(1, 0),))], ("who", "model_b"))
    assert pair.authors == ("1", "llama")
    with pytest.raises(ConfigError, match="did you mean 'model_"):
        labelled_pairs([Group(prompt, responses, (Comparison(1, 0),))], ("model_x", "model_b"))


def test_the_judges_own_model_is_known_by_its_name_and_a_wrong_name_is_an_error() -> None:
    judge = PlantedJudge(own=1.0)
    judge.model = OWN.upper()
    record, _ = calibrate(judge, WORLD.draw(0), options=Options(controls=0))
    assert record.own_models == [OWN]
    assert record.own.low > 0
    with pytest.raises(ConfigError, match=f"no answer is by 'me'; written by: {OTHER}, {OWN}"):
        calibrate(judge, WORLD.draw(0), options=Options(own=("me",)))
    bare = [replace(g, responses=_two(*(r.text for r in g.responses))) for g in WORLD.draw(0)]
    record, _ = calibrate(judge, bare, options=Options(controls=0))
    assert "do not say who wrote" in record.not_measured["own"]


def test_consensus_that_is_a_probability_is_the_label() -> None:
    a, b = _two("x", "y")
    group = Group(Prompt("p", text="q"), (a, b), (Comparison(1, 0, probability=0.7),))
    (pair,) = labelled_pairs([group])
    assert pair.belief == pytest.approx(0.3)
    assert list(pair.people.values()) == [0.0]


def test_rows_that_compare_nothing_are_said_so() -> None:
    a, b = _two("x", "x")
    with pytest.raises(DataError, match="no two different answers to one prompt, in 1 rows"):
        labelled_pairs([Group(Prompt("p", text="q"), (a, b), (Comparison(0, 1),))])


# -- single answers --------------------------------------------------------------------------------


def answers(labels: Sequence[tuple[str, bool]], **meta) -> list[Group]:
    return [
        Group(
            Prompt(f"p{i}", text=f"q{i}", meta=meta),
            (Response((Message("assistant", text),), meta={"label": good}),),
        )
        for i, (text, good) in enumerate(labels)
    ]


def test_single_answers_give_sensitivity_and_specificity() -> None:
    groups = answers([("yes", True)] * 30 + [("no", True)] * 10 + [("no", False)] * 20)
    record, rows = calibrate_answers(Scores(lambda t: float(t == "yes")), groups)
    assert record.sensitivity.value == pytest.approx(0.75)
    assert record.specificity.value == 1.0
    assert record.specificity.low < 0.9
    assert record.kappa.value == pytest.approx((50 / 60 - 0.5) / 0.5)  # by hand: chance is 1/2
    assert record.opens_gates
    assert [row["judge"] for row in rows[:1]] == [1.0]


def test_a_judge_that_calls_everything_good_opens_no_gate() -> None:
    groups = answers([("x", True)] * 95 + [("y", False)] * 5)
    record, _ = calibrate_answers(Scores(lambda t: 1.0), groups)
    assert record.agreement.value == pytest.approx(0.95)
    assert not record.opens_gates
    assert any("as often as good ones" in w for w in record.warnings)


def test_labels_of_one_kind_say_nothing() -> None:
    with pytest.raises(DataError, match="people call every answer good"):
        labelled_answers(answers([("x", True)] * 3))
    with pytest.raises(DataError, match="no answer is labelled"):
        labelled_answers(WORLD.draw(0))


# -- again -----------------------------------------------------------------------------------------


def test_two_calibrations_are_compared_item_by_item(tmp_path: Path) -> None:
    groups = WORLD.draw(0)
    files = []
    for k, judge in enumerate((PlantedJudge(), PlantedJudge(), PlantedJudge(right=0.6))):
        record, rows = calibrate(judge, groups, options=Options(controls=0))
        record.note(round=f"r{k}")
        files.append(write_calibration(tmp_path, record, rows))
    assert len(set(files)) == 3
    first, same, worse = map(read_calibration, files)
    found = drift(first, same, "first")
    assert found["items"] == 200
    assert found["changed"]["value"] == 0.0
    assert found["agreement"]["low"] < 0 < found["agreement"]["high"]
    assert found["smallest"] < 0.05
    assert drift_words(found) == []
    found = drift(first, worse, "first")
    by_hand = worse[0].agreement.value - first[0].agreement.value
    assert found["agreement"]["value"] == pytest.approx(by_hand, abs=1e-9)
    assert any("agrees with people less" in w for w in drift_words(found))
    other = calibrate(PlantedJudge(), WORLD.draw(1), options=Options(controls=0))
    elsewhere = read_calibration(write_calibration(tmp_path, *other))
    with pytest.raises(ConfigError, match="of other pairs"):
        drift(first, elsewhere, "first")


def test_damaged_calibrations_are_named(tmp_path: Path) -> None:
    file = write_calibration(tmp_path, *measured(PlantedJudge(), World(pairs=5), controls=0))
    beside = file.with_suffix(".jsonl")
    whole = beside.read_text()
    beside.write_text(whole + '{"half": ')
    with pytest.raises(DataError, match="row 6: it is damaged"):
        read_calibration(file)
    beside.unlink()
    with pytest.raises(DataError, match=r"jsonl is missing"):
        read_calibration(file)
    file.write_text("{}")
    with pytest.raises(DataError, match="no calibration of a judge"):
        read_calibration(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_calibration(tmp_path / "none.json")
    assert json.loads(whole.splitlines()[0])["judge"] in (0.0, 1.0)


def test_another_model_behind_the_name_is_noticed_and_the_same_one_is_not() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    n = 2 * len(fingerprint_pairs())
    alarms = []
    for _ in range(100):
        model = rng.uniform(0.1, 0.9, n)
        first, then = ([list(model + rng.normal(0, 0.02, n)) for _ in range(2)] for _ in range(2))
        alarms.append(changed_model(first, then, 999) < 0.01)
        moved = np.clip(model + rng.normal(0, 0.1, n), 0, 1)
        other = [list(moved + rng.normal(0, 0.02, n)) for _ in range(2)]
        assert changed_model(first, other, 999) < 0.01
    assert np.mean(alarms) <= 0.05
    exact = [[0.5, None, *([0.2] * (n - 2))]] * 2
    assert changed_model(exact, exact) == 1.0
    assert changed_model(exact, []) is None
    assert changed_model(exact, [[0.1], [0.1]]) is None
