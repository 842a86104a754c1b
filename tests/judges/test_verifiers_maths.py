"""The maths reward: what counts as the same, where the answer is found, and what cannot stop a run.

``maths_forms.jsonl`` holds one form a line: an ``answer`` or whole ``response``, the ``truth``,
whether it is ``right``, its ``kind``, the public report the kind comes from (``source``), whether
it was ``written`` before or after the code that grades it, and what ``math_verify`` alone says.
"""

from __future__ import annotations

import gzip
import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import ConfigError
from gnomon.judges.protocol import Sample, Score
from gnomon.judges.verifiers import rewards
from gnomon.judges.verifiers.extract import boxed, final_answer, last_number
from gnomon.judges.verifiers.maths import equivalent, maths_verifier
from gnomon.judges.verifiers.rewards import VerifierReward
from gnomon.records import Prompt, Source
from judging import score_safely

DEFAULT = ("boxed", "hash", "phrase", "number")
FORMS = [
    json.loads(line)
    for line in Path(__file__).with_name("maths_forms.jsonl").read_text("utf-8").splitlines()
]


def sample(text: str, finished: bool = True, **meta: Any) -> Sample:
    return Sample(Prompt("p1", meta=meta, source=Source("d.jsonl", 7)), text, finished=finished)


@pytest.fixture(scope="module")
def maths() -> VerifierReward:
    return rewards.maths(workers=1, timeout_s=20, unfinished=None)


def scores(reward: VerifierReward, *samples: Sample) -> list[Score]:
    return score_safely(reward, samples)


def values(reward: VerifierReward, *samples: Sample) -> list[float | None]:
    return [score.value for score in scores(reward, *samples)]


# -- forms from public reports ---------------------------------------------------------------------


@pytest.mark.parametrize("right", [True, False])
def test_forms_from_public_reports(right: bool) -> None:
    verify = maths_verifier(DEFAULT, 0.0)
    misgraded = []
    for form in (form for form in FORMS if form["right"] is right):
        if "response" in form:
            given = verify(form["response"], form["truth"])[0] == 1.0
        else:
            given = equivalent(form["answer"], form["truth"])
        misgraded += [form] if given is not right else []
    assert misgraded == []


def test_the_forms_are_many_and_hard() -> None:
    right = sum(form["right"] for form in FORMS)
    hard = sum(form["right"] != form["math_verify"] for form in FORMS)
    assert right >= 60
    assert len(FORMS) - right >= 60
    assert hard >= len(FORMS) / 3
    assert all(form["source"] and form["kind"] for form in FORMS)


# -- what counts as the same, both ways round ------------------------------------------------------

