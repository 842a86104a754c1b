"""Whether what the policy learned holds for prompts that it was not trained on.

The trained reward itself is asked, at the evaluations of training: a policy that has its prompts by
heart is paid ever more for them, and no more, or less, for others.
"""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.audit.change import each, reward_change
from gnomon.audit.cures import stop_at
from gnomon.audit.decide import decided, not_looked, of_policies, shortened
from gnomon.audit.evidence import Evidence
from gnomon.audit.samples import Sample
from gnomon.runs.audit import Exhibit, Finding
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import gain_over_prompts, independent_difference, over_prompts

NAME, DETECTOR = "memorised_reward", "held_out_prompts"
SHARED = 0.25
"""The share of what training's prompts gained that others should gain, too."""
OFTEN, FEW = 10, 50
"""So many visits to each of at most so many prompts are to be watched where nothing else is
known."""


@of_policies
def held_out_prompts(evidence: Evidence) -> list[Finding]:
    """What held-out prompts gained of the trained reward, less a quarter of what training's did."""
    gained = reward_change(evidence) if evidence.trained and evidence.last else None
    if gained is None:
        return []
    asked = _evaluations(evidence)
    if len(asked) < 2:
        return _seen_often(evidence, gained.gain)
    first, last = min(asked), max(asked)
    if first > evidence.first[-1].step:
        needs = "an evaluation on held-out prompts at the beginning, as of training"
        return not_looked(evidence, NAME, DETECTOR, needs)
    held_out = _gain(asked[first], asked[last])
    levels = {step: over_prompts(_by_prompt(asked[step]), None).value for step in asked}
    best = max(levels, key=lambda step: levels[step])
    others = (
        "them" if len({s.prompt_id for s in evidence.rollouts}) <= FEW else "training's prompts"
    )
    return [
        decided(
            evidence,
            NAME,
            DETECTOR,
            independent_difference(held_out, gained.gain.scaled((0.0, SHARED))),
            above=False,
            only_if=gained.gain.low > 0,
            measure="gain of the trained reward on held-out prompts, less a quarter of that on "
            "training's",
            alarm=f"the trained reward rose by {gained.gain.value:.2g} on the prompts of training "
            f"and moved by {held_out.value:+.2g} on those that are held out, where it was highest "
            f"at step {best}: what was learned is good for {others} alone, or the held-out ones "
            "are of another kind",
            exhibits=_lost(asked[first], asked[last]),
            curves=["reward", "eval/reward"],
            since=float(best),
            cures=stop_at(evidence, float(best) or None),
        )
    ]


def _evaluations(evidence: Evidence) -> dict[int, list[Sample]]:
    """The rewarded answers to held-out prompts, by the step that they were sampled at."""
    found: dict[int, list[Sample]] = {}
    for sample in evidence.samples:
        if sample.held_out and sample.reward is not None:
            found.setdefault(sample.step, []).append(sample)
    return found


def _by_prompt(samples: Sequence[Sample]) -> list[list[float | None]]:
    return [list(values) for values in each(lambda s: s.reward)(samples).values()]


def _gain(before: Sequence[Sample], after: Sequence[Sample]) -> Interval:
    """Paired by prompt: an evaluation asks the same prompts each time."""
    old, new = (each(lambda s: s.reward)(side) for side in (before, after))
    shared = [prompt for prompt in new if prompt in old]
    return gain_over_prompts([new[p] for p in shared], [old[p] for p in shared], None)


def _lost(before: Sequence[Sample], after: Sequence[Sample]) -> list[Exhibit]:
    """Answers of the last evaluation that are paid less than the prompt's were in the first."""
    was = {sample.prompt_id: sample.reward or 0.0 for sample in before}
    worse = [s for s in after if (s.reward or 0.0) < was.get(s.prompt_id, 0.0)]
    return shortened([s.exhibit(f"paid {was[s.prompt_id]:.2g} at the beginning") for s in worse])


def _seen_often(evidence: Evidence, gain: Interval) -> list[Finding]:
    """Without held-out prompts: whether a few prompts were seen again and again."""
    visits = {(sample.prompt_id, sample.step) for sample in evidence.rollouts}
    prompts = len({prompt for prompt, _ in visits})
    times = len(visits) / prompts
    if prompts > FEW or times < OFTEN or gain.low <= 0:
        return not_looked(
            evidence, NAME, DETECTOR, "held-out prompts in training (holdout or eval_data)"
        )
    text = (
        f"training saw the same {prompts} prompts again and again, in {times:.0f} of the kept "
        f"iterations each, and its reward rose by {gain.value:.2g}: nothing shows what it does on "
        "others. Set holdout or eval_data, or take more prompts"
    )
    return [
        evidence.finding(
            NAME,
            DETECTOR,
            status="unclear",
            measure="iterations with the same prompt among those kept",
            figure=Interval(times),
            text=text,
        )
    ]
