"""Verdicts: said when planted, silent when not."""

import re
from dataclasses import replace

import numpy as np
import pytest

from gnomon.report.verdict import ends_differ, verdicts
from gnomon.runs.audit import Audit, Finding
from gnomon.runs.comparison import Comparison
from gnomon.runs.read import RunView, StageView, read_run
from gnomon.runs.records import Evals, StageInfo
from gnomon.stats.intervals import Interval, mean_interval
from gnomon.stats.prompts import paired_shares


def _texts(run, kind=None):
    return [v.text for v in verdicts(run) if kind in (None, v.kind)]


def _stage(tmp_path, name, algorithm, status, error="", **rest):
    info = StageInfo(algorithm=algorithm, status=status, error=error)
    return StageView(tmp_path, name, info, **rest)


def _table(columns, rows, **rest):
    """A comparison of ``{model: [figures]}``."""
    rows = [{"model": model, "values": list(values)} for model, values in rows.items()]
    return Comparison(columns=list(columns), rows=rows, **rest)


def _ppo(tmp_path, **metrics):
    arrays = {k: np.asarray(v, dtype=float) for k, v in metrics.items()}
    stage = _stage(tmp_path, "ppo", "ppo", "done", metrics=arrays)
    return RunView(tmp_path, "run", stages=(stage,))


def test_the_planted_faults_are_all_named(run_dir):
    run = read_run(run_dir)
    truth = "\n".join(_texts(run, "truth"))
    assert "over-optimised" in truth
    assert "Gold reward (simulated truth): ppo is worse than sft by 0.13" in truth
    warned = "\n".join(_texts(run, "warn"))
    assert "favours longer responses" in warned
    assert "responses grew from" in warned
    assert "3 rows were skipped" in warned
    assert any("above chance" in t for t in _texts(run, "good"))
    assert not any("proxy" in t.lower() for t in _texts(run, "good"))
    assert any("ppo and sft cannot be told apart" in t for t in _texts(run, "plain"))


@pytest.mark.parametrize("seed", range(5))
def test_a_gold_reward_that_rises_is_told_as_the_truth_of_a_simulation(tmp_path, seed):
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, 100)
    run = _ppo(tmp_path, kl=9 * x, reward=x + rng.normal(0, 0.05, 100),
               gold=np.sqrt(x) + rng.normal(0, 0.1, 100))  # fmt: skip
    assert _texts(run, "bad") == []
    assert _texts(run, "good") == []
    assert "gold reward (simulated truth) rose" in _texts(run, "truth")[0]


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_finding(tmp_path, seed):
    rng = np.random.default_rng(100 + seed)
    run = _ppo(tmp_path, kl=rng.random(60), reward=rng.normal(size=60), gold=rng.normal(size=60))
    assert _texts(run, "bad") == []
    assert not any("over-optimised" in t for t in _texts(run))


def test_ends_differ_finds_trends_at_the_rate_asked_for():
    rng = np.random.default_rng(0)
    false = sum(ends_differ(rng.normal(size=100))[2] for _ in range(400))
    assert false / 400 < 0.09
    found = sum(ends_differ(np.linspace(0, 2, 100) + rng.normal(size=100))[2] for _ in range(100))
    assert found > 90
    # Held-out points are few and smooth; their own curvature must not hide the trend.
    assert ends_differ(np.array([0.35, 0.6, 0.75, 0.8, 0.82, 0.83]))[2]