SAME = [
    ("1/2", "0.5"),
    ("\\frac{1}{2}", "\\dfrac12"),
    ("50\\%", "0.5"),
    ("50%", "50"),
    ("10,\\!080", "10080"),
    ("$1,234.50", "1234.5"),
    ("12 apples", "12"),
    ("5 cm", "0.05 m"),
    ("3 hours", "180 minutes"),
    ("x=5", "5"),
    ("x \\in [1,2]", "[1,2]"),
    ("\\{1,2\\}", "2,1"),
    ("1\\frac{1}{2}", "\\frac32"),
    ("1 1/2", "1.5"),
    ("2\\frac12", "2.5"),
    ("2\\sqrt{3}", "\\sqrt{12}"),
    ("\\frac{\\pi}{2}", "pi/2"),
    ("(x+1)^2", "x^2+2x+1"),
    ("y=2x+1", "2x-y+1=0"),
    ("\\text{(B)}", "B"),
    ("30^\\circ", "30"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} \\frac{2}{2} \\\\ 2 \\end{pmatrix}"),
    ("-5", "−5"),
    ("1e3", "1000"),
    ("$18.00", "18 dollars"),
    ("36 km/h", "10 m/s"),
]
DIFFERENT = [
    ("\\frac{12}{3}", "\\frac{1}{23}"),
    ("1 1/2", "11/2"),
    ("2\\frac12", "1"),
    ("2 3", "23"),
    ("\\sqrt{2}3", "\\sqrt{23}"),
    ("10^{1}2", "10^{12}"),
    ("\\begin{pmatrix}1 & 23\\end{pmatrix}", "\\begin{pmatrix}12 & 3\\end{pmatrix}"),
    ("(1,200)", "1200"),
    ("x_1=5", "x_2=5"),
    ("3 PM", "3 AM"),
    ("12 feet", "12 inches"),
    ("12 m/s", "12 km/h"),
    ("1234", "1,235"),
    ("50%", "0.05"),
    ("0.5%", "0.5"),
    ("5 cm", "5 m^2"),
    ("(1,2)", "(2,1)"),
    ("[1,2)", "[1,2]"),
    ("0.333", "1/3"),
    ("3 or 4", "3"),
    ("1,2,3", "3"),
    ("3.14", "\\pi"),
    ("2x", "2"),
    ("3R^2", "3"),
    ("A", "B"),
    ("9^{9^{9^9}}", "1"),
    ("\\frac{1}{0}", "1"),
    ("(" * 300, "1"),
    ("3", "\\text{none}"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_same_answers(a: str, b: str) -> None:
    assert equivalent(a, b)
    assert equivalent(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_answers(a: str, b: str) -> None:
    assert not equivalent(a, b)
    assert not equivalent(b, a)


def test_the_truth_decides_how_an_answer_may_be_given() -> None:
    assert equivalent("5, 6", "x=5, y=6")  # in the order of the names
    assert not equivalent("6, 5", "x=5, y=6")
    assert not equivalent("2x = 10", "x = 5")  # to be solved
    assert not equivalent("x - x + 5", "5")
    assert equivalent("1010", "1010_2")  # the base left out
    assert not equivalent("1010_2", "1010")
    assert equivalent("3,14", "3.14")
    assert not equivalent("1.2", "1,2")


def test_decimals_are_exact_unless_they_are_long_or_a_tolerance_is_given() -> None:
    assert not equivalent("0.333333", "1/3")
    assert equivalent("0.3333333333333333", "1/3")
    assert equivalent("4.123105625617661", "\\sqrt{17}")
    assert not equivalent("4.1231", "\\sqrt{17}")
    assert equivalent("4.1231", "\\sqrt{17}", rel_tol=1e-4)
    assert equivalent("3.01", "3", rel_tol=0.01)
    assert not equivalent("3.04", "3", rel_tol=0.01)


# -- where the answer is found ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so \\boxed{\\frac{1}{2}} not \\boxed{3}", "3"),
        ("\\boxed{\\frac{a}{b}}.", "\\frac{a}{b}"),
        ("\\boxed{5} and then \\boxed{\\frac{1}{2", ""),
        ("\\boxed{x = \\boxed{5}}", "x = \\boxed{5}"),
        ("\\boxed{3} or \\boxed{4}", "3, 4"),
        ("\\boxed{3} \\boxed{4}", "3, 4"),
        ("$x=\\boxed{3}$, $y=\\boxed{4}$", "x=3, y=4"),
        ("\\boxed{3}. So it is \\boxed{4}", "4"),
        ("\\boxed{1.6} \\mathrm{~cm}", "1.6 \\mathrm{~cm}"),
        ("no box", None),
    ],
)
def test_boxes(text: str, found: str | None) -> None:
    assert boxed(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("5 + 5 = 10\n#### 1,010", "1,010"),
        ("#### Step 1: add\n3 + 4\nThe answer is 7.", "7"),
        ("The answer is 3.5. Then 7 more.", "3.5"),
        ("The answer is 42 because 6 * 7 = 42.", "42"),
        ("The answer is (C) because it is larger.", "(C)"),
        ("(C) because it is the largest of 3.", "(C)"),
        ("**C.** because 3 > 2", "C."),
        ("(B) 12, since 3 * 4 = 12", "(B) 12"),
        ("The correct option is D, as the 3 others are odd", "D"),
        ("**Answer:** 12 cm", "12 cm"),
        ("9 * 2 = 18 a day\nA: 18", "18"),
        ("Final answer\n\n42", "42"),
        ("Final Answer: The largest $n$ is 34.", "34"),
        ("First 3, then 4 and 1,250.", "1,250"),
        ("She needs 1 1/2 cups.", "1 1/2 cups"),
        ("so the result is 2^10.", "2^10"),
        ("It is $2.5$ m.", "2.5"),
        ("They meet at 3:30 PM.", "3:30 PM"),
        ("so there are 10!", "10"),
        ("- 5 apples\n- 6 pears", "6"),
        ("<think>\\boxed{3}</think> \\boxed{4}", "4"),
        ("no digits here", None),
        ("it is \\boxed{} and 7", None),
        ("it is \\boxed{5}. Wait, \\boxed{", None),
    ],
)
def test_the_final_answer(text: str, found: str | None) -> None:
    assert final_answer(text, DEFAULT) == found


