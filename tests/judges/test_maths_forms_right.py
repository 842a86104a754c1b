"""The maths reward: common forms of a right answer, and their nearest wrong ones."""

from __future__ import annotations

import pytest

from gnomon.judges.verifiers.maths import equivalent, maths_verifier

RIGHT = [
    ("x \\approx 2.5", "2.5"),
    ("2.5", "x \\approx 2.5"),
    ("\\theta \\approx 36.87^\\circ", "36.87^\\circ"),
    ("\\theta = 36^\\circ", "36^\\circ"),
    ("t \\approx 2.5\\text{ s}", "2.5"),
    ("f(x) \\approx 2.5", "f(x) = 2.5"),
    ("\\text{area} \\approx 2.5", "2.5"),
    ("x \\approx 2,500", "2500"),
    ("y \\approx 3, x \\approx 2.5", "x = 2.5, y = 3"),
    ("\\angle A \\approx 36.87^\\circ", "36.87"),
    ("42 (see above)", "42"),
    ("42 (forty-two)", "42"),
    ("forty-two (42)", "42"),
    ("12 (a dozen)", "12"),
    ("12\\ (\\text{approximately})", "12"),
    ("5 (feet)", "60 in"),
    ("2,500 and 3,000", "2500, 3000"),
    ("2,500 \\text{ or } 3,000", "3000, 2500"),
    ("\\$2,500 \\text{ and } \\$3,000", "\\$2500, \\$3000"),
    ("1,000 and 2,000 and 3,000", "1000, 2000, 3000"),
    ("1,200 and 300", "1, 200, 300"),  # of two readings the one that commas have elsewhere
    ("1,200 and 300", "1200, 300"),
    ("1200 and 300", "1,200 and 300"),
    ("300 and 1,200", "1200, 300"),
    ("1,200 or 30 or 4", "4, 30, 1200"),
    ("1,200 \\text{ and } 300", "1200, 300"),
    ("\\$1,200 \\text{ and } \\$300", "\\$1200, \\$300"),
    ("x = 1,200 and y = 300", "x = 1200, y = 300"),
    ("y = 300, x = 1200", "x = 1,200 and y = 300"),
    ("1,200.50 and 300", "1200.5, 300"),
    ("-1,200 and 300", "-1200, 300"),
    ("1,200, 300", "1200 and 300"),
    ("1,200 or 1,300", "1300, 1200"),
    ("3,000; 4,000", "3000, 4000"),
    ("1,200, 300, and 400", "1200, 300, 400"),
    ("1,2 and 3", "1, 2, 3"),
    ("between 1,200 and 1,500", "between 1200 and 1500"),
    ("1200 to 1500", "between 1,200 and 1,500"),
    ("from \\$1,200 to \\$1,500", "between \\$1200 and \\$1500"),
    ("1,200-1,500", "1200-1500"),
    ("x > 1,200 and x < 1,500", "1200 < x < 1500"),
    ("5^{\\text{th}}", "5"),
    ("5\\text{th}", "5"),
    ("2^\\text{nd}", "2"),
    ("21^{st}", "21"),
    ("1,000^{\\text{th}}", "1000"),
]
WRONG = [
    ("x \\approx 2.6", "2.5"),
    ("y \\approx 2.5", "x = 2.5"),
    ("2x \\approx 5", "5"),
    ("x+1 \\approx 5", "5"),
    ("x \\approx 2.5, 3.5", "2.5"),
    ("y \\approx 2.5, x \\approx 3", "x = 2.5, y = 3"),
    ("3 \\approx 4", "4"),
    ("x \\approx 2.5 \\approx 3", "3"),
    ("42 (forty-three)", "42"),
    ("13 (a dozen)", "13"),
    ("5 (not 6)", "5"),
    ("5 (or six)", "5"),
    ("5 (feet)", "5 m"),
    ("5 (apples)", "5 pears"),
    ("2(a)", "2"),
    ("2 (42)", "2"),
    ("x(y)", "x"),
    ("2,500 and 3,000", "2500, 3001"),
    ("2,500 and 3,000", "2, 500, 3, 0"),
    ("1,200 and 300", "1200"),
    ("1,200", "1,200 and 300"),
    ("1,200 and 300", "1200, 301"),
    ("1,200 and 300", "1500"),
    ("1,20 and 300", "120, 300"),
    ("1, 200 and 300", "1200, 300"),
    ("between 1,200 and 1,500", "between 1200 and 1501"),
    ("between 1,200 and 1,500", "1200"),
    ("between 1,500 and 1,200", "between 1200 and 1500"),
    ("between 4 and 5", "between 1,200 and 1,500"),
    ("5^{t}", "5"),
    ("n^{\\text{th}}", "n"),
    ("5^{\\text{th}}", "6"),
    ("5^{\\text{st}}", "5"),
]


@pytest.mark.parametrize(("answer", "truth"), RIGHT)
def test_common_forms_are_right(answer: str, truth: str) -> None:
    assert equivalent(answer, truth)


@pytest.mark.parametrize(("answer", "truth"), WRONG)
def test_what_looks_like_them_is_not(answer: str, truth: str) -> None:
    assert not equivalent(answer, truth)


def test_remarks_in_brackets_at_the_end_of_a_sentence() -> None:
    verify = maths_verifier(("boxed", "hash", "phrase", "number"), 0.0)
    for text in ("The answer is 42 (see above).", "Answer: 42 (forty-two)"):
        assert verify(text, "42")[0] == 1.0
        assert verify(text, "43")[0] == 0.0
