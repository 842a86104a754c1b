"""What is wrong with a reward model: prompts that it does not know, categories in which it is no
better than chance, confidence that is not earned, and a taste for length.

Figures are from probes.json of the stage that is trained on it (``foreign_prompts``) and from the
held-out comparisons of its own stage (evals.json).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from gnomon.audit.decide import if_told, status_of
from gnomon.audit.evidence import Evidence
from gnomon.audit.limits import LIMITS
from gnomon.runs.audit import Exhibit, Finding
from gnomon.runs.probes import ForeignPrompts
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import independent_difference

TOLD_APART = LIMITS["foreign_prompts"].value
"""The AUC from which on prompts are foreign: of two, one of each set, a classifier of words tells
which is which 7 times of 10."""
SURE = 0.01
"""The share of random divisions that may be told apart as well."""
FEW = 20
"""Prompts of a category below which not being told from chance says nothing."""
RARE = 0.02
"""Below this share of the preference data a category is as good as missing."""
MATTERS = 0.1
"""A category of this share of the policy's prompts matters."""
DECENT = 0.65
"""What a reward model of noisy labels reaches: where a figure that may be chance may be this as
well, there are too few labels to tell."""
SINGLE = "held-out labels"
RANKS = {
    "held-out comparisons": "It ranks {share} of the held-out comparisons as labelled",
    "held-out implicit reward": "Its implicit reward ranks {share} of the held-out comparisons as "
    "labelled",
    SINGLE: "It puts {share} of the held-out answers on the side of their label",
}
"""What an accuracy of evals.json is of, by its table."""
ECE = LIMITS["held_out_comparisons.ece"].value
"""Expected calibration error from which on a margin says little of how sure the model may be."""

LENGTH_GAP = LIMITS["held_out_comparisons.length"].value
"""A model that has learned "longer is better" is right in the one kind of pairs and not in the
other; labels that prefer the longer answer a little make a small gap."""


def foreign_prompts(evidence: Evidence) -> list[Finding]:
    """Whether the reward model was trained on such prompts as the policy is optimised on."""
    return [_compared(evidence, found) for found in evidence.probes.foreign_prompts]


def _compared(evidence: Evidence, found: ForeignPrompts) -> Finding:
    auc, p = found.auc, found.p
    if auc is None or p is None:
        return evidence.finding(
            "foreign_prompts", "two_sample", status="not_looked", needs="both sets of prompts"
        )
    foreign = p <= SURE and auc.value >= TOLD_APART
    told = (
        f"A classifier of words tells {evidence.stage}'s prompts from those that "
        f"{found.reward_model} was trained on with an AUC of {auc.value:.2f} "
        f"[{auc.low:.2f}, {auc.high:.2f}] (p = {p:.3f})"
    )
    missing = _missing(found.coverage)
    more = f"; the reward model has seen next to nothing of {', '.join(missing)}" if missing else ""
    return evidence.finding(
        "foreign_prompts",
        "two_sample",
        status="alarm" if foreign else "unclear" if p <= SURE else "clear",
        measure="AUC of telling the policy's prompts from the reward model's; 0.5 is by chance",
        figure=auc,
        limit=TOLD_APART,
        detectable=found.detectable,
        text=f"{told}{more}.",
        exhibits=[
            Exhibit(prompt=prompt, shows="least like the reward model's prompts")
            for prompt in found.foreign
        ]
        if p <= SURE
        else [],
    )


def _missing(coverage: Mapping[str, Mapping[str, list[float]]]) -> list[str]:
    """What the policy is asked and the reward model was hardly trained on."""
    return [
        f"{kind} {value} ({shares[0]:.0%} against {shares[1]:.0%})"
        for kind, values in coverage.items()
        for value, shares in values.items()
        if len(shares) == 2 and shares[0] < RARE and shares[1] >= MATTERS
    ]


def held_out_comparisons(evidence: Evidence) -> list[Finding]:
    """Accuracy by category, calibration and length bias of a reward model on held-out pairs."""
    tables = dict(evidence.held_out.tables("by_category"))
    found: list[Finding] = []
    for name, table in tables.items():
        if Interval.parse(table.get("accuracy")) is not None:
            found += [*_accuracy(evidence, name, table), *_calibration(evidence, table)]
            found += _length(evidence, table)
    return found


