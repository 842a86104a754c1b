"""Alarms from evals: a suite that fell, and a win rate below one half."""

import json
import random

import pytest

from gnomon.audit.detectors import audit_run
from gnomon.files import write_json
from gnomon.report.ship import answer
from gnomon.runs.evals import Calibration, EvalResult
from gnomon.runs.read import read_run
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
        start = {"from": "stages/01-sft/model" if stage["name"] == "ppo" else "m"}
        info = StageInfo(
            name=stage["name"], algorithm=stage["algorithm"], status="done", start=start
        )
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


def _found(run, detector, stage="ppo"):
    audit = audit_run(run, write=False)
    assert not [p for p in audit.problems if "failed" in p]
    return [f for f in audit.findings if f.detector == detector and f.stage == stage]


@pytest.mark.parametrize(("after", "status"), [(0.40, "alarm"), (0.49, "clear"), (0.60, "clear")])
def test_a_suite_that_fell_is_an_alarm(run, after, status):
    _exam(run, "sft", 0.5, half=0.003)
    _exam(run, "ppo", after, half=0.003)
    (found,) = _found(run, "eval_drop")
    assert (found.name, found.status) == ("alignment_tax", status)
    assert found.figure.value == pytest.approx(0.5 - after)
    assert found.detectable is not None
    assert bool(found.cures) == (status == "alarm")


def test_what_demonstrations_took_away_is_an_alarm_too(run):
    assert _found(run, "eval_drop", "sft") == []  # nothing is lacking where nobody asked
    _exam(run, "base", 0.5, half=0.003)
    _exam(run, "sft", 0.4, half=0.003)
    (found,) = _found(run, "eval_drop", "sft")
    assert (found.name, found.status) == ("alignment_tax", "alarm")
    assert found.cures == ["sft.train.average_with_reference=0.5"]
    assert answer(read_run(run)).kind != "ship"
    _exam(run, "ppo", 0.3, half=0.003)
    (later,) = _found(run, "eval_drop")
    assert later.first == "see to the alarms of stage sft, which this one starts from"


def _asked(run, model, right, seed=0, of=None):
    """An eval of 60 questions of each category, or as many as ``of`` says, of which a share is
    answered rightly."""
    rng = random.Random(f"{model}/{seed}")
    rows = [
        {"id": f"{name}-{i}", "category": name, "score": float(rng.random() < share)}
        for name, share in right.items()
        for i in range((of or {}).get(name, 60))
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


def test_the_page_holds_a_model_for_a_fallen_category_and_names_it(run):
    _asked(run, "sft", BEFORE)
    _asked(run, "ppo", dict.fromkeys(BEFORE, 0.75) | {"facts": 0.05})
    audit_run(run)
    found = answer(read_run(run))
    assert found.kind == "hold"
    assert "facts fell" in found.reasons[0].text
    assert sum("facts" in reason.text for reason in found.reasons) == 1


def test_the_page_holds_it_by_an_audit_that_did_not_look_at_categories_too(run):
    audit_run(run)  # before there are evals
    _asked(run, "sft", BEFORE)
    _asked(run, "ppo", dict.fromkeys(BEFORE, 0.75) | {"facts": 0.05})
    found = answer(read_run(run))
    assert found.kind == "hold"
    assert "exam, category facts: worse than sft" in found.reasons[0].text


def test_a_fallen_category_of_a_fallen_suite_is_one_alarm_that_names_both(run):
    _asked(run, "sft", dict.fromkeys(BEFORE, 0.9))
    _asked(run, "ppo", dict.fromkeys(BEFORE, 0.6) | {"facts": 0.05})
    (whole,) = _found(run, "eval_drop")
    assert whole.status == "alarm"
    assert "Of its categories facts fell" in whole.text
    assert not _found(run, "eval_category_drop")


def test_many_questions_of_one_category_do_not_clear_a_small_one(run):
    right = {"facts": 1.0, "lists": 0.5}
    for model in ("sft", "ppo"):
        _asked(run, model, right, of={"facts": 2000, "lists": 24})
    (found,) = _found(run, "eval_category_drop")
    assert found.status == "unclear"
    assert "lists" in found.measure
    assert found.detectable > 0.2


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


def test_a_category_without_scores_hides_no_other(run):
    for model, facts in (("sft", 1.0), ("ppo", 0.0)):
        _asked(run, model, {"facts": facts, "lists": 1.0 - facts, "sums": 1.0 - facts})
        rows = run / "evals" / model / "exam.jsonl"
        failed = [{"id": f"a-{i}", "category": "a", "score": [None]} for i in range(30)]
        with rows.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in failed)
    (found,) = _found(run, "eval_category_drop")
    assert found.status == "alarm"
    assert "facts fell" in found.text


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