def test_direction_of_better(tmp_path):
    def run(column, a, b):
        ends = {"old": (a, a - 0.01, a + 0.01), "new": (b, b - 0.01, b + 0.01)}
        rows = {model: [Interval(*figure)] for model, figure in ends.items()}
        return RunView(tmp_path, "r", comparison=_table([column], rows))

    assert "better than" in _texts(run("win rate", 0.1, 0.5), "good")[0]
    assert "worse than" in _texts(run("win rate", 0.5, 0.1), "bad")[0]
    assert "better than" in _texts(run("gold reward", 0.1, 0.5), "truth")[0]
    assert "worse than" in _texts(run("gold reward", 0.5, 0.1), "truth")[0]
    assert "better than" in _texts(run("ECE", 0.5, 0.1), "good")[0]
    assert _texts(run("KL from sft (nats)", 0.1, 5.0)) == []
    assert _texts(run("length (tokens)", 10.0, 50.0)) == []


def _compared(tmp_path, old, new, gain=None, column="accuracy"):
    """Two models' 0/1 answers, as compare would write them; with ``gain`` paired by prompt."""
    rows = [
        {"model": "old", "values": [mean_interval(old).to_dict()], "gains": [0.0]},
        {"model": "new", "values": [mean_interval(new).to_dict()], "gains": []},
    ]
    if gain:
        rows[1]["gains"] = [paired_shares(new, old).to_dict()]
    comparison = Comparison(columns=[column], reference="old", rows=rows)
    return RunView(tmp_path, "r", comparison=comparison)


@pytest.mark.parametrize("gain", [True, False])
def test_few_answers_that_are_all_alike_are_not_told_apart(tmp_path, gain):
    (said,) = verdicts(_compared(tmp_path, [0, 0], [1, 1], gain))
    assert said.kind == "plain"
    assert "cannot be told apart" in said.text
    assert "n=2" in said.text
    (said,) = verdicts(_compared(tmp_path, [0] * 20, [1] + [0] * 19, gain))
    assert "cannot be told apart" in said.text
    (said,) = verdicts(_compared(tmp_path, [0] * 20, [1] * 20, gain))
    assert said.kind == "good"


def test_the_reference_is_compared_by_prompt_where_it_can_be(tmp_path):
    """Every second prompt is easy, and 6 of the hard ones are gained: only pairing sees it."""
    old, new = [1, 0] * 20, [1, 0] * 14 + [1, 1] * 6
    apart, paired = (verdicts(_compared(tmp_path, old, new, g))[0] for g in (False, True))
    assert (apart.kind, paired.kind) == ("plain", "good")
    worse = verdicts(_compared(tmp_path, new, old, True))[0]
    assert worse.kind == "bad"
    assert "worse than old by 0.15" in worse.text


def test_a_gap_without_intervals_is_said_to_have_none(tmp_path):
    rows = {"old": [Interval(2.0)], "new": [Interval(3.0, n=9)]}
    (said,) = verdicts(RunView(tmp_path, "r", comparison=_table(["reward"], rows)))
    assert said.kind == "plain"
    assert "given without intervals" in said.text


def test_rare_successes_in_a_row_are_no_trend():
    assert not ends_differ(np.zeros(40))[2]
    assert not ends_differ(np.array([0.0] * 8 + [1.0, 1.0]))[2]
    assert not ends_differ(np.array([0.0, 0, 0, 0, 1]))[2]
    assert ends_differ(np.array([0.0] * 60 + [1.0] * 60))[2]


def test_few_points_of_noise_are_seldom_a_trend():
    rng = np.random.default_rng(1)
    for n in (5, 8, 12):
        assert sum(ends_differ(rng.normal(size=n))[2] for _ in range(400)) / 400 < 0.1


def test_the_learned_reward_is_no_evidence_whatever_it_is_called(tmp_path):
    stage = _stage(tmp_path, "helpful_rm", "reward_model", "done")
    low, high = Interval(0.1, 0.0, 0.2), Interval(5.0, 4.9, 5.1)
    for column, kinds in (("helpful rm", ["plain"]), ("judge", ["good"])):
        view = _table([column], {"old": [low], "new": [high]})
        run = RunView(tmp_path, "r", stages=(stage,), comparison=view)
        assert [v.kind for v in verdicts(run)] == kinds


