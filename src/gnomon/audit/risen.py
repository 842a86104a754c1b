"""What the answers have become while the reward rose: a figure at the end of a stage beside that of
its beginning (or of the start model's answers, where training samples nothing)."""

from __future__ import annotations

from collections.abc import Callable

from gnomon.audit.change import SHARE, Measure, change_of, first_alarm, reward_change, reward_rose
from gnomon.audit.cures import stay_near, stop_at
from gnomon.audit.decide import decided, not_looked, shortened
from gnomon.audit.evidence import Evidence
from gnomon.audit.limits import LIMITS
from gnomon.audit.samples import Sample
from gnomon.runs.audit import Finding
from gnomon.stats.intervals import Bounds

NAME = "reward_hacking"
FEW = 20
"""Answers on each side below which nothing is said."""
NEEDS = f"{FEW} answers of the beginning and of the end: kept samples, or a compare section"


def risen(
    evidence: Evidence,
    detector: str,
    measure: Measure,
    *,
    what: str,
    alarm: str,
    shows: Callable[[Sample], float | None],
    bounds: Bounds | None = SHARE,
) -> list[Finding]:
    """The finding of a figure that rises where a reward is hacked."""
    if min(len(evidence.before), len(evidence.after)) < FEW:
        return not_looked(evidence, NAME, detector, NEEDS)
    limit = LIMITS[detector].value
    change = change_of(evidence, measure, bounds=bounds)
    since = first_alarm(evidence, measure, lambda c: c.gain.low > limit, bounds=bounds)
    worst = sorted(evidence.after, key=lambda sample: -(shows(sample) or 0.0))
    return [
        decided(
            evidence,
            NAME,
            detector,
            change.gain,
            only_if=reward_rose(evidence),
            measure=f"{what}, at the end less at the beginning",
            alarm=f"{alarm}: {change.after.value:.2f} at the end, {change.before.value:.2f} at the "
            f"beginning{meanwhile(evidence)}",
            exhibits=shortened([s.exhibit(f"{what}: {shows(s):.2f}") for s in worst[:40]]),
            curves=["reward", "kl", "entropy"],
            since=since,
            cures=[*stay_near(evidence), *stop_at(evidence, since)],
        )
    ]


def meanwhile(evidence: Evidence) -> str:
    """What rose in the meantime; nothing is known to have, where preferences are trained on."""
    return ", while the trained reward rose" if reward_change(evidence) else ""
