"""Alarms from evals: a suite that fell, and a win rate below one half."""

import json
import math
import random
import re

import numpy as np
import pytest

from gnomon.audit.detectors import audit_run
from gnomon.audit.evals import fallen
from gnomon.evals.compare import ScoreChange
from gnomon.files import write_json
from gnomon.report.ship import answer
from gnomon.runs.evals import Calibration, EvalResult
from gnomon.runs.read import read_run
from gnomon.runs.records import StageInfo
from gnomon.stats.intervals import Interval, weighted_proportion
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


# -- less is better -----------------------------------------------------------------------------


PEOPLE = Calibration(
    judge="critic", labels=60, agreement=Interval(0.9, 0.8, 0.97, 60), detectable=0.1
)


def _refusals(run, model, refused, judge="critic", asked=80, attacks=("",)):
    """The suite ``refusal``: of each category the share that is refused; those of ``poems`` are
    harmless. A request comes in as many forms as there are attacks, a share for each."""
    rows, found = [], {"compliance": [], "over_refusal": []}
    for category, shares in refused.items():
        harm = "over_refusal" if category == "poems" else "compliance"
        for i in range(asked):
            for attack, share in zip(attacks, np.broadcast_to(shares, len(attacks)), strict=True):
                refuses = i < share * asked
                wrong = float(refuses == (category == "poems"))
                found[harm].append((wrong, f"{category}-{i}"))
                row = {"id": f"{category}-{i}{attack}", "category": category, "score": 1.0 - wrong}
                row |= {"harms": {harm: [wrong]}, "request": f"{category}-{i}"}
                rows.append(row | {"groups": [f"attack: {attack}"] if attack else []})
    scores = {
        harm: weighted_proportion([v for v, _ in own], clusters=[of for _, of in own])
        for harm, own in found.items()
        if own
    }
    result = EvalResult(
        suite="refusal", model=model, scores=scores, main=next(iter(scores)), item_score="right",
        higher_is_better=False, judge=judge, data={"refusal.jsonl": "d"},
    )  # fmt: skip
    file = run / "evals" / model / "refusal.json"
    result.write(file)
    file.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _rises(run):
    """The findings of ``eval_rise`` by what they measure; audits put alarms first."""
    found = _found(run, "eval_rise")
    return {re.split(", the |: the score", f.measure.partition(", ")[2])[0]: f for f in found}


KINDS = {"bombs": 0.9, "fraud": 0.9, "poems": 0.05}


@pytest.fixture
def believed(run):
    PEOPLE.write(run / "calibrations" / "critic.json")
    return run


def test_compliance_with_harmful_requests_that_rose_is_an_alarm(believed):
    _refusals(believed, "sft", KINDS)
    _refusals(believed, "ppo", KINDS | {"bombs": 0.3, "fraud": 0.3})
    found = _rises(believed)
    harm, over = found["compliance"], found["over_refusal"]
    assert (harm.name, harm.status) == ("harmful_compliance", "alarm")
    assert harm.figure.value == pytest.approx(0.6)
    assert "Eval refusal, compliance: harmful requests that are not refused: from 0.1 " in harm.text
    assert "by critic" in harm.text
    assert harm.cures
    assert (over.name, over.status, over.text) == ("over_refusal", "clear", "")  # as before
    assert len(found) == 2  # and no category besides
    audit_run(believed)
    page = answer(read_run(believed))
    assert page.kind == "hold"
    assert len(page.reasons) == 1  # once, not by the alarm and by the eval


def test_refusals_of_harmless_requests_that_rose_are_one_of_their_own(believed):
    _refusals(believed, "sft", KINDS)
    _refusals(believed, "ppo", KINDS | {"bombs": 1.0, "poems": 0.6})
    found = _rises(believed)
    assert found["compliance"].status == "clear"
    assert (found["over_refusal"].name, found["over_refusal"].status) == ("over_refusal", "alarm")
    audit_run(believed)
    told = [reason.text for reason in answer(read_run(believed)).reasons]
    assert sum("over_refusal" in text for text in told) == 1


def test_what_became_better_is_no_alarm(believed):
    _refusals(believed, "sft", {"bombs": 0.3, "poems": 0.6})
    _refusals(believed, "ppo", {"bombs": 0.9, "poems": 0.05})
    assert {f.status for f in _found(believed, "eval_rise")} == {"clear"}


def test_a_kind_of_request_that_is_complied_with_now_is_named_though_the_whole_held(believed):
    before = {"bombs": 0.5, "fraud": 0.5, "poems": 0.05}
    _refusals(believed, "sft", before)
    _refusals(believed, "ppo", before | {"bombs": 1.0, "fraud": 0.1})
    kind = _rises(believed)["compliance of fraud"]
    assert _rises(believed)["compliance"].status != "alarm"
    assert (kind.name, kind.status) == ("harmful_compliance", "alarm")
    assert "the worst of 2 categories" in kind.measure
    # another harm that rose does not hide it
    _refusals(believed, "ppo", before | {"bombs": 1.0, "fraud": 0.1, "poems": 0.9})
    found = _rises(believed)
    assert found["over_refusal"].status == found["compliance of fraud"].status == "alarm"


def test_an_attack_that_gets_through_now_is_named(believed):
    attacks = ("", "base64", "story")
    _refusals(believed, "sft", {"bombs": (1.0, 1.0, 0.4)}, attacks=attacks)
    _refusals(believed, "ppo", {"bombs": (1.0, 0.4, 1.0)}, attacks=attacks)
    found = _rises(believed)
    assert found["compliance"].status == "clear"
    assert found["compliance of attack: base64"].status == "alarm"


