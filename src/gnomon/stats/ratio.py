"""The ratio of two figures that are both uncertain."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gnomon.stats.intervals import Interval


def ratio(a: Interval, b: Interval, correlation: float = 0.0) -> Interval:
    """a / b, with Fieller's interval (1954, "Some problems in interval estimation").

    It holds every ratio r for which a - r b may be 0, from the half-widths of both intervals.
    Where both are of the same answers, what moves one moves the other: ``correlation`` is that of
    their errors.

    Returns:
        Without ends where either has none, or where b may be 0: then any ratio may be.
    """
    n, level = min(a.n, b.n), min(a.level, b.level)
    value = a.value / b.value if b.value else math.nan
    of_a, of_b = ((figure.high - figure.low) / 2 for figure in (a, b))
    both = max(-1.0, min(1.0, correlation)) * of_a * of_b
    lead = b.value**2 - of_b**2
    if not (a.known and b.known and lead > 0):
        return Interval(value, n=n, level=level)
    middle = a.value * b.value - both
    half = math.sqrt(max(0.0, middle**2 - lead * (a.value**2 - of_a**2))) / lead
    centre = middle / lead
    return Interval(value, min(value, centre - half), max(value, centre + half), n, level)


def error_correlation(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """The correlation of the errors of two means over prompts, from what each prompt gives to
    them; only some of the prompts need be in both. 0 where one of them does not vary."""
    of_a, of_b = (_deviations(values) for values in (a, b))
    squares = (math.fsum(d * d for d in side.values()) for side in (of_a, of_b))
    scale = math.prod(map(math.sqrt, squares))
    together = math.fsum(d * of_b[prompt] for prompt, d in of_a.items() if prompt in of_b)
    return max(-1.0, min(1.0, together / scale)) if scale > 0 else 0.0


def _deviations(values: Mapping[str, float]) -> dict[str, float]:
    """Each value less their mean."""
    mean = math.fsum(values.values()) / len(values) if values else 0.0
    return {prompt: value - mean for prompt, value in values.items()}
