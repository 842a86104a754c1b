"""Win rates with the judge's liking for length taken out, as AlpacaEval 2 does it.

A logistic regression explains each verdict by the model, the difference in length and how hard the
instruction is (Dubois, Galambosi, Liang & Hashimoto 2024, "Length-Controlled AlpacaEval", arXiv
2404.04475); the win rate is then what it predicts where both answers are equally long:

    P(model wins on x) = sigmoid(theta + phi tanh(d_x / sd(d)) + psi gamma_x)

with d_x the characters of the baseline's answer less those of the model's, gamma_x the difficulty
of the instruction. As published, the fit has an L1 penalty whose strength is chosen by
cross-validation over instructions, and is drawn towards what the judge does to the baseline's own
verbose and concise answers: rows of weight LAMBDA in which theta is 0.

What differs: theta is not penalised, which would draw small samples to 1/2. AlpacaEval publishes
gamma_x (from a joint fit of over a hundred models) and those rows in files on a hub. Here gamma_x
comes from the caller, or from :func:`instruction_difficulty` on the models at hand; without it the
term is left out. In place of the rows stand the baseline's fitted values: the same lengths in both
directions, with the probabilities that the published coefficients give them. On four models of its
leaderboard, whose gamma_x are estimated from these four alone, the results lie within a point of
the published ones; without gamma_x within six.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize  # type: ignore[import-untyped]
from scipy.special import expit  # type: ignore[import-untyped]

from gnomon.stats.intervals import Floats, Interval, t_quantile, vector, weighted_proportion

LAMBDA = 0.2
"""The weight of the baseline's rows together, a row of the model's own being 1 (as published)."""
BASELINE_LENGTH, BASELINE_DIFFICULTY = -1.613, 0.758
"""The published coefficients of the baseline's own answers under GPT-4 turbo: the means of those of
``gpt4_1106_preview_verbose`` and ``gpt4_1106_preview_concise``."""
DIFFICULTY_RIDGE = 0.05
"""The precision of difficulties around 0 before there are verdicts. From 0.02 to 0.2 it changes the
results that the module's text speaks of by at most two points."""
STRENGTHS = np.logspace(-4, 4, 10)
"""The inverse strengths of the penalty that cross-validation chooses from (as published)."""
FOLDS = 5
PENALISED = np.array([1.0, 1.0, 0.0])
"""The penalty's weight on phi, psi and theta."""


@dataclass(frozen=True)
class LengthControlled:
    """A length-controlled win rate.

    Attributes:
        win_rate: with its interval over instructions.
        model, length, difficulty: theta, phi and psi.
        strength: the inverse of the penalty's strength that was chosen.
    """

    win_rate: Interval
    model: float
    length: float
    difficulty: float
    strength: float

    @property
    def fitted(self) -> bool:
        """Whether the liking for length is taken out; else the win rate is as it was seen."""
        return math.isfinite(self.model)


def length_term(own: ArrayLike, baseline: ArrayLike) -> Floats:
    """[n] tanh of the standardised length difference, baseline less own; 0 where all are alike."""
    difference = vector(baseline, "baseline lengths") - vector(own, "own lengths")
    if difference.size < 2:
        return np.zeros_like(difference)
    spread = float(difference.std(ddof=1))
    scaled: Floats = np.tanh(difference / spread) if spread > 0 else np.zeros_like(difference)
    return scaled


def length_controlled(
    wins: ArrayLike,
    own: ArrayLike,
    baseline: ArrayLike,
    difficulty: ArrayLike | None = None,
    *,
    clusters: Sequence[object] | None = None,
    level: float = 0.95,
) -> LengthControlled:
    """The win rate that is to be expected where both answers are equally long.

    Args:
        wins: [n] the probability (or 0, 1/2, 1) that the model's answer was preferred.
        own, baseline: [n] characters of the two answers.
        difficulty: [n] of each instruction, higher where models win more; None leaves it out.
        clusters: [n] which instruction each row is of, where some come several times.

    The interval is that of a cluster-robust (sandwich) variance, taken on the log-odds. Of fewer
    than 10 instructions, and of verdicts that are all the same, nothing can be fitted: the rate is
    the share that was won, with its interval, and the coefficients are NaN.

    Raises:
        ValueError: lengths of the arguments that do not match, wins outside [0, 1].
    """
    y = vector(wins, "wins")
    z = length_term(own, baseline)
    gamma = np.zeros_like(y) if difficulty is None else vector(difficulty, "difficulty")
    if not y.size == z.size == gamma.size or (clusters and len(clusters) != y.size):
        raise ValueError(f"{y.size} wins, {z.size} lengths and {gamma.size} difficulties")
    raw = weighted_proportion(y, level=level, clusters=clusters)
    of = _numbered(range(y.size) if clusters is None else clusters)
    if np.unique(of).size < 2 * FOLDS or np.ptp(y) == 0:
        return LengthControlled(raw, math.nan, math.nan, math.nan, math.nan)
    x = np.stack([z, gamma, np.ones_like(z)], axis=1)
    rows, targets, weights = _baseline_rows(z, gamma)
    strength = _choose(x, y, of, (rows, targets, weights))
    b = _fit(
        np.concatenate([x, rows]),
        np.concatenate([y, targets]),
        np.concatenate([np.ones_like(y), weights]),
        strength,
    )
    rate = _interval(b, x, y, of, (rows, weights), level)
    return LengthControlled(rate, float(b[2]), float(b[0]), float(b[1]), strength)


