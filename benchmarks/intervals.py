"""Coverage and width of gnomon's intervals of shares, enumerated or drawn.

    python benchmarks/intervals.py                 # the tables of docs/intervals.md, some minutes
    python benchmarks/intervals.py --draws 500     # sooner, with more noise in the last digit

Coverage is how often the 95% interval holds the true figure. Width is the mean width over that of
Wilson's interval at the effective sample size: as many independent outcomes as have the variance
that the figure has.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv
from scipy.stats import binom, multinomial, norm

from gnomon.stats.intervals import Interval, mean_of_shares, weighted_proportion
from gnomon.stats.prompts import paired_shares, pass_curve

SIZES = (20, 30, 50, 100)
SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """One cell: what is measured, of how many, and how good the interval is.

    Attributes:
        n: prompts.
        p: the share; of differences, the larger of the two.
        note: the rest, in words.
        coverage: how often the interval holds the truth.
        width: over Wilson's at the effective sample size.
        events: how many outcomes of the rarer kind are expected; of differences, how many prompts
            on which the two models differ; NaN where that is not counted.
        newcombe: of paired differences, the width over that of Newcombe's interval, made from two
            of Wilson's.
    """

    n: int
    p: float
    note: str
    coverage: float
    width: float
    events: float
    newcombe: float = math.nan


def wilson(successes: Counts, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's score interval of proportions, the measure of width here (1927, "Probable
    inference", JASA 22)."""
    z, p = norm.ppf(0.975), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return np.maximum(0.0, centre - half), np.minimum(1.0, centre + half)


def wilson_width(p: float, n: float) -> float:
    """The mean width of Wilson's interval of n outcomes (to the next whole number)."""
    size = max(1, round(n))
    x = np.arange(size + 1)
    low, high = wilson(x, size)
    return float(binom.pmf(x, size, p) @ (high - low))


def drawn(
    outcomes: Iterable[tuple[int, ...]],
    interval: Callable[[tuple[int, ...]], Interval],
    truth: float,
) -> tuple[float, float]:
    """(coverage, mean width) over drawn outcomes; each different one is worked out once."""
    seen: dict[tuple[int, ...], Interval] = {}
    hits = width = total = 0.0
    for outcome in outcomes:
        if outcome not in seen:
            seen[outcome] = interval(outcome)
        found = seen[outcome]
        hits += found.low - 1e-12 <= truth <= found.high + 1e-12
        width += found.high - found.low
        total += 1
    return hits / total, width / total


def plain_shares(sizes: Iterable[int] = SIZES, shares: Iterable[float] = SHARES) -> Iterator[Case]:
    """Independent outcomes, all of them enumerated."""
    for n in sizes:
        found = [weighted_proportion([1.0] * k + [0.0] * (n - k)) for k in range(n + 1)]
        low, high = (np.array([getattr(i, end) for i in found]) for end in ("low", "high"))
        for p in shares:
            chance = binom.pmf(np.arange(n + 1), n, p)
            coverage = float(chance @ ((low <= p) & (p <= high)))
            width = float(chance @ (high - low)) / wilson_width(p, n)
            yield Case(n, p, "independent", coverage, width, n * p)


def clustered_counts(
    rng: np.random.Generator, draws: int, sizes: Counts, p: float, correlation: float
) -> Counts:
    """[draws, G] successes of clusters of ``sizes``: beta-binomial, ``correlation`` within them."""
    if correlation == 0:
        return rng.binomial(sizes, p, (draws, sizes.size))
    scale = (1 - correlation) / correlation
    chances = rng.beta(p * scale, (1 - p) * scale, (draws, sizes.size))
    return rng.binomial(sizes, chances)


def clustered_shares(
    draws: int,
    sizes: Iterable[int] = SIZES,
    shares: Iterable[float] = SHARES,
    samples: Iterable[int] = (2, 4, 8),
    correlations: Iterable[float] = (0.0, 0.2, 0.5, 0.8),
) -> Iterator[Case]:
    """n prompts with as many answers each (pass@1; a reward of 0 and 1 over several samples)."""
    for n in sizes:
        for p in shares:
            for k in samples:
                for correlation in correlations:
                    rng = np.random.default_rng([n, round(1000 * p), k, round(10 * correlation)])
                    counts = clustered_counts(rng, draws, np.full(n, k), p, correlation)
                    coverage, width = drawn(
                        map(tuple, np.sort(counts, 1).tolist()),
                        lambda c, k=k: mean_of_shares(np.array(c) / k, k),
                        p,
                    )
                    effective = n * k / (1 + (k - 1) * correlation)
                    note = f"{k} answers, correlation {correlation}"
                    width /= wilson_width(p, effective)
                    yield Case(n, p, note, coverage, width, n * p)


