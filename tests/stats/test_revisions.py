"""Figures of revisions against counts by hand, and what is called a collapse."""

from __future__ import annotations

import itertools
import math

import pytest

from gnomon.stats.intervals import exact_interval
from gnomon.stats.revisions import FEWEST, collapse_warnings, revision_figures
from gnomon.tasks.tunnel import lexicon

WORDS = list(lexicon.WORDS[:16])
VARIED = [
    f"{a} {b} is {c}" for a, b, c in zip(WORDS * 2, WORDS[3:] * 3, WORDS[5:] * 3, strict=False)
]
SAME = ["I cannot help with that."] * len(VARIED)


def told(before: list[str], after: list[str]) -> str:
    figures = revision_figures(before, after)
    return "; ".join(collapse_warnings(figures, after[0], len(after)))


def test_figures_are_counts() -> None:
    before = ["a b c", "a b d", "I cannot help with that."]
    after = ["a b c ", "x y z", "x y z"]
    found = revision_figures(before, after)
    share = exact_interval(2, 3)
    assert (found["changed"], found["changed_low"]) == (share.value, share.low)
    assert found["changed_high"] == share.high
    assert found["refused_before"] == pytest.approx(1 / 3)
    assert found["refused"] == 0.0
    assert found["one_text_before"] == pytest.approx(1 / 3)
    assert found["one_text"] == pytest.approx(2 / 3)
    assert found["words"] == 3.0
    assert found["distinct_2"] == pytest.approx(4 / 6)


def test_distinct_pairs_are_among_as_many_on_both_sides() -> None:
    long = [" ".join(WORDS) for _ in range(4)]
    short = [f"{a} {b}" for a, b in itertools.pairwise(WORDS)][:4]
    found = revision_figures(long, short)
    assert found["distinct_2"] == 1.0
    plain = 15 / 60  # each pair four times
    assert found["distinct_2_before"] > 3 * plain


def test_variety_is_no_collapse() -> None:
    other = [f"{text} indeed" for text in VARIED]
    assert len(VARIED) >= FEWEST
    assert told(VARIED, other) == ""


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (SAME, "100% of the revisions are one text, 'I cannot help"),
        ([f"yes yes yes yes yes yes {t}" for t in VARIED], "repeat themselves"),
        ([f"the box is the box {i}" for i in range(len(VARIED))], "have become alike"),
        (VARIED, "100% of the .* are the answer itself"),
    ],
)
def test_collapse_is_told(after: list[str], expected: str) -> None:
    import re

    assert re.search(expected, told(VARIED, after))


def test_what_was_so_before_is_no_collapse_and_few_answers_show_nothing() -> None:
    figures = revision_figures(SAME, [f"{t} " for t in SAME])
    assert not any("one text" in w for w in collapse_warnings(figures, SAME[0], len(SAME)))
    assert told(VARIED[:5], SAME[:5]) == ""


def test_of_nothing_there_are_no_figures() -> None:
    assert revision_figures([], []) == {}
    assert math.isnan(revision_figures([""], [""])["distinct_2"])
