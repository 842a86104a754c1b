"""Length-controlled win rates: known coefficients found again, and a leaderboard's figures."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from gnomon.stats.intervals import weighted_proportion
from gnomon.stats.length_controlled import (
    BASELINE_LENGTH,
    instruction_difficulty,
    length_controlled,
    length_term,
)

MODELS = ("NullModel", "claude-2.1", "gemma-7b-it", "vicuna-7b-v1.5")


def made(n: int, theta: float, phi: float, gamma: np.ndarray, seed: int = 0) -> tuple:
    """Verdicts of a judge with a known liking for length."""
    rng = np.random.default_rng(seed)
    own, baseline = rng.integers(100, 900, n), rng.integers(300, 1500, n)
    z = length_term(own, baseline)
    wins = (rng.random(n) < expit(theta + phi * z + gamma)).astype(float)
    return wins, own, baseline, z


def test_a_known_liking_for_length_is_taken_out() -> None:
    n = 4000
    gamma = np.random.default_rng(1).normal(0, 1, n)
    wins, own, baseline, _ = made(n, 0.4, -1.6, gamma)
    found = length_controlled(wins, own, baseline, gamma)
    truth = float(expit(0.4 + gamma).mean())
    assert abs(found.win_rate.value - truth) < 0.03
    assert found.win_rate.low < truth < found.win_rate.high
    assert found.length == pytest.approx(-1.6, abs=0.2)
    assert abs(wins.mean() - truth) > 0.1  # the raw one is off: there was something to take out


def test_equally_long_answers_leave_the_win_rate_as_it_is() -> None:
    wins = np.array([1.0, 0, 0, 1, 1, 0, 1, 1, 0.5, 1, 1, 1] * 20)
    lengths = np.full(wins.size, 100)
    found = length_controlled(wins, lengths, lengths).win_rate
    assert found.value == pytest.approx(wins.mean(), abs=0.02)


def test_verdicts_that_are_all_alike_have_the_interval_of_a_share() -> None:
    lengths = np.arange(50)
    found = length_controlled(np.ones(50), lengths, lengths[::-1])
    assert found.win_rate.value == 1.0
    assert 0.9 < found.win_rate.low < 1.0


def test_a_row_twice_is_not_two_instructions() -> None:
    gamma = np.zeros(300)
    wins, own, baseline, _ = made(300, 0.2, -1.0, gamma)
    once = length_controlled(wins, own, baseline).win_rate
    twice = length_controlled(
        np.tile(wins, 2), np.tile(own, 2), np.tile(baseline, 2), clusters=[*range(300)] * 2
    ).win_rate
    width = once.high - once.low
    assert twice.n == once.n
    assert twice.high - twice.low == pytest.approx(width, rel=0.12)


def test_the_interval_covers_and_the_bootstrap_agrees() -> None:
    covered, n = 0, 250
    gamma = np.random.default_rng(5).normal(0, 1, n)
    truth = float(expit(-0.5 + gamma).mean())
    for seed in range(60):
        wins, own, baseline, _ = made(n, -0.5, BASELINE_LENGTH, gamma, seed)
        rate = length_controlled(wins, own, baseline, gamma).win_rate
        covered += rate.low <= truth <= rate.high
    assert covered >= 52  # 57 expected of 60 at 95%; below 52 has a chance of 1%


def test_difficulties_are_found_from_several_models() -> None:
    n, rng = 300, np.random.default_rng(2)
    gamma = rng.normal(0, 1.5, n)
    table = [made(n, theta, -1.0, gamma, seed) for seed, theta in enumerate((-1, 0, 1, 0.5, -0.5))]
    wins = np.array([row[0] for row in table])
    wins[0, :40] = np.nan  # a model without a verdict on some
    found = instruction_difficulty(wins, [row[3] for row in table])
    assert np.corrcoef(found, gamma)[0, 1] > 0.7


def test_lengths_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="3 wins, 2 lengths"):
        length_controlled([1, 0, 1], [1, 2], [3, 4])


# -- AlpacaEval 2 ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alpaca(shared_data: Path) -> dict[str, tuple[list[float], list[int], list[int]]]:
    found = {}
    for model in MODELS:
        with gzip.open(shared_data / "alpaca_eval" / f"{model}.jsonl.gz", "rt") as lines:
            rows = [json.loads(line) for line in lines]
        found[model] = (
            [row["preference"] - 1.0 for row in rows],
            [len(row["output_2"]) for row in rows],
            [len(row["output_1"]) for row in rows],
        )
    return found


@pytest.fixture(scope="module")
def published(shared_data: Path) -> dict[str, dict[str, str]]:
    with (shared_data / "alpaca_eval" / "leaderboard.csv").open() as file:
        return {row[""]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("model", MODELS)
def test_win_rates_are_those_of_alpaca_evals_leaderboard(alpaca, published, model) -> None:  # type: ignore[no-untyped-def]
    terms = [length_term(own, baseline) for _, own, baseline in alpaca.values()]
    gamma = instruction_difficulty([wins for wins, _, _ in alpaca.values()], terms)
    wins, own, baseline = alpaca[model]
    found = length_controlled(wins, own, baseline, gamma).win_rate
    row = published[model]
    assert 100 * np.mean(wins) == pytest.approx(float(row["win_rate"]), abs=0.1)
    assert 100 * found.value == pytest.approx(float(row["length_controlled_winrate"]), abs=2.0)
    if model != "NullModel":  # its published error is of verdicts that hardly differ
        error = 100 * (found.high - found.low) / 2 / 1.96
        assert error == pytest.approx(float(row["standard_error"]), rel=0.6)


def test_the_choice_of_ridge_matters_little(alpaca, published) -> None:  # type: ignore[no-untyped-def]
    terms = [length_term(own, baseline) for _, own, baseline in alpaca.values()]
    for ridge in (0.02, 0.2):
        gamma = instruction_difficulty([w for w, _, _ in alpaca.values()], terms, ridge)
        for model, (wins, own, baseline) in alpaca.items():
            found = 100 * length_controlled(wins, own, baseline, gamma).win_rate.value
            expected = float(published[model]["length_controlled_winrate"])
            assert found == pytest.approx(expected, abs=2.0), (ridge, model)


def test_without_difficulties_it_is_further_off(alpaca, published) -> None:  # type: ignore[no-untyped-def]
    """What the module says of leaving the term out: here by up to six points."""
    wins, own, baseline = alpaca["claude-2.1"]
    found = 100 * length_controlled(wins, own, baseline).win_rate.value
    assert 2.0 < found - float(published["claude-2.1"]["length_controlled_winrate"]) < 7.0


def test_many_samples_of_few_instructions_are_few_instructions() -> None:
    wins, own, other = [1.0, 0.0] * 10, list(range(20)), [10] * 20
    for names in (["a"] * 20, ["a", "b"] * 10):
        found = length_controlled(wins, own, other, clusters=names)
        assert not found.fitted
        assert found.win_rate == weighted_proportion(wins, clusters=names)
