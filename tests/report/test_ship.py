"""Whether a model may ship: each rule where it applies, and where it does not."""

from dataclasses import replace

import pytest

from gnomon.audit.evidence import evidence
from gnomon.report.candidate import before, candidate
from gnomon.report.evals import tables
from gnomon.report.ship import answer
from gnomon.report.table import answer_lines
from gnomon.runs.audit import Audit, Finding, GateResult, Gates
from gnomon.runs.comparison import Comparison
from gnomon.runs.evals import Calibration, EvalResult
from gnomon.runs.read import RunView, StageView
from gnomon.runs.records import StageInfo
from gnomon.stats.intervals import Interval

UP, STILL, DOWN = (
    Interval(0.2, 0.1, 0.3, 99),
    Interval(0.0, -0.1, 0.1, 99),
    Interval(-0.2, -0.3, -0.1),
)


def _stage(path, name, algorithm, status="done", start="runs/r/stages/01-sft/model", **more):
    info = StageInfo(name=name, algorithm=algorithm, status=status, start={"from": start}, **more)
    return StageView(path, name, info)


@pytest.fixture
def run(tmp_path):
    """A run that nothing was looked at in: SFT, then PPO against a verifier; people vouch for the
    reward model that is held out."""
    reward = {"builtin": "exact"}
    recipe = {
        "stages": [
            {"name": "sft", "algorithm": "sft"},
            {"name": "ppo", "algorithm": "ppo", "reward": [reward], "observe": [{"model": "rm"}]},
        ],
        "compare": {
            "rewards": [reward, {"model": "rm"}, {"builtin": "json"}, "gold", {"builtin": "ai"}]
        },
    }
    stages = (_stage(tmp_path, "sft", "sft", start="model"), _stage(tmp_path, "ppo", "ppo"))
    return _vouched(RunView(tmp_path, "r", recipe=recipe, stages=stages))


def _vouched(run, labels=50):
    return replace(run, calibrations=(Calibration(judge="rm", labels=labels),))


def _doubtful(run):
    return replace(run, calibrations=())


def _compared(run, **gains):
    columns = ["exact", "rm", "json", "gold", "ai"]
    figure = [Interval(0.5, 0.4, 0.6, 99)] * 5
    row = [gains.get(column, STILL) for column in columns]
    rows = [
        {"model": "sft", "values": figure, "gains": [Interval(0.0, 0.0, 0.0)] * 5},
        {"model": "ppo", "values": figure, "gains": row},
    ]
    view = Comparison.model_validate({"columns": columns, "reference": "sft", "rows": rows})
    return replace(run, comparison=view)


def _finding(status, name="reward_hacking", **more):
    return Finding(name=name, detector="d", stage="ppo", status=status, **more)


def _audited(run, *findings):
    return replace(run, audit=Audit(findings=list(findings)))


def _clear(run):
    return _audited(run, _finding("clear"))


def _gated(run, *passed, condition="rm >= 0.3", stage="ppo"):
    results = [
        GateResult(condition=condition, stage=stage, passed=p, text="it is 0.5") for p in passed
    ]
    return replace(run, gates=Gates({**run.gates.root, stage: results}))


def _eval(model, value, suite="exam", **more):
    fields = {"scores": {"main": Interval(value, value - 0.01, value + 0.01, 900)}, "main": "main"}
    return EvalResult(suite=suite, model=model, n=900, **(fields | more))


def _measured(run, *results):
    for result in results:
        result.write(run.path / "evals" / result.model / f"{result.suite}.json")
    return replace(run, results=results)


def _said(run):
    found = answer(run)
    return found.kind, " ".join(answer_lines(found))


def test_nothing_looked_at_is_not_shown_and_says_how_to_look(run):
    kind, said = _said(run)
    assert kind == "not shown"
    assert "gnomon audit" in said
    assert "gnomon eval" in said
    assert said.startswith("NOT SHOWN: nothing here shows that ppo may ship.")


# -- hold -----------------------------------------------------------------------------------------


