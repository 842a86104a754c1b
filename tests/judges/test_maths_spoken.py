"""The maths reward: fractions and large numbers in words."""

from __future__ import annotations

import pytest

from gnomon.judges.verifiers.maths import equivalent


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("seven twelfths", "7/12"),
        ("5 twelfths", "\\frac{5}{12}"),
        ("3 hundredths", "0.03"),
        ("five sixteenths", "0.3125"),
        ("three twenty-fifths", "0.12"),
        ("twenty-one hundredths", "0.21"),
        ("5 ten-thousandths", "0.0005"),
        ("a millionth", "10^{-6}"),
        ("minus nine elevenths", "-9/11"),
        ("two-thirds", "2/3"),
        ("three quarters of the cake", "0.75"),
        ("three halves", "1.5"),
        ("5 hundred thousand", "500000"),
        ("2 lakh", "200,000"),
        ("1.5 million", "1500000"),
        ("2 millions", "2000000"),
    ],
)
def test_numbers_in_words(answer: str, truth: str) -> None:
    assert equivalent(answer, truth)
    assert equivalent(truth, answer)


CHANGING = (
    "twelfths sixteenths twentieths hundredths millionths thirty-seconds ten-thousandths ninths "
    "halves eights twenty lakh crore quadrillion sextillion hundred millions permille"
)


@pytest.mark.parametrize("words", CHANGING.split())
def test_a_word_that_makes_a_number_another_one_is_no_thing_that_is_counted(words: str) -> None:
    assert not equivalent(f"5 {words}", "5")
    assert not equivalent(f"\\text{{five {words}}}", "5")


@pytest.mark.parametrize("thing", ["months", "paths", "teeth", "seconds", "lengths"])
def test_things_that_sound_like_fractions_are_counted(thing: str) -> None:
    assert equivalent(f"5 {thing}", "5")


def test_a_place_in_a_row_is_no_fraction() -> None:
    for place in ("twenty-fifth", "twenty-fifths", "twenty fifth"):
        assert not equivalent(place, "4")