def instruction_difficulty(
    wins: ArrayLike, terms: ArrayLike, ridge: float = DIFFICULTY_RIDGE
) -> Floats:
    """[n] how often models win on each instruction beyond what they and lengths explain.

    A joint logistic regression of M models on n instructions, with a term for each model, each
    model's length and each instruction, the last drawn to 0.

    Args:
        wins: [M, n]; NaN where a model has no verdict.
        terms: [M, n] of :func:`length_term`.
        ridge: how strongly difficulties are drawn to 0 (a precision).
    """
    y, z = np.asarray(wins, dtype=np.float64), np.asarray(terms, dtype=np.float64)
    models, n = y.shape
    known = ~np.isnan(y)
    target = np.where(known, y, 0.0)

    def loss(b: Floats) -> tuple[float, Floats]:
        theta, phi, gamma = b[:models, None], b[models : 2 * models, None], b[2 * models :]
        e = theta + phi * z + gamma
        value = (known * (np.logaddexp(0.0, e) - target * e)).sum() + ridge / 2 * (gamma**2).sum()
        r = known * (expit(e) - target)
        parts = [r.sum(1), (r * z).sum(1), r.sum(0) + ridge * gamma]
        return float(value), np.concatenate(parts)

    found = minimize(loss, np.zeros(2 * models + n), jac=True, method="L-BFGS-B",
                     options={"maxiter": 5000})  # fmt: skip
    gamma: Floats = found.x[2 * models :]
    return gamma


def _baseline_rows(z: Floats, gamma: Floats) -> tuple[Floats, Floats, Floats]:
    """Rows, targets and weights that stand for the baseline's own verbose and concise answers."""
    none = np.zeros_like(z)
    rows = np.concatenate([np.stack([s * z, gamma, none], axis=1) for s in (1.0, -1.0)])
    targets = expit(BASELINE_LENGTH * rows[:, 0] + BASELINE_DIFFICULTY * rows[:, 1])
    return rows, targets, np.full(rows.shape[0], LAMBDA / 2)


def _choose(x: Floats, y: Floats, of: Floats, baseline: tuple[Floats, Floats, Floats]) -> float:
    """The inverse strength of the penalty with the least log-loss on instructions left out."""
    rows, targets, weights = baseline
    fold = of.astype(np.int64) % FOLDS
    losses = np.zeros(STRENGTHS.size)
    for k in range(FOLDS):
        kept, out = fold != k, fold == k
        xs = np.concatenate([x[kept], rows])
        ys = np.concatenate([y[kept], targets])
        ws = np.concatenate([np.ones(int(kept.sum())), weights])
        start = np.zeros(3)
        for i, strength in enumerate(STRENGTHS):
            start = _fit(xs, ys, ws, float(strength), start)
            e = x[out] @ start
            losses[i] += float((np.logaddexp(0.0, e) - y[out] * e).sum())
    return float(STRENGTHS[int(np.argmin(losses))])


def _fit(x: Floats, y: Floats, w: Floats, strength: float, start: Floats | None = None) -> Floats:
    """Coefficients [3] that minimise the sum of weighted log-losses + their L1 norm / strength.

    Each is the difference of two parts that are not negative, so that the penalty is smooth.
    """
    k = x.shape[1]
    penalty = np.tile(PENALISED, 2) / strength

    def loss(parts: Floats) -> tuple[float, Floats]:
        e = x @ (parts[:k] - parts[k:])
        value = float((w * (np.logaddexp(0.0, e) - y * e)).sum()) + float(parts @ penalty)
        g = x.T @ (w * (expit(e) - y))
        return value, np.concatenate([g, -g]) + penalty

    b = np.zeros(k) if start is None else start
    first = np.concatenate([np.maximum(b, 0.0), np.maximum(-b, 0.0)])
    bounds = [(0.0, None)] * (2 * k)
    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds,
                     options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8})  # fmt: skip
    out: Floats = found.x[:k] - found.x[k:]
    return out


def _interval(
    b: Floats,
    x: Floats,
    y: Floats,
    of: Floats,
    baseline: tuple[Floats, Floats],
    level: float,
) -> Interval:
    """The mean prediction without length differences, with an interval by influence functions."""
    rows, weights = baseline
    used = np.flatnonzero(np.abs(x).max(0) > 0)
    even = x.copy()
    even[:, 0] = 0.0
    predicted = expit(even @ b)
    value = float(predicted.mean())
    p, q = expit(x @ b), expit(rows @ b)
    information = (x * (p * (1 - p))[:, None]).T @ x
    information += (rows * (weights * q * (1 - q))[:, None]).T @ rows
    slope = (even * (predicted * (1 - predicted))[:, None]).mean(0)
    each = (predicted - value) / y.size
    direction = np.linalg.pinv(information[np.ix_(used, used)]) @ slope[used]
    each = each + (x[:, used] @ direction) * (y - p)
    sums = np.bincount(of.astype(np.int64), weights=each)
    n = int(sums.size)
    spread = math.sqrt(float((sums**2).sum()) * n / (n - 1)) / (value * (1 - value))
    half = t_quantile(level, n - 1) * spread
    middle = math.log(value / (1 - value))
    return Interval(
        value, float(expit(middle - half)), float(expit(middle + half)), float(n), level
    )


def _numbered(names: Iterable[object]) -> Floats:
    places: dict[object, int] = {}
    return np.array([places.setdefault(name, len(places)) for name in names], dtype=np.float64)
