"""A figure with its interval against its limit: alarm, clear, or not told apart."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from gnomon.audit.evidence import Detector, Evidence
from gnomon.audit.limits import LIMITS
from gnomon.runs.audit import Exhibit, Finding, Status
from gnomon.stats.intervals import Interval, finite_or_none, t_quantile

POWER = 0.8
"""The chance of seeing the smallest effect that is called detectable."""


def status_of(figure: Interval, limit: float, *, above: bool = True) -> Status:
    """Alarm where the whole interval is past the limit, clear where none of it is.

    Args:
        above: whether figures above the limit are bad; else those below.
    """
    if not figure.known:
        return "unclear"
    near, far = (figure.low, figure.high) if above else (-figure.high, -figure.low)
    bound = limit if above else -limit
    if near > bound:
        return "alarm"
    return "clear" if far <= bound else "unclear"


def detectable(figure: Interval, limit: float, *, above: bool = True) -> float | None:
    """The figure from which on an alarm would have been raised with a chance of 80%.

    It is as far beyond the limit as the interval's half-width and 0.84 standard errors together
    (the one-sided normal quantile of 80%); None without an interval.
    """
    if not figure.known:
        return None
    half = (figure.high - figure.low) / 2
    error = half / t_quantile(figure.level, math.inf)
    reach = half + 0.8416 * error
    return finite_or_none(limit + reach if above else limit - reach)


def decided(
    evidence: Evidence,
    name: str,
    detector: str,
    figure: Interval,
    *,
    measure: str,
    alarm: str,
    above: bool = True,
    only_if: bool = True,
    watch: str = "",
    **fields: Any,
) -> Finding:
    """The finding of a figure, by the limit of its detector.

    Args:
        alarm: the sentence of an alarm.
        only_if: a further condition of an alarm (that the reward rose, say); without it a figure
            past the limit is ``unclear``.
        watch: the sentence of a figure past the limit that is no alarm yet, but to be watched; then
            it is ``unclear``.
        fields: more of the finding; ``exhibits``, ``since``, ``watched`` and ``cures`` are kept of
            alarms and of what is to be watched only.
    """
    limit = LIMITS[detector].value
    status = status_of(figure, limit, above=above)
    text = (watch or alarm) if status == "alarm" and only_if else ""
    if status == "alarm" and (watch or not only_if):
        status = "unclear"
    if not text:
        fields |= {"exhibits": [], "since": None, "watched": None, "cures": []}
    return evidence.finding(
        name,
        detector,
        status=status,
        measure=measure,
        figure=figure,
        limit=limit,
        detectable=detectable(figure, limit, above=above),
        text=text,
        **fields,
    )


def if_told(text: str, status: Status, figure: Interval, limit: float) -> str:
    """The sentence of a finding; empty of one left open whose value is on the good side of the
    limit: it is for lack of samples, and nothing to watch."""
    return text if status != "unclear" or figure.value > limit else ""


def of_policies(detector: Detector) -> Detector:
    """The detector for stages that optimise a policy; it says nothing of others."""

    @functools.wraps(detector)
    def of_policy(evidence: Evidence) -> list[Finding]:
        return detector(evidence) if evidence.is_policy else []

    return of_policy


def of_learners(detector: Detector) -> Detector:
    """The same for stages that optimise a policy and those that teach it by demonstrations, where
    there is something to tell; it lacks nothing in the latter."""

    @functools.wraps(detector)
    def of_learner(evidence: Evidence) -> list[Finding]:
        if evidence.is_policy:
            return detector(evidence)
        found = detector(evidence) if evidence.algorithm == "sft" else []
        return [finding for finding in found if finding.status != "not_looked"]

    return of_learner


def not_looked(evidence: Evidence, name: str, detector: str, needs: str) -> list[Finding]:
    """The finding that could not be looked for."""
    return [evidence.finding(name, detector, status="not_looked", needs=needs)]


def shortened(exhibits: Sequence[Exhibit], most: int = 6) -> list[Exhibit]:
    """The first few exhibits, one a prompt."""
    seen: dict[str, Exhibit] = {}
    for exhibit in exhibits:
        seen.setdefault(exhibit.prompt, exhibit)
    return list(seen.values())[:most]