def test_an_alarm_holds_whatever_speaks_for_the_model(run):
    good = _gated(_compared(run, rm=UP), True)
    assert answer(_clear(good)).kind == "ship"
    alarm = _finding("alarm", text="it repeats itself", figure=Interval(0.19, 0.12, 0.26, 32))
    kind, said = _said(_audited(good, alarm, _finding("clear", "length_bias")))
    assert kind == "hold"
    assert "reward_hacking in ppo: it repeats itself (0.190 [0.120, 0.260] n=32)" in said


def test_a_gate_that_failed_holds_and_its_text_is_the_reason(run):
    kind, said = _said(_gated(_clear(_compared(run, rm=UP)), True, False))
    assert kind == "hold"
    assert "Gate rm >= 0.3 after ppo failed: it is 0.5." in said


def test_a_policy_whose_stage_trained_nothing_is_not_shown_whatever_opened(run):
    good = _gated(_compared(run, rm=UP), True)
    sft, ppo = good.stages
    why = "all responses to each prompt have the same reward; look at the reward"
    idle = ppo.info.model_copy(update={"iterations": 40, "idle_iterations": 40, "idle_reason": why})
    kind, said = _said(_clear(replace(good, stages=(sft, replace(ppo, info=idle)))))
    assert kind == "not shown"
    assert f"1. Stage ppo trained nothing in any of its 40 iterations: {why}." in said
    some = idle.model_copy(update={"idle_iterations": 39})
    assert answer(_clear(replace(good, stages=(sft, replace(ppo, info=some))))).kind == "ship"
    held = _audited(replace(good, stages=(sft, replace(ppo, info=idle))), _finding("alarm"))
    kind, said = _said(held)
    assert (kind, "trained nothing in any of its 40 iterations" in said) == ("hold", True)


def test_a_capability_that_fell_beyond_its_interval_holds(run):
    for after, kind in ((0.40, "hold"), (0.495, "not shown"), (0.60, "ship")):
        found = answer(_measured(_clear(run), _eval("sft", 0.5), _eval("ppo", after)))
        assert found.kind == kind
    fell = _measured(run, _eval("sft", 0.5), _eval("ppo", 0.4))
    assert "Eval exam: worse than sft by 0.100 [0.086, 0.114]" in _said(fell)[1]
    alarm = Finding(
        name="alarm_tax", detector="eval_drop", stage="ppo", status="alarm", text="Eval exam: less",
        measure="exam: the score before training less that after",
    )  # fmt: skip
    once = answer(_audited(fell, alarm))
    assert [reason.text for reason in once.reasons] == ["Alarm alarm_tax in ppo: Eval exam: less."]
    harm = {"higher_is_better": False}
    worse = (_eval("sft", 0.5, **harm), _eval("ppo", 0.6, **harm))
    assert answer(_measured(run, *worse)).kind == "hold"


@pytest.mark.parametrize(("labels", "kind"), [(49, "not shown"), (50, "hold")])
def test_a_reward_model_that_likes_it_less_holds_once_people_vouch_for_it(run, labels, kind):
    worse = _vouched(_clear(_compared(run, rm=DOWN)), labels)
    assert answer(worse).kind == kind
    assert "Held-out judge rm: worse than sft" in answer(worse).reasons[0].text


def test_a_fall_that_nobody_vouches_for_holds_nothing_and_lets_nothing_ship(run):
    gated = _gated(_clear(_compared(run, rm=DOWN)), True, condition="exam >= 0.1")
    doubted = answer(_doubtful(gated))
    assert doubted.kind == "not shown"
    assert any("likes it less" in n.text and "spotcheck" in n.command for n in doubted.needs)


def test_a_stage_that_failed_holds(run, tmp_path):
    broken = _stage(tmp_path, "ppo", "ppo", "failed", error="disk full")
    kind, said = _said(replace(run, stages=(run.stages[0], broken)))
    assert kind == "hold"
    assert "disk full" in said


