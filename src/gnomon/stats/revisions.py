"""What revising did to answers, and whether it made them all the same.

Small models that revise their own answers tend to collapse: they refuse whatever is asked, repeat
themselves, or write one text to every prompt, and a policy that is trained on that does so too. The
figures are of the texts before and after, and say nothing about which of them is better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gnomon.stats.intervals import Interval, exact_interval
from gnomon.stats.refusals import is_refusal
from gnomon.stats.texts import distinct, mean_known, ngrams, repetition, words

SAME = 0.2
"""A share of one text, above which (and twice what it was before) answers have become the same."""
LESS_DISTINCT = 0.6
"""Distinct pairs of words fall to less than this share of what they were before."""
REPEATED = 0.3
"""Three words in a row that an answer has had before: above this share, and twice what it was."""
UNCHANGED = 0.8
"""More revisions than this that are the answer itself."""
FEWEST = 20
"""Answers below which nothing is said about sameness."""


def revision_figures(before: Sequence[str], after: Sequence[str]) -> dict[str, float]:
    """Figures of [n] answers before and after their revision.

    Shares, with ``_low`` and ``_high`` (95%): ``changed``, revisions that are another text;
    ``refused_before`` and ``refused``. Without intervals: ``one_text`` the share of the commonest
    text, ``distinct_2`` distinct pairs of words as a share of all, among as many pairs on both
    sides; ``repeated`` three words that an answer has had before; ``words`` the mean length.
    """
    n = len(before)
    if n == 0:
        return {}
    changed = sum(a.strip() != b.strip() for a, b in zip(before, after, strict=True))
    shares = {
        "changed": exact_interval(changed, n),
        "refused_before": exact_interval(sum(map(is_refusal, before)), n),
        "refused": exact_interval(sum(map(is_refusal, after)), n),
    }
    out: dict[str, float] = {}
    for name, share in shares.items():
        out |= _with_ends(name, share)
    drawn = max(1, min(_pairs(before), _pairs(after)))
    for end, texts in (("_before", before), ("", after)):
        out[f"one_text{end}"] = max(Counter(t.strip() for t in texts).values()) / n
        out[f"distinct_2{end}"] = distinct(texts, 2, drawn)
        out[f"repeated{end}"] = mean_known([repetition(text) for text in texts])
        out[f"words{end}"] = mean_known([float(len(words(text))) for text in texts])
    return out


def collapse_warnings(figures: dict[str, float], commonest: str, n: int) -> list[str]:
    """What is wrong with revisions of such figures, in words.

    Args:
        commonest: the commonest revision.
        n: how many revisions there are.
    """
    found = []
    if n and 1.0 - figures["changed"] > UNCHANGED:
        found.append(
            f"{1.0 - figures['changed']:.0%} of the {n} revisions are the answer itself: the "
            "critic finds nothing to change, or cannot"
        )
    if n < FEWEST:
        return found

    def grown(name: str, limit: float) -> bool:
        return figures[name] > max(limit, 2 * figures[f"{name}_before"])

    if grown("one_text", SAME):
        found.append(
            f"{figures['one_text']:.0%} of the revisions are one text, {commonest[:80]!r} (of the "
            f"answers before: {figures['one_text_before']:.0%})"
        )
    if figures["distinct_2"] < LESS_DISTINCT * figures["distinct_2_before"]:
        found.append(
            f"the revisions have become alike: {figures['distinct_2']:.2f} of their pairs of words "
            f"are distinct, {figures['distinct_2_before']:.2f} before"
        )
    if grown("repeated", REPEATED):
        found.append(
            f"the revisions repeat themselves: {figures['repeated']:.0%} of their runs of three "
            f"words, {figures['repeated_before']:.0%} before"
        )
    return found


def _with_ends(name: str, share: Interval) -> dict[str, float]:
    return {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}


def _pairs(texts: Sequence[str]) -> int:
    return sum(len(ngrams(words(text), 2)) for text in texts)