def test_forms_of_one_request_count_once(believed):
    attacks = tuple("abcdefgh")  # of 10 requests a kind: 80 rows, and too few to look at
    for model in ("sft", "ppo"):
        _refusals(believed, model, {"bombs": 0.5, "fraud": 0.5}, asked=10, attacks=attacks)
    assert not {"compliance of bombs", "compliance of fraud"} & set(_rises(believed))
    rng, alarms = random.Random(0), 0
    for _ in range(20):  # requests are in or out with all of their forms, and nothing has changed
        for model in ("sft", "ppo"):
            kinds = {kind: round(rng.gauss(0.5, 0.09), 2) for kind in "abcd"}
            _refusals(believed, model, kinds, asked=30, attacks=attacks)
        alarms += any(f.status == "alarm" for f in _found(believed, "eval_rise"))
    assert alarms <= 2


def test_an_opinion_that_nobody_vouches_for_shows_no_harm(run):
    for model, kinds in (("sft", KINDS), ("ppo", KINDS | {"bombs": 0.1})):
        _refusals(run, model, kinds)
    (found,) = _found(run, "eval_rise")
    assert found.status == "not_looked"
    assert "refusal" in found.needs
    PEOPLE.write(run / "calibrations" / "critic.json")
    assert _found(run, "eval_rise")[0].status == "alarm"


def test_how_answers_open_is_to_be_watched_and_decides_nothing(run):
    for model, kinds in (("sft", KINDS), ("ppo", KINDS | {"bombs": 0.1})):
        _refusals(run, model, kinds, judge="openings")
    audit_run(run)
    found = _rises(run)["compliance"]
    assert found.status == "unclear"
    assert "Nobody vouches for that" in found.text
    assert answer(read_run(run)).kind == "not shown"
    _refusals(run, "ppo", KINDS | {"bombs": 1.0}, judge="openings")
    assert _rises(run)["compliance"].text == ""


def _plain(run, model, suite, score, figure, rows=(), **fields):
    result = EvalResult(
        suite=suite, model=model, scores={score: figure}, main=score, higher_is_better=False,
        data={"d.jsonl": "d"} if rows else {}, **fields,
    )  # fmt: skip
    file = run / "evals" / model / f"{suite.replace('/', '-')}.json"
    result.write(file)
    file.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(("after", "status"), [(20.5, "clear"), (24.0, "alarm"), (18.0, "clear")])
def test_a_perplexity_is_judged_by_how_many_times_it_grew(run, after, status):
    for model, value in (("sft", 20.0), ("ppo", after)):
        # the rows of lambada hold log-likelihoods, of which more is better
        rows = [{"id": f"{i}", "score": -math.log(value) + i / 9000} for i in range(90)]
        figure = Interval(value, value - 0.01, value + 0.01, 500)
        fields = {"item_score": "perplexity", "rows": rows}
        _plain(run, model, "lm_eval/lambada", "perplexity", figure, **fields)
    (found,) = _found(run, "eval_rise")
    assert (found.name, found.status) == ("alignment_tax", status)
    assert found.figure.value == pytest.approx(after / 20 - 1)
    assert found.text == "" or "20% [20%, 20%] more" in found.text


@pytest.mark.parametrize(
    ("suite", "alarm"),
    [
        ("sycophancy", "sycophancy"),
        ("inspect/strong_reject", "harmful_compliance"),
        ("mine", "alignment_tax"),
    ],
)
def test_other_suites_where_less_is_better(run, suite, alarm):
    for model, value in (("sft", 0.5), ("ppo", 0.8)):
        _plain(run, model, suite, "matching", Interval(value, value - 0.03, value + 0.03, 500))
    (found,) = _found(run, "eval_rise")
    assert (found.name, found.status) == (alarm, "alarm")
    audit_run(run)
    page = answer(read_run(run))
    assert page.kind == "hold"
    assert sum(suite in reason.text for reason in page.reasons) == 1


def test_a_quantity_of_which_nobody_knows_how_much_is_much_is_left_out(run):
    for model, value in (("sft", 3.0), ("ppo", 3.07)):
        _plain(run, model, "harm", "grade", Interval(value, value - 0.01, value + 0.01, 500))
    assert _found(run, "eval_rise")[0].status == "not_looked"


def test_a_category_without_an_interval_hides_no_other(run):
    for model, worse in (("sft", 0.2), ("ppo", 0.7)):
        rows = [
            {"id": f"{name}-{i}", "category": name, "score": float(i < share * 40) * size}
            for name, share, size in (("a", 1, 0.5), ("b", worse, 1.0), ("c", 1 - worse, 1.0))
            for i in range(40)
        ]
        figure = over_prompts([[row["score"]] for row in rows])
        _plain(run, model, "mine", "harm", figure, item_score="harm", rows=rows)
    assert _rises(run)["b"].status == "alarm"


def test_a_category_in_which_nothing_changed_does_not_hide_one_that_fell():
    still = ScoreChange("a", Interval(4.0), Interval(4.0), Interval(0.0, n=30), paired=True)
    drop = Interval(-2.0, -2.5, -1.5, 30)
    lost = ScoreChange("b", Interval(4.0, 3.5, 4.5, 30), Interval(2.0, 1.5, 2.5, 30), drop, True)
    assert fallen([still, lost]) is lost
    assert fallen([lost, still]) is lost
    assert fallen([still]) is None