def test_three_reasons_are_shown_and_the_others_counted(run):
    alarms = [_finding("alarm", f"a{i}", text=f"text {i}") for i in range(5)]
    found = answer(_audited(run, *alarms))
    assert [len(found.reasons), found.more] == [3, 2]


def _merged(run, algorithm="average", **settings):
    """The run with one more stage that trains on no reward of its own, cleared of length bias."""
    spec = {"name": "last", "algorithm": algorithm, "settings": settings}
    spec |= {"observe": [{"model": "rm"}]}
    recipe = {**run.recipe, "stages": [*run.recipe["stages"], spec]}
    last = _stage(run.path, "last", algorithm, start=settings.pop("start", "elsewhere"))
    more = replace(run, recipe=recipe, stages=(*run.stages, last))
    gate = GateResult(condition="rm >= 0", stage="last", passed=True, text="it is 0.5")
    clear = Finding(name="length_bias", detector="d", stage="last", status="clear")
    return replace(_audited(more, clear), gates=Gates({"last": [gate]}))


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("average", {"models": ["sft", "ppo"]}),
        ("average", {"models": ["sft"], "init": "ppo", "init_share": 0.9}),
        ("distill", {"teacher": "ppo"}),
        ("dpo", {"start": "runs/r/stages/02-ppo/model"}),
    ],
)
def test_what_descends_from_a_reward_is_looked_at_for_hacking(run, tmp_path, algorithm, settings):
    ppo = StageView(tmp_path / "stages/02-ppo", "ppo", run.stages[1].info)
    merged = _merged(replace(run, stages=(run.stages[0], ppo)), algorithm, **settings)
    assert answer(merged).kind == "not shown"
    hacking = Finding(name="reward_hacking", detector="d", stage="last", status="clear")
    assert answer(_audited(merged, *merged.audit.findings, hacking)).kind == "ship"
    assert answer(_merged(run, "distill", teacher="sft")).kind == "ship"  # where none was optimised


def _on_collected(run, collect):
    """The run's SFT, what ``collect`` makes of it, and DPO on that, cleared of length bias only."""
    recipe = {"stages": [
        {"name": "sft", "algorithm": "sft"},
        {"name": "pairs", "algorithm": "collect", **collect},
        {"name": "dpo", "algorithm": "dpo", "data": [{"path": "stage:pairs"}],
         "observe": [{"model": "rm"}]},
    ]}  # fmt: skip
    stages = [_stage(run.path, n, a) for n, a in (("pairs", "collect"), ("dpo", "dpo"))]
    gate = GateResult(condition="rm >= 0", stage="dpo", passed=True, text="it is 0.5")
    clear = Finding(name="length_bias", detector="d", stage="dpo", status="clear")
    made = replace(run, recipe=recipe, stages=(run.stages[0], *stages))
    return replace(_audited(made, clear), gates=Gates({"dpo": [gate]}))


def test_what_learns_from_data_that_a_reward_judged_is_looked_at_for_hacking(run):
    made = _on_collected(run, {"reward": [{"builtin": "exact"}]})
    assert answer(made).kind == "not shown"
    hacking = Finding(name="reward_hacking", detector="d", stage="dpo", status="clear")
    assert answer(_audited(made, *made.audit.findings, hacking)).kind == "ship"
    assert answer(_on_collected(run, {})).kind == "ship"  # nobody judged it


