"""Differences between the models of a comparison, as sure as the data make them."""

from __future__ import annotations

import math

from gnomon.report.read import Comparison, Measured
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import independent_difference


def difference(comparison: Comparison, place: int, model: str, other: str) -> Interval:
    """``model`` less ``other`` in the column at ``place``.

    Paired by prompt where the comparison has it so (one of the two is its reference), else made
    from the two intervals. Its ends are NaN where either figure has no interval.
    """
    rows = dict(comparison.rows)
    new, old = rows[model][place], rows[other][place]
    if new is None or old is None:
        return Interval(math.nan, math.nan, math.nan)
    for sign, gained, reference in ((1, model, other), (-1, other, model)):
        gains = comparison.gains.get(gained, ())
        paired = gains[place] if place < len(gains) else None
        known = paired is not None and paired.low is not None and paired.high is not None
        if reference == comparison.reference and paired is not None and known:
            ends = sorted(sign * x for x in (as_interval(paired).low, as_interval(paired).high))
            return Interval(sign * paired.value, ends[0], ends[1], paired.n or 0.0)
    return independent_difference(as_interval(new), as_interval(old))


def as_interval(m: Measured) -> Interval:
    """A figure that was read, to reckon with; without an interval its ends are NaN."""
    low, high = (math.nan if x is None else x for x in (m.low, m.high))
    return Interval(m.value, low, high, m.n or 0.0)
