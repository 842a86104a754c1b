"""Bradley and Terry's strengths and their bootstrap: against scikit-learn, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gnomon.stats.arena import Battle, strengths, win_rates

MODELS = ("base", "a", "b", "c")


def drawn(rng: np.random.Generator, questions: int, pairs: list[tuple[str, str]]) -> list[Battle]:
    truth = dict(zip(MODELS, (0.0, 0.8, -0.4, 1.5), strict=True))
    found = []
    for q in range(questions):
        for one, two in pairs:
            p = 1 / (1 + math.exp(truth[two] - truth[one]))
            win = float(rng.choice([0.0, 0.5, 1.0], p=[0.8 * (1 - p), 0.2, 0.8 * p]))
            found.append(Battle(str(q), one, two, win, float(rng.choice([1, 3]))))
    return found


def test_the_strengths_are_scikit_learns_logistic_regression() -> None:
    """The original's maths: one row a verdict, +1 and -1 for the two models, no intercept, no
    penalty; a tie is a win and a loss of half the weight."""
    pairs = [("a", "base"), ("b", "base"), ("c", "a"), ("c", "b"), ("b", "a")]
    battles = drawn(np.random.default_rng(0), 60, pairs)
    rows, outcomes, weights = [], [], []
    for b in battles:
        row = np.zeros(len(MODELS))
        row[MODELS.index(b.model)], row[MODELS.index(b.other)] = 1, -1
        for outcome, weight in ((1, b.win), (0, 1 - b.win)):
            if weight:
                rows.append(row[1:])
                outcomes.append(outcome)
                weights.append(weight * b.weight)
    fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    fit.fit(np.array(rows), outcomes, sample_weight=weights)
    rates = win_rates(battles, "base")
    for name, coefficient in zip(MODELS[1:], fit.coef_[0], strict=True):
        assert rates[name].value == pytest.approx(1 / (1 + math.exp(-coefficient)), abs=1e-5)


def test_against_the_baseline_alone_it_is_the_weighted_share() -> None:
    battles = [Battle("1", "m", "base", 1.0, 3), Battle("1", "m", "base", 0.5),
               Battle("2", "m", "base", 0.0), Battle("2", "m", "base", 0.0)]  # fmt: skip
    assert win_rates(battles, "base")["m"].value == pytest.approx(3.5 / 6, abs=1e-5)


def test_the_interval_covers() -> None:
    """Two verdicts a question that say the same: a bootstrap over verdicts would be too narrow."""
    rng, inside, widths = np.random.default_rng(1), 0, []
    for _ in range(100):
        wins = rng.random(80) < 0.6
        battles = [
            Battle(str(q), "m", "base", float(w)) for q, w in enumerate(wins) for _ in range(2)
        ]
        found = win_rates(battles, "base")["m"]
        inside += found.low <= 0.6 <= found.high
        widths.append(found.high - found.low)
    assert 89 <= inside <= 100
    assert np.mean(widths) == pytest.approx(2 * 1.96 * math.sqrt(0.6 * 0.4 / 80), rel=0.1)


def test_a_model_that_won_everything_is_not_sure_to_win() -> None:
    found = win_rates([Battle(str(q), "m", "base", 1.0, 1 + q % 2) for q in range(20)], "base")["m"]
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 20), abs=1e-6)  # the exact interval of 20 of 20


@pytest.mark.parametrize("verdicts", [(1.0, 0.0), (0.5, 0.5)])
def test_questions_that_all_say_the_same_are_not_sure(verdicts: tuple[float, float]) -> None:
    """A judge that goes by the place, and one that knows only ties."""
    battles = [Battle(str(q), "m", "base", w) for q in range(20) for w in verdicts]
    found = win_rates(battles, "base")["m"]
    assert found.value == pytest.approx(0.5)
    assert 0.25 < found.low < 0.48
    assert 0.52 < found.high < 0.75


def test_one_question_shows_next_to_nothing() -> None:
    battles = [Battle("1", "m", "base", 1.0, 3), Battle("1", "m", "base", 0.0)]
    found = win_rates(battles, "base")["m"]
    assert (found.n, found.value) == (1, pytest.approx(0.75, abs=1e-4))
    assert found.high - found.low > 0.9


def test_what_nothing_joins_to_the_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="no verdicts join x, y to base"):
        win_rates([Battle("1", "m", "base", 1.0), Battle("1", "x", "y", 1.0)], "base")


def test_the_baseline_keeps_strength_zero() -> None:
    won = np.array([[0.0, 1.0], [3.0, 0.0]])
    assert strengths(won) == pytest.approx([0.0, math.log(3.0)], abs=1e-3)