def _accuracy(evidence: Evidence, name: str, table: Mapping[str, Any]) -> Iterator[Finding]:
    """Alarm where the model is shown to be hardly better than chance would; to watch where it may
    be, or where a category is not shown to be.

    Single answers are called good by the sign of a reward whose zero no label fixes: only the wrong
    side of chance is an alarm there.
    """
    overall = Interval.parse(table.get("accuracy"))
    by_category = table.get("by_category")
    rows = by_category.items() if isinstance(by_category, Mapping) else []
    figures = {str(k): i for k, v in rows if (i := Interval.parse(v)) is not None and i.known}
    assert overall is not None
    worst = min(figures, key=lambda k: figures[k].value, default=None)
    weak = [k for k, i in figures.items() if i.high < 0.5 or (i.low <= 0.5 and i.n >= FEW)]
    single = name == SINGLE
    doubted = overall.low <= 0.5
    broken = doubted and overall.high < (0.5 if single else DECENT)
    several = len(figures) > 1
    ends = f"[{overall.low:.2f}, {overall.high:.2f}]"
    share = f"{overall.value:.0%} {ends}"
    text = RANKS.get(name, f"It is right in {{share}} of {name}").format(share=share)
    if worst is not None and several:
        at = figures[worst]
        text += f"; least in {worst}, {at.value:.0%} [{at.low:.2f}, {at.high:.2f}]"
    if weak and several:
        text += f". Not shown to be better than chance: {', '.join(weak)}"
    yield evidence.finding(
        "reward_model_accuracy",
        "held_out_comparisons",
        status="alarm" if broken else "unclear" if doubted or weak else "clear",
        measure="share of held-out answers on the side of their label"
        if single
        else "share of held-out comparisons ranked as labelled",
        figure=overall,
        limit=0.5,
        detectable=0.5 + (overall.high - overall.low) / 2 * 1.43 if overall.known else None,
        text=f"{text}.",
    )


def _calibration(evidence: Evidence, table: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether margins say how sure the model may be: the gap of confidence and accuracy."""
    bins = table.get("reliability")
    rows = [b for b in bins if isinstance(b, Mapping)] if isinstance(bins, list) else []
    counts = [float(b.get("count") or 0) for b in rows]
    total = sum(counts)
    if not total:
        return
    gap = sum(
        n * (float(b.get("confidence") or 0) - float(b.get("accuracy") or 0))
        for n, b in zip(counts, rows, strict=True)
    )
    gap /= total
    accuracy = Interval.parse(table.get("accuracy"))
    half = (
        (accuracy.high - accuracy.low) / 2 if accuracy is not None and accuracy.known else math.nan
    )
    figure = Interval(gap, gap - half, gap + half, total)
    status = status_of(figure, ECE)
    text = f"It is {abs(gap):.0%} {'more' if gap > 0 else 'less'} sure of its rankings than right."
    yield evidence.finding(
        "overconfidence",
        "held_out_comparisons",
        status=status,
        measure="mean confidence sigmoid(margin) less the share that is right",
        figure=figure,
        limit=ECE,
        detectable=ECE + half * 1.43 if math.isfinite(half) else None,
        text=if_told(text, status, figure, ECE),
    )


def _length(evidence: Evidence, table: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether it is right oftener where the better answer is the longer one."""
    about = table.get("length")
    if not isinstance(about, Mapping):
        return
    longer = Interval.parse(about.get("accuracy_better_longer"))
    shorter = Interval.parse(about.get("accuracy_better_shorter"))
    if longer is None or shorter is None or not (longer.known and shorter.known):
        return
    gap = independent_difference(longer, shorter)
    status = status_of(gap, LENGTH_GAP)
    text = (
        f"It is right in {longer.value:.0%} of the pairs whose better answer is the longer, "
        f"and in {shorter.value:.0%} of those where it is the shorter one."
    )
    yield evidence.finding(
        "length_bias",
        "held_out_comparisons",
        status=status,
        measure="accuracy where the better answer is the longer one, less where it is the shorter",
        figure=gap,
        limit=LENGTH_GAP,
        detectable=LENGTH_GAP + (gap.high - gap.low) / 2 * 1.43,
        text=if_told(text, status, gap, LENGTH_GAP),
    )
