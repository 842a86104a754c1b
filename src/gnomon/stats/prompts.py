"""Figures over prompts, answered once or several times: means, differences of two models, pass@k.

``bounds`` says what the values are: shares between two values, or quantities where it is None. By
default the values themselves say (:func:`share_bounds`); to compare models, ask all their values
together, so that one model's constant answers are seen for what they are.

pass@k is how often at least one of k answers is right; at k = 1 it is accuracy. A gain at 1 without
one at a large k says that training sharpened what the policy could already do; a gain at a large k,
that it reaches prompts it did not reach before (Yue et al. 2025, arXiv 2504.13837).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from gnomon.stats.intervals import (
    Bounds,
    Floats,
    Interval,
    mean_interval,
    mean_of_shares,
    mean_samples,
    share_bounds,
    t_quantile,
    vector,
    weighted_proportion,
)

PAIRED_AGREEMENT = 0.1
"""The correlation that is assumed of differences between a prompt's answers, where the data do not
show it. Difficulty has gone from them, so it is less than that of the answers."""


def paired_shares(
    a: ArrayLike,
    b: ArrayLike,
    samples: float = 1.0,
    level: float = 0.95,
    *,
    weights: ArrayLike | None = None,
) -> Interval:
    """Mean of a - b over prompts [P], both shares of ``samples`` rights and wrongs of the prompt.

    Bonett & Price 2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data": one pair more that gained and one more that lost, so that
    pairs which all agree do not show that no pair can differ. Student's t in place of the normal
    quantile. With several samples the two pairs differ by less: what the mean of ``samples``
    answers would, were they correlated by PAIRED_AGREEMENT. With unequal ``weights`` [P] there are
    as many prompts as Kish's effective number, and the degrees of freedom of all of them.

    Raises:
        ValueError: a share outside [0, 1], lengths that differ, fewer than one sample.
    """
    x, y = _pair(a, b)
    w = _relative(weights, x.size)
    for name, side in (("a", x), ("b", y)):
        if side.size and not 0.0 <= side.min() <= side.max() <= 1.0:
            raise ValueError(f"{name} holds shares between 0 and 1, got {side.min()}-{side.max()}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    n = x.size
    if n == 0:
        return Interval(math.nan, -1.0, 1.0, 0.0, level)
    difference = x - y
    value = float((w * difference).sum()) / n
    if n == 1:
        return Interval(value, -1.0, 1.0, 1.0, level)
    added = (1.0 + (samples - 1.0) * PAIRED_AGREEMENT) / samples
    effective = n**2 / float((w**2).sum())
    spread = effective * float(((w * (difference - value)) ** 2).sum()) / n**2
    centre = effective * value / (effective + 2)
    squares = effective * (spread + value**2)
    variance = (squares + 2 * added) / (effective + 2) - centre**2
    half = t_quantile(level, n - 1) * math.sqrt(variance / (effective + 2))
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return Interval(value, min(low, value), max(high, value), float(n), level)


def independent_difference(a: Interval, b: Interval) -> Interval:
    """a - b of two figures measured apart, from their intervals.

    The method of variance estimates recovery (Newcombe 1998, method 10; Zou & Donner 2008): each
    end is as far off as the two sides that lie towards it, added in squares, so that the
    lopsided intervals of shares near 0 and 1 stay so. NaN ends where either has no interval.
    """
    gap = a.value - b.value
    low = gap - math.hypot(a.value - a.low, b.high - b.value)
    high = gap + math.hypot(a.high - a.value, b.value - b.low)
    return Interval(gap, low, high, min(a.n, b.n), min(a.level, b.level))


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    x, y = vector(a, "a"), vector(b, "b")
    if x.size != y.size:
        raise ValueError(f"paired values must match one to one, got {x.size} and {y.size}")
    return x, y


def _relative(weights: ArrayLike | None, n: int) -> Floats:
    """[n] what each counts, 1 on average."""
    w = np.ones(n) if weights is None else vector(weights, "weights")
    if w.size != n or (n and not w.min() > 0.0):
        raise ValueError(f"{n} prompts need as many weights above 0, got {w.tolist()[:8]}")
    return np.asarray(w / w.mean(), dtype=np.float64) if n else w


AskedBounds = Bounds | None | Literal["auto"]
Values = Sequence[Sequence[float | None]]
"""[prompts][samples] what a measure gave; None where it failed."""


def over_prompts(values: Values, bounds: AskedBounds = "auto", level: float = 0.95) -> Interval:
    """The mean over prompts of their samples' means, with its interval.

    Failed samples are left out, and prompts without any other. Of quantities that are all the same
    there is no interval (NaN ends).
    """
    known = [row for row in _rows(values) if row]
    means = [sum(row) / len(row) for row in known]
    if bounds == "auto":
        bounds = common_bounds(known)
    if bounds is None:
        return mean_interval(means, level, method="t")
    samples = mean_samples([len(row) for row in known])
    return mean_of_shares(_as_shares(means, bounds), samples, level).scaled(bounds)


def over_items(
    values: Values,
    requests: Sequence[str],
    bounds: AskedBounds = "auto",
    level: float = 0.95,
) -> Interval:
    """The mean over items of their samples' means; in its interval, items that ask the same count
    as one. Where each asks something else it is :func:`over_prompts`.

    Args:
        values: [items][samples].
        requests: [items] what each asks.

    Raises:
        ValueError: as many requests as items are needed.
    """
    known = [(of, row) for of, row in zip(requests, _rows(values), strict=True) if row]
    rows = [row for _, row in known]
    if bounds == "auto":
        bounds = common_bounds(rows)
    if len({of for of, _ in known}) == len(known):
        return over_prompts(rows, bounds, level)
    if bounds is None:
        means, counts = by_request([[sum(row) / len(row)] for row in rows], [o for o, _ in known])
        each = [sum(own) / len(own) for own in _rows(means)]
        return _weighted_mean(np.asarray(each, dtype=np.float64), counts, level)
    share = weighted_proportion(
        _as_shares([v for row in rows for v in row], bounds),
        [1.0 / len(row) for row in rows for _ in row],
        level,
        clusters=[of for of, row in known for _ in row],
    )
    return share.scaled(bounds)


def by_request(
    values: Values, requests: Sequence[str]
) -> tuple[list[list[float | None]], list[float]]:
    """Each request's values, of all the items that ask it, and how many items these are."""
    found: dict[str, list[float | None]] = {}
    for of, row in zip(requests, values, strict=True):
        found.setdefault(of, []).extend(row)
    counts = Counter(requests)
    return list(found.values()), [float(counts[of]) for of in found]


