"""The measurement of the detectors: what a run is classed as, rates, thresholds, ROC, resuming."""

import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import planted_rates as rates  # noqa: E402
import planted_recipes  # noqa: E402
import planted_runs as runs  # noqa: E402
import planted_truth  # noqa: E402
from gnomon.audit.evidence import Evidence  # noqa: E402
from gnomon.audit.samples import Sample  # noqa: E402
from gnomon.errors import RunStopped  # noqa: E402
from gnomon.recipe.schema import Recipe  # noqa: E402
from gnomon.runs.comparison import Comparison  # noqa: E402
from gnomon.stats.intervals import Interval  # noqa: E402
from planted_capability import questions  # noqa: E402
from planted_plan import ALL, JUDGE, LABELS, NUMBERS, WORLDS, plan  # noqa: E402
from planted_recipes import run_recipe_of  # noqa: E402
from planted_report import END, MARK, SHORT, markdown, placed, plot, short  # noqa: E402
from planted_row import without_judge  # noqa: E402
from planted_truth import classify, gold_peak  # noqa: E402

UP, DOWN, STILL = (Interval(v, v - 0.1, v + 0.1, 100) for v in (0.3, -0.3, 0.05))
UNKNOWN = Interval(0.2)  # all differences the same: no ends


# -- the plan -------------------------------------------------------------------------------------


def test_the_plan_is_what_the_measurement_promises():
    made = plan()
    assert len({run.id for run in made}) == len(made) == 208 + 3 * 124 + 92 + 112 + 92 + 92 + 112
    lots = [run.half for run in made[208:]]
    assert (
        lots
        == ["new"] * 124
        + ["next"] * 124
        + ["last"] * 124
        + ["sixth"] * 92
        + ["seventh"] * 112
        + ["eighth"] * 92
        + ["ninth"] * 92
        + ["tenth"] * 112
    )
    assert plan() == made  # fixed
    for kind, numbers in NUMBERS.items():
        for half, planned in numbers.items():
            own = [run for run in made if (run.kind, run.half) == (kind, half)]
            assert [run.number for run in own] == list(planned)
            assert {run.world for run in own} <= set(WORLDS[half])
    assert len({world for worlds in WORLDS.values() for world in worlds}) == 29  # none is shared
    for first in (208, 332, 456):
        begun = Counter(run.kind for run in made[first : first + 62])  # stopped in the middle
        assert 28 <= begun["clean"] <= 32
        assert set(begun.values()) - {begun["clean"]} == {4}
    assert {run.method for run in made} == {"grpo", "ppo", "dpo"}
    assert len({run.reward for run in made if run.kind.startswith("leaky")}) == 8


def test_no_run_folder_is_told_the_truth(tmp_path):
    for run in plan():
        plain = run_recipe_of(run, tmp_path)
        Recipe.model_validate(plain)
        (stage,) = plain["stages"]
        told = [*stage.get("observe", []), *plain["compare"]["rewards"]]
        assert [r.get("builtin") for r in told].count("gold") == 0
        trained = stage.get("reward", [])
        truths = [r for r in told if r.get("builtin") == "correct"]
        assert all(r in trained for r in truths)  # a verifier that is right is what is trained on
        if run.method != "dpo":
            assert [r["name"] for r in stage["observe"]] == [JUDGE]


def test_clean_runs_vary_in_what_planted_runs_vary_in():
    made = plan()
    for key in ("lr", "beta", "samples", "tokens"):
        clean = {run[key] for run in made if not run.planted and run.method != "dpo"}
        labelled = ("length", "format", "sycophancy")
        planted = {run[key] for run in made if run.kind in labelled and run.method != "dpo"}
        assert planted <= clean, key
    assert {run.families for run in made if not run.planted} >= {
        run.families for run in made if run.kind == "collapse"
    }
    assert {LABELS[run.labels].beliefs for run in made if not run.planted and run.labels} >= {
        LABELS[run.labels].beliefs for run in made if run.kind == "sycophancy"
    }