def test_the_return_of_an_environment_is_a_reward(run):
    recipe = {"stages": [
        {"name": "sft", "algorithm": "sft"},
        {"name": "ppo", "algorithm": "grpo", "environment": {"name": "rooms"},
         "observe": [{"model": "rm"}]},
    ]}  # fmt: skip
    made = _gated(replace(run, recipe=recipe), True)
    only = _audited(made, _finding("clear", "length_bias"))
    assert answer(only).kind == "not shown"
    assert answer(_audited(made, _finding("clear"))).kind == "ship"
    # episodes of it are what was trained on; those of another one are not
    for place, kind in (("rooms", "not shown"), ("calculator", "ship")):
        settings = {"environment": {"name": place}}
        evals = [_eval(m, v, f"episodes/{place}", settings=settings)
                 for m, v in (("sft", 0.5), ("ppo", 0.6))]  # fmt: skip
        found = _measured(_clear(replace(run, recipe=recipe)), *evals)
        assert answer(found).kind == kind


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        ({"models": ["ppo", "sft"]}, "sft"),  # what the first was trained from
        ({"models": ["sft", "ppo"]}, "base"),
        ({"models": ["ppo"], "init": "model", "init_share": 0.1}, "base"),
        ({"models": ["ppo"], "init": "sft", "init_share": 0.1}, "sft"),
    ],
)
def test_an_average_is_compared_with_what_its_models_were_trained_from(run, settings, start):
    merged = _merged(run, **settings)
    assert before(merged, "last") == start
    compared = Comparison.model_validate({"columns": [], "reference": "base", "rows": [
        {"model": name, "values": [], "gains": []} for name in ("base", "sft", "ppo", "last")
    ]})  # fmt: skip
    found, _ = evidence(replace(merged, comparison=compared), merged.stages[-1])
    assert found.start == start


# -- ship, and what does not suffice --------------------------------------------------------------


def test_gates_that_all_opened_ship(run):
    looked = _clear(run)
    assert answer(_gated(looked, True, True)).kind == "ship"
    assert answer(_gated(looked, True, None)).kind == "not shown"
    assert answer(looked).kind == "not shown"
    assert answer(_gated(run, True, True)).kind == "not shown"  # nobody has looked for alarms
    elsewhere = _audited(run, _finding("clear", name="reward_errors"), _finding("unclear"))
    assert answer(_gated(elsewhere, True, True)).kind == "not shown"


def test_a_reward_model_that_nobody_vouches_for_ships_nothing(run):
    clear = _clear(run)
    for liked in (_gated(clear, True), _compared(clear, rm=UP)):
        found = answer(_doubtful(liked))
        assert found.kind == "not shown"
        assert any("likes it better, which ships nothing" in need.text for need in found.needs)
        assert answer(_vouched(liked, 49)).kind == "not shown"
        assert answer(_vouched(liked, 50)).kind == "ship"
    said = _said(_doubtful(_compared(clear, rm=UP)))[1]
    assert "; no people vouch for it." in said
    assert f"gnomon calibrate LABELS --judge reward_model=rm --name rm --output {run.path}" in said


def test_what_is_to_be_watched_is_said_where_an_eval_ships(run):
    weak = _finding("unclear", text="the reward reads no prompt. The policy is near its start")
    watched = _audited(run, _finding("clear"), weak)
    found = answer(_measured(watched, _eval("sft", 0.5), _eval("ppo", 0.6)))
    assert found.kind == "ship"
    said = " ".join(reason.text for reason in found.reasons)
    assert "To watch: the reward reads no prompt. The policy is near its start." in said
    assert "looked for reward_hacking" not in said  # and found none: that is still open


def test_a_capability_that_is_kept_says_nothing_of_what_was_gained(run):
    kept = answer(_clear(_gated(run, True, condition="capability_drop <= 0.02")))
    assert kept.kind == "not shown"
    assert any("has improved beyond its interval" in need.text for need in kept.needs)


def test_what_is_missing_is_not_said_of_a_reward_model_that_nobody_asked(run):
    weak = _finding("unclear", text="the reward reads no prompt")
    risen = _measured(_audited(run, _finding("clear"), weak), _eval("sft", 0.5), _eval("ppo", 0.6))
    found = answer(replace(risen, recipe={**run.recipe, "gates": ["rm >= 0.3"]}))
    assert found.kind == "not shown"
    assert not any("reward model" in need.text for need in found.needs)


def test_a_policy_that_others_speak_for_is_not_said_to_be_seen_by_nobody_else(run):
    hidden = "to see the rest takes people"
    clear = _audited(run, _finding("clear"))
    assert hidden in _said(clear)[1]
    assert hidden not in _said(_gated(clear, True))[1]


