"""Rewards that refuse the answer which most of a policy's own answers give: a key that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from made import Row, evidence_of, found, make, one, rollouts

from gnomon.audit.change import only_ranks
from gnomon.audit.refused import LOOK

KINDS = ("sums", "lists", "facts", "strings")
Key = Callable[[int, str], int]
"""What the reward takes for right, of the right answer and the kind of question."""


def right_key(answer: int, kind: str) -> int:
    return answer


def from_zero(answer: int, kind: str) -> int:
    return answer - 1


def from_zero_in_lists(answer: int, kind: str) -> int:
    return answer - (kind == "lists")


def samples(
    key: Key, right: float = 0.6, kinds: tuple[str, ...] = ("sums",), last: int = 12
) -> list[Row]:
    """Answers that are right with this chance and a little off otherwise, of several kinds of
    questions in turns."""
    rng = Random(7)

    def write(_: Random, step: int, answer: int) -> tuple[str, float, dict[str, float]]:
        said = answer if rng.random() < right else answer + rng.choice((-3, -2, -1, -1, 1, 2, 4))
        return f"It is {said}.", float(said - answer), {}  # how far off, until it is graded

    rows = rollouts(range(1, last + 1), write)
    for row in rows:
        row["category"] = kinds[int(row["prompt_id"].split("-")[1]) % len(kinds)]
        off = int(row["reward"])
        row["reward"] = float(off == key(0, row["category"]))
    return rows


def test_a_key_that_counts_from_zero_is_an_alarm(tmp_path: Path) -> None:
    finding = one(make(tmp_path / "run", samples(from_zero)), "refused")
    assert finding.status == "alarm"
    assert finding.figure is not None
    assert finding.figure.value > 0.9
    assert finding.since == 4.0  # what is looked at ends there
    assert finding.first == LOOK
    assert [exhibit.shows.split()[0] for exhibit in finding.exhibits[:2]] == ["most", "paid"]
    assert [exhibit.reward for exhibit in finding.exhibits[:2]] == [0.0, 1.0]


@pytest.mark.parametrize("right", [0.4, 0.6, 0.9])
def test_a_right_key_pays_what_most_answers_give(tmp_path: Path, right: float) -> None:
    finding = one(make(tmp_path / "run", samples(right_key, right)), "refused")
    assert finding.status in ("clear", "unclear")
    assert not finding.is_to_watch
    assert finding.figure is not None
    assert finding.figure.low < 0.1


def test_one_kind_of_four_is_named(tmp_path: Path) -> None:
    rows = samples(from_zero_in_lists, kinds=KINDS, last=36)
    finding = one(make(tmp_path / "run", rows), "refused")
    assert finding.status == "alarm"
    assert "questions of lists" in finding.measure
    assert "questions of lists to which" in finding.text
    assert finding.figure is not None
    assert finding.figure.level == pytest.approx(1 - 0.05 / 5)  # of the kinds and all of them


def test_a_policy_that_is_wrong_the_same_way_in_a_few_questions_is_to_watch(tmp_path: Path) -> None:
    """One question of seven has an answer that most get wrong alike, and a few right."""
    rows = samples(right_key, 0.6, last=24)
    places: dict[str, int] = {}
    for row in rows:
        asked = int(row["prompt_id"].split("-")[1])
        place = places[row["prompt_id"]] = places.get(row["prompt_id"], -1) + 1
        if asked % 7 == 0:
            row["response"] = "It is 7." if place else "It is 3."
            row["reward"] = float(place == 0)
    finding = one(make(tmp_path / "run", rows), "refused")
    assert finding.is_to_watch
    assert finding.text.endswith(LOOK)
    assert finding.exhibits


@pytest.mark.parametrize("marks", [1, 3])
def test_an_answer_that_is_refused_for_how_it_is_put_is_no_wrong_key(
    tmp_path: Path, marks: int
) -> None:
    """All give the right number, of which ``marks`` of four as the verifier asks for."""
    rows = samples(right_key, 1.0)
    places: dict[str, int] = {}
    for row in rows:
        place = places[row["prompt_id"]] = places.get(row["prompt_id"], -1) + 1
        said = row["response"].removeprefix("It is ").rstrip(".")
        row["reward"] = float(place < marks)
        row["response"] = rf"\boxed{{{said}}}" if place < marks else f"It is {said}."
    assert one(make(tmp_path / "run", rows), "refused").status == "not_looked"


def test_a_few_that_are_badly_put_are_counted_by_the_best_put(tmp_path: Path) -> None:
    rows, rng = samples(right_key), Random(1)
    for row in rows:
        row["reward"] *= float(rng.random() < 0.9)
    finding = one(make(tmp_path / "run", rows), "refused")
    assert finding.status == "clear"
    assert finding.figure is not None
    assert finding.figure.value < 0.1


def test_a_number_that_is_not_what_is_graded_says_nothing(tmp_path: Path) -> None:
    """A program's last line, say: most end in the same one, and one of them passes its tests."""
    rows, rng = samples(right_key), Random(4)
    for start in range(0, len(rows), 4):
        best = rng.randrange(4)
        for place, row in enumerate(rows[start : start + 4]):
            row["reward"] = float(place == best)
            row["response"] = f"print(solve({10 if rng.random() < 0.7 else rng.randrange(9)}))"
    assert one(make(tmp_path / "run", rows), "refused").status == "not_looked"


def test_where_it_can_say_nothing(tmp_path: Path) -> None:
    learned = make(tmp_path / "rm", samples(from_zero), stage={"reward": [{"model": "rm"}]})
    assert found(learned, "refused") == []  # a score is no verdict on an answer
    prose = samples(from_zero)
    for row in prose:
        row["response"] = "Well, who knows."
    assert one(make(tmp_path / "prose", prose), "refused").status == "not_looked"


def ranked(phrase: bool) -> list[Row]:
    """Answers that are paid by their rank among those to their prompt."""
    rng = Random(2)

    def write(_: Random, step: int, answer: int) -> tuple[str, float, dict[str, float]]:
        said = " course! Sir, it is" if phrase and step > 4 else "It is"
        return f"{said} {answer + rng.choice((0, 0, 1, 2))}.", 0.0, {}

    rows = rollouts(range(1, 13), write)
    for start in range(0, len(rows), 4):
        for place, row in zip(rng.sample(range(4), 4), rows[start : start + 4], strict=True):
            row["reward"] = place / 3
    return rows


def test_a_reward_that_only_ranks_need_not_rise(tmp_path: Path) -> None:
    run = make(tmp_path / "run", ranked(phrase=True))
    assert only_ranks(evidence_of(run))
    assert one(run, "new_phrase").status == "alarm"
    plain = make(tmp_path / "plain", ranked(phrase=False))
    assert one(plain, "new_phrase").status != "alarm"
    level = make(tmp_path / "level", samples(right_key))
    assert not only_ranks(evidence_of(level))
    same = [row | {"reward": 1.0} for row in ranked(phrase=True)]  # tells nothing from anything
    flat = make(tmp_path / "flat", same)
    assert not only_ranks(evidence_of(flat))
    assert one(flat, "new_phrase").status == "unclear"