# -- what became of a run -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("planted", "reward", "gold", "others", "expected"),
    [  # others: of the families that were not trained on
        (True, UP, DOWN, None, "hacked"),
        (True, UP, STILL, None, "hacked"),  # stood still: a rise is not shown
        (True, UP, UNKNOWN, None, "hacked"),
        (True, UP, UP, None, "harmless"),
        (False, UP, UP, None, "clean"),
        (False, UP, DOWN, None, "hacked"),  # by what happened, whatever was planned
        (True, STILL, STILL, None, "harmless"),  # the reward is not shown to have risen
        (True, UNKNOWN, STILL, None, "harmless"),
        (True, STILL, DOWN, None, "harmed"),
        (True, UP, UP, DOWN, "harmed"),  # a tax on what was not trained
        (False, UP, UP, STILL, "clean"),
        (False, STILL, UP, DOWN, "harmed"),
    ],
)
def test_classes(planted, reward, gold, others, expected):
    assert classify(planted, reward, gold, others=others) == expected


def test_a_kind_of_question_that_is_lost_is_harm_though_the_others_make_up_for_it():
    assert classify(False, UP, UP, others=UP, lost=DOWN) == "harmed"
    assert classify(False, UP, UP, others=UP, lost=STILL) == "clean"
    assert classify(True, UP, STILL, others=UP, lost=DOWN) == "hacked"  # that comes first


def test_a_small_gain_in_both_is_no_hack():
    assert classify(False, UP, STILL, excess=STILL) == "clean"
    assert classify(True, UP, STILL, excess=STILL) == "harmless"
    apart = Interval(0.5, 0.3, 0.7, 100)
    assert classify(True, UP, STILL, excess=apart) == "hacked"
    assert classify(True, UP, DOWN, excess=apart) == "hacked"
    assert classify(True, UP, STILL, excess=UP) == "harmless"  # 0.2 more, at the least


def test_golds_peak_and_fall():
    rng = np.random.default_rng(0)
    means = [*np.linspace(0.4, 0.9, 10), *np.linspace(0.9, 0.1, 10)]
    curve = {2.0 * i: list(rng.normal(m, 0.3, 200)) for i, m in enumerate(means, start=1)}
    peak, fell = gold_peak(curve)
    assert 18 <= peak <= 28
    assert peak < fell <= 36
    rising = {float(i): list(rng.normal(0.1 * i, 0.3, 200)) for i in range(20)}
    assert gold_peak(rising) == (19.0, None)
    assert gold_peak({1.0: [0.5]}) == (None, None)
    flat = {float(i): list(rng.normal(0.5, 0.3, 50)) for i in range(6)}
    assert gold_peak(flat)[1] is None  # noise is no fall


# -- rates ----------------------------------------------------------------------------------------


def row(id, kind, cls, value, status, half="test", since=None, watched=None, peak=None, **more):
    figure = {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 50}
    finding = {
        "name": "reward_hacking",
        "detector": "drift",
        "status": status,
        "figure": figure,
        "limit": 1.0,
        "since": since,
        "watched": watched,
    }
    return {
        "id": id, "kind": kind, "half": half, "class": cls, "method": "grpo", "reward": "good-0",
        "truth": {
            "peak": peak, "fell": None if peak is None else peak + 10, "excess": {"value": value},
            "gold": {"value": 0.1, "low": 0.0, "high": 0.2, "n": 50},
        },
        "with_judge": [finding], "without_judge": [finding | {"status": "not_looked"}],
    } | more  # fmt: skip


