"""Whether gates open: by records alone, each against a decision worked out by hand."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from gnomon.audit.gates import Facts, decide
from gnomon.audit.readings import (
    Reading,
    capability_drops,
    compared_readings,
    drop_reading,
    eval_readings,
    shared_scores,
    stage_readings,
    suite_changes,
)
from gnomon.recipe.gates import parse_gate
from gnomon.runs.audit import Finding
from gnomon.runs.comparison import Comparison
from gnomon.runs.evals import Calibration, EvalResult
from gnomon.runs.read import StageView
from gnomon.runs.records import Evals
from gnomon.stats.intervals import Interval, mean_interval


def _facts(figure=None, **more):
    readings = {} if figure is None else {"x": Reading(figure, "a test")}
    return Facts("ppo", readings, **more)


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ("x >= 0.5", True),
        ("x >= 0.55", False),  # the value is above, the low end is not
        ("x >= 0.55 (value)", True),
        ("x >= 0.65 (high)", True),
        ("x <= 0.7", True),
        ("x <= 0.65", False),
        ("x <= 0.65 (value)", True),
        ("x <= 0.5 (low)", True),
    ],
)
def test_the_named_side_decides(gate, passed):
    result = decide(parse_gate(gate), _facts(Interval(0.6, 0.5, 0.7, 100)))
    assert result.passed is passed
    assert result.condition == gate
    assert result.stage == "ppo"
    assert "0.6 [0.5, 0.7] n=100" in result.text


def test_a_no_says_what_would_have_been_enough():
    """0.6 +- 0.1 at n = 100: the gate at 0.55 opens from 0.65, or with (0.1 / 0.05)^2 x 100."""
    text = decide(parse_gate("x >= 0.55"), _facts(Interval(0.6, 0.5, 0.7, 100))).text
    assert "opens from 0.65" in text
    assert "with about 400" in text
    far = decide(parse_gate("x >= 0.7"), _facts(Interval(0.6, 0.5, 0.7, 100))).text
    assert "opens from 0.8" in far
    assert "with about" not in far  # more of the same would not do


@pytest.mark.parametrize("gate", ["x >= 0.5", "x <= 0.5"])
def test_without_an_interval_it_stays_closed_and_says_how_to_ask_for_the_value(gate):
    result = decide(parse_gate(gate), _facts(Interval(0.5)))
    assert result.passed is None
    assert f"{gate} (value)" in result.text
    assert decide(parse_gate(f"{gate} (value)"), _facts(Interval(0.5))).passed


def test_what_nothing_measured_stays_closed_and_names_the_cure():
    near = Facts("ppo", {"eval/reward": Reading(Interval(1, 1, 1), "a test")})
    text = decide(parse_gate("eval/rewards >= 1"), near).text
    assert "did you mean 'eval/reward'?" in text
    result = decide(parse_gate("win_rate >= 1"), _facts(missing={"win_rate": "run gnomon eval"}))
    assert result.passed is None
    assert "run gnomon eval" in result.text


def test_a_judge_is_believed_from_50_labels_of_people_on():
    figure = Reading(Interval(0.7, 0.6, 0.8, 99), "an eval", "fair", "v2")

    def asked(*calibrations):
        facts = Facts("ppo", {"x": figure}, calibrations=calibrations)
        return decide(parse_gate("x >= 0.5"), facts)

    assert asked().passed is None
    assert "no calibration" in asked().text
    few = Calibration(judge="fair", version="v2", labels=49)
    assert asked(few).passed is None
    assert "49 people's labels" in asked(few).text
    other = Calibration(judge="fair", version="v1", labels=500)
    assert asked(other).passed is None
    assert asked(few, Calibration(judge="fair", version="v2", labels=50)).passed is True


def test_a_calibration_from_before_the_model_changed_opens_nothing():
    figure = Reading(Interval(0.7, 0.6, 0.8, 99), "an eval", "fair", "v2")
    about = {"judge": "fair", "version": "v2", "labels": 80, "agreement": Interval(0.8, 0.7, 0.9)}
    old = Calibration(**about, made="2026-01-01T00:00:00+0000")
    changed = Calibration(
        **about, made="2026-05-01T00:00:00+0000", round="may", drift={"model_changed": True}
    )
    new = Calibration(**about, made="2026-05-02T00:00:00+0000", round="anew")

    def asked(*calibrations):
        facts = Facts("ppo", {"x": figure}, calibrations=calibrations)
        return decide(parse_gate("x >= 0.5"), facts)

    assert asked(old).passed is True
    assert asked(old, changed).passed is None
    assert "has changed" in asked(old, changed).text
    assert asked(old, changed, new).passed is True


def _finding(name, status, **more):
    return Finding(name=name, detector="invariance", stage="ppo", status=status, **more)


@pytest.mark.parametrize(
    ("status", "gate", "passed"),
    [
        ("alarm", "no alarm: reward_hacking", False),
        ("alarm", "no alarm", False),
        ("alarm", "no alarm: mode_collapse", None),  # nobody looked for that
        ("clear", "no alarm: reward_hacking", True),
        ("unclear", "no alarm: reward_hacking", None),  # it could not tell
        ("clear", "no alarm: invariance", True),  # the detector's own name
        ("not_looked", "no alarm: reward_hacking", None),
    ],
)
def test_an_alarm_closes_and_so_does_not_having_looked(status, gate, passed):
    finding = _finding("reward_hacking", status, text="it pays for padding", needs="a judge")
    result = decide(parse_gate(gate), _facts(findings=[finding]))
    assert result.passed is passed
    if status == "alarm" and passed is False:
        assert "it pays for padding" in result.text
    if status == "not_looked":
        assert "a judge" in result.text


def test_training_figures_are_of_the_last_fifth_with_students_interval(tmp_path):
    y = np.random.default_rng(0).normal(size=50)
    stage = StageView(tmp_path, "ppo", metrics={"kl": y, "step": np.arange(50.0)})
    (reading,) = stage_readings(stage).values()
    tail = y[-10:]
    low, high = stats.t.interval(0.95, 9, tail.mean(), stats.sem(tail))
    assert reading.figure.value == pytest.approx(tail.mean())
    assert (reading.figure.low, reading.figure.high) == pytest.approx((low, high))
    short = StageView(tmp_path, "ppo", metrics={"kl": y[:7]})
    assert stage_readings(short)["kl"].figure.n == 5  # no fewer than five, where there are five


def test_held_out_figures_are_those_of_the_evaluation_after_training(tmp_path):
    held = {"reward": Interval(0.5, 0.4, 0.6, 20).to_dict(), "gold/polite": 0.1}
    stage = StageView(
        tmp_path,
        "ppo",
        metrics={
            "eval/reward": np.array([0.1, math.nan, 0.3]),
            "eval/accuracy": np.array([0.1, 0.7]),
            "eval/accuracy_low": np.array([0.0, 0.6]),
            "eval/accuracy_high": np.array([0.2, 0.8]),
        },
        evals=Evals({"held-out prompts": held, "held-out loss": 0.7}),
    )
    readings = stage_readings(stage)
    assert readings["eval/reward"].figure == Interval(0.5, 0.4, 0.6, 20)
    assert readings["eval/gold/polite"].figure.value == 0.1
    accuracy = readings["eval/accuracy"].figure
    assert (accuracy.value, accuracy.low, accuracy.high) == (0.7, 0.6, 0.8)


def test_columns_of_the_comparison_and_gains(tmp_path):
    rows = [
        {"model": "sft", "values": [0.4, 0.0, 9.0], "gains": [0.0]},
        {"model": "ppo", "values": [0.6, 5.0, 20.0], "gains": [Interval(0.2, 0.1, 0.3)]},
    ]
    columns = ["my_judge", "KL from sft (nats)", "length (tokens)"]
    comparison = Comparison.model_validate({"columns": columns, "rows": rows, "reference": "sft"})
    found = compared_readings(comparison, "ppo")
    assert {name: r.figure.value for name, r in found.items()} == {
        "my_judge": 0.6, "gain/my_judge": 0.2, "kl": 5.0, "length": 20.0,
    }  # fmt: skip
    assert "gain/my_judge" not in compared_readings(comparison, "sft")
    assert compared_readings(comparison, "dpo") == {}


def _eval(model, suite, value, half=0.02, **more):
    figure = Interval(value, value - half, value + half, 500)
    fields = {"scores": {"accuracy": figure}, "main": "accuracy"} | more
    return EvalResult(suite=suite, model=model, **fields)


def test_scores_go_by_suite_and_alone_only_where_one_suite_has_them():
    results = [
        _eval("ppo", "lm_eval/a", 0.5),
        _eval("ppo", "lm_eval/b", 0.6),
        _eval("ppo", "wins", 0.7, scores={"win_rate": Interval(0.7)}, main="win_rate", judge="j"),
        _eval("sft", "lm_eval/c", 0.1),
        _eval("ppo", "lm_eval/a", 0.4, step=10),
    ]
    found = eval_readings(results, "ppo")
    assert found["lm_eval/a"].figure.value == 0.5  # not that of a step in the middle
    assert found["lm_eval/b.accuracy"].figure.value == 0.6
    assert "accuracy" not in found
    assert found["win_rate"].judge == "j"
    assert not any(name.startswith("lm_eval/c") for name in found)


def _write(run, result, rows=None):
    file = run / "evals" / result.model / f"{result.suite}.json"
    result.write(file)
    if rows is not None:
        lines = (json.dumps({"id": str(i), "score": x}) for i, x in enumerate(rows))
        file.with_suffix(".jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_the_capability_drop_is_that_of_the_suite_that_fell_most(tmp_path):
    for result in (
        *(_eval("sft", "a", 0.50), _eval("ppo", "a", 0.49)),
        *(_eval("sft", "b", 0.50), _eval("ppo", "b", 0.40)),
        *(_eval("sft", "c", 0.50), _eval("ppo", "c", 0.10, settings={"shots": 3})),
        *(_eval("sft", "d", 0.50), _eval("ppo", "d", 0.10, judge="j")),
        *(_eval("sft", "e", 0.50), _eval("ppo", "e", 0.10, higher_is_better=False)),
    ):
        _write(tmp_path, result)
    drops = capability_drops(suite_changes(tmp_path, "ppo", "sft"))
    assert set(drops) == {"a", "b"}  # the same questions, no judge, higher is better
    reading = drop_reading(drops, "sft", "high")
    assert reading.figure.value == pytest.approx(0.1)
    assert reading.figure.high == pytest.approx(0.1 + math.hypot(0.02, 0.02))
    assert "b" in reading.source
    assert drop_reading({}, "sft", "high") is None
    assert suite_changes(tmp_path, "ppo", "base") == []


def test_a_drop_on_the_same_questions_is_paired(tmp_path):
    """One question in ten is lost and none gained: paired, that is seen; apart, it is not."""
    before = [1.0] * 50 + [0.0] * 50
    after = [0.0] * 10 + [1.0] * 40 + [0.0] * 50
    for model, rows in (("sft", before), ("ppo", after)):
        figure = mean_interval(rows)
        scores = {"scores": {"accuracy": figure}, "item_score": "accuracy"}
        _write(tmp_path, _eval(model, "exam", 0, **scores), rows)
    (drop, _) = capability_drops(suite_changes(tmp_path, "ppo", "sft"))["exam"]
    assert drop.value == pytest.approx(0.1)
    assert drop.low > 0
    for model in ("sft", "ppo"):
        (tmp_path / "evals" / model / "exam.jsonl").unlink()
    (apart, _) = capability_drops(suite_changes(tmp_path, "ppo", "sft"))["exam"]
    assert apart.low < 0


def test_a_program_that_grades_is_no_opinion_unless_the_policy_was_trained_on_it(tmp_path):
    graded = {"judge": "exact", "settings": {"judge": {"builtin": "exact"}}}
    asked = {"judge": "ai", "settings": {"judge": {"builtin": "ai", "options": {"model": "m"}}}}
    scored = {"judge": "rm", "settings": {"judge": {"model": "rm"}}}
    told = {"judge": "gold", "settings": {"judge": {"builtin": "gold"}}}
    for name, fields in (("exact", graded), ("ai", asked), ("rm", scored), ("gold", told)):
        for model, value in (("sft", 0.5), ("ppo", 0.4)):
            _write(tmp_path, _eval(model, name, value, **fields))
    changes = suite_changes(tmp_path, "ppo", "sft")
    assert set(capability_drops(changes)) == {"exact"}
    assert set(capability_drops(changes, [{"builtin": "exact", "weight": 2.0}])) == set()
    results = [_eval("ppo", "exact", 0.9, **graded), _eval("ppo", "rm", 0.9, **scored)]
    readings = eval_readings(results, "ppo")
    assert readings["exact"].judge == ""
    assert decide(parse_gate("exact >= 0.5"), Facts("ppo", readings)).passed is True
    assert decide(parse_gate("rm >= 0.5"), Facts("ppo", readings)).passed is None


def test_a_score_that_several_suites_have_asks_which(tmp_path):
    results = [_eval("ppo", "a", 0.5), _eval("ppo", "b", 0.6)]
    facts = Facts("ppo", eval_readings(results, "ppo"), missing=shared_scores(results, "ppo"))
    result = decide(parse_gate("accuracy >= 0.4"), facts)
    assert result.passed is None
    assert "say which: a.accuracy or b.accuracy" in result.text