def uneven_clusters(
    draws: int,
    sizes: Iterable[int] = SIZES,
    shares: Iterable[float] = SHARES,
    correlations: Iterable[float] = (0.0, 0.2, 0.5, 0.8),
) -> Iterator[Case]:
    """n prompts of 2 to 8 pairs each, every pair counting once (a reward model's accuracy)."""
    for n in sizes:
        clusters = np.resize(np.arange(2, 9), n)
        names = np.repeat(np.arange(n), clusters).tolist()
        alike = float((clusters**2).sum() / clusters.sum())

        def interval(
            c: tuple[int, ...], of: Counts = clusters, names: list[int] = names
        ) -> Interval:
            outcomes = [x for k, m in zip(c, of, strict=True) for x in [1.0] * k + [0.0] * (m - k)]
            return weighted_proportion(outcomes, clusters=names)

        for p in shares:
            for correlation in correlations:
                rng = np.random.default_rng([n, round(1000 * p), round(10 * correlation)])
                counts = clustered_counts(rng, draws, clusters, p, correlation)
                coverage, width = drawn(map(tuple, counts.tolist()), interval, p)
                effective = clusters.sum() / (1 + (alike - 1) * correlation)
                note = f"2-8 pairs, correlation {correlation}"
                yield Case(n, p, note, coverage, width / wilson_width(p, effective), n * p)


def pass_at_2_of_4(
    draws: int, sizes: Iterable[int] = SIZES, shares: Iterable[float] = SHARES
) -> Iterator[Case]:
    """pass@2 of 4 answers: neither as many outcomes as answers nor as prompts."""
    gives = np.array([0.0, 0.5, 5 / 6, 1.0, 1.0])  # of 0 to 4 right answers
    rows = [[i < c for i in range(4)] for c in range(5)]
    for n in sizes:
        for p in shares:
            for correlation in (0.0, 0.2, 0.5, 0.8):
                rng = np.random.default_rng([n, round(1000 * p), round(10 * correlation)])
                many = clustered_counts(rng, 200_000, np.full(1, 4), p, correlation)
                truth, variance = float(gives[many].mean()), float(gives[many].var())
                counts = clustered_counts(rng, draws, np.full(n, 4), p, correlation)
                coverage, width = drawn(
                    map(tuple, np.sort(counts, 1).tolist()),
                    lambda c: pass_curve([rows[i] for i in c], [2])[0],
                    truth,
                )
                effective = n * truth * (1 - truth) / variance
                note = f"pass@2 of 4, correlation {correlation}"
                width /= wilson_width(truth, effective)
                yield Case(n, p, note, coverage, width, n * truth)


def pairs_of_shares(shares: Iterable[float]) -> Iterator[tuple[float, float]]:
    """Each two of the shares, the smaller first, and 0 with each: one that only ever gains."""
    known = list(shares)
    yield from ((p, q) for p in [0.0, *known] for q in known if p <= q)


def difference_width(truth: float, variance: float, n: float) -> float:
    """Wilson's width for the mean of n differences of a variance: that of the share (1 + d) / 2,
    at its effective size, doubled."""
    share, z = (1 + truth) / 2, 1.959964
    n *= 4 * share * (1 - share) / variance
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return 4 * half


def newcombe_width(n: int, both: float, up: float, down: float) -> float:
    """The mean width of Newcombe's interval (1998, "Improved confidence intervals for the
    difference between binomial proportions based on paired data", method 10)."""
    rng = np.random.default_rng(0)
    chances = [both, up, down, max(0.0, 1 - both - up - down)]
    a, b, c, d = rng.multinomial(n, chances, 20_000).T.astype(np.float64)
    sides = []
    for x in (a + b, a + c):
        low, high = wilson(x, n)
        sides.append((x / n - low, high - x / n))
    product = a * d - b * c
    product = np.where(product > 0, np.maximum(product - n / 2, 0), product)
    margins = np.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    phi = np.divide(product, margins, out=np.zeros_like(product), where=margins > 0)
    (l1, u1), (l2, u2) = sides
    lower = np.sqrt(l1**2 - 2 * phi * l1 * u2 + u2**2)
    upper = np.sqrt(u1**2 - 2 * phi * u1 * l2 + l2**2)
    return float((lower + upper).mean())


