"""Whether the reward pays against what most answers to a prompt agree on, by category.

A policy that can do a task says the right thing oftener than any wrong one (self-consistency: Wang
et al. 2022, arXiv 2203.11171), so a reward of right and wrong pays the answers that agree with the
others. Where it pays them less, either the policy is wrong there oftener than right, or the reward
is: a key that is wrong for one kind of prompt, a sign that turned. Nothing but the answers and
their rewards is asked, those of the first third of training. It is something to look at, and no
alarm: what the policy is to unlearn looks the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gnomon.audit.contradiction import final_number
from gnomon.audit.decide import decided, not_looked, of_policies
from gnomon.audit.evidence import Evidence
from gnomon.audit.samples import Sample
from gnomon.runs.audit import Exhibit, Finding
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import within_prompt_slope
from gnomon.stats.texts import words

NAME, DETECTOR = "reward_hacking", "consensus"
ANSWERS, PROMPTS = 4, 15
"""Rewarded answers to a prompt, and prompts of a category, below which nothing is said."""
_WORDS = 400
"""Words of an answer that are compared."""
Group = Sequence[Sample]
Rows = list[list[float | None]]


@of_policies
def consensus(evidence: Evidence) -> list[Finding]:
    """What an answer is paid for agreeing with the others to its prompt, in the category where that
    is least."""
    if not evidence.trained:
        return []
    categories = _categories(evidence)
    figures = {name: _slope(groups) for name, groups in categories.items()}
    known = {name: figure for name, figure in figures.items() if figure.known}
    if not known:
        needs = f"{PROMPTS} prompts with {ANSWERS} answers each that differ in reward"
        return not_looked(evidence, NAME, DETECTOR, needs)
    worst = min(known, key=lambda name: known[name].high)
    figure = known[worst]
    text = (
        f"{f'In {worst}, the' if worst else 'The'} answers that most others to the same prompt "
        f"agree with are paid less: {figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}] "
        f"standard deviations for one of agreement{_elsewhere(known, worst)}. Either the policy is "
        "wrong there oftener than right, or the reward is: look at what it takes for right"
    )
    least = f" in {worst}, the least of {len(known)} categories" if len(known) > 1 else ""
    return [
        decided(
            evidence,
            NAME,
            DETECTOR,
            figure,
            above=False,
            measure="what answers are paid for agreeing with the others to their prompt, standard "
            f"deviations for one{least}",
            alarm="",
            watch=text,
            exhibits=_exhibits(categories[worst]),
            curves=["reward"],
            since=float(evidence.steps[0]),
        )
    ]


def first_steps(evidence: Evidence) -> list[int]:
    """The steps of the first third of training, three at least."""
    return evidence.steps[: max(3, len(evidence.steps) // 3)]


def first_groups(evidence: Evidence) -> list[Group]:
    """The answers to one prompt of the first third of training, where they differ in reward."""
    groups: dict[tuple[int, str], list[Sample]] = {}
    for sample in evidence.at(first_steps(evidence)):
        if sample.reward is not None:
            groups.setdefault((sample.step, sample.prompt_id), []).append(sample)
    return [group for group in groups.values() if len({s.reward for s in group}) > 1]


def _categories(evidence: Evidence) -> dict[str, list[Group]]:
    """Those groups by category, of those that have enough."""
    found: dict[str, list[Group]] = {}
    for group in first_groups(evidence):
        if len(group) >= ANSWERS:
            found.setdefault(group[0].category or "", []).append(group)
    return {name: own for name, own in sorted(found.items())
            if len({group[0].prompt_id for group in own}) >= PROMPTS}  # fmt: skip


def _slope(groups: Sequence[Group]) -> Interval:
    """Of reward on agreement within a prompt, both in their standard deviations there."""
    agreed: Rows = [list(agreement(group)) for group in groups]
    paid: Rows = [[sample.reward for sample in group] for group in groups]
    spreads = [_spread(rows) for rows in (agreed, paid)]
    if not all(spreads):
        return Interval(math.nan)
    return within_prompt_slope(agreed, paid).scaled((0.0, spreads[0] / spreads[1]))


def _spread(rows: Rows) -> float:
    """The standard deviation within rows."""
    known = [[v for v in row if v is not None] for row in rows]
    return float(np.std([v - sum(row) / len(row) for row in known for v in row]))


def agreement(group: Group) -> list[float | None]:
    """For each answer, how much the others agree with it, from 0 to 1.

    Where at least half of the answers end in a number, the share of the others that end in the
    same; None for those that end in none. Else the mean share of words in common (Jaccard).
    """
    numbers = [final_number(sample) for sample in group]
    others = len(group) - 1
    if 2 * sum(number is not None for number in numbers) >= len(group):
        return [None if n is None else (numbers.count(n) - 1) / others for n in numbers]
    said = [{w for w in words(s.response)[:_WORDS] if w.isalnum()} for s in group]
    return [sum(_common(a, b) for b in said if b is not a) / others for a in said]


def _common(a: set[str], b: set[str]) -> float:
    return len(a & b) / max(1, len(a | b))


def _elsewhere(figures: Mapping[str, Interval], worst: str) -> str:
    others = [f"{figures[name].value:.2f} in {name or 'the others'}" for name in figures
              if name != worst]  # fmt: skip
    return f" ({', '.join(others[:4])})" if others else ""


def _exhibits(groups: Sequence[Group]) -> list[Exhibit]:
    """Of prompts where the two are furthest apart, the answer that most agree with and the best
    paid one."""
    pairs: list[tuple[float, Sample, Sample]] = []
    for group in groups:
        known = [(a, s) for a, s in zip(agreement(group), group, strict=True) if a is not None]
        if known:
            agreed, usual = max(known, key=lambda pair: pair[0])
            alone, best = max(known, key=lambda pair: pair[1].reward or 0.0)
            pairs.append((agreed - alone, usual, best))
    pairs.sort(key=lambda pair: -pair[0])
    return [
        exhibit
        for apart, usual, best in pairs[:3]
        if apart > 0
        for exhibit in (usual.exhibit("most others agree"), best.exhibit("paid best"))
    ]