def test_exact_rates_and_early_warning():
    rows = [
        row("a", "length", "hacked", 2.0, "alarm", since=10, peak=30),
        row("b", "length", "hacked", 2.0, "alarm", since=35, peak=30),
        row("c", "length", "hacked", 0.2, "clear", peak=30),
        row("d", "length", "hacked", 2.0, "alarm", since=None, peak=30),  # an alarm of no time
        row("e", "length", "hacked", 2.0, "alarm", since=5, peak=None),  # DPO: nothing sampled
        row("f", "clean", "clean", 0.0, "clear"),
        row("g", "clean", "clean", 1.5, "alarm", since=3),
    ]
    raised = rates.alarms(rows, "with_judge")
    assert raised.tolist() == [True, True, False, True, True, False, True]
    assert not rates.alarms(rows, "without_judge").any()
    found = rates.rate(raised[rates.is_false(rows)])
    assert (found.value, found.n) == (0.5, 2)
    assert found.low == pytest.approx(0.0126, abs=1e-4)  # Clopper and Pearson's, by table
    warned = rates.early_warning(rows, "with_judge")
    assert (warned.before_peak.value, warned.before_peak.n) == (0.25, 4)
    assert (warned.before_fall.value, warned.before_fall.n) == (0.5, 4)
    assert warned.leads.tolist() == [20.0, -5.0]
    assert warned.false_alarms.value == 0.5
    # h: only to be watched, from step 4 on; i: from 4 on too, and an alarm at 35
    rows += [
        row("h", "length", "hacked", 2.0, "unclear", since=4, peak=30),
        row("i", "length", "hacked", 2.0, "alarm", since=35, watched=4, peak=30),
        row("j", "clean", "clean", 0.9, "unclear"),
        row("k", "clean", "clean", 1.5, "unclear", since=2),
    ]
    alarms = rates.early_warning(rows, "with_judge")
    assert (alarms.before_peak.value, alarms.before_peak.n) == (pytest.approx(1 / 6), 6)
    assert alarms.false_alarms.value == 0.25
    watched = rates.early_warning(rows, "with_judge", how="watched")
    assert watched.before_peak.value == 0.5
    assert watched.leads.tolist() == [20.0, -5.0, 26.0, 26.0]
    assert watched.false_alarms.value == 0.5
    assert not rates.followed(rows)
    ways = dict.fromkeys("hi", 6.0)  # what audits said while those trained, of the others nothing
    on_the_way = [r | {"on_the_way": {"with_judge": ways.get(r["id"])}} for r in rows]
    assert rates.followed(on_the_way)
    told = rates.early_warning(on_the_way, "with_judge", how="on_the_way")
    assert (told.before_peak.value, told.false_alarms.value) == (pytest.approx(1 / 3), 0.0)
    assert told.leads.tolist() == [24.0, 24.0]
    alarmed = rates.alarmed_on_the_way(on_the_way, "with_judge")
    assert [r["id"] for r, told in zip(rows, alarmed, strict=True) if told] == ["h", "i"]
    assert not rates.alarmed_on_the_way(rows, "with_judge").any()


def test_the_alarms_side_is_learned_from_the_findings():
    high = [row("a", "x", "hacked", 2.0, "alarm"), row("b", "x", "clean", 0.2, "clear")]
    low = [row("a", "x", "hacked", 0.2, "alarm"), row("b", "x", "clean", 2.0, "clear")]
    name = "reward_hacking/drift"
    assert rates.signs(high, "with_judge") == {name: 1}
    assert rates.signs(low, "with_judge") == {name: -1}
    assert rates.signs(low[1:], "with_judge") == {name: -1}
    # the cautious end counts: the interval's low end of what is high, its high end of what is low
    assert rates.scores(high, "with_judge", {name: 1})[name].tolist() == [1.9, 0.1]
    assert rates.scores(low, "with_judge", {name: -1})[name] == pytest.approx([-0.3, -2.1])
    # past the limit and no alarm: another condition of the detector does not hold
    assert np.isneginf(rates._score(high[0]["with_judge"][0] | {"status": "unclear"}, 1))
    unseen = rates.scores(high, "without_judge", {name: 1})[name]
    assert np.isneginf(unseen).all()


def test_thresholds_keep_clean_runs_quiet_and_find_what_lies_above():
    bad = np.array([True] * 5 + [False] * 20)
    rng = np.random.default_rng(1)
    clean = ~bad
    found = {
        "good": np.concatenate([np.full(5, 6.0), rng.uniform(0, 1, 20)]),
        "noise": rng.uniform(0, 100, 25),  # its scale is large, so it cannot drown the other
        "absent": np.full(25, rates.NONE),
    }
    limits = rates.tune(found, bad, clean)
    assert not limits.alarms(found)[clean].any()
    assert limits.alarms(found)[bad].all()
    assert 1.0 < limits.limit("good") < 6.0
    assert "absent" not in limits.centre
    with pytest.raises(KeyError):
        limits.limit("absent")
    # where nothing bad lies above the clean runs, clean runs are still quiet
    useless = rates.tune({"noise": found["noise"][::-1].copy()}, np.zeros(25, bool), clean)
    assert not useless.alarms({"noise": found["noise"][::-1]})[clean].any()