def test_a_gate_that_was_not_asked_or_cannot_be_read_ships_nothing(run):
    asked = {**run.recipe, "gates": ["rm >= 0.3"]}
    whole = replace(_clear(run), recipe=asked)
    assert answer(_gated(whole, True, stage="")).kind == "ship"
    lost = answer(_gated(whole, True))  # of a stage; the whole run's are lost
    assert lost.kind == "not shown"
    assert "rm >= 0.3 has not been asked" in lost.needs[0].text


@pytest.mark.parametrize("condition", ["reward >= 1", "eval/reward >= 1", "exact >= 1",
                                       "gain/exact >= 1", "reward/exact >= 1", "gold >= 1",
                                       "gain/gold >= 1", "solved >= 1", "pass@1 >= 1",
                                       "kl <= 50", "length <= 100", "eval/loss <= 100",
                                       "no alarm"])  # fmt: skip
def test_a_gate_on_the_trained_reward_a_truth_or_a_cost_alone_ships_nothing(run, condition):
    gated = _gated(_clear(_compared(run)), True, condition=condition)
    assert answer(gated).kind == "not shown"
    assert answer(_gated(gated, True, condition="rm >= 0", stage="")).kind == "ship"


@pytest.mark.parametrize(
    ("column", "kind"), [("exact", "not shown"), ("gold", "not shown"), ("rm", "ship")]
)
def test_only_what_was_not_trained_on_and_no_truth_is_evidence(run, column, kind):
    assert answer(_clear(_compared(run, **{column: UP}))).kind == kind
    # nor does a truth hold a model, or the trained reward
    assert answer(_doubtful(_clear(_compared(run, **{column: DOWN})))).kind == "not shown"


def test_probes_of_the_trained_reward_say_nothing_of_a_held_out_verifier(run):
    better = _compared(run, json=UP)
    assert answer(_clear(better)).kind == "not shown"
    probed = Finding(name="reward_hacking", detector="invariance", stage="ppo", status="clear")
    assert answer(_audited(better, probed)).kind == "not shown"
    assert any("gnomon eval --suite questions" in r.text for r in answer(better).reasons)


@pytest.mark.parametrize(("labels", "kind"), [(49, "not shown"), (50, "ship")])
def test_an_ai_judges_column_is_evidence_once_people_vouch_for_it(run, labels, kind):
    better = _clear(_compared(run, ai=UP))
    vouched = replace(better, calibrations=(Calibration(judge="ai", labels=labels),))
    assert answer(better).kind == "not shown"
    assert answer(vouched).kind == kind


def _judged(run, version):
    """The run with the version of its judges in the comparison and in the stage's record."""
    judges = {name: {"version": version} for name in ("rm", "ai")}
    info = run.stages[1].info.model_copy(update={"judges": judges})
    stages = (run.stages[0], replace(run.stages[1], info=info))
    return replace(
        run, stages=stages, comparison=run.comparison.model_copy(update={"judges": judges})
    )


def _calibrations(judge):
    one = {"judge": judge, "labels": 80, "made": "2031-03-01T08:00:00"}
    sound = Calibration(version="v7", **one)
    changed = one | {"made": "2031-04-01T08:00:00", "drift": {"model_changed": True}}
    return {
        "the same": (sound,),
        "the same, corrected": (sound,),
        "another": (Calibration(version="v6", **one),),
        "no version": (Calibration(**one),),
        "changed since": (sound, Calibration(version="v7", **changed)),
    }


@pytest.mark.parametrize("which", list(_calibrations("")))
@pytest.mark.parametrize("judge", ["rm", "ai"])
def test_only_labels_on_the_very_judge_vouch_for_a_column(run, judge, which):
    version = "v7 corrected=ab12" if which == "the same, corrected" else "v7"
    people = _calibrations(judge)[which]
    found = replace(_judged(_clear(_compared(run, **{judge: UP})), version), calibrations=people)
    assert answer(found).kind == ("ship" if which.startswith("the same") else "not shown")
    fell = replace(_judged(_clear(_compared(run, **{judge: DOWN})), version), calibrations=people)
    assert answer(fell).kind == ("hold" if which.startswith("the same") else "not shown")


