"""What evals show of harm: scores of which less is better that rose since the model before, as
compliance with harmful requests, refusals of harmless ones, agreement with a user who is wrong,
perplexity."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from gnomon.audit.cures import average, stay_near
from gnomon.audit.decide import decided, not_looked, of_learners, status_of
from gnomon.audit.evals import TAX, believed
from gnomon.audit.evidence import Evidence
from gnomon.audit.limits import LIMITS
from gnomon.audit.readings import HARMS, rise_title, rises
from gnomon.evals.compare import ScoreChange, SuiteChange
from gnomon.runs.audit import Finding
from gnomon.runs.evals import OPENINGS
from gnomon.stats.intervals import Interval

DETECTOR = "eval_rise"
LOSSES = ("perplexity", "bits_per_byte")
"""Words in the names of scores whose rise is taken relative to what they were."""
WORDS: Mapping[str, str] = {
    "compliance": "harmful requests that are not refused",
    "any_attack": "harmful requests that an attack gets through",
    "over_refusal": "harmless requests that are refused",
}
ABOUT: Mapping[str, tuple[str, ...]] = {
    "sycophancy": ("sycophancy",),
    "harmful_compliance": (
        *("harm", "harmbench", "advbench", "jailbreak", "jailbreakbench", "strongreject"),
        *("toxicity", "toxigen", "realtoxicityprompts", "agentharm"),
    ),
}
"""The alarm of a suite whose scores do not say it, by words in its name."""


@of_learners
def eval_rise(evidence: Evidence) -> list[Finding]:
    """Each score of which less is better, and where it did not rise as a whole the category in
    which it did."""
    told = list(_of_suites(evidence))
    if told:
        return told
    needs = f"an eval where less is better (refusal, sycophancy) of {evidence.stage} and of the "
    needs += "model before it, by a program or by a judge that people vouch for: gnomon eval"
    return not_looked(evidence, HARMS["compliance"], DETECTOR, needs)


def _of_suites(evidence: Evidence) -> Iterator[Finding]:
    for change, score in rises(evidence.changes):
        after = change.after
        if after.judge != OPENINGS and not believed(evidence, after):
            continue
        rise = _rise(score)
        if rise is None:
            continue
        whole = _finding(evidence, change, score, rise)
        yield whole
        own = [c for c in change.categories if (c.score or after.item_score) == score.name]
        if own and whole.status != "alarm" and not whole.text:
            yield from _of_categories(evidence, change, own)


def _rise(score: ScoreChange, name: str = "") -> Interval | None:
    """By how much it rose: in shares, or relative to what it was; None of other quantities, of
    which nobody knows how much is much."""
    before, after = score.before, score.after
    if any(word in (name or score.name) for word in LOSSES):
        return score.change.scaled((0.0, 1.0 / before.value)) if before.value > 0 else None
    share = all(0.0 <= figure.value <= 1.0 and not figure.low < 0 for figure in (before, after))
    return score.change if share and not after.high > 1.0 else None


def _of_categories(
    evidence: Evidence, change: SuiteChange, categories: Sequence[ScoreChange]
) -> Iterator[Finding]:
    """The category that became worse beyond doubt; where none did, the one that may have most."""
    known = [
        (category, rise)
        for category in categories
        if (rise := _rise(category, category.score or change.after.item_score)) and rise.known
    ]
    if not known:
        return
    sure = max(known, key=lambda pair: pair[1].low)
    shown = status_of(sure[1], LIMITS[DETECTOR].value) == "alarm"
    category, rise = sure if shown else max(known, key=lambda pair: pair[1].high)
    which = "the worst" if shown else "the one that may have risen most"
    yield _finding(evidence, change, category, rise, f", {which} of {len(known)} categories")


def _finding(
    evidence: Evidence, change: SuiteChange, score: ScoreChange, rise: Interval, which: str = ""
) -> Finding:
    """The finding of a score, or of a category: then ``which`` says of how many."""
    after, name = change.after, score.score or score.name
    relative = rise is not score.change
    size = "{:.0%} [{:.0%}, {:.0%}]" if relative else "{:.3g} [{:.3g}, {:.3g}]"
    more = size.format(rise.value, rise.low, rise.high)
    was, now = (f"{f.value:.3g} [{f.low:.3g}, {f.high:.3g}]" for f in (score.before, score.after))
    words = f"{WORDS[name]}: " if name in WORDS else ""
    by = f", by {after.judge}" if after.judge else ""
    text = f"{rise_title(change, score)}: {words}from {was} to {now}, {more} more{by}."
    doubt = after.judge == OPENINGS and not believed(evidence, after)
    seen = f"{text} Nobody vouches for that: refusals that lecture or open otherwise are not seen "
    seen += "(--judge names another judge, gnomon calibrate shows how far to believe it)."
    title = rise_title(change, score).removeprefix("Eval ")
    return decided(
        evidence,
        HARMS.get(name) or _about(change.suite),
        DETECTOR,
        rise,
        measure=f"{title}{which}: the score after training less that before"
        + (", relative to it" if relative else ""),
        alarm=text,
        watch=seen if doubt else "",
        cures=[*average(evidence), *stay_near(evidence)],
    )


def _about(suite: str) -> str:
    words = name_words(suite)
    return next((alarm for alarm, own in ABOUT.items() if words & set(own)), TAX)


def name_words(suite: str) -> set[str]:
    """The words of a suite's name; ``strong_reject`` is two, and ``strongreject`` too."""
    name = suite.lower()
    return set(re.findall(r"[a-z]+", name)) | set(re.findall(r"[a-z]+", re.sub("[_-]", "", name)))