def test_chance_unfinished_and_failed(tmp_path):
    evals = {"held_out": {"accuracy": {"value": 0.55, "low": 0.45, "high": 0.65}}}
    rm = _stage(tmp_path, "rm", "reward_model", "failed", "disk full", evals=Evals(evals))
    sft = _stage(tmp_path, "sft", "sft", "running")
    texts = _texts(RunView(tmp_path, "r", stages=(rm, sft)))
    assert any("not shown to be better than chance" in t for t in texts)
    assert any("rm failed (disk full)" in t for t in texts)
    assert any("sft has not finished" in t for t in texts)
    cut = _ppo(tmp_path, finished=np.full(20, 0.4))
    assert "only 40% of the last responses" in _texts(cut, "warn")[0]


def _pairs(tmp_path, **metrics):
    arrays = {k.replace("__", "/"): np.asarray(v, dtype=float) for k, v in metrics.items()}
    stage = _stage(tmp_path, "dpo", "dpo", "done", metrics=arrays)
    return RunView(tmp_path, "run", stages=(stage,))


def test_likelihood_displacement_is_named_and_its_absence_is_not(tmp_path):
    x = np.linspace(0, 1, 20)
    falling = _pairs(tmp_path, displacement=0.9 * x, logprobs__chosen_change=-3 * x,
                     logprobs__rejected_change=-9 * x)  # fmt: skip
    (said,) = _texts(falling, "warn")
    assert "both answers became less likely" in said
    assert "nll_coef" in said
    rising = _pairs(tmp_path, displacement=0.2 * x, logprobs__chosen_change=3 * x,
                    logprobs__rejected_change=-9 * x)  # fmt: skip
    assert _texts(rising, "warn") == []


@pytest.mark.parametrize(("low", "kind"), [(0.55, "good"), (0.45, "bad")])
def test_held_out_accuracy_of_pairs_is_judged_against_chance(tmp_path, low, kind):
    run = _pairs(tmp_path, displacement=[0.0], eval__accuracy=[0.6], eval__accuracy_low=[low],
                 eval__accuracy_high=[0.65])  # fmt: skip
    (said,) = _texts(run, kind)
    assert "held-out accuracy 0.6" in said


def test_many_models_are_told_in_one_sentence_for_each_measure(tmp_path):
    values = {"sft": 0.5, "a": 0.9, "b": 0.55, "c": 0.1, "d": 0.8, "e": 0.5}
    rows = {model: [Interval(v, v - 0.1, v + 0.1)] for model, v in values.items()}
    comparison = _table(["judge"], rows, reference="sft")
    run = RunView(tmp_path, "run", comparison=comparison)
    (said,) = verdicts(run)
    assert said.text == (
        "Judge against sft (0.500 [0.400, 0.600]): a, d above it; c below it; "
        "b, e not told apart from it."
    )
    assert said.kind == "warn"

    # paired by prompt, b's small gain is beyond noise
    comparison.row("b").gains = [Interval(0.05, 0.01, 0.09)]
    (said,) = verdicts(run)
    assert "a, b, d above it" in said.text


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("judge", (0.5, 0.5, 0.5, 0.5, 0.5), "plain"),  # nobody gained: nothing to praise
        ("judge", (0.5, 0.9, 0.5, 0.5, 0.5), "good"),
        ("judge", (0.5, 0.9, 0.5, 0.1, 0.5), "warn"),
        ("errors", (0.5, 0.9, 0.5, 0.5, 0.5), "warn"),
        ("errors", (0.5, 0.1, 0.5, 0.5, 0.5), "good"),
        ("proxy reward", (0.5, 0.1, 0.9, 0.5, 0.5), "plain"),
    ],
)
def test_many_models_are_good_news_only_where_one_is_better(tmp_path, column, values, kind):
    rows = {f"m{i}": [Interval(v, v - 0.1, v + 0.1)] for i, v in enumerate((0.5, *values))}
    comparison = _table([column], rows, reference="m0")
    (said,) = verdicts(RunView(tmp_path, "run", comparison=comparison))
    assert said.kind == kind


