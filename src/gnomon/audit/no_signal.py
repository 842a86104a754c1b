"""Whether the reward told the policy anything: answers to one prompt that all get the same.

A method that compares answers learns nothing from them, and a run of nothing else ends where it
began, whatever its other figures say. Prompts that are all answered with the best reward there is
are no fault: they are learned.
"""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.audit.change import SHARE, reward_rose
from gnomon.audit.cures import override
from gnomon.audit.decide import decided, not_looked, of_policies, shortened
from gnomon.audit.evidence import Evidence, Sample
from gnomon.runs.audit import Finding
from gnomon.stats.prompts import over_prompts

NAME = "no_signal"
FEW = 20
"""Prompts below which nothing is said."""


@of_policies
def no_signal(evidence: Evidence) -> list[Finding]:
    """The share of the prompts, over the whole of training, whose answers all got the same reward,
    and less than the best that was ever given."""
    if not evidence.trained:
        return []
    groups = _groups(evidence.rollouts)
    if len(groups) < FEW:
        return not_looked(evidence, NAME, NAME, f"{FEW} prompts with several rewarded answers")
    rewards = {sample.reward for group in groups for sample in group}
    best = max(r for r in rewards if r is not None) if len(rewards) > 1 else None
    silent = [g for g in groups if len({s.reward for s in g}) == 1 and g[0].reward != best]
    quiet = set(map(id, silent))
    figure = over_prompts([[float(id(group) in quiet)] for group in groups], SHARE)
    samples = max(map(len, groups))
    return [
        decided(
            evidence,
            NAME,
            NAME,
            figure,
            only_if=not reward_rose(evidence),
            measure="prompts whose answers all got the same reward, and not the best, share",
            alarm=f"for {figure.value:.0%} of the prompts all answers got the same reward, and not "
            "the best one, so there was next to nothing to learn from: take prompts that are "
            "easier, or a reward that gives part of the marks",
            exhibits=shortened([group[0].exhibit("as all others") for group in silent[-40:]]),
            curves=["reward", "zero_spread", "unsolved"],
            cures=[override(evidence, "rollout.samples", 2 * samples)],
        )
    ]


def _groups(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The rewarded answers to each prompt of a step, where there are several."""
    found: dict[tuple[int, str], list[Sample]] = {}
    for sample in samples:
        if sample.reward is not None:
            found.setdefault((sample.step, sample.prompt_id), []).append(sample)
    return [group for group in found.values() if len(group) > 1]
