"""What evals show of a policy: questions of a suite lost since the model it was trained from, and a
win rate below one half.

Evals are made by ``gnomon eval`` or a recipe's ``train.evals``; a suite counts where the model
before answered the same questions under the same settings, and a judge's win rate where people's
labels vouch for the judge (docs/gates.md).
"""

from __future__ import annotations

from gnomon.audit.cures import average, stay_near
from gnomon.audit.decide import decided, not_looked, of_policies
from gnomon.audit.evidence import Evidence
from gnomon.audit.gates import WIN_RATE, capability_drops, category_drops, latest
from gnomon.audit.kinds import wants_people
from gnomon.evals.compare import FEW
from gnomon.runs.audit import Finding
from gnomon.runs.evals import EvalResult, calibrations_of
from gnomon.stats.intervals import Interval

TAX, HACKED = "alignment_tax", "reward_hacking"


@of_policies
def eval_drop(evidence: Evidence) -> list[Finding]:
    """A capability that an eval saw before training and sees less of after."""
    drops = capability_drops(evidence.changes)
    if not drops:
        needs = f"an eval of {evidence.stage} and of the model before it: gnomon eval"
        return not_looked(evidence, TAX, "eval_drop", needs)
    return [
        decided(
            evidence,
            TAX,
            "eval_drop",
            drop,
            measure=f"{suite}: the score before training less that after",
            alarm=f"Eval {suite}: {after.value:.3g} after training, {drop.value:.3g} "
            f"[{drop.low:.3g}, {drop.high:.3g}] less than before.",
            cures=[*average(evidence), *stay_near(evidence)],
        )
        for suite, (drop, after) in drops.items()
    ]


@of_policies
def eval_category_drop(evidence: Evidence) -> list[Finding]:
    """The category of a suite that lost most, whatever the suite as a whole did."""
    suites = category_drops(evidence.changes)
    detector = "eval_category_drop"
    if not suites:
        needs = f"an eval of {evidence.stage} and of the model before it, of questions with a "
        return not_looked(evidence, TAX, detector, f"{needs}category, {FEW} in each: gnomon eval")
    found = []
    for suite, categories in suites.items():
        worst = min(categories, key=lambda score: score.change.high)
        gain, before, after = worst.change, worst.before, worst.after
        drop = Interval(-gain.value, -gain.high, -gain.low, gain.n, gain.level)
        found.append(
            decided(
                evidence,
                TAX,
                detector,
                drop,
                measure=f"{suite}, {worst.name}, the worst of {len(categories)} categories: the "
                "score before training less that after",
                alarm=f"Eval {suite}: of its categories {worst.name} fell from {before.value:.3g} "
                f"to {after.value:.3g}, by {drop.value:.3g} [{drop.low:.3g}, {drop.high:.3g}], "
                "whatever became of the whole.",
                cures=[*average(evidence), *stay_near(evidence)],
            )
        )
    return found


@of_policies
def lost_wins(evidence: Evidence) -> list[Finding]:
    """A win rate over the model before training that is below one half."""
    told = [
        result
        for result in latest(evidence.results, evidence.stage)
        if result.scores.get(WIN_RATE) is not None and _believed(evidence, result)
    ]
    if not told:
        needs = "a win rate by a judge that 50 people's labels vouch for: gnomon eval, calibrate"
        return not_looked(evidence, HACKED, "lost_wins", needs)
    found = []
    for result in told:
        figure = result.scores[WIN_RATE]
        assert figure is not None
        found.append(
            decided(
                evidence,
                HACKED,
                "lost_wins",
                figure,
                above=False,
                measure=f"win rate over {result.against} by {result.judge or 'a program'}",
                alarm=f"It wins {figure.value:.1%} against {result.against} "
                f"([{figure.low:.1%}, {figure.high:.1%}]) by {result.judge or 'a program'}.",
                cures=stay_near(evidence),
            )
        )
    return found


def _believed(evidence: Evidence, result: EvalResult) -> bool:
    """Whether nobody's opinion is in it, or one that people vouch for."""
    own = calibrations_of(evidence.calibrations, result.judge, result.judge_version)
    return not wants_people(result) or any(c.opens_gates for c in own)
