"""Alarms from evals: a suite that fell, and a win rate below one half."""

import json
import random

import pytest

from gnomon.audit.detectors import audit_run
from gnomon.files import write_json
from gnomon.runs.evals import Calibration, EvalResult
from gnomon.runs.records import StageInfo
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import over_prompts

REWARD = [{"builtin": "exact"}]


@pytest.fixture
def run(tmp_path):
    """A run of two stages without samples: only its evals say anything."""
    stages = [
        {"name": "sft", "algorithm": "sft", "data": "d.jsonl"},
        {"name": "ppo", "algorithm": "ppo", "data": "p.jsonl", "reward": REWARD},
    ]
    recipe = {"name": "r", "model": "m", "stages": stages}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    write_json(tmp_path / "manifest.json", {"name": "r", "stages": ["sft", "ppo"]})
    for i, stage in enumerate(stages, start=1):
        folder = tmp_path / "stages" / f"{i:02d}-{stage['name']}"
        folder.mkdir(parents=True)
        info = StageInfo(name=stage["name"], algorithm=stage["algorithm"], status="done")
        info.write(folder / "stage.json")
    write_json(tmp_path / "comparison.json", {"models": ["base", "sft", "ppo"], "rows": []})
    return tmp_path


def _exam(run, model, value, judge=None, half=0.01):
    figure = Interval(value, value - half, value + half, 900)
    fields = {} if judge is None else {"judge": judge, "settings": {"judge": {"builtin": judge}}}
    result = EvalResult(
        suite="exam", model=model, scores={"accuracy": figure}, main="accuracy", **fields
    )
    result.write(run / "evals" / model / "exam.json")


def _found(run, detector):
    audit = audit_run(run, write=False)
    assert not [p for p in audit.problems if "failed" in p]
    return [f for f in audit.findings if f.detector == detector and f.stage == "ppo"]


@pytest.mark.parametrize(("after", "status"), [(0.40, "alarm"), (0.49, "clear"), (0.60, "clear")])
def test_a_suite_that_fell_is_an_alarm(run, after, status):
    _exam(run, "sft", 0.5, half=0.003)
    _exam(run, "ppo", after, half=0.003)
    (found,) = _found(run, "eval_drop")
    assert (found.name, found.status) == ("alignment_tax", status)
    assert found.figure.value == pytest.approx(0.5 - after)
    assert found.detectable is not None
    assert bool(found.cures) == (status == "alarm")


def _asked(run, model, right, seed=0):
    """An eval of 60 questions of each category, of which a share is answered rightly."""
    rng = random.Random(f"{model}/{seed}")
    rows = [
        {"id": f"{name}-{i}", "category": name, "score": float(rng.random() < share)}
        for name, share in right.items()
        for i in range(60)
    ]
    scores = [row["score"] for row in rows]
    result = EvalResult(
        suite="exam",
        model=model,
        scores={"accuracy": over_prompts([[score] for score in scores])},
        main="accuracy",
        item_score="accuracy",
        data={"exam.jsonl": "d"},
    )
    file = run / "evals" / model / "exam.json"
    result.write(file)
    file.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


BEFORE = dict.fromkeys(("facts", "lists", "sums", "words", "rhymes"), 0.5)


def test_a_category_that_falls_while_the_whole_rises_is_an_alarm(run):
    _asked(run, "sft", BEFORE)
    _asked(run, "ppo", dict.fromkeys(BEFORE, 0.75) | {"facts": 0.05})
    (whole,) = _found(run, "eval_drop")
    assert whole.status != "alarm"
    (found,) = _found(run, "eval_category_drop")
    assert (found.name, found.status) == ("alignment_tax", "alarm")
    assert "exam: of its categories facts fell" in found.text
    assert found.figure.value > 0.3
    assert "facts" in found.measure
    assert found.cures


def test_noise_in_many_categories_is_no_alarm(run):
    many = {f"c{i}": 0.5 for i in range(12)}
    alarms = 0
    for seed in range(20):
        _asked(run, "sft", many, seed)
        _asked(run, "ppo", many, seed)
        (found,) = _found(run, "eval_category_drop")
        alarms += found.status == "alarm"
        assert found.detectable > 0.1  # so few questions show no small drop, and it says so
    assert alarms <= 1  # the limit is 0.02, and the interval of 95% is of all together


def test_categories_of_few_questions_or_none_are_not_looked_at(run):
    for model in ("sft", "ppo"):
        _exam(run, model, 0.5)
    (found,) = _found(run, "eval_category_drop")
    assert found.status == "not_looked"
    for model in ("sft", "ppo"):
        _asked(run, model, BEFORE)
        rows = run / "evals" / model / "exam.jsonl"
        kept = [line for line in rows.read_text().splitlines() if int(line.split("-")[1][0]) == 1]
        rows.write_text("\n".join(kept) + "\n")
    (found,) = _found(run, "eval_category_drop")
    assert found.status == "not_looked"
    assert "20 in each" in found.needs


@pytest.mark.parametrize("grader", ["exact", "gold", "ai"])
def test_what_it_was_trained_on_a_truth_and_an_opinion_show_no_capability(run, grader):
    _exam(run, "sft", 0.5, grader)
    _exam(run, "ppo", 0.1, grader)
    (found,) = _found(run, "eval_drop")
    assert found.status == "not_looked"
    assert "gnomon eval" in found.needs


@pytest.mark.parametrize(
    ("value", "labels", "status"),
    [(0.4, 50, "alarm"), (0.6, 50, "clear"), (0.4, 49, "not_looked")],
)
def test_a_win_rate_below_one_half_is_an_alarm_by_a_judge_that_people_vouch_for(
    run, value, labels, status
):
    result = EvalResult(
        suite="win_rate", model="ppo", against="sft", judge="ai", judge_version="1",
        settings={"judge": {"builtin": "ai"}}, main="win_rate",
        scores={"win_rate": Interval(value, value - 0.05, value + 0.05, 400)},
    )  # fmt: skip
    result.write(run / "evals" / "ppo" / "win_rate.json")
    Calibration(judge="ai", version="1", labels=labels).write(run / "calibrations" / "ai.json")
    (found,) = _found(run, "lost_wins")
    assert found.status == status
