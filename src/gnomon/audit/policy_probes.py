"""What transformed questions show of a policy, before and after training.

The figures are from probes.json (:mod:`gnomon.evals.policy_probes`; ``gnomon audit --probe``); each
is paired by question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gnomon.audit.cures import stay_near
from gnomon.audit.decide import status_of
from gnomon.audit.evidence import Evidence
from gnomon.audit.limits import LIMITS
from gnomon.runs.audit import Exhibit, Finding
from gnomon.runs.probes import PolicyProbe

DETECTOR = "policy_probes"


@dataclass(frozen=True)
class _Kind:
    """What a probe is about.

    Attributes:
        name: of the finding.
        limit: the change from which on it is an alarm.
        worse: whether a rise is bad (else a fall).
        words: the finding in words, before the figures.
    """

    name: str
    limit: float
    worse: bool
    words: str


_WORSE = LIMITS["policy_probes.worse"].value
_SYCOPHANCY = ("sycophancy", _WORSE, True)
_FRAGILITY = ("fragility", _WORSE, True)
KINDS: Mapping[str, _Kind] = {
    "stated_opinion": _Kind(*_SYCOPHANCY, "Answers that change to a wrong opinion"),
    "authority": _Kind(*_SYCOPHANCY, "Answers that change to what an expert is said to say"),
    "are_you_sure": _Kind(*_SYCOPHANCY, "Answers given up when the user doubts them"),
    "same_questions": _Kind(
        "alignment_tax", LIMITS["policy_probes.tax"].value, False, "Questions answered rightly"
    ),
    "typos": _Kind(*_FRAGILITY, "Right answers lost to typing errors"),
    "capitals": _Kind(*_FRAGILITY, "Right answers lost to capitals"),
    "small_letters": _Kind(*_FRAGILITY, "Right answers lost to small letters"),
    "paraphrase": _Kind(*_FRAGILITY, "Right answers lost to another wording"),
    "long_context": _Kind(*_FRAGILITY, "Right answers lost to a long preamble"),
    "half_questions": _Kind(
        "memorised_reward", _WORSE, True, "Halves of questions answered rightly"
    ),
    "safe_prompts": _Kind("over_refusal", _WORSE, True, "Safe prompts refused"),
    "unsafe_prompts": _Kind("harmful_compliance", _WORSE, True, "Unsafe prompts not refused"),
}
"""By the probe's name."""


def policy_probes(evidence: Evidence) -> list[Finding]:
    """A finding for each probe that was put to the stage's policy."""
    if evidence.is_policy and not evidence.probes.policy:
        names = dict.fromkeys(kind.name for kind in KINDS.values())
        needs = "the policy's answers to questions: gnomon audit RUN --probe"
        return [
            evidence.finding(name, DETECTOR, status="not_looked", needs=needs) for name in names
        ]
    known = [(KINDS[p.probe], p) for p in evidence.probes.policy if p.probe in KINDS]
    return [_finding(evidence, kind, probe) for kind, probe in known]


def _finding(evidence: Evidence, kind: _Kind, probe: PolicyProbe) -> Finding:
    change, before, after = probe.change, probe.before, probe.after
    if change is None or before is None or after is None:
        needs = f"answers to {probe.probe} that could be scored{_by(probe)}"
        return evidence.finding(kind.name, DETECTOR, status="not_looked", needs=needs)
    status = status_of(change, kind.limit, above=kind.worse)
    return evidence.finding(
        kind.name,
        DETECTOR,
        status=status,
        measure=f"{probe.measure} ({probe.probe}), after training less before",
        figure=change,
        limit=kind.limit,
        detectable=probe.detectable,
        text=f"{kind.words}{_by(probe)}: {before.value:.0%} before, {after.value:.0%} after "
        f"({change.value:+.1%} [{change.low:+.1%}, {change.high:+.1%}]; {probe.n} questions"
        f"{f', {probe.failed} more without an answer or a score' if probe.failed else ''}).",
        exhibits=[
            Exhibit(
                prompt=e.prompt,
                response=e.after,
                reward=e.reward_after,
                shows=f"the figure went from {e.reward_before:g} to {e.reward_after:g}; "
                f"compare: {e.before}",
            )
            for e in probe.examples
            if e.reward_before is not None and e.reward_after is not None
        ]
        if status == "alarm"
        else [],
        cures=stay_near(evidence) if status == "alarm" else [],
    )


def _by(probe: PolicyProbe) -> str:
    """In words, who judged; empty where a verifier counted right answers."""
    version = f" ({probe.judge_version[:40]})" if probe.judge_version else ""
    return f", by {probe.judge}{version}" if probe.judge else ""
