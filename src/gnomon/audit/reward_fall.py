"""Whether the trained reward is lost again: it ends well below its peak.

A policy is trained to raise it, so where it falls either the reward is no longer what it was (a
service that broke, a sign that turned, a limit that was passed) or training broke. Neither needs a
judge to be seen, and detectors of a reward that rises for the wrong reason do not look at it.
"""

from __future__ import annotations

import numpy as np

from gnomon.audit.cures import slower, stop_at
from gnomon.audit.decide import decided, not_looked, of_policies
from gnomon.audit.evidence import Evidence
from gnomon.audit.held_out import fall_from_peak
from gnomon.runs.audit import Finding

NAME = "reward_fall"


@of_policies
def reward_fall(evidence: Evidence) -> list[Finding]:
    """How far the trained reward ends below its peak, in standard deviations of the first
    answers'."""
    steps, values = evidence.series("reward")
    if not evidence.trained and not values.size:
        return []
    first = [s.reward for s in evidence.before if s.reward is not None]
    spread = float(np.std(first)) if len(first) > 1 else 0.0
    fall = fall_from_peak(steps, values) if spread else None
    if fall is None:
        needs = "the reward of 10 iterations, and first answers that differ in it"
        return not_looked(evidence, NAME, NAME, needs)
    figure, at = fall[0].scaled((0.0, 1.0 / spread)), fall[1]
    return [
        decided(
            evidence,
            NAME,
            NAME,
            figure,
            measure="fall of the trained reward from its peak, in standard deviations",
            alarm=f"the trained reward ends {figure.value:.1f} standard deviations of the first "
            f"answers' below its peak at step {at:.0f}: it is no longer the reward it was, the "
            "prompts have become harder, or training broke; what the policy has come to since is "
            "not what was asked for",
            exhibits=[s.exhibit("") for s in evidence.after[:6]],
            curves=["reward", "kl"],
            since=at,
            cures=[*stop_at(evidence, at), *slower(evidence)],
        )
    ]
