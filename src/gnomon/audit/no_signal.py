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
from gnomon.audit.evidence import Evidence
from gnomon.audit.samples import Sample
from gnomon.runs.audit import Finding
from gnomon.stats.prompts import over_prompts

NAME = "no_signal"
FEW = 20
"""Prompts below which nothing is said."""
ACROSS = ("ppo", "dppo", "reinforce", "reinforce_pp")
"""Methods that compare an answer with those to other prompts, too."""
_LEARNED = 0.75
"""The share of the way from the lowest reward, or 0, to the highest from which on a prompt whose
answers all get the same is learned."""


@of_policies
def no_signal(evidence: Evidence) -> list[Finding]:
    """The share of the prompts, over the whole of training, whose answers all got the same reward,
    and less than nearly the best that was ever given."""
    if not evidence.trained or evidence.algorithm in ACROSS:
        return []
    groups = _groups(evidence.rollouts)
    rewards = {sample.reward or 0.0 for own in groups.values() for group in own for sample in group}
    if len(groups) < FEW:
        return not_looked(evidence, NAME, NAME, f"{FEW} prompts with several rewarded answers")
    highest, lowest = max(rewards), min(0.0, *rewards)
    learned = lowest + _LEARNED * (highest - lowest)

    def silent(group: Sequence[Sample]) -> bool:
        given = {sample.reward for sample in group}
        return len(given) == 1 and (highest == lowest or (group[0].reward or 0.0) < learned)

    flags = {prompt: [float(silent(group)) for group in own] for prompt, own in groups.items()}
    figure = over_prompts(list(flags.values()), SHARE)
    quiet = [group for own in groups.values() for group in own if silent(group)]
    samples = max(len(group) for own in groups.values() for group in own)
    return [
        decided(
            evidence,
            NAME,
            NAME,
            figure,
            only_if=not reward_rose(evidence),
            measure="prompts whose answers all got the same reward, and not the best, share",
            alarm=f"for {figure.value:.1%} of the prompts all answers got the same reward, and not "
            "the best one, so there was next to nothing to learn from: take prompts that are "
            "easier, or a reward that gives part of the marks",
            exhibits=shortened([group[0].exhibit("as all others") for group in quiet[-40:]]),
            curves=["reward", "zero_spread", "unsolved"],
            cures=[override(evidence, "rollout.samples", 2 * samples)],
        )
    ]


def _groups(samples: Sequence[Sample]) -> dict[str, list[list[Sample]]]:
    """By prompt, its rewarded answers of each step where there are several."""
    found: dict[str, dict[int, list[Sample]]] = {}
    for sample in samples:
        if sample.reward is not None:
            found.setdefault(sample.prompt_id, {}).setdefault(sample.step, []).append(sample)
    several = {
        prompt: [group for group in steps.values() if len(group) > 1]
        for prompt, steps in found.items()
    }
    return {prompt: groups for prompt, groups in several.items() if groups}