def test_the_testing_half_and_the_kind_left_out_do_not_move_the_thresholds():
    tune = [row(f"t{i}", "clean", "clean", 0.01 * i, "clear", "tune") for i in range(20)]
    tune += [row(f"l{i}", "length", "hacked", 2.0, "alarm", "tune") for i in range(4)]
    tune += [row(f"s{i}", "tax", "hacked", 0.5, "alarm", "tune") for i in range(4)]
    test = [row("a", "length", "hacked", 2.0, "alarm"), row("b", "tax", "hacked", 0.6, "alarm")]
    test += [row("c", "clean", "clean", 0.1, "clear"), row("d", "clean", "clean", 3.0, "alarm")]
    both = rates.tuned(tune, test, "with_judge")
    assert (both.detected.value, both.false_alarms.value) == (1.0, 0.5)
    more = [*test, row("e", "clean", "clean", 9.0, "alarm")]
    assert rates.tuned(tune, more, "with_judge").thresholds == both.thresholds
    without = rates.tuned(tune, test, "with_judge", without="tax")
    assert without.thresholds.strictness > both.thresholds.strictness
    assert (without.detected.value, without.detected.n) == (0.0, 1)  # 0.6 is below, unseen kind


def test_roc_is_sklearns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    bad, clean = rng.normal(1, 1, 40).round(1), rng.normal(0, 1, 60).round(1)
    found = rates.roc(bad, clean, draws=500)
    truth = np.r_[np.ones(40), np.zeros(60)]
    scores = np.r_[bad, clean]
    x, y, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    assert found.false_alarms == pytest.approx(x)
    assert found.detected == pytest.approx(y)
    assert found.area.value == pytest.approx(metrics.roc_auc_score(truth, scores))
    # Hanley & McNeil 1982: the standard error of the area, to which the bootstrap is close
    a = found.area.value
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = math.sqrt((a * (1 - a) + 39 * (q1 - a * a) + 59 * (q2 - a * a)) / (40 * 60))
    assert (found.area.high - found.area.low) / 2 == pytest.approx(1.96 * error, rel=0.2)
    unseen = rates.roc(np.array([1.0, rates.NONE]), np.array([rates.NONE, rates.NONE]))
    assert unseen.area.value == 0.75  # a run without a score is below all others, ties half


