"""Mode collapse: answers to different questions become the same, and sampling stops exploring."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gnomon.audit.change import SHARE, ByPrompt, change_of, first_alarm
from gnomon.audit.cures import explore, stay_near
from gnomon.audit.decide import decided, not_looked, of_policies, shortened
from gnomon.audit.evidence import Evidence
from gnomon.audit.limits import LIMITS
from gnomon.audit.risen import FEW, NEEDS
from gnomon.audit.samples import Sample
from gnomon.runs.audit import Finding
from gnomon.stats.intervals import mean_interval
from gnomon.stats.texts import common_openings, overlap

NAME = "mode_collapse"


@of_policies
def mode_collapse(evidence: Evidence) -> list[Finding]:
    """How different two answers to neighbouring prompts are: 1 less the overlap of their word
    pairs, over prompts."""
    detector = "mode_collapse"
    if min(len(evidence.before), len(evidence.after)) < FEW:
        return not_looked(evidence, NAME, detector, NEEDS)
    change = change_of(evidence, different, bounds=SHARE)
    limit = LIMITS[detector].value
    since = first_alarm(evidence, different, lambda c: c.after.high < limit, bounds=SHARE)
    opening, share = common_openings([s.response for s in evidence.after], top=1)[0]
    return [
        decided(
            evidence,
            NAME,
            detector,
            change.after,
            above=False,
            only_if=change.gain.high < 0,
            measure="difference between answers to different prompts, share of their word pairs",
            alarm=f"answers to different prompts are nearly the same ({share:.0%} begin with "
            f"{opening!r}); at the beginning they differed in {change.before.value:.0%}",
            exhibits=shortened([s.exhibit("nearly the same") for s in evidence.after]),
            curves=["distinct_across", "self_similarity", "opening_share", "entropy"],
            since=since,
            cures=[*explore(evidence), *stay_near(evidence)],
        )
    ]


def different(samples: Sequence[Sample]) -> ByPrompt:
    """By prompt, 1 less the overlap of an answer with one to the next prompt."""
    one: dict[str, Sample] = {}
    for sample in samples:
        one.setdefault(sample.prompt_id, sample)
    order = list(one.values())
    if len(order) < 2:
        return {}
    nexts = [*order[1:], order[0]]
    return {
        a.prompt_id: [1.0 - overlap(a.response, b.response)]
        for a, b in zip(order, nexts, strict=True)
    }


@of_policies
def entropy(evidence: Evidence) -> list[Finding]:
    """The policy's entropy at the end of training, in nats per token."""
    detector = "entropy"
    steps, values = evidence.series("entropy")
    if not evidence.trained and not values.size:
        return []
    if values.size < 10:
        return not_looked(evidence, NAME, detector, "the metric entropy of 10 iterations")
    figure = mean_interval(values[-max(5, values.size // 5) :], method="t")
    if not math.isfinite(figure.low):
        return not_looked(evidence, NAME, detector, "an entropy that is not constant")
    limit = LIMITS[detector].value
    below = np.flatnonzero(values < limit)
    return [
        decided(
            evidence,
            NAME,
            detector,
            figure,
            above=False,
            measure="the policy's entropy, nats per token",
            alarm=f"the policy's entropy fell to {figure.value:.3f} nats per token: its samples "
            "to a prompt are all alike, and nothing is left to learn from",
            curves=["entropy", "distinct_within", "zero_spread"],
            since=float(steps[below[0]]) if below.size else None,
            cures=[*explore(evidence), *stay_near(evidence)],
        )
    ]