def _recipe(**stage):
    reward = stage.pop("reward", "leaky")
    ppo = {"name": "ppo", "algorithm": "ppo", "reward": reward, **stage}
    return {"stages": [ppo], "compare": {"rewards": ["leaky", "length", {"model": "rm"}, "gold"]}}


def _rising(tmp_path, recipe, columns, audit=None):
    low, high = Interval(0.1, 0.0, 0.2), Interval(5.0, 4.9, 5.1)
    view = _table(columns, {"old": [low] * len(columns), "new": [high] * len(columns)})
    stage = _stage(tmp_path, "ppo", "ppo", "done")
    return RunView(tmp_path, "r", recipe=recipe, stages=(stage,), comparison=view, audit=audit)


@pytest.mark.parametrize(
    ("reward", "trained"),
    [
        ("leaky", "leaky"),
        ([{"builtin": "leaky", "name": "nice", "weight": 2.0}], "leaky"),
        ([{"model": "rm"}], "rm"),
        ([{"builtin": "length", "options": {}}, {"builtin": "leaky"}], "leaky length"),
        ("gold", "gold"),
    ],
)
def test_whatever_the_recipe_trains_on_is_never_good_news(tmp_path, reward, trained):
    columns = ["leaky", "length", "rm", "gold"]
    said = verdicts(_rising(tmp_path, _recipe(reward=reward), columns))
    found = {re.match(r"\w+", v.text).group().lower(): v for v in said}
    for column in set(columns) - {"length"}:  # a length has no better direction
        told = column in ("gold", "leaky")  # both ask the built-in world what is right
        kind = "plain" if column in trained else "truth" if told else "good"
        assert found[column].kind == kind
        assert ("(trained on)" in found[column].text) == (column in trained)


def test_nothing_is_good_news_while_an_alarm_stands(tmp_path):
    alarm = Audit(findings=[Finding(name="reward_hacking", stage="ppo", status="alarm")])
    for audit, kinds in ((None, {"good"}), (Audit(), {"good"}), (alarm, {"plain"})):
        run = _rising(tmp_path, _recipe(), ["judge"], audit)
        assert {v.kind for v in verdicts(run)} == kinds


@pytest.mark.parametrize(
    ("idle", "kind", "said"),
    [
        (8, "bad", "Stage ppo trained nothing in any of its 8 iterations: why; do x. Its model is"),
        (4, "warn", "Stage ppo trained nothing in 4 of its 8 iterations: why; do x."),
        (3, "", ""),
    ],
)
def test_training_for_nothing_is_a_line_with_its_cure(tmp_path, idle, kind, said):
    view = _ppo(tmp_path, reward=[0.0] * 8, grad_norm=[0.0] * idle + [1.0] * (8 - idle))
    info = StageInfo(
        name="ppo", algorithm="ppo", status="done", iterations=8,
        idle_iterations=idle, idle_reason="why; do x",
    )  # fmt: skip
    told = [v for v in verdicts(replace(view, stages=(replace(view.stages[0], info=info),)))
            if "trained nothing" in v.text]  # fmt: skip
    assert [(v.kind, v.text[: len(said)]) for v in told] == ([(kind, said)] if kind else [])


def test_training_for_nothing_is_known_by_the_gradients_where_no_record_counts(tmp_path):
    """Of another trainer's run, and of one that is still going."""
    view = _ppo(tmp_path, reward=[0.0] * 6, grad_norm=[0.0] * 6)
    assert any("trained nothing in any of its 6 iterations." in t for t in _texts(view))
    begun = StageInfo(name="ppo", algorithm="ppo", status="running", planned_iterations=40)
    going = replace(view, stages=(replace(view.stages[0], info=begun),))
    assert not any("trained nothing" in t for t in _texts(going))
