"""What a judge wrote: a choice alone is a verdict, what goes on to another one is none."""

from __future__ import annotations

import pytest

from gnomon.judges.prompting import Question
from gnomon.judges.reading import read_choice, read_order

TEN = tuple(str(n) for n in range(1, 11))
LETTERS = ("A", "B", "C")


def read(text: str, choices: tuple[str, ...], reason: bool = False) -> str | None:
    found = read_choice(text, Question("", "u", choices, reason=reason))
    if found is not None:
        assert text[found[1] :].lower().startswith(found[0].lower())
    return None if found is None else found[0]


NUMBERS = [
    *(("8", text) for text in ("8", "8.", "**8**", "(8)", '"8"', "> 8", "8/10", "**8** / 10")),
    *(("8", text) for text in ("8 out of 10", "8 (out of 10)", "8. It is fine.", "8 - good")),
    *(("10", text) for text in ("10", "10/10")),
    *(("8", text) for text in ("-> 8", "=> 8", "<8>", "= 8", "8.0", "8/10 and good")),
    *(("8", text) for text in ("8/10 - 2 minor errors", "8/10, 2 minor errors", "\n- 8")),
]
NO_NUMBERS = [
    *(
        "8.5",
        "9.5/10",
        "0.5",
        ".5",
        "8,5",
        "1,000",
        "100",
        "8e1",
        "8:30",
        "8 1/2",
        "8\u00bd",
        "8^2",
    ),
    *(
        "7-8",
        "7 - 8",
        "7\u20138",
        "8 or 9",
        "8 to 9",
        "8, 9",
        "8;9",
        "-5",
        "\u22125",
        "- 5",
        "**-5**",
    ),
    *("8 and a half", "8/10 or 9/10", "8/10-9/10", "8.05"),
    *("8/100", "8/5", "8/10.5", "8/10/12", "8%", "8+", "8?", "~8", ">8", "8.5 out of 10"),
]


@pytest.mark.parametrize(("number", "text"), NUMBERS)
def test_a_number_alone(number: str, text: str) -> None:
    assert read(text, TEN) == number
    assert read(f"It has 3 faults.\nVerdict: {text}", TEN, reason=True) == number


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_a_number_that_is_another_one_is_no_verdict(text: str) -> None:
    assert read(text, TEN) is None
    assert read(f"It has 3 faults.\nVerdict: {text}", TEN, reason=True) is None


def test_words_before_a_number() -> None:
    assert [read(t, TEN) for t in ("Rating: 8", "Score - 8", "Score = 8")] == ["8"] * 3
    assert [read(t, TEN) for t in ("Score -8", "Score: -8", "Rating: 7-8")] == [None] * 3
    assert read("Verdict: 8\n\n1. It is short.", TEN, reason=True) == "8"


def test_the_scale_is_the_questions() -> None:
    five = TEN[:5]
    assert [read(t, five) for t in ("4/5", "4 out of 5", "4")] == ["4"] * 3
    assert [read(t, five) for t in ("4/10", "4 out of 10")] == [None] * 2


@pytest.mark.parametrize(
    "text",
    [
        *("A", "A.", "**A**", "(A)", "[[A]]", "- A", "A is better", "A is better than B"),
        *("A is better as it is longer", "A, not B", "A, since B is short", "A. B ignores it."),
        *("A (B misses it)", "A\n\n- B ignores it", "A > B", "A >> B"),
        *("A \u2014 Response B is wrong", "A; B is weaker", "A, B is wrong"),
    ],
)
def test_a_letter_alone(text: str) -> None:
    assert read(text, LETTERS) == "A"
    assert read(f"B is long.\nVerdict: {text}", LETTERS, reason=True) == "A"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "A/B",
            "A|B",
            "A=B",
            "A < B",
            "A > B or B > A",
            "A, B is right",
            "A+B",
            "A & B",
            "A - B",
            "A vs. B",
            "A, B",
            "A. B.",
            "A B",
        ),
        *("A or B", "A and B", "A, but B", "A, maybe B", "A (or B)", "A, or a tie", "A, tie"),
        *("**A** or **B**", "**A**/**B**", "!A", "A?", "A? No.", "A's"),
        *("A is worse", "A is not better", "A isn't better", "A is as good as B"),
    ],
)
def test_a_letter_beside_another_or_taken_back_is_no_verdict(text: str) -> None:
    assert read(text, LETTERS) is None
    assert read(f"B is long.\nVerdict: {text}", LETTERS, reason=True) is None


