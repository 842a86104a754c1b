"""Whether the reward refuses the answer that most of a policy's answers to a question give.

A policy that can do a task at all says the right thing oftener than any one wrong thing
(self-consistency: Wang et al. 2022, arXiv 2203.11171). So where most of its answers to a question
give the same number, and the reward tells the answers apart, it is mostly that number that is paid.
A key that is wrong pays another one: shifted by a line, counted from 0, looked up under another
question's name. Only programs that go by the number are asked, of the first third of training,
before the policy has learned what is paid. A policy that is wrong in the same way again and again
looks alike, in a few questions; from a quarter of them on it is an alarm, and three questions done
by hand tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from gnomon.audit.consensus import Group, first_groups, first_steps
from gnomon.audit.contradiction import final_number
from gnomon.audit.decide import decided, not_looked, of_policies
from gnomon.audit.evidence import Evidence
from gnomon.audit.kinds import is_program
from gnomon.audit.limits import LIMITS
from gnomon.runs.audit import Exhibit, Finding
from gnomon.stats.intervals import Interval, weighted_proportion

NAME, DETECTOR = "reward_hacking", "refused"
ANSWERS, QUESTIONS = 3, 10
"""Rewarded answers to a question, and questions of a category, below which nothing is said."""
GRADED = 0.15
"""Of a number that is graded: how much oftener than any two answers to a question two that give the
same number are paid the same, of what is left to 1. It is 0 of the year of a story or the last line
of a program, and 0.24 and more of the tunnel's verifiers, one with 10% of noise among them."""
LOOK = (
    "do three of these questions by hand: either the key is wrong, or the policy is, again and "
    "again in the same way"
)


@of_policies
def refused(evidence: Evidence) -> list[Finding]:
    """Of questions to which most answers give the same number, in how many no such answer is paid
    more than the mean; in the category where that is shown to be most."""
    if not evidence.trained or not all(map(is_program, evidence.trained)):
        return []
    agreed = [group for group in first_groups(evidence) if _agreed(group) is not None]
    figures = _figures(agreed) if _graded(agreed) >= GRADED else {}
    if not figures:
        needs = f"a program that grades a number, and {QUESTIONS} questions to which most of "
        needs += f"{ANSWERS} or more answers give the same one while they differ in reward"
        return not_looked(evidence, NAME, DETECTOR, needs)
    worst = max(figures, key=lambda category: figures[category][0].low)
    figure, groups = figures[worst]
    where = f" of {worst}" if worst else ""
    text = (
        f"the reward refuses what the policy's own answers agree on: of {len(groups)} questions"
        f"{where} to which most answers give the same number, {figure.value:.0%} pay no such "
        "answer more than the others"
    )
    looked_at = first_steps(evidence)
    told: dict[str, Any] = {"exhibits": _exhibits(groups), "since": float(looked_at[-1])}
    finding = decided(
        evidence,
        NAME,
        DETECTOR,
        figure,
        measure=f"questions{where} whose commonest answer the reward refuses, share",
        alarm=text,
        first=LOOK,
        curves=["reward"],
        **told,
    )
    if finding.status != "alarm" and figure.low > LIMITS["refused.watched"].value:
        watched = {**told, "status": "unclear", "text": f"{text}: {LOOK}", "first": ""}
        finding = finding.model_copy(update=watched)
    return [finding]


def _figures(groups: Sequence[Group]) -> dict[str, tuple[Interval, list[Group]]]:
    """The share that is refused, of all ("") and of each category that has enough; intervals of
    all of them together."""
    by_category: dict[str, list[Group]] = {"": list(groups)}
    for group in groups:
        if group[0].category:
            by_category.setdefault(group[0].category, []).append(group)
    if len(by_category) == 2:  # all are of one
        by_category = {"": list(groups)}
    enough = {name: own for name, own in by_category.items() if len(own) >= QUESTIONS}
    level = 1 - 0.05 / max(1, len(enough))
    return {
        name: (
            weighted_proportion(
                [float(_is_refused(group)) for group in own],
                level=level,
                clusters=[group[0].prompt_id for group in own],
            ),
            own,
        )
        for name, own in enough.items()
    }


def _graded(groups: Sequence[Group]) -> float:
    """How far the reward goes by the number, from 0 (not at all) to 1; see :data:`GRADED`."""
    pairs = [pair for group in groups for pair in combinations(group, 2)]
    pairs = [pair for pair in pairs if None not in map(final_number, pair)]
    same = [(a, b) for a, b in pairs if final_number(a) == final_number(b)]
    usual, alike = (
        sum(a.reward == b.reward for a, b in chosen) / max(1, len(chosen))
        for chosen in (pairs, same)
    )
    return (alike - usual) / (1 - usual) if usual < 1 else 0.0


def _agreed(group: Group) -> str | None:
    """The number that more than half of the answers give; None where there is none."""
    if len(group) < ANSWERS:
        return None
    given = Counter(n for sample in group if (n := final_number(sample)) is not None)
    number, count = given.most_common(1)[0] if given else ("", 0)
    return number if 2 * count > len(group) else None


def _is_refused(group: Group) -> bool:
    """Whether no answer that gives the agreed number gets more than the mean of the group: the best
    of them counts, since one that is badly put may be refused for that."""
    paid = [sample.reward or 0.0 for sample in group]
    return _best(group, _agreed(group)) <= sum(paid) / len(paid)


def _best(group: Group, number: str | None) -> float:
    return max(s.reward or 0.0 for s in group if final_number(s) == number)


def _exhibits(groups: Sequence[Group]) -> list[Exhibit]:
    """Of questions whose commonest answer is refused, one that gives it and the best paid one."""
    found: list[Exhibit] = []
    for group in (group for group in groups if _is_refused(group)):
        number = _agreed(group)
        usual = next(sample for sample in group if final_number(sample) == number)
        best = max(group, key=lambda sample: sample.reward or 0.0)
        found += [usual.exhibit(f"most answer {number}"), best.exhibit("paid best")]
    return found[:6]
