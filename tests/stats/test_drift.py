"""Where answers have moved, against sets whose place is known."""

from __future__ import annotations

import math
import random

from gnomon.stats.drift import Drift, features, grown_phrases

TOPICS = [f"topic{i}" for i in range(40)]
FILLER = "so to say and all in all as it were in a way of speaking one might well think so"


def said(topic: str, rng: random.Random, padding: int = 0) -> tuple[str, str]:
    """An answer of some words about its topic, with so many words of padding."""
    own = " ".join(rng.sample([topic, "is", "known", "for", "many", "good", "things"], 6))
    return f"Tell me of {topic}.", " ".join([own, *rng.choices(FILLER.split(), k=padding)])


def answers(padding: int, seed: int, topics: list[str] = TOPICS) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    return [said(topic, rng, padding) for topic in topics for _ in range(2)]


def test_answers_that_stay_have_not_moved() -> None:
    place = Drift(answers(0, 1), answers(0, 2)).towards(answers(12, 3))
    assert place.low < 0 < place.high
    assert abs(place.value) < 0.1


def test_answers_that_became_the_edited_ones_are_there() -> None:
    place = Drift(answers(0, 1), answers(12, 2)).towards(answers(12, 3))
    assert place.low > 0.9
    assert place.value < 1.1


def test_half_of_the_answers_make_half_of_the_way() -> None:
    late = [*answers(0, 2)[::2], *answers(12, 2)[1::2]]
    place = Drift(answers(0, 1), late).towards(answers(12, 3))
    assert 0.35 < place.value < 0.65
    assert place.low < 0.5 < place.high


def test_the_other_way_is_negative() -> None:
    assert Drift(answers(12, 1), answers(0, 2)).towards(answers(24, 3)).high < 0


def test_an_edit_that_changes_nothing_has_no_direction() -> None:
    same = answers(0, 1)
    assert math.isnan(Drift(same, answers(12, 2)).towards(same).value)


def test_three_prompts_are_too_few() -> None:
    few = answers(0, 1, TOPICS[:3])
    assert math.isnan(Drift(few, answers(0, 2)).towards(answers(12, 3)).value)


def test_a_policy_that_says_one_thing_has_a_place() -> None:
    one = [(prompt, "yes") for prompt, _ in answers(0, 1)]
    assert Drift(answers(0, 1), one).towards(one).known


def test_features_of_an_answer() -> None:
    """By hand: 'No 1 1. No.' is 4 words in 2 sentences, 2 numbers, one of them new."""
    row = features([("Say no.", "No 1 1. No."), ("Other", "x y")])[0].tolist()
    assert row[0] == math.log1p(4)
    assert row[1] == math.log1p(2)
    assert row[3] == 2 / 4
    assert row[6:8] == [math.log1p(2), math.log1p(1)]
    assert row[8] == 2 / 4  # N of No, twice
    assert row[9] == 2 / 6  # full stops among six tokens


def test_grown_phrases_are_the_longest_and_not_within_each_other() -> None:
    early = ["It is 4.", "It is 5. Bye.", "It is 6.", "It is 7."]
    late = ["It is 4. Have a nice day!", "It is 3. Have a nice day!", "No. Have a nice day!"]
    found = grown_phrases(early, late)
    assert found[0] == ("Have a nice day!", 0.0, 1.0)
    assert all("nice" not in phrase for phrase, _, _ in found[1:])
    assert all("It is" not in phrase for phrase, _, _ in found)
