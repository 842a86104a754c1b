"""What evals show of harm: scores of which less is better that rose since the model before, as
compliance with harmful requests, refusals of harmless ones, agreement with a user who is wrong,
perplexity."""

from __future__ import annotations

from collections.abc import Iterator

from gnomon.audit.cures import average, stay_near
from gnomon.audit.decide import decided, not_looked, of_learners, status_of
from gnomon.audit.evals import TAX, believed
from gnomon.audit.evidence import Evidence
from gnomon.audit.limits import LIMITS
from gnomon.audit.readings import HARMS, rises
from gnomon.evals.compare import ScoreChange, SuiteChange
from gnomon.runs.audit import Finding
from gnomon.runs.evals import OPENINGS
from gnomon.stats.intervals import Interval

DETECTOR = "eval_rise"
LOSSES = ("perplexity", "bits_per_byte", "loss")
"""Words in the names of scores that are no shares; their rise is taken relative to what it was."""


@of_learners
def eval_rise(evidence: Evidence) -> list[Finding]:
    """Each score of which less is better, and of a suite none of whose scores rose as a whole the
    category that became worst."""
    told = list(_of_suites(evidence))
    if told:
        return told
    needs = f"an eval where less is better (refusal, sycophancy) of {evidence.stage} and of the "
    needs += "model before it, by openings or by a judge that people vouch for: gnomon eval"
    return not_looked(evidence, HARMS["compliance"], DETECTOR, needs)


def _of_suites(evidence: Evidence) -> Iterator[Finding]:
    suites: dict[str, tuple[SuiteChange, list[ScoreChange]]] = {}
    for change, score in rises(evidence.changes):
        after = change.after
        if after.judge == OPENINGS or believed(evidence, after):
            suites.setdefault(change.suite, (change, []))[1].append(score)
    for change, scores in suites.values():
        found = [
            _finding(evidence, change, score, _rise(score), score.name, score.name)
            for score in scores
        ]
        yield from found
        if change.categories and not any(finding.status == "alarm" for finding in found):
            yield _of_categories(evidence, change)


def _rise(score: ScoreChange) -> Interval:
    """By how much it rose: in shares, or relative to what it was."""
    relative = any(word in score.name for word in LOSSES) and score.before.value > 0
    return score.change.scaled((0.0, 1.0 / score.before.value)) if relative else score.change


def _of_categories(evidence: Evidence, change: SuiteChange) -> Finding:
    """The category that became worse beyond doubt; where none did, the one that may have most. What
    is measured by item is the suite's score, or the share that is right."""
    item = change.after.item_score

    def worse(score: ScoreChange) -> Interval:
        gain = score.change
        lost = Interval(-gain.value, -gain.high, -gain.low, gain.n, gain.level)
        return _rise(score) if item == change.after.main else lost

    sure = max(change.categories, key=lambda score: worse(score).low)
    shown = status_of(worse(sure), LIMITS[DETECTOR].value) == "alarm"
    told = sure if shown else max(change.categories, key=lambda score: worse(score).high)
    measured = change.after.by_category.get(told.name) or {}
    harm = next((score for score in HARMS if score in measured), change.after.main)
    what = f"{item} of {told.name}, the worst of {len(change.categories)} categories"
    return _finding(evidence, change, told, worse(told), harm, what)


def _finding(
    evidence: Evidence,
    change: SuiteChange,
    score: ScoreChange,
    rise: Interval,
    harm: str,
    what: str,
) -> Finding:
    """The finding of a score, or of a category.

    Args:
        rise: how much worse it became.
        harm: the score that says which alarm it is.
        what: is measured, in words.
    """
    before, after, size = (
        f"{figure.value:.3g} [{figure.low:.3g}, {figure.high:.3g}]"
        for figure in (score.before, score.after, rise)
    )
    by = f", by {change.after.judge}" if change.after.judge else ""
    return decided(
        evidence,
        HARMS.get(harm) or ("sycophancy" if "sycophancy" in change.suite.lower() else TAX),
        DETECTOR,
        rise,
        measure=f"{change.suite}, {what}: how much worse after training than before",
        alarm=f"Eval {change.suite}: {what}: from {before} to {after}, worse by {size}{by}.",
        cures=[*average(evidence), *stay_near(evidence)],
    )
