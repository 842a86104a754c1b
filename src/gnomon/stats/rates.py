"""Shares as they are, from shares as an imperfect judge sees them.

A judge that is wrong now and then draws a win rate towards 1/2 and any other share towards what it
says by mistake. Where people's labels say how often it is wrong, the share can be corrected (Rogan
& Gladen 1978, "Estimating prevalence from the results of a screening test"); the interval then
holds the uncertainty of the correction too (Lee et al. 2025, arXiv 2511.21140, recommend both for
judges that are language models).
"""

from __future__ import annotations

import math

from gnomon.stats.intervals import Interval, t_quantile
from gnomon.stats.ratio import ratio

UNKNOWN = (0.0, 1.0)
"""The interval of a share about which the judge says nothing."""


def rogan_gladen(
    observed: Interval, sensitivity: Interval, specificity: Interval, level: float = 0.95
) -> Interval:
    """A share corrected for a judge's sensitivity and specificity, with Lang & Reiczigel's interval
    (2014, "Confidence limits for prevalence of disease adjusted for estimated sensitivity and
    specificity", Preventive Veterinary Medicine 113: 13-22).

    Args:
        observed: share of items that the judge says have it, and of how many items (``n``).
        sensitivity: share that it says so of, among those that have it by people's labels.
        specificity: share that it does not say so of, among those that do not have it.

    The interval is 0 to 1, and the value NaN, where the judge is not better than chance.
    """
    z = t_quantile(level, math.inf)
    n, n_se, n_sp = observed.n, sensitivity.n, specificity.n
    ap, se, sp = observed.value, sensitivity.value, specificity.value
    if not (min(n, n_se, n_sp) > 0 and se + sp > 1):
        return Interval(math.nan, *UNKNOWN, n, level)
    value = (ap + sp - 1) / (se + sp - 1)
    # each share is drawn to 1/2 by successes that were not seen, as in Agresti & Coull's interval
    ap, n_ap = (n * ap + z * z / 2) / (n + z * z), n + z * z
    se, n_se = (n_se * se + 1) / (n_se + 2), n_se + 2
    sp, n_sp = (n_sp * sp + 1) / (n_sp + 2), n_sp + 2
    youden = se + sp - 1
    if youden <= 0:
        return Interval(math.nan, *UNKNOWN, n, level)
    p = (ap + sp - 1) / youden
    of_se, of_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    error = math.sqrt(ap * (1 - ap) / n_ap + p * p * of_se + (1 - p) ** 2 * of_sp) / youden
    centre = p + 2 * z * z * (p * of_se - (1 - p) * of_sp)
    return _clipped(value, centre - z * error, centre + z * error, n, level)


def corrected_win_rate(observed: Interval, keeps: Interval) -> Interval:
    """People's win rate, from a judge's: the same correction where neither side of a pair means
    anything, so that sensitivity and specificity are one number.

        people's - 1/2 = (judge's - 1/2) / keeps

    Args:
        observed: the judge's win rate.
        keeps: how much of a difference that people see is left in it
            (:func:`gnomon.stats.judges.attenuation`), from other items than ``observed``.

    The interval is 0 to 1 where the judge is not shown to keep anything.
    """
    if not (observed.known and keeps.known and keeps.value > 0):
        return Interval(math.nan, *UNKNOWN, observed.n, observed.level)
    gap = Interval(observed.value - 0.5, observed.low - 0.5, observed.high - 0.5, observed.n)
    found = ratio(gap, keeps)
    low, high = (0.5 + found.low, 0.5 + found.high) if found.known else UNKNOWN
    return _clipped(0.5 + found.value, low, high, observed.n, observed.level)


def _clipped(value: float, low: float, high: float, n: float, level: float) -> Interval:
    """A share and its ends, within 0 and 1 and around it."""
    share = min(1.0, max(0.0, value))
    low, high = (min(1.0, max(0.0, end)) for end in (low, high))
    return Interval(share, min(low, share), max(high, share), n, level)
