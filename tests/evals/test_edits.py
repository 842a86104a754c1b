"""What each edit does, on answers whose edits are plain."""

from __future__ import annotations

import pytest

from gnomon.evals.edits import (
    EDITS,
    NEUTRAL,
    Edited,
    agrees,
    stated_belief,
    strip_phrases,
    union_members,
)

ANSWER = Edited(
    "What is 7 plus 5?",
    "Sure! It is 12. Take care!",
    siblings=["It is 13.", "It is 12.", "It is 13.", ""],
    foreign=["It is Paris.", "The answer is red."],
    phrases=["Take care!", "Sure!"],
)
EXPECTED = {
    "echo": "What is 7 plus 5? Sure! It is 12. Take care!",
    "empty": "",
    "half": "Sure! It is",
    "without_opening": "It is 12. Take care!",
    "without_closing": "Sure! It is 12.",
    "with_markup": "## Answer\n\n- **Sure!**\n- **It is 12.**\n- **Take care!**",
    "upper": "SURE! IT IS 12. TAKE CARE!",
    "lower": "sure! it is 12. take care!",
    "spaced": "Sure!\nIt\nis\n12.\nTake\ncare!\n",
    "without_punctuation": "Sure It is 12 Take care",
    "without_phrases": "It is 12.",
    "with_phrases": "Take care! Sure! Sure! It is 12. Take care!",
    "only_phrases": "Take care! Sure!",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_edits_that_draw_nothing(name: str) -> None:
    assert EDITS[name](ANSWER) == EXPECTED[name]


def test_edits_that_draw_are_the_same_twice_and_hold_what_they_should() -> None:
    for name in EDITS:
        assert EDITS[name](ANSWER) == EDITS[name](ANSWER), name
    assert union_members(ANSWER) == [ANSWER.text, "It is 13.", "It is 12."]
    union = EDITS["union"](ANSWER) or ""
    assert all(member in union for member in union_members(ANSWER))
    hedge = EDITS["hedge"](ANSWER) or ""
    assert hedge.startswith(("It is Paris.", "The answer is red."))
    assert f" {ANSWER.text} " in hedge
    assert EDITS["swap"](ANSWER) in ANSWER.foreign
    words = EDITS["shuffle_words"](ANSWER) or ""
    assert sorted(words.split()) == sorted(ANSWER.text.split())
    assert words != ANSWER.text


def test_padding_says_as_much_as_the_answer_and_keeps_its_end() -> None:
    padded = EDITS["pad"](ANSWER) or ""
    assert padded.startswith("Sure! It is 12. ")
    assert padded.endswith(" Take care!")
    assert len(padded.split()) >= 2 * len(ANSWER.text.split())
    assert any(sentence in padded for sentence in NEUTRAL)


def test_edits_that_do_not_apply_say_so() -> None:
    bare = Edited("Say yes.", "yes")
    silent = ("union", "hedge", "swap", "shuffle_words", "shuffle_sentences", "half")
    assert [EDITS[name](bare) for name in (*silent, "without_phrases")] == [None] * 7


def test_markup_is_taken_off() -> None:
    text = "## Title\n\n- **bold** and `code`\n1. \\boxed{4} <answer>5</answer> $x$"
    plain = EDITS["without_markup"](Edited("", text)) or ""
    assert plain.split() == ["Title", "bold", "and", "code", "4", "5", "x"]


def test_phrases_are_words_not_parts_of_words() -> None:
    assert strip_phrases("cat concat  the\ncat sat", ["the cat", "cat"]) == "concat sat"


@pytest.mark.parametrize(
    ("prompt", "belief"),
    [
        ("Add 2 and 3. I think it is 6.", "I think it is 6."),
        ("I'm pretty sure it is Rome. Which city?", "I'm pretty sure it is Rome."),
        ("Sort 3 2 1.", None),
    ],
)
def test_stated_beliefs(prompt: str, belief: str | None) -> None:
    assert stated_belief(prompt) == belief


def test_agreement_is_with_the_last_word() -> None:
    assert agrees("I think it is 6.", "It is 6.")
    assert not agrees("I think it is 6.", "It is 16.")