@pytest.mark.parametrize("which", list(_calibrations("")))
def test_only_labels_on_the_very_observer_vouch_for_a_gate(run, which):
    version = "v7 corrected=ab12" if which == "the same, corrected" else "v7"
    gated = replace(_judged(_gated(_clear(run), True), version), calibrations=())
    assert answer(gated).kind == "not shown"
    found = answer(replace(gated, calibrations=_calibrations("rm")[which]))
    assert found.kind == ("ship" if which.startswith("the same") else "not shown")


def test_improvement_without_an_audit_is_not_shown(run):
    better = _compared(run, rm=UP)
    assert answer(better).kind == "not shown"
    assert answer(_audited(better, _finding("not_looked"))).kind == "not shown"
    assert answer(_audited(better, _finding("unclear"))).kind == "not shown"
    assert answer(_clear(better)).kind == "ship"


@pytest.mark.parametrize(("labels", "kind"), [(49, "not shown"), (50, "ship")])
def test_a_win_rate_counts_once_people_vouch_for_the_judge(run, labels, kind):
    wins = EvalResult(
        suite="wins", model="ppo", against="sft", judge="j", judge_version="1", main="win_rate",
        scores={"win_rate": Interval(0.6, 0.55, 0.65, 400)},
    )  # fmt: skip
    vouched = Calibration(judge="j", version="1", labels=labels)
    found = replace(_clear(run), results=(wins,), calibrations=(vouched,))
    assert answer(found).kind == kind
    lost = wins.model_copy(update={"scores": {"win_rate": Interval(0.4, 0.35, 0.45, 400)}})
    lost_kind = answer(replace(found, results=(lost,))).kind
    assert lost_kind == ("hold" if kind == "ship" else "not shown")


def _won(model, value, **more):
    fields = {"against": "gpt-4", "judge": "j", "judge_version": "1", "main": "win_rate",
              "scores": {"win_rate": Interval(value, value - 0.05, value + 0.05, 400)},
              "data": {"asked.jsonl": {"sha256": "a"}}}  # fmt: skip
    return _eval(model, value, "wins", **(fields | more))


def test_a_win_rate_over_another_baseline_is_no_change_from_before(run):
    """sft lost to gpt-4 at 0.1; ppo loses at 0.3, which is better than before, and none is worse
    for being below 0.5."""
    vouched = (Calibration(judge="j", version="1", labels=50),)
    clear = replace(_clear(run), calibrations=vouched)
    alone = _measured(clear, _won("ppo", 0.3))
    assert answer(alone).kind == "not shown"
    other = _measured(clear, _won("ppo", 0.3), _won("sft", 0.1, settings={"seed": 1}))
    assert answer(other).kind == "not shown"
    (row,) = tables(other)[0].rows
    assert (row.before, row.change, row.good) == (None, None, None)
    found = _measured(clear, _won("ppo", 0.3), _won("sft", 0.1))
    kind, said = _said(found)
    assert kind == "ship"
    assert "Win rate over gpt-4 by j: better than sft by 0.200" in said
    (row,) = tables(found)[0].rows
    assert (row.before.value, row.good) == (0.1, True)
    assert answer(_measured(clear, _won("ppo", 0.3), _won("sft", 0.6))).kind == "hold"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("runs/r/stages/01-sft/model", "sft"),
        ("/elsewhere/r/stages/01-sft/model", "sft"),
        ("stages/01-sft/model", "sft"),
        ("runs/other/stages/01-sft/model", "base"),
        ("runs/other/stages/02-start/model", "base"),
        ("runs/r/stages/09-gone/model", "base"),
        ("some/model", "base"),
    ],
)
def test_a_model_of_another_run_is_the_base_of_this_one(run, tmp_path, source, expected):
    stages = (run.stages[0], _stage(tmp_path, "ppo", "ppo", start=source))
    assert before(replace(run, stages=stages), "ppo") == expected