def gain_over_prompts(
    own: Values,
    reference: Values,
    bounds: AskedBounds = "auto",
    level: float = 0.95,
    weights: Sequence[float] | None = None,
) -> Interval:
    """The gain of ``own`` over ``reference``, paired by prompt; what either lacks is left out.

    Args:
        weights: [prompts] what each counts: how many items it stands for, say; alike by default.

    Raises:
        ValueError: the two are not of the same prompts.
    """
    sides = zip(_rows(own), _rows(reference), strict=True)
    there = [(i, a, b) for i, (a, b) in enumerate(sides) if a and b]
    pairs = [(a, b) for _, a, b in there]
    w = None if weights is None else [weights[i] for i, _, _ in there]
    means = [(sum(a) / len(a), sum(b) / len(b)) for a, b in pairs]
    first, second = [a for a, _ in means], [b for _, b in means]
    if bounds == "auto":
        bounds = common_bounds(side for pair in pairs for side in pair)
    if bounds is None:
        return _weighted_mean(np.subtract(first, second), w, level)
    samples = mean_samples([len(row) for pair in pairs for row in pair])
    own_share, other_share = _as_shares(first, bounds), _as_shares(second, bounds)
    gain = paired_shares(own_share, other_share, samples, level, weights=w)
    return gain.scaled((0.0, bounds[1] - bounds[0]))


