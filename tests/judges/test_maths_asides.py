"""The maths reward: what may stand beside an answer, and what makes it another one."""

from __future__ import annotations

import pytest

from gnomon.judges.verifiers.maths import equivalent, maths_verifier

TWO = [  # (truth of several parts, an answer that shares some of them)
    ("\\text{mean} = 5, \\text{median} = 4", "\\text{mean} = 5, \\text{median} = 1"),
    ("\\text{mean} = 5, \\text{median} = 4", "\\text{mean} = 5"),
    ("length = 12, width = 5", "length = 12, width = 9"),
    ("length 12, width 5", "length 12, width 9"),
    ("center (1,-2), radius 3", "center (1,-2), radius 9"),
    ("(1,-2), \\text{radius } 3", "(1,-2), \\text{radius } 9"),
    ("12 cm, width 5 cm", "12 cm, width 9 cm"),
    ("12 cm, width five cm", "12 cm, width nine cm"),
    ("12 cm, width five cm", "12 cm"),
    ("5, apple 3", "5, banana 3"),
    ("5, colour blue", "5, colour red"),
    ("5 by car, since noon", "5 by car, since dawn"),
    ("Not so fast", "Not so slow"),
    ("only if", "if"),
]


@pytest.mark.parametrize(("truth", "other"), TWO)
def test_every_part_of_a_truth_counts(truth: str, other: str) -> None:
    assert equivalent(truth, truth)
    assert not equivalent(other, truth)


@pytest.mark.parametrize(
    "answer",
    [
        "5, not 6",
        "5, in total",
        "5, as required",
        "5, in total, so he pays that much",
        "5, according to the formula",
        "5 because 4 + 1 = 5",
        "5, since 10 is 2 times 5",
        "5 because 4 is wrong",
        "5, which is odd",
        "5, as the 3 others are odd",
        "exactly 5",
        "5 apples, altogether",
        "5, so that is all",
    ],
)
def test_an_aside_that_says_nothing_is_left_out(answer: str) -> None:
    assert equivalent(answer, "5")


@pytest.mark.parametrize(
    "answer",
    [
        "5, so the other is 7",
        "5, thus seven",
        "5, maybe six",
        "5, or rather six",
        "5, width x",
        "5, radius nine",
        "5, which is wrong",
        "5, which is surely not right",
        "5 because it is odd, or 6 because it is even",
        "5 as the length, 3 as the width",
    ],
)
def test_an_aside_that_names_another_answer_is_part_of_it(answer: str) -> None:
    assert not equivalent(answer, "5")


def test_a_unit_in_an_aside_is_not_lost() -> None:
    assert not equivalent("5, measured as inches", "5 cm")
    assert not equivalent("6, not 5", "5")


def test_numbers_behind_a_yes_or_no_count_and_a_reason_does_not() -> None:
    assert equivalent("No, it is 8", "no, it is 8")
    assert not equivalent("No, it is 7", "No, it is 8")
    assert not equivalent("No", "No, it is 8")
    assert equivalent("Yes", "Yes, since 1 < 2")
    assert equivalent("Yes, because 2 + 2 = 4", "Yes, since 1 < 2")
    assert not equivalent("No, since 1 < 2", "Yes, since 1 < 2")


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("The answer is $120, so the total cost is $120.", "120"),
        ("The answer is 8, so there are 8 ways.", "8"),
        ("\\boxed{12 miles, the total distance}", "12"),
        ("\\boxed{60 km/h, on average}", "60"),
        ("\\boxed{5, where x is the length}", "5"),
        ("\\boxed{18 as a total}", "18"),
        ("\\boxed{12 one-dollar bills}", "12"),
        ("\\boxed{7 first-place ribbons}", "7"),
        ("The answer is 5. So option B is correct.", "5"),
    ],
)
def test_what_repeats_or_explains_an_answer_leaves_it_right(text: str, truth: str) -> None:
    assert maths_verifier(("boxed", "phrase"), 0.0)(text, truth)[0] == 1.0


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("8, so there are 9 ways", "8"),
        ("5 apples, three pears", "5 apples"),
        ("12 cm, width five cm", "12 cm"),
        ("5 half-hours", "5"),
        ("3 twenty-fifths", "3"),
        ("5 hundred-thousand", "5"),
        ("5, where x is 3", "5"),
    ],
)
def test_what_says_another_number_does_not(text: str, truth: str) -> None:
    assert maths_verifier(("boxed",), 0.0)(f"\\boxed{{{text}}}", truth)[0] == 0.0
