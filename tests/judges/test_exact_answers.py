"""The exact reward: which marks of an answer say nothing, and which are the answer."""

from __future__ import annotations

import pytest

from gnomon.judges.protocol import Sample
from gnomon.judges.verifiers import rewards
from gnomon.judges.verifiers.text import exact_verifier, without_marks
from gnomon.records import Prompt, Source
from judging import score_safely

DIFFERENT = [
    ("-5", "5"),
    ("3.5", "35"),
    ("1/2", "12"),
    ("50%", "50"),
    ("$1.50", "150"),
    ("5!", "5"),
    ("n!", "n"),
    ("3.333...", "3.333"),
    ("10:30", "1030"),
    ("C++", "C"),
    ("C#", "C"),
    ("x+y", "x-y"),
    ("x<y", "x>y"),
    ("x^2", "x2"),
    ("2**3", "23"),
    ("f(x)", "fx"),
    ("a_b", "ab"),
    ("__init__", "init"),
    ("don't", "dont"),
    ("(1,2)", "[1,2]"),
    ("(a,b)", "[a,b]"),
    ("[5]", "5"),
    (">", "<"),
    (">", "."),
    ("Paris, Rome", "Paris Rome"),
    ("**a** and **b**", "a and b"),
]
SAME = [
    ("paris", "Paris"),
    (" Paris \n France ", "paris france"),
    ("Paris!", "Paris"),
    ("Really?!", "really"),
    ("42.", "42"),
    ("C++.", "C++"),
    ("50%.", "50%"),
    ("**42**", "42"),
    ("$42$", "42"),
    ('"Paris".', "Paris"),
    ("\u201cParis\u201d", "Paris"),
    ("don\u2019t", "don't"),
    ('**"Paris"**!', "Paris"),
    ("***Paris.***", "Paris"),
    ("`x+y`", "x+y"),
    ("(B)", "B"),
    ("[New York].", "New York"),
    (">", ">"),
    ("...", "..."),
]


@pytest.mark.parametrize(("given", "truth"), DIFFERENT)
def test_signs_and_marks_within_an_answer_count(given: str, truth: str) -> None:
    verify = exact_verifier()
    assert not verify(given, truth)
    assert not verify(truth, given)
    assert verify(given, given)
    assert verify(truth, truth)


@pytest.mark.parametrize(("given", "truth"), SAME)
def test_marks_round_an_answer_say_nothing(given: str, truth: str) -> None:
    assert exact_verifier()(given, truth)
    assert exact_verifier()(truth, given)
    assert exact_verifier(punctuation=True)(given, given)


@pytest.mark.parametrize("text", ["Paris,", "Paris:", "- Paris", "* Paris", "# Paris"])
def test_marks_of_a_list_or_a_clause_round_the_whole_say_nothing(text: str) -> None:
    assert exact_verifier()(text, "Paris")
    assert exact_verifier()("B)", "B")
    assert not exact_verifier()("- 5", "5")


def test_with_punctuation_every_mark_counts() -> None:
    assert not exact_verifier(punctuation=True)("Paris.", "Paris")
    assert exact_verifier(punctuation=True)("paris.", "Paris.")


@pytest.mark.parametrize("text", ["", "?", "''", "**", "$", "()", "...", "' '", "\u2026"])
def test_nothing_is_left_of_no_text_that_held_something(text: str) -> None:
    assert bool(without_marks(text)) is bool(text)


def test_a_truth_that_holds_nothing_is_an_error_of_the_data() -> None:
    assert exact_verifier()("Paris", ["Paris", ""])  # an alias that is none says nothing
    prompt = Prompt("p", meta={"answer": ["", " "]}, source=Source("d.jsonl", 3))
    (score,) = score_safely(rewards.exact(), [Sample(prompt, "Paris", finished=True)])
    assert score.value is None
    assert "d.jsonl, row 3" in str(score.error)
    assert "empty" in str(score.error)