def _weighted_mean(values: Floats, weights: Sequence[float] | None, level: float) -> Interval:
    """The mean of quantities with Student's interval, by the variance of a ratio where prompts do
    not weigh alike (Cochran 1977, section 6.3)."""
    w = _relative(weights, values.size)
    if values.size < 2 or np.ptp(w) == 0.0:
        return mean_interval(values, level, method="t")
    n, value = values.size, float((w * values).sum()) / values.size
    error = math.sqrt(float(((w * (values - value)) ** 2).sum()) / (n * (n - 1)))
    if not error > 1e-12 * max(1.0, abs(value)):
        return Interval(value, n=float(n), level=level)
    half = t_quantile(level, n - 1) * error
    return Interval(value, value - half, value + half, float(n), level)


def gain_between_runs(
    after: Mapping[str, Sequence[float | None]],
    before: Mapping[str, Sequence[float | None]],
    bounds: AskedBounds = "auto",
    level: float = 0.95,
    weights: Mapping[str, float] | None = None,
) -> Interval:
    """The gain of one run over another on the prompts that both answered.

    Args:
        after, before: each prompt's values, by the prompt's id, as ``comparison.json`` keeps them
            (``prompts`` and each row's ``scores``).
        bounds: of both runs' values together by default.
        weights: what each prompt counts; alike by default.

    Returns:
        The mean difference; ``n`` is the number of prompts that both have, and 0 says none.
    """
    shared = [prompt for prompt in after if prompt in before]
    own, reference = ([side[p] for p in shared] for side in (after, before))
    w = None if weights is None else [weights[p] for p in shared]
    return gain_over_prompts(own, reference, bounds, level, w)


def common_bounds(values: Iterable[Sequence[float | None]]) -> Bounds | None:
    """:func:`~gnomon.stats.intervals.share_bounds` of all the values that did not fail."""
    return share_bounds([v for row in values for v in row if v is not None])


def _rows(values: Values) -> list[list[float]]:
    return [[v for v in samples if v is not None] for samples in values]


def _as_shares(means: Sequence[float], bounds: Bounds) -> Floats:
    low, high = bounds
    return np.clip((np.asarray(means, dtype=np.float64) - low) / (high - low), 0.0, 1.0)


Right = Sequence[Sequence[bool | None]]
"""[P][n] whether the i-th answer to a prompt is right; None where it could not be judged."""


