"""Evaluations: intervals for every number, reward-model quality, and the shape of sampled text."""

from gnomon.evals.generation import GenerationReport, evaluate_generations
from gnomon.evals.passk import pass_curve, pass_gain
from gnomon.evals.reward_model import RewardModelReport, evaluate_comparisons
from gnomon.evals.statistics import (
    Interval,
    accuracy_by_category,
    expected_calibration_error,
    mean_interval,
    paired_difference,
    pass_at_k,
    wilson_interval,
    win_rate,
)

__all__ = [
    "GenerationReport",
    "Interval",
    "RewardModelReport",
    "accuracy_by_category",
    "evaluate_comparisons",
    "evaluate_generations",
    "expected_calibration_error",
    "mean_interval",
    "paired_difference",
    "pass_at_k",
    "pass_curve",
    "pass_gain",
    "wilson_interval",
    "win_rate",
]
