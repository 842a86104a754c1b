"""Evaluations: intervals for every number, reward-model quality, and the shape of sampled text."""

from gnomon.stats.generation import GenerationReport, evaluate_generations
from gnomon.stats.intervals import (
    Interval,
    exact_interval,
    mean_interval,
    mean_of_shares,
    weighted_proportion,
    wilson_interval,
)
from gnomon.stats.prompts import (
    gain_between_runs,
    gain_over_prompts,
    independent_difference,
    over_prompts,
    paired_difference,
    paired_shares,
    pass_curve,
    pass_gain,
)
from gnomon.stats.reward_model import RewardModelReport, evaluate_comparisons
from gnomon.stats.statistics import (
    accuracy_by_category,
    expected_calibration_error,
    pass_at_k,
    win_rate,
)

__all__ = [
    "GenerationReport",
    "Interval",
    "RewardModelReport",
    "accuracy_by_category",
    "evaluate_comparisons",
    "evaluate_generations",
    "exact_interval",
    "expected_calibration_error",
    "gain_between_runs",
    "gain_over_prompts",
    "independent_difference",
    "mean_interval",
    "mean_of_shares",
    "over_prompts",
    "paired_difference",
    "paired_shares",
    "pass_at_k",
    "pass_curve",
    "pass_gain",
    "weighted_proportion",
    "wilson_interval",
    "win_rate",
]