def paired_differences(
    sizes: Iterable[int] = SIZES, shares: Iterable[float] = SHARES
) -> Iterator[Case]:
    """Two models with one answer to each of n prompts, correlated from 0 to 0.8; enumerated."""
    for n in sizes:
        cells = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b)])
        found = [
            paired_shares(np.repeat([1.0, 0.0, 0.0], [b, c, n - b - c]),
                          np.repeat([0.0, 1.0, 0.0], [b, c, n - b - c]))
            for b, c in cells
        ]  # fmt: skip
        low, high = (np.array([getattr(i, end) for i in found]) for end in ("low", "high"))
        counts = np.column_stack([cells, n - cells.sum(1)])
        for p, q in pairs_of_shares(shares):
            for correlation in (0.0, 0.3, 0.6, 0.8):
                both = p * q + correlation * math.sqrt(p * (1 - p) * q * (1 - q))
                if both > p + 1e-12 or (p == 0 and correlation):
                    continue  # no two such answers are correlated as much
                up, down = q - both, max(0.0, p - both)
                if up + down < 1e-9:
                    continue
                chance = multinomial.pmf(counts, n, [up, down, 1 - up - down])
                truth = up - down
                coverage = float(chance @ ((low <= truth + 1e-12) & (truth - 1e-12 <= high)))
                reference = difference_width(truth, up + down - truth**2, n)
                note = f"{p:g} and {q:g}, correlation {correlation}"
                width = float(chance @ (high - low))
                theirs = newcombe_width(n, both, up, down)
                yield Case(n, q, note, coverage, width / reference, n * (up + down), width / theirs)


def paired_samples(
    draws: int, sizes: Iterable[int] = SIZES, shares: Iterable[float] = SHARES
) -> Iterator[Case]:
    """Two models with several answers to each of n prompts that are as hard for one as for the
    other (correlation of answers to one prompt from 0 to 0.8)."""
    for n in sizes:
        for p, q in pairs_of_shares(shares):
            for k in (2, 4, 8):
                for correlation in (0.0, 0.3, 0.8):
                    if p == 0:
                        continue
                    rng = np.random.default_rng([n, round(1000 * p), round(1000 * q), k])
                    a, b = shared_difficulty(rng, (draws, n), p, q, correlation)
                    gaps = (rng.binomial(k, b) - rng.binomial(k, a)).astype(int)
                    coverage, width = drawn(
                        map(tuple, np.sort(gaps, 1).tolist()),
                        lambda g, k=k: paired_shares(
                            np.maximum(g, 0) / k, np.maximum(-np.array(g), 0) / k, k
                        ),
                        q - p,
                    )
                    reference = difference_width(q - p, float((gaps / k).var()), n)
                    note = f"{p:g} and {q:g}, {k} answers, correlation {correlation}"
                    yield Case(n, q, note, coverage, width / reference, math.nan)


def shared_difficulty(
    rng: np.random.Generator, shape: tuple[int, int], p: float, q: float, correlation: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both models' chances on each prompt: the same quantile of two beta distributions."""
    if correlation == 0:
        return np.full(shape, p), np.full(shape, q)
    scale = (1 - correlation) / correlation
    grid = np.linspace(0, 1, 2001)
    where = rng.random(shape)
    p_of, q_of = (
        np.interp(where, grid, betaincinv(x * scale, (1 - x) * scale, grid)) for x in (p, q)
    )
    return p_of, q_of


def table(cases: list[Case]) -> str:
    """Lowest coverage and largest width of each n and p, in Markdown."""
    shares = sorted({c.p for c in cases})
    lines = [
        "| n | " + " | ".join(f"p = {p:g}" for p in shares) + " |",
        "|---" * (len(shares) + 1) + "|",
    ]
    for n in sorted({c.n for c in cases}):
        cells = []
        for p in shares:
            here = [c for c in cases if c.n == n and c.p == p]
            cells.append(f"{min(c.coverage for c in here):.3f}, {max(c.width for c in here):.2f}")
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    low, wide = min(cases, key=lambda c: c.coverage), max(cases, key=lambda c: c.width)
    often = [c.width for c in cases if c.events >= 4]
    said = [
        f"{sum(c.coverage >= 0.93 for c in cases)} of {len(cases)} cells cover 93% or more (lowest "
        f"{low.coverage:.3f}: n = {low.n}, {low.note}, p = {low.p:g}).",
        f"{sum(c.width <= 1.25 for c in cases)} are at most 1.25 times as wide (widest "
        f"{wide.width:.2f}: n = {wide.n}, {wide.note}, p = {wide.p:g}).",
    ]
    if often:
        said.append(
            f"Of the {len(often)} with 4 or more expected events, {sum(w <= 1.25 for w in often)} "
            f"are (widest {max(often):.2f})."
        )
    if not math.isnan(wide.newcombe):
        worst = max(c.newcombe for c in cases)
        said.append(f"Against Newcombe's interval the widest is {worst:.2f}.")
    return "\n".join([*lines, "", *said])


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    for title, cases in (
        ("Shares of independent outcomes", plain_shares()),
        ("Several answers to each prompt", clustered_shares(draws)),
        ("Prompts of 2 to 8 pairs", uneven_clusters(draws)),
        ("pass@2 of 4 answers", pass_at_2_of_4(draws)),
        ("Paired differences, one answer to each prompt", paired_differences()),
        ("Paired differences, several answers", paired_samples(draws)),
    ):
        print(f"### {title}\n\n{table(list(cases))}\n", flush=True)


if __name__ == "__main__":
    main()