def test_digits_that_belong_to_something_else_are_not_the_last_number() -> None:
    assert last_number("it is 2x") == "2x"
    assert last_number("so x_2") is None
    assert last_number("5 of H2O") == "5"


@pytest.mark.parametrize(
    "text", ["", "  ", "\\boxed{}", "\\boxed{ }", "$$", "The answer is .", "####"]
)
def test_the_empty_answer_is_never_right(text: str, maths: VerifierReward) -> None:
    assert values(maths, sample(text, answer="3"), sample(text, answer="0")) == [0.0, 0.0]
    assert values(rewards.exact(), sample(text.strip("#$"), answer="abc")) == [0.0]


def test_naming_every_answer_is_not_answering(maths: VerifierReward) -> None:
    spray = "The answer is 1, 2, 3, 4, 5, 6, 7, 8, 9 or 10."
    boxes = "\\boxed{3}, \\boxed{9}"
    got = values(maths, *[sample(text, answer=n) for text in (spray, boxes) for n in ("3", "9")])
    assert got == [0.0] * 4


# -- real data -------------------------------------------------------------------------------------


def test_gsm8k_verdicts_agree_with_the_published_labels(
    shared_data: Path, maths: VerifierReward
) -> None:
    with gzip.open(shared_data / "gsm8k" / "example_model_solutions.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    solutions = [(r["ground_truth"], s) for r in rows for s in r.values() if isinstance(s, dict)]
    scored = values(maths, *[sample(s["solution"], answer=truth) for truth, s in solutions])
    assert len(solutions) == 4224
    assert scored == [float(s["is_correct"]) for _, s in solutions]


def test_math500_solutions_are_right_and_others_wrong(
    shared_data: Path, maths: VerifierReward
) -> None:
    with gzip.open(shared_data / "math500" / "test.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    samples = [sample(r["solution"], answer=r["answer"]) for r in rows]
    worked = [sample(f"\\boxed{{{r['answer']}}}", answer=r["solution"]) for r in rows]
    assert values(maths, *samples, *worked) == [1.0] * 1000
    wrong = [
        (r["answer"], s["answer"])
        for r, s in itertools.pairwise(rows)
        if r["answer"] != s["answer"] and equivalent(r["answer"], s["answer"])
    ]
    assert wrong == [("5", "x=5")]


# -- what cannot stop a run ------------------------------------------------------------------------

HOSTILE = [
    "\\boxed{(((200!^30)^30)^30)^30}",
    "\\boxed{((200!)^{30})^{30}}",
    "\\boxed{7^{7^{7^{7}}}}",
    "\\boxed{(2e888^9)^9}",
    "\\boxed{90000!}",
    "\\boxed{\\binom{90000000}{40000000}}",
    "\\boxed{\\prod_{n=1}^{10^{8}} n}",
    "\\boxed{" + "{" * 3000 + "}" * 3000 + "}",
    "\\boxed{" + "(" * 250 + "1" + ")" * 250 + "}",
    "\\boxed{" * 3000,
    "\\boxed{0." + "7" * 100_000 + "}",
    "1 " * 9000,
    "answer is " * 2000,
    "a" * 3_000_000,
    "\\boxed{5\x007}",
    "\ud800 \\boxed{\udfff}",
]


def test_hostile_answers_are_wrong_and_soon(maths: VerifierReward) -> None:
    values(maths, sample("\\boxed{x}", answer="x+1"))  # the worker has started
    for text in HOSTILE:
        began = time.monotonic()
        for truth in ("57", "x^2+1"):
            (score,) = scores(maths, sample(text, answer=truth))
            assert (score.value, score.error) == (0.0, None), text[:40]
        assert time.monotonic() - began < 30


def test_an_answer_out_of_time_is_wrong_and_the_next_is_judged() -> None:
    reward = rewards.maths(workers=1, timeout_s=0.3)
    slow = sample("\\boxed{" + "+".join(["x^{2}y^{3}"] * 50) + "}", answer="x+y")
    first, hung, last = scores(reward, sample("5", answer="5"), slow, sample("6", answer="6"))
    assert (first.value, hung.value, last.value) == (1.0, 0.0, 1.0)
    assert (hung.parts, hung.error) == ({"timed_out": 1.0}, None)
    assert first.parts["timed_out"] == last.parts["timed_out"] == 0.0


@pytest.mark.parametrize(
    ("truth", "said"),
    [("####", "no answer"), ("$$", "no answer"), ("well " * 300, "1499 characters"), ("", "meta")],
)
def test_a_broken_truth_is_an_error_of_the_data(
    truth: str, said: str, maths: VerifierReward
) -> None:
    (score,) = scores(maths, sample("\\boxed{5}", answer=truth))
    assert score.value is None
    assert said in str(score.error)
    assert "d.jsonl, row 7" in str(score.error)


# -- options ---------------------------------------------------------------------------------------


def test_truths_of_every_type(maths: VerifierReward) -> None:
    found = values(
        maths,
        sample("\\boxed{5}", answer=5),
        sample("\\boxed{0.1}", answer=0.1),
        sample("\\boxed{2}", answer=["1", "2"]),
        sample("\\boxed{3}", answer=["1", "2"]),
        sample("\\boxed{18}", answer="9 * 2 = <<9*2=18>>18\n#### 18"),
        sample("\\boxed{18}", answer="9 * 2 = 18 a day\nA: 18"),
    )
    assert found == [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]


def test_maths_options() -> None:
    only_boxed = rewards.maths(extract=["boxed"], rel_tol=0.01, workers=1)
    got = values(
        only_boxed,
        sample("it is 3", answer="3"),
        sample("\\boxed{3.01}", answer="3"),
        sample("\\boxed{3}", finished=False, answer="3"),
        sample("\\boxed{3}", solution="3"),
    )
    assert got == [0.0, 1.0, 0.0, None]
    for options, said in (
        ({"extract": ["oracle"]}, "extract"),
        ({"engine": "sympy"}, "engine"),
        ({"rel_tol": -1}, "rel_tol"),
        ({"timeout_s": 0}, "timeout_s"),
    ):
        with pytest.raises(ConfigError, match=said):
            rewards.maths(**options)


@pytest.mark.parametrize("engine", ["own", "math-verify", "auto"])
def test_the_old_engines_still_pass_and_change_nothing(engine: str) -> None:
    with pytest.warns(UserWarning, match="remove the option"):
        reward = rewards.maths(engine=engine)
    assert reward.name == "maths"
