"""The maths reward: multiple choice, by letter and by text."""

from __future__ import annotations

import pytest

from gnomon.judges.verifiers.extract import final_answer
from gnomon.judges.verifiers.maths import maths_verifier

METHODS = ("boxed", "hash", "phrase", "number")


def right(text: str, truth: object) -> bool:
    return maths_verifier(METHODS, 0.0)(text, truth)[0] == 1.0


@pytest.mark.parametrize(
    ("text", "truths"),
    [
        ("\\boxed{(B) 12}", ["12", "B", "(B) 12"]),
        ("\\boxed{\\text{B. } 12}", ["12", "B"]),
        ("\\boxed{c) 4}", ["4", "C"]),
        ("\\boxed{\\textbf{(C)}\\ \\frac{1}{2}}", ["0.5"]),
        ("The correct answer is **B) Paris**.", ["Paris", "B"]),
        ("Therefore the answer is option B: 12 apples", ["B", "12", "B) 12"]),
        ("Option B", ["B"]),
        ("**Option B.**", ["B"]),
        ("Option C is correct.", ["C"]),
        ("6 is 2 times 3. Thus, option (C) is correct.", ["C"]),
        ("So **option (C)** is correct because 3 > 2.", ["C"]),
        ("The answer: **C** is correct", ["C"]),
        ("Option A is correct only in 2D. The answer is B.", ["B"]),
    ],
)
def test_letters_and_texts(text: str, truths: list[str]) -> None:
    assert [truth for truth in truths if not right(text, truth)] == []
    assert not right(text, "D")
    assert not right(text, "(D) 12")
    assert not right(text, "17")


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("\\boxed{(C) 12}", "(B) 12"),
        ("\\boxed{(B) 13}", "(B) 12"),
        ("\\boxed{(B) 13}", "12"),
        ("\\boxed{(C) 12}", "B"),
        ("\\boxed{(C) 12}", ["B", "12"]),
        ("\\boxed{(a)b}", "b"),
        ("\\boxed{(a) b}", "b"),
        ("\\boxed{(A)(B)}", "B"),
        ("Answer: A) B) C) D)", "A"),
        ("Answer: A. B. C. D.", "A"),
        ("Answer: A) 12 B) 13", "A"),
        ("Answer: (A) 12, (B) 13", "12"),
        ("Answer: option B or option C", "B"),
        ("Option B is not correct.", "B"),
        ("Option B is incorrect.", "B"),
        ("Neither option A nor option B is correct.", "B"),
        ("Either option A or option B is correct.", "B"),
        ("I doubt that option B is correct.", "B"),
        ("Option B is correct only if x > 1.", "B"),
        ("Option A or B", "A"),
    ],
)
def test_another_letter_another_text_and_lists_of_choices_are_wrong(
    text: str, truth: object
) -> None:
    assert not right(text, truth)


def test_a_truth_of_several_answers_takes_a_letter_with_its_text() -> None:
    for text in ("(B) 12", "B", "12"):
        assert right(f"\\boxed{{{text}}}", ["B", "12"])


def test_what_is_declared_is_found() -> None:
    assert final_answer("2 + 2 = 4. Hence option (B) is correct.", METHODS) == "(B)"
    assert final_answer("The answer is C. Option A is correct for 2 apples.", METHODS) == "C"
