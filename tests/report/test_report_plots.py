"""Plots: what is drawn and from what, by pixels and by the values behind them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_rgb
from scipy.optimize import curve_fit
from tests_report_oracles import gold_at

from gnomon.errors import DataError
from gnomon.report import plots, style
from gnomon.report.overoptimisation import (
    best_of_curves,
    fit_gold,
    overoptimisation_plot,
    trajectory,
)
from gnomon.runs.comparison import Comparison
from gnomon.runs.evals import EvalResult
from gnomon.runs.read import RunView, StageView, read_run
from gnomon.runs.records import StageInfo
from gnomon.stats.intervals import Interval


def _has_colour(path, colour):
    pixels = image.imread(path)[:, :, :3]
    return bool((np.abs(pixels - np.array(to_rgb(colour))).max(axis=2) < 0.02).any())


def _stage(tmp_path, **metrics):
    arrays = {k: np.array(v, dtype=float) for k, v in metrics.items()}
    return StageView(folder=tmp_path, name="s", metrics=arrays)


@pytest.mark.parametrize("n", [20, 61, 200])
def test_smoothing_is_a_running_mean(n):
    y = np.random.default_rng(n).normal(size=n)
    mean, window = style.smooth(y)
    half = window // 2
    naive = [y[max(0, i - half) : i + half + 1].mean() for i in range(n)]
    assert window > 1
    np.testing.assert_allclose(mean, naive, atol=1e-12)
    np.testing.assert_allclose(style.smooth(np.full(n, 3.0))[0], 3.0)
    assert style.smooth(y[:19])[1] == 1


def test_panels_known_first_unknown_too_bounds_and_empty_out(tmp_path):
    nan = [math.nan] * 2
    stage = _stage(
        tmp_path, step=[1, 2], seconds=[1, 2], zeal=[1, 2], kl=[0, 1], reward=[1, 2], empty=nan,
        **{"eval/kl": [0, 1], "eval/accuracy": [0.5, 0.6], "eval/accuracy_low": [0.4, 0.5],
           "eval/accuracy_high": [0.6, 0.7], "too_low": [1, 2]},
    )  # fmt: skip
    assert plots.curve_panels(stage) == ["accuracy", "reward", "kl", "too_low", "zeal"]


def test_curves_draw_training_and_held_out(reported, tmp_path):
    stage = read_run(reported).stages[0]
    path = plots.training_curves(stage, tmp_path / "curves.png")
    assert image.imread(path).shape[1] > 1500
    assert _has_colour(path, style.BLUE)
    assert _has_colour(path, style.VERMILLION)
    only = _stage(tmp_path, step=[1, 2, 3], loss=[3, 2, 1])
    assert not _has_colour(plots.training_curves(only, tmp_path / "one.png"), style.VERMILLION)
    assert plots.training_curves(_stage(tmp_path), tmp_path / "none.png") is None


def test_distance_is_the_root_of_kl_and_held_out_figures_come_first(reported):
    ppo = read_run(reported).stages[2]
    t = trajectory(ppo)
    assert t.held_out
    assert t.kl.size == 12
    np.testing.assert_allclose(t.distance**2, t.kl, atol=1e-9)
    training = {k: v for k, v in ppo.metrics.items() if not k.startswith("eval/")}
    noisy = trajectory(training)
    assert not noisy.held_out
    assert noisy.kl.size == 120
    assert (noisy.distance >= 0).all()
    assert trajectory({"kl": np.array([1.0, 2.0])}) is None
    assert trajectory({"kl": np.arange(3.0), "reward": np.arange(3.0)}).gold is None
    assert trajectory(read_run(reported)).kl.size == 12


def test_the_planted_gold_curve_is_found_again():
    d = np.linspace(0.1, 4, 40)
    fit = fit_gold(d, gold_at(d))
    assert (fit.start, fit.alpha, fit.beta) == pytest.approx((0.35, 0.42, 0.28))
    noisy = gold_at(d) + np.random.default_rng(0).normal(0, 0.02, d.size)
    theirs, _ = curve_fit(lambda x, r, a, b: r + x * (a - b * np.log(x)), d, noisy)
    ours = fit_gold(d, noisy)
    assert (ours.start, ours.alpha, ours.beta) == pytest.approx(theirs, rel=1e-4)
    assert 0.9 < ours.r2 < 1
    assert fit_gold(d[:5], d[:5]) is None


def test_overoptimisation_one_colour_per_run(reported, tmp_path):
    run = read_run(reported)
    one = overoptimisation_plot({"beta 0": run}, tmp_path / "one.png")
    two = overoptimisation_plot({"beta 0": run, "beta 0.1": run}, tmp_path / "two.png")
    assert not _has_colour(one, style.VERMILLION)
    assert _has_colour(two, style.VERMILLION)
    with pytest.raises(DataError, match="none of the runs"):
        overoptimisation_plot({"sft": run.stages[0]}, tmp_path / "no.png")


def test_rewards_of_unlike_scale_get_a_panel_each(tmp_path):
    kl = np.linspace(0, 9, 12)
    like = {"kl": kl, "reward": kl / 9, "gold": 1 - kl / 9}
    unlike = {"kl": kl, "reward": 40 * kl, "gold": 1 - kl / 9}
    a = image.imread(overoptimisation_plot({"r": like}, tmp_path / "a.png"))
    b = image.imread(overoptimisation_plot({"r": unlike}, tmp_path / "b.png"))
    assert b.shape[1] > 1.5 * a.shape[1]


def test_bars_lengths_and_names_with_dollars(reported, tmp_path):
    rows = [{"model": "$\\frac", "values": [Interval(1.0, 0.9, 1.2), None]}]
    rows += [{"model": "b", "values": [Interval(-1.0), None]}]
    comparison = Comparison(columns=["reward $x^{", "empty"], rows=rows)
    path = plots.comparison_bars(comparison, tmp_path / "bars.png")
    assert path.stat().st_size > 5000
    assert plots.comparison_bars(Comparison(), tmp_path / "none.png") is None
    stage = read_run(reported).stages[2]
    first, last = plots.before_after(stage)
    assert {s["step"] for s in first} == {4}
    assert {s["step"] for s in last} == {480}
    assert plots.length_histogram(stage, tmp_path / "lengths.png").exists()
    assert plots.length_histogram(_stage(tmp_path), tmp_path / "none.png") is None


def test_reliability_and_categories_need_data(tmp_path):
    bins = [{"low": 0.5, "high": 0.75, "accuracy": 0.6, "count": 5, "confidence": 0.62}]
    assert plots.reliability_diagram(bins, tmp_path / "r.png", ece=0.02).exists()
    assert plots.reliability_diagram([{"low": 1}], tmp_path / "r2.png") is None
    assert plots.category_accuracy({"a": Interval(0.7)}, tmp_path / "c.png").exists()
    assert plots.category_accuracy({}, tmp_path / "c2.png") is None


def _best_of(judge, **values):
    return EvalResult(
        suite="best_of_n/x",
        model="sft",
        scores={f"best_of_{n[1:]}": Interval(v) for n, v in values.items()},
        settings={"judge": judge},
    )


def test_best_of_n_is_drawn_where_the_stages_own_reward_or_the_truth_judged(tmp_path):
    stage = _stage(tmp_path, kl=np.linspace(0, 9, 12), reward=np.linspace(0, 1, 12))
    stage = replace(stage, info=StageInfo(start={"from": "runs/x/stages/01-sft/model"}))
    recipe = {"stages": [{"name": "s", "reward": [{"model": "rm"}]}]}
    results = (
        _best_of({"model": "rm"}, n4=0.7, n1=0.1, n2=0.5),
        _best_of({"builtin": "gold"}, n1=0.2, n2=0.3),
        _best_of({"builtin": "ai", "options": {"model": "j"}}, n1=5.0, n2=6.0),
    )
    run = RunView(tmp_path, "x", recipe=recipe, stages=(stage,), results=results)
    proxy, gold = best_of_curves(run, stage)  # the AI judge has another scale
    assert (proxy.gold, gold.gold) == (False, True)
    # log n - (n - 1) / n, by hand
    np.testing.assert_allclose(proxy.kl, [0.0, 0.193147, 0.636294], atol=1e-6)
    assert proxy.values.tolist() == [0.1, 0.5, 0.7]
    plain = image.imread(overoptimisation_plot({"s": stage}, tmp_path / "a.png"))
    crossed = image.imread(overoptimisation_plot({"s": stage}, tmp_path / "b.png", [proxy]))
    assert plain.shape != crossed.shape or (plain != crossed).any()
    other = replace(stage, info=StageInfo(start={"from": "runs/x/stages/02-other/model"}))
    assert best_of_curves(run, other) == []