PRAISED = [
    *("A was wrong less often", "A is less often wrong", "A is less wrong"),
    *("A was wrong in fewer places", "A is correct, unlike B", "A gives the right answer"),
    *("A has fewer errors", "A makes far fewer factual mistakes", "A misses fewer points"),
    *("A does not contain errors", "A doesn't hallucinate", "A has no errors", "A wins over B"),
    *("A is better at avoiding errors", "A explains why the claim is wrong"),
    *("A corrects the mistakes of the question", "A because B is wrong"),
    *("A, though wrong once", "A - it makes no mistakes", "A is better with less text"),
]  # fmt: skip
BLAMED = [
    *("A was wrong more often", "A is wrong", "A loses", "A fails", "A lost to B"),
    *("A hallucinates", "A is less accurate", "A less accurate than B", "A worse than B"),
    *("A would be bad", "A is unclear"),
    *("A is the loser", "A has the worse answer", "A has more errors", "A contains errors"),
    *("A does not win", "A never wins", "A should not win", "A can't be the better one"),
    *("A does not answer the question", "A got it wrong", "A is a bad answer", "A is inaccurate"),
    *("A is worse with less detail", "A is not less wrong", "A was not as good", "A is not worse"),
    *("A would have been better", "A is good but B is better", "A is fine, though B wins"),
    *("A is fewer words and wrong", "**A** is the weaker one"),
]  # fmt: skip


@pytest.mark.parametrize("text", PRAISED)
def test_what_is_said_of_the_letter_may_praise_it(text: str) -> None:
    assert read(f"B is long.\nVerdict: {text}", LETTERS, reason=True) == "A"
    other = text.replace("B", "C").replace("A ", "B ").replace("A,", "B,")
    assert read(f"A is long.\nVerdict: {other}", LETTERS, reason=True) == "B"


@pytest.mark.parametrize("text", BLAMED)
def test_a_letter_that_is_blamed_is_no_verdict_for_it(text: str) -> None:
    assert read(text, LETTERS) is None
    assert read(f"B is long.\nVerdict: {text}", LETTERS, reason=True) is None


def test_a_letter_alone_may_be_followed_by_what_it_was() -> None:
    assert read("A was wrong less often", LETTERS) == "A"
    assert read("A was wrong more often", LETTERS) is None


def test_words_as_choices() -> None:
    words = ("yes", "no")
    right = ("yes", "Yes.", "**Yes**", "Yes - it is", "Yes, no problem found")
    assert [read(text, words) for text in right] == ["yes"] * len(right)
    wrong = ("yes/no", "yes or no", "yes and no", "Yes, but no", "yes, no", "Not", "No?")
    assert [read(text, words) for text in wrong] == [None] * len(wrong)


def test_a_last_verdict_that_is_none_is_not_replaced_by_an_earlier_one() -> None:
    assert read("Verdict: 7\nVerdict: 8.5", TEN, reason=True) is None
    assert read("Verdict: A\nVerdict: A/B", LETTERS, reason=True) is None
    assert read("Verdict: A/B\nVerdict: B", LETTERS, reason=True) == "B"


def test_an_order_beside_another_is_no_verdict() -> None:
    question = Question("", "u", ("A", "B"), reason=True, form="order")
    assert read_order("Verdict: A > B", question) == (("A",), ("B",))
    assert read_order("Verdict: A > B or B > A", question) is None
    assert read_order("Verdict: A > B\nVerdict: B", question) is None