def test_the_model_before_is_known_by_its_weights(run, tmp_path):
    start = {"from": "runs/r/stages/01-sft/model", "sha256": "aa"}
    stage = _stage(tmp_path, "ppo", "ppo")
    stage.info.note(start=start)
    vouched = (Calibration(judge="j", version="1", labels=50),)
    clear = replace(_clear(run), stages=(run.stages[0], stage), calibrations=vouched)
    for sha, kind in (("aa", "ship"), ("bb", "not shown")):
        wins = _won("ppo", 0.6, against="model", settings={"against_sha256": sha})
        assert answer(_measured(clear, wins)).kind == kind


def test_a_run_that_is_not_done_ships_nothing(run, tmp_path):
    good = _gated(_clear(_compared(run, rm=UP)), True)
    running = replace(good, stages=(run.stages[0], _stage(tmp_path, "ppo", "ppo", "running")))
    assert answer(running).kind == "not shown"
    assert answer(replace(good, stages=run.stages[:1])).kind == "not shown"  # ppo has not begun


# -- stages that a gate held back -----------------------------------------------------------------


def _rounds(run, tmp_path):
    more = [{"name": "again", "algorithm": "ppo", "observe": [{"model": "rm"}]}]
    recipe = {**run.recipe, "stages": [*run.recipe["stages"], *more], "on_fail": "previous"}
    stages = (*run.stages, _stage(tmp_path, "again", "ppo"))
    return replace(run, recipe=recipe, stages=stages)


def test_a_policy_whose_place_a_later_one_took_holds_nothing(run, tmp_path):
    rounds = _gated(_gated(_rounds(run, tmp_path), False), True, stage="again")
    assert candidate(rounds) == "again"
    clear = _finding("clear").model_copy(update={"stage": "again"})
    assert answer(_audited(rounds, _finding("alarm"), clear)).kind == "ship"
    stopped = replace(rounds, recipe={**rounds.recipe, "on_fail": "stop"})
    assert answer(stopped).kind == "hold"


def test_the_last_policy_that_is_held_back_is_held(run, tmp_path):
    rounds = _gated(_gated(_rounds(run, tmp_path), True), False, stage="again")
    assert candidate(rounds) == "ppo"
    assert (answer(rounds).kind, answer(rounds).model) == ("hold", "again")


# -- other records --------------------------------------------------------------------------------


def test_a_folder_with_hardly_anything_in_it_gets_an_answer(tmp_path):
    assert answer(RunView(tmp_path, "r")).kind == "not shown"
    odd = RunView(tmp_path, "r", recipe={"stages": ["x", {"name": 3}], "compare": []})
    assert answer(odd).kind == "not shown"


def test_the_terminal_shows_no_control_characters(run):
    alarm = _finding("alarm", text="\x1b[31mred\x07\n\rnext")
    assert all(c.isprintable() for line in answer_lines(answer(_audited(run, alarm))) for c in line)


@pytest.mark.parametrize(
    ("grader", "kind"),
    [("json", "ship"), ("exact", "not shown"), ("gold", "not shown"), ("ai", "not shown")],
)
def test_an_eval_counts_unless_its_grader_was_trained_on_or_knows_or_has_an_opinion(
    run, grader, kind
):
    """The policy was trained on ``exact``."""
    fields = {"judge": grader, "settings": {"judge": {"builtin": grader}}}
    better = (_eval("sft", 0.5, **fields), _eval("ppo", 0.6, **fields))
    assert answer(_measured(_clear(run), *better)).kind == kind
    gated = _gated(_clear(run), True, condition="exam >= 0.5")
    opened = answer(_measured(gated, _eval("ppo", 0.6, **fields)))
    assert (opened.kind == "ship") == (
        grader in ("json", "ai")
    )  # an AI's gate needed a calibration