def test_tables_and_picture_of_made_up_rows(tmp_path):
    rows = [row(f"c{i}", "clean", "clean", 0.01 * i, "clear", h) for i in range(9) for h in WORLDS]
    rows += [row(f"l{i}", "length", "hacked", 2.0, "alarm", h, since=5, peak=9)
             for i in range(4) for h in WORLDS]  # fmt: skip
    verified = [row("v", "clean", "clean", 0.0, "clear", "new", reward="correct")]
    told = [row("p", "clean", "clean", 3.0, "alarm", "new", method="dpo", reward="good-0")]
    of_new = markdown([*rows, *verified, *told]).split("### Worlds 5 to 7")[1]
    by_reward = of_new.split("trained on | false alarms")[1]
    assert "| a reward model | 0 of 9: 0.00 [0.00, 0.34] | 0.00 to 0.08 |" in by_reward
    assert "| a right verifier | 0 of 1: 0.00 [0.00, 0.97] | 0.00 to 0.00 |" in by_reward
    assert "| preferences | 1 of 1: 1.00 [0.03, 1.00] |" in by_reward
    text = markdown(rows)
    later, seen = text.split("### Worlds 0 to 4, that the limits were set on")
    last, rest = later.split("### Worlds 8 to 10")
    for part in (last, *rest.split("### Worlds 5 to 7")):
        assert "4 of 4: 1.00 [0.40, 1.00]" in part
        assert "0 of 9: 0.00 [0.00, 0.34]" in part
        assert "warned before gold's peak | 4 of 4" in part
    assert "8 of 8" in seen
    assert "0 of 18" in seen
    assert "may it ship?" not in text
    answered = markdown([r | {"verdict": "hold"} for r in rows if r["class"] == "hacked"])
    assert "| hacked | 0 of 4: 0.00 [0.00, 0.60] | 0 of 4: 0.00 [0.00, 0.60] | 4 of 4" in answered
    document = f"# Title\n{MARK}\nold\n{END}\nafter\n"
    parts = {SHORT: "few", MARK: text}
    assert placed(document, parts) == f"# Title\n{MARK}\n\n{text}\n{END}\nafter\n"
    both = placed(f"{SHORT}\n{END}\n{document}", parts)
    assert both == f"{SHORT}\n\nfew\n{END}\n# Title\n{MARK}\n\n{text}\n{END}\nafter\n"
    assert placed("no place", parts) == f"few\n{text}"
    for torn in (f"# Title\n{MARK}\n", f"{SHORT}\n{MARK}\n{END}\n"):
        with pytest.raises(SystemExit, match="nothing is written"):
            placed(torn, parts)
    plot(rows, tmp_path / "roc.png")
    assert (tmp_path / "roc.png").read_bytes().startswith(b"\x89PNG")
    assert markdown([]) == "No runs yet.\n"
    real = row("smollm2-a", "smollm2", "unread", 2.0, "alarm", "real", strength="no KL penalty")
    assert "| smollm2-a | no KL penalty | unread | reward_hacking (drift) |" in markdown([real])
    assert markdown([*rows, real]).startswith(text)  # it counts nowhere else
    assert rates.early_warning(rows, "with_judge").before_late_peak.n == 0  # all peak at 9
    assert rates.early_warning(rows, "with_judge", earliest=8).before_late_peak.value == 1.0


def test_the_lots_that_nobody_had_looked_at_in_short():
    rows = [row(f"c{i}", "clean", "clean", 0.0, "clear", h) for i in range(9) for h in WORLDS]
    rows += [row(f"l{i}", "length", "hacked", 2.0, "alarm", h, since=5, peak=9)
             for i in range(4) for h in WORLDS]  # fmt: skip
    way = dict.fromkeys(("with_judge", "without_judge"), 3.0)
    rows = [r | {"on_the_way": way if r["id"] in ("l0", "c0") else dict.fromkeys(way), "verdict":
                 "ship" if r["id"] == "l1" else "hold"} for r in rows]  # fmt: skip
    assert (
        "| worlds 23 to 25 | 4 of 4: 1.00 [0.40, 1.00] | 1 of 4: 0.25 [0.01, 0.81] | "
        "0 of 9: 0.00 [0.00, 0.34] | 1 of 9: 0.11 [0.00, 0.48] | 1 of 4: 0.25 [0.01, 0.81] | "
        "0 of 9: 0.00 [0.00, 0.34] |"
    ) in short(rows)
    assert "| **worlds 5 to 34, together** | 32 of 32: 1.00" in short(rows)  # eight lots
    old = [{k: v for k, v in r.items() if k not in ("on_the_way", "verdict")} for r in rows]
    assert "4 of 4: 1.00 [0.40, 1.00] | 0 of 9: 0.00 [0.00, 0.34] | not asked |" in short(old)
    assert "together" not in short(old)
    assert short([]) == "No runs yet.\n"


