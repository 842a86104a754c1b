"""What evals show of a policy: questions of a suite lost since the model it was trained from, and a
win rate below one half.

Evals are made by ``gnomon eval`` or a recipe's ``train.evals``; a suite counts where the model
before answered the same questions under the same settings, and a judge's win rate where people's
labels vouch for the judge (docs/gates.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from gnomon.audit.cures import average, stay_near
from gnomon.audit.decide import decided, not_looked, of_learners, of_policies, status_of
from gnomon.audit.evidence import Evidence
from gnomon.audit.kinds import wants_people
from gnomon.audit.limits import LIMITS
from gnomon.audit.readings import WIN_RATE, capability_drops, category_drops, latest
from gnomon.evals.compare import FEW, ScoreChange
from gnomon.runs.audit import Finding
from gnomon.runs.evals import EvalResult, calibrations_of
from gnomon.stats.intervals import Interval

TAX, HACKED = "alignment_tax", "reward_hacking"


@of_learners
def eval_drop(evidence: Evidence) -> list[Finding]:
    """A capability that an eval saw before training and sees less of after."""
    drops = capability_drops(evidence.changes)
    if not drops:
        needs = f"an eval of {evidence.stage} and of the model before it: gnomon eval"
        return not_looked(evidence, TAX, "eval_drop", needs)
    suites = category_drops(evidence.changes)
    return [
        decided(
            evidence,
            TAX,
            "eval_drop",
            drop,
            measure=f"{suite}: the score before training less that after",
            alarm=f"Eval {suite}: {after.value:.3g} after training, {drop.value:.3g} "
            f"[{drop.low:.3g}, {drop.high:.3g}] less than before.{_where(suites.get(suite, []))}",
            cures=[*average(evidence), *stay_near(evidence)],
        )
        for suite, (drop, after) in drops.items()
    ]


@of_learners
def eval_category_drop(evidence: Evidence) -> list[Finding]:
    """A category that fell in a suite that did not as a whole; of one that did, :func:`eval_drop`
    says where."""
    suites, whole = category_drops(evidence.changes), capability_drops(evidence.changes)
    if not suites:
        needs = f"an eval of {evidence.stage} and of the model before it, of questions with a "
        needs += f"category, {FEW} in each: gnomon eval"
        return not_looked(evidence, TAX, "eval_category_drop", needs)
    return [
        _of_categories(evidence, suite, categories)
        for suite, categories in suites.items()
        if suite not in whole or not _fell(whole[suite][0], "eval_drop")
    ]


def _of_categories(evidence: Evidence, suite: str, categories: Sequence[ScoreChange]) -> Finding:
    """The category that fell furthest beyond doubt; where none did, the one that may have lost
    most."""
    fell = fallen(categories)
    told = fell or min(_known(categories) or categories, key=lambda score: score.change.low)
    which = "the worst" if fell else "the one that may have lost most"
    return decided(
        evidence,
        TAX,
        "eval_category_drop",
        _drop(told),
        measure=f"{suite}, {told.name}, {which} of {len(categories)} categories: the score before "
        "training less that after",
        alarm=f"Eval {suite}: of its categories {_told(told)}, though the whole raises no alarm.",
        cures=[*average(evidence), *stay_near(evidence)],
    )


def fallen(categories: Sequence[ScoreChange]) -> ScoreChange | None:
    """The category that fell furthest beyond doubt; None where none passes the limit."""
    worst = min(_known(categories), key=lambda score: score.change.high, default=None)
    return worst if worst and _fell(_drop(worst), "eval_category_drop") else None


def _known(categories: Sequence[ScoreChange]) -> list[ScoreChange]:
    """Those whose change has an interval: one in which nothing changed may have none."""
    return [score for score in categories if score.change.known]


def _where(categories: Sequence[ScoreChange]) -> str:
    """The category that fell furthest, as a further sentence; empty where none is shown to have."""
    fell = fallen(categories)
    return f" Of its categories {_told(fell)}." if fell else ""


def _drop(score: ScoreChange) -> Interval:
    gain = score.change
    return Interval(-gain.value, -gain.high, -gain.low, gain.n, gain.level)


def _fell(drop: Interval, detector: str) -> bool:
    return status_of(drop, LIMITS[detector].value) == "alarm"


def _told(score: ScoreChange) -> str:
    """From where to where a category fell."""
    before, after, drop = (
        f"{figure.value:.3g} [{figure.low:.3g}, {figure.high:.3g}]"
        for figure in (score.before, score.after, _drop(score))
    )
    return f"{score.name} fell from {before} to {after}, by {drop}"


@of_policies
def lost_wins(evidence: Evidence) -> list[Finding]:
    """A win rate over the model before training that is below one half."""
    told = [
        result
        for result in latest(evidence.results, evidence.stage)
        if result.scores.get(WIN_RATE) is not None and believed(evidence, result)
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


def believed(evidence: Evidence, result: EvalResult) -> bool:
    """Whether nobody's opinion is in it, or one that people vouch for."""
    own = calibrations_of(evidence.calibrations, result.judge, result.judge_version)
    return not wants_people(result) or any(c.opens_gates for c in own)