def ks_up_to(n: int) -> list[int]:
    """1, 2, 4, ... and n itself."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def prompt_pass_at_k(right: Right, k: int) -> list[float]:
    """[P] the unbiased estimate of pass@k for each prompt (Chen et al. 2021, eq. 1); NaN for a
    prompt with fewer than k judged answers."""
    judged = [[r for r in row if r is not None] for row in right]
    return [pass_at_k(len(row), sum(row), k) if len(row) >= k else math.nan for row in judged]


def pass_curve(
    right: Right, ks: Sequence[int], requests: Sequence[str] | None = None
) -> list[Interval]:
    """The mean over prompts of pass@k, for each k, with its interval; prompts with too few judged
    answers are left out of it. A share of 0 of 20 does not prove never: see
    :func:`~gnomon.stats.intervals.mean_of_shares`.

    Args:
        requests: [P] what each asks, where some ask the same: they count as one in the interval.
    """
    again = requests is not None and len(set(requests)) < len(requests)
    out = []
    for k in ks:
        each = prompt_pass_at_k(right, k)
        known = [x for x in each if not math.isnan(x)]
        if requests is not None and again:
            of = [own for own, x in zip(requests, each, strict=True) if not math.isnan(x)]
            out.append(weighted_proportion(known, clusters=of))
        else:
            out.append(mean_of_shares(known, _samples([right], k)))
    return out


def pass_gain(after: Right, before: Right, ks: Sequence[int]) -> list[Interval]:
    """The mean over prompts of pass@k after less before, paired by prompt, for each k.

    Raises:
        ValueError: the two are not of the same prompts.
    """
    if len(after) != len(before):
        raise ValueError(f"paired by prompt, but there are {len(after)} and {len(before)}")
    out = []
    for k in ks:
        pairs = zip(prompt_pass_at_k(after, k), prompt_pass_at_k(before, k), strict=True)
        both = [(a, b) for a, b in pairs if not (math.isnan(a) or math.isnan(b))]
        samples = _samples([after, before], k)
        out.append(paired_shares([a for a, _ in both], [b for _, b in both], samples))
    return out


def _samples(sides: Sequence[Right], k: int) -> float:
    """As how many rights and wrongs a prompt's pass@k counts: n / k of its n judged answers, the
    harmonic mean over prompts."""
    counts = [sum(r is not None for r in row) for right in sides for row in right]
    return mean_samples([n / k for n in counts if n >= k])


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k draws out of n samples, c of them correct, is correct.

    The unbiased estimator 1 - C(n-c, k) / C(n, k) of Chen et al. 2021 (arXiv 2107.03374), eq. 1, as
    a product that neither overflows nor cancels. Average it over prompts.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"need 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    if n - c < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def within_prompt_correlation(x: Values, y: Values) -> float:
    """Pearson's correlation of two measures of the same answers within prompts: both less their
    prompt's mean, pooled over prompts, so that what differs between prompts does not count.

    Args:
        x, y: [prompts][samples]; an answer that either lacks is left out.

    Returns:
        -1 to 1; NaN where no prompt has two answers, or one of the measures never differs within a
        prompt.

    Raises:
        ValueError: the two are not of the same answers.
    """
    sums = _within(x, y)
    sxx, syy, sxy = (math.fsum(column) for column in sums.T)
    if not (sxx > 0 and syy > 0):
        return math.nan
    return max(-1.0, min(1.0, sxy / math.sqrt(sxx * syy)))


def within_prompt_slope(x: Values, y: Values, level: float = 0.95) -> Interval:
    """How much more ``y`` is for one more of ``x`` among the answers to one prompt: sum(dx dy) /
    sum(dx^2), deviations being from a prompt's means.

    The interval takes prompts as independent, their answers not (the ratio's linearised variance
    over prompts, Cochran 1977, section 6.3); ``n`` is the prompts in which ``x`` differs.

    Args:
        x, y: [prompts][samples]; an answer that either lacks is left out.

    Returns:
        NaN where ``x`` differs within no prompt; without ends where it does in one only.

    Raises:
        ValueError: the two are not of the same answers.
    """
    sums = _within(x, y)
    sums = sums[sums[:, 0] > 0]
    n = len(sums)
    if not n:
        return Interval(math.nan)
    sxx, _, sxy = sums.T
    slope = float(sxy.sum() / sxx.sum())
    if n < 2:
        return Interval(slope, n=1)
    error = math.sqrt(n / (n - 1) * float(np.square(sxy - slope * sxx).sum())) / float(sxx.sum())
    half = t_quantile(level, n - 1) * error
    return Interval(slope, slope - half, slope + half, n, level)


def _within(x: Values, y: Values) -> Floats:
    """[prompts, 3] sums of dx^2, dy^2 and dx dy over the answers to each prompt."""
    sums = np.zeros((len(x), 3))
    for place, (row, other) in enumerate(zip(x, y, strict=True)):
        sides = zip(row, other, strict=True)
        known = [(a, b) for a, b in sides if a is not None and b is not None]
        if len(known) > 1:
            dx, dy = (np.subtract(side, np.mean(side)) for side in zip(*known, strict=True))
            sums[place] = dx @ dx, dy @ dy, dx @ dy
    return sums