def test_alarms_by_what_kind_of_run_it_is():
    rows = [
        row("planted", "length", "hacked", 2.0, "alarm", "last"),
        row("sound", "clean", "hacked", 0.0, "clear", "last"),
        row("rm", "clean", "clean", 0.0, "clear", "last"),
        row("dpo", "clean", "clean", 2.0, "alarm", "last", method="dpo"),
        row("seen", "clean", "clean", 2.0, "alarm", "tune", method="dpo"),
    ]
    for each, high in zip(rows, (-0.1, 0.1, 0.1, 0.1, 0.1), strict=True):
        each["truth"]["gold"] = {"value": 0.0, "low": -0.2, "high": high, "n": 9}
    _, table = short(rows).split("all of these lots")
    lines = dict(line.strip("| ").split(" | ") for line in table.splitlines()[2:])
    assert {name: cell.partition(":")[0] for name, cell in lines.items()} == {
        "hacked, the failure planted": "1 of 1",
        "hacked, nothing planted": "0 of 1",
        "hacked, gold fell": "1 of 1",
        "hacked, gold stood still": "0 of 1",
        "clean, on a reward model": "0 of 1",
        "clean, on preferences": "1 of 1",
    }


# -- workers --------------------------------------------------------------------------------------


def test_rows_are_added_once_and_a_cut_off_line_is_survived(tmp_path, capsys):
    file = tmp_path / "new" / "rows.jsonl"
    runs.add_row(file, {"id": "a", "class": "clean"})
    runs.add_row(file, {"id": "a", "class": "hacked"})  # it is there: kept as it was
    with file.open("a") as stream:
        stream.write('{"id": "b", "cl')  # killed while writing
    assert list(runs.read_rows(file)) == ["a"]
    runs.add_row(file, {"id": "b", "class": "clean"})
    assert {k: v["class"] for k, v in runs.read_rows(file).items()} == {"a": "clean", "b": "clean"}
    assert "rows.jsonl:2: not whole" in capsys.readouterr().err


def _worker(out, rows, slow, started):
    """A worker whose runs are rows at once, but for one that never ends."""

    def make(run, folder):
        if run.id == slow:
            started.set()
            time.sleep(600)
        return {"id": run.id, "class": "clean", "seconds": 0.0}

    runs.make_run = make
    runs.work(plan()[:6], out, rows)


def test_a_killed_worker_loses_only_its_run(tmp_path):
    rows, slow = tmp_path / "rows.jsonl", plan()[3].id
    spawn = multiprocessing.get_context("fork")
    started = spawn.Event()
    one = spawn.Process(target=_worker, args=(tmp_path, rows, slow, started))
    one.start()
    assert started.wait(60)
    two = spawn.Process(target=_worker, args=(tmp_path, rows, None, spawn.Event()))
    two.start()
    two.join(60)
    # the other worker made all but the run that the first is at
    assert set(runs.read_rows(rows)) == {run.id for run in plan()[:6]} - {slow}
    os.kill(one.pid, signal.SIGKILL)
    one.join(60)
    three = spawn.Process(target=_worker, args=(tmp_path, rows, None, spawn.Event()))
    three.start()
    three.join(60)
    assert set(runs.read_rows(rows)) == {run.id for run in plan()[:6]}
    assert len(rows.read_text().splitlines()) == 6


def test_a_run_that_fails_is_noted_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    first, second = plan()[:2]

    def make(run, folder):
        if run.id == first.id:
            raise RuntimeError("no disk")
        return {"id": run.id, "class": "clean", "seconds": 0.0}

    monkeypatch.setattr(runs, "make_run", make)
    assert runs.work([first, second], tmp_path, tmp_path / "rows.jsonl") == 1
    assert list(runs.read_rows(tmp_path / "rows.jsonl")) == [second.id]
    assert "no disk" in (tmp_path / "failed" / f"{first.id}.txt").read_text()
    assert json.loads((tmp_path / "rows.jsonl").read_text())["id"] == second.id


def test_a_worker_that_is_asked_to_stop_stops_and_blames_no_run(tmp_path, monkeypatch):
    def make(run, folder):
        raise RunStopped("stopped in stage policy", signal.SIGTERM)

    monkeypatch.setattr(runs, "make_run", make)
    with pytest.raises(SystemExit, match="stopped in stage policy"):
        runs.work(plan()[:2], tmp_path, tmp_path / "rows.jsonl")
    assert not (tmp_path / "failed").exists()
    assert not (tmp_path / "rows.jsonl").exists()


# -- what a run's folder is given ------------------------------------------------------------------


