"""Reward-model figures by hand, and on scorers with a known fault."""

import json

import numpy as np
import pytest

from gnomon.errors import DataError
from gnomon.stats.intervals import weighted_proportion
from gnomon.stats.reward_model import evaluate_comparisons


def test_accuracy_by_hand_ties_weights_and_equal_scores():
    report = evaluate_comparisons(
        [2.0, 0.0, 1.0, 5.0, 9.0],
        [1.0, 1.0, 1.0, 0.0, 0.0],
        category=["x", "x", "y", "y", "y"],
        ties=[False, False, False, True, False],
        weights=[1, 1, 1, 1, 0],
    )
    # Right, wrong, undecided (a half); the tie and the zero weight do not count.
    assert report.accuracy == weighted_proportion([1, 0, 0.5])
    assert {k: v.value for k, v in report.by_category.items()} == {"x": 0.5, "y": 0.5}
    assert report.mean_margin == pytest.approx(0.0)
    assert (report.undecided, report.ties, report.tie_margin) == (1, 1, 5.0)
    assert report.better_shorter is None


def test_calibration_judges_the_preferred_side():
    rng = np.random.default_rng(0)
    margin = np.abs(rng.normal(0, 2, 20000))
    right = rng.uniform(size=margin.size) < 1 / (1 + np.exp(-margin))
    signed = np.where(right, margin, -margin)
    honest = evaluate_comparisons(signed, np.zeros_like(signed))
    assert honest.ece < 0.02
    # Judging sigmoid(margin) against "the labelled winner wins" would call this badly calibrated.
    naive = float(np.mean(1 - 1 / (1 + np.exp(-signed))))
    assert naive > 0.2
    loud = evaluate_comparisons(5 * signed, np.zeros_like(signed))
    assert loud.ece > 0.1
    assert loud.accuracy == honest.accuracy


def test_length_probe_exposes_a_scorer_of_length():
    rng = np.random.default_rng(0)
    better, worse = rng.integers(1, 100, 400), rng.integers(1, 100, 400)
    biased = evaluate_comparisons(better / 10, worse / 10, lengths=(better, worse))
    assert biased.length_pearson == pytest.approx(1.0)
    assert biased.length_spearman == pytest.approx(1.0)
    assert biased.better_longer.value == 1.0
    assert biased.better_shorter.value == 0.0
    fair = evaluate_comparisons(
        rng.normal(1, 1, 400), rng.normal(0, 1, 400), lengths=(better, worse)
    )
    assert abs(fair.length_pearson) < 0.1
    assert abs(fair.better_longer.value - fair.better_shorter.value) < 0.12


def test_report_is_json():
    report = evaluate_comparisons(
        [1.0, 2.0], [0.0, 3.0], category=["a", "b"], lengths=([3, 4], [5, 2])
    )
    again = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert again["accuracy"]["value"] == 0.5
    assert sum(b["count"] for b in again["reliability"]) == 2


def test_no_comparison_at_all_is_still_a_report():
    report = evaluate_comparisons([], [])
    assert report.to_dict()["accuracy"]["value"] is None
    json.dumps(report.to_dict(), allow_nan=False)


def test_bad_scores_are_named():
    with pytest.raises(DataError, match=r"worse response of comparison 1 .* scored nan"):
        evaluate_comparisons([1.0, 2.0], [0.0, float("nan")])
    with pytest.raises(ValueError, match="2 better scores but 1"):
        evaluate_comparisons([1.0, 2.0], [0.0])
