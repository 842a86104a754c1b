"""Length bias of the policy: answers grow (or shrink) because length is paid for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gnomon.audit.change import SHARE, change_of, each, first_alarm
from gnomon.audit.cures import override, stay_near
from gnomon.audit.decide import decided, not_looked, of_policies, shortened
from gnomon.audit.evidence import Evidence
from gnomon.audit.limits import LIMITS
from gnomon.audit.risen import FEW, NEEDS
from gnomon.audit.samples import Sample
from gnomon.runs.audit import Finding
from gnomon.stats.intervals import Interval, mean_interval

NAME = DETECTOR = "length_bias"


@of_policies
def length_bias(evidence: Evidence) -> list[Finding]:
    """The growth of an answer's length, where within a prompt the longer answer is paid more."""
    if min(len(evidence.before), len(evidence.after)) < FEW:
        return not_looked(evidence, NAME, DETECTOR, NEEDS)
    change = change_of(evidence, each(_log_length))
    limit = LIMITS[DETECTOR].value
    paid = paid_for_length(evidence.rollouts)
    longest = sorted(evidence.after, key=lambda sample: -sample.length)
    words = "" if paid is None else f"; correlation of length and reward within a prompt {paid}"
    return [
        decided(
            evidence,
            NAME,
            DETECTOR,
            change.gain,
            only_if=paid is None or paid.low > 0,
            measure="growth of an answer's length, logarithm",
            alarm=f"answers grew to {math.exp(change.gain.value):.1f} times their length{words}",
            exhibits=shortened([s.exhibit(f"{s.length} tokens") for s in longest[:40]]),
            curves=["length", "length_reward_corr", "reward"],
            since=first_alarm(evidence, each(_log_length), lambda c: c.gain.low > limit),
            cures=_cures(evidence),
        )
    ]


def _log_length(sample: Sample) -> float | None:
    return math.log(max(1, sample.length))


def paid_for_length(samples: Sequence[Sample]) -> Interval | None:
    """The mean over prompts of the correlation of length and reward among a prompt's answers; None
    where no prompt has answers that differ in both."""
    found = [c for own in _groups(samples).values() if (c := _correlation(own)) is not None]
    if len(found) < 3:
        return None
    mean = mean_interval(found, method="t")
    return mean if mean.known else Interval(mean.value, mean.value, mean.value, mean.n)


def _groups(samples: Sequence[Sample]) -> dict[tuple[int, str], list[Sample]]:
    groups: dict[tuple[int, str], list[Sample]] = {}
    for sample in samples:
        if sample.reward is not None:
            groups.setdefault((sample.step, sample.prompt_id), []).append(sample)
    return groups


def _correlation(samples: Sequence[Sample]) -> float | None:
    lengths = np.array([sample.length for sample in samples], dtype=np.float64)
    rewards = np.array([sample.reward for sample in samples], dtype=np.float64)
    if lengths.size < 2 or np.ptp(lengths) == 0 or np.ptp(rewards) < 1e-12:
        return None
    return float(np.corrcoef(lengths, rewards)[0, 1])


def _cures(evidence: Evidence) -> list[str]:
    if evidence.algorithm in ("dpo", "online_dpo"):
        return [override(evidence, "settings.length_regularisation", 0.05)]
    return stay_near(evidence)


@of_policies
def truncated(evidence: Evidence) -> list[Finding]:
    """The share of answers that are cut off at the length limit, at the end of training."""
    if sum(sample.finished is not None for sample in evidence.after) < FEW:
        needs = f"{FEW} answers that say whether they were cut off"
        return not_looked(evidence, "truncated_answers", "truncated", needs)
    measure = each(lambda s: None if s.finished is None else float(not s.finished))
    change = change_of(evidence, measure, bounds=SHARE)
    cut = [s.exhibit("cut off") for s in evidence.after if s.finished is False]
    limit = LIMITS["truncated"].value
    since = first_alarm(evidence, measure, lambda c: c.after.low > limit, bounds=SHARE)
    rollout = evidence.spec.get("rollout")
    tokens = rollout.get("max_new_tokens") if isinstance(rollout, dict) else None
    growth = change_of(evidence, each(_log_length)).gain
    grew = growth.low > LIMITS[DETECTOR].value  # more room would be for more of that
    more = [override(evidence, "rollout.max_new_tokens", 2 * tokens)] if tokens else []
    return [
        decided(
            evidence,
            "truncated_answers",
            "truncated",
            change.after,
            measure="answers cut off at the length limit, share",
            alarm=f"{change.after.value:.0%} of the last answers are cut off at the length limit "
            f"({change.before.value:.0%} at the beginning)",
            exhibits=shortened(cut),
            curves=["finished", "length"],
            since=since,
            cures=[] if grew else more,
        )
    ]