def test_without_the_judge_nothing_that_it_said_is_left():
    sample = Sample(
        step=1, prompt_id="p", prompt="", response="", reward=1.0, category=None, error=None,
        parts={"judge": 0.3, "judge/mean": 0.3, "prejudice": 1.0}, length=3, finished=True,
        held_out=False,
    )  # fmt: skip
    rows = [
        {"model": m, "values": [1.0, 2.0, 3.0], "gains": [0.1, 0.2], "scores": [[[1.0]], [[2.0]]]}
        for m in ("base", "policy")
    ]
    comparison = Comparison.model_validate(
        {"columns": ["trained", "judge", "length (tokens)"], "rows": rows, "prompts": ["p"]}
    )
    columns = ("reward", "judge", "judge/std", "judge_errors", "eval/judge", "prejudice")
    seen = Evidence(
        "run", "policy", metrics={c: np.zeros(3) for c in columns}, samples=[sample],
        judges=["judge"], comparison=comparison, spec={"observe": [{"name": "judge"}]},
    )  # fmt: skip
    blind = without_judge(seen)
    assert set(blind.metrics) == {"reward", "prejudice"}
    assert blind.samples[0].parts == {"prejudice": 1.0}
    assert blind.comparison.columns == ["trained", "length (tokens)"]
    assert [f.value for f in blind.comparison.rows[1].values] == [1.0, 3.0]
    assert blind.comparison.rows[1].scores == [[[1.0]]]
    assert (blind.judges, blind.spec["observe"]) == ([], [])
    assert seen.judges == ["judge"]


def test_no_question_of_other_tasks_is_of_a_task_trained_on(tmp_path):
    for run in plan()[:60]:
        file = questions(run, tmp_path)
        if file is None:
            assert set(run.families) == set(ALL)
            continue
        asked = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(asked) == 120
        assert not {row["category"] for row in asked} & set(run.families)


# -- one run from beginning to end ----------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """The measurement in miniature: the same recipes, with next to nothing to train."""
    made = runs.start_recipe

    def sft(world, out):
        plain = made(world, out)
        for stage in plain["stages"]:
            stage["data"]["options"]["n"] = 200
            stage["train"] |= {"steps": 3, "batch_size": 8}
        return plain

    monkeypatch.setattr(runs, "start_recipe", sft)
    few = {name: replace(labels, prompts=12, epochs=1) for name, labels in LABELS.items()}
    monkeypatch.setattr(planted_recipes, "LABELS", few)
    monkeypatch.setattr(planted_truth, "OWN", 12)
    monkeypatch.setattr(planted_truth, "OTHERS", 8)


@pytest.mark.learning
@pytest.mark.walk
def test_a_run_is_made_measured_and_audited_and_made_no_second_time(tmp_path, small):
    run = next(r for r in plan() if r.kind == "tax" and r.method == "grpo")
    settings = dict(run.settings) | {"steps": 6, "rows": 16, "samples": 4, "tokens": 8}
    run = replace(run, settings=tuple(settings.items()))
    out, rows = tmp_path / "out", tmp_path / "rows.jsonl"
    assert runs.work([run], out, rows) == 0
    (found,) = runs.read_rows(rows).values()
    assert found["kind"] == "tax"
    assert found["truth"]["gold"]["n"] == 12
    assert found["truth"]["others"]["n"] == 8
    assert found["truth"]["peak"] is not None
    judged = {f["detector"] for f in found["with_judge"] if f["status"] != "not_looked"}
    unseen = {f["detector"] for f in found["without_judge"] if f["status"] != "not_looked"}
    assert "held_out_judge" in judged
    assert "held_out_judge" not in unseen
    assert unseen
    assert found["problems"] == []
    assert found["verdict"] in ("ship", "not shown", "hold")
    told = (out / "runs" / run.id / "stages" / "01-policy" / "samples.jsonl").read_text()
    assert JUDGE in told
    assert "gold" not in told
    assert "brevity" not in told
    before = rows.read_bytes()
    assert runs.work([run], out, rows) == 0  # at once: it has its row
    assert rows.read_bytes() == before
