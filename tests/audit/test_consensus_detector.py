"""Rewards against what most answers agree on: a key that is wrong for one kind of question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from made import Row, evidence_of, make, one, rollouts

from gnomon.audit.consensus import agreement

STEPS = tuple(range(1, 13))
KINDS = ("sums", "facts")


def samples(
    reward: Callable[[str, bool], float], right: float = 0.6, *, prose: bool = False
) -> list[Row]:
    """Answers that are right with this chance, wrong in many ways; half of the prompts of each
    kind, graded by ``reward(kind, is right)``."""
    rng = Random(3)

    def write(_: Random, step: int, answer: int) -> tuple[str, float, dict[str, float]]:
        is_right = rng.random() < right
        said = answer if is_right else answer + rng.choice((-7, -3, -2, -1, 1, 2, 4, 9))
        name = "".join(chr(ord("a") + int(digit)) for digit in str(said))
        return (f"Well, {name * 3} it is then." if prose else f"It is {said}."), is_right, {}

    rows = rollouts(STEPS, write)
    for row in rows:
        row["category"] = KINDS[int(row["prompt_id"].split("-")[1]) % 2]
        row["reward"] = reward(row["category"], bool(row["reward"]))
    return rows


def sound(kind: str, is_right: bool) -> float:
    return float(is_right)


def wrong_key(kind: str, is_right: bool) -> float:
    return float(is_right != (kind == "facts"))


@pytest.mark.parametrize("prose", [False, True])
def test_a_key_that_is_wrong_for_one_kind_is_to_be_watched(tmp_path: Path, prose: bool) -> None:
    finding = one(make(tmp_path / "run", samples(wrong_key, prose=prose)), "consensus")
    assert finding.is_to_watch
    assert finding.text.startswith("In facts, the answers that most others")
    assert "in sums" in finding.text
    assert finding.since == 1.0
    shown = [exhibit.shows for exhibit in finding.exhibits]
    assert shown == ["most others agree", "paid best"] * 3
    assert [exhibit.reward for exhibit in finding.exhibits] == [0.0, 1.0] * 3


@pytest.mark.parametrize("right", [0.4, 0.8])
@pytest.mark.parametrize("prose", [False, True])
def test_a_sound_reward_pays_what_most_agree_on(tmp_path: Path, right: float, prose: bool) -> None:
    finding = one(make(tmp_path / "run", samples(sound, right, prose=prose)), "consensus")
    assert finding.status == "clear"
    assert finding.figure is not None
    assert finding.figure.low > 0.2
    assert finding.detectable is not None
    assert "the least of 2 categories" in finding.measure


def test_a_reward_that_minds_nothing_is_not_against_it(tmp_path: Path) -> None:
    rng = Random(5)
    drawn = samples(lambda kind, is_right: float(rng.random() < 0.5))
    assert one(make(tmp_path / "run", drawn), "consensus").status in ("clear", "unclear")
    assert not one(tmp_path / "run", "consensus").is_to_watch


def test_what_is_never_an_alarm_is_never_one(tmp_path: Path) -> None:
    inverted = samples(lambda kind, is_right: -float(is_right))
    finding = one(make(tmp_path / "run", inverted), "consensus")
    assert finding.status == "unclear"
    assert finding.figure is not None
    assert finding.figure.high < -0.3


def test_it_is_the_slope_of_numpy(tmp_path: Path) -> None:
    rows = [row for row in samples(wrong_key) if row["category"] == "facts" and row["step"] <= 4]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row)
    x: list[float] = []
    y: list[float] = []
    for group in groups.values():
        paid = np.array([row["reward"] for row in group])
        if len(set(paid)) < 2:
            continue
        said = [row["response"] for row in group]
        agreed = np.array([(said.count(text) - 1) / (len(said) - 1) for text in said])
        x += list(agreed - agreed.mean())
        y += list(paid - paid.mean())
    found = one(make(tmp_path / "run", samples(wrong_key)), "consensus").figure
    assert found is not None
    assert found.value == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)


def test_it_needs_several_answers_and_prompts(tmp_path: Path) -> None:
    thin = [row for place, row in enumerate(samples(sound)) if place % 4 < 3]
    finding = one(make(tmp_path / "run", thin), "consensus")
    assert finding.status == "not_looked"
    assert "4 answers each" in finding.needs
    few = [row for row in samples(sound) if int(row["prompt_id"].split("-")[1]) < 4]
    assert one(make(tmp_path / "few", few), "consensus").status == "not_looked"
    again = samples(wrong_key)  # the same two questions of a kind at every step
    for row in again:
        row["prompt_id"] = f"p{int(row['prompt_id'].split('-')[1]) % 4}"
    assert one(make(tmp_path / "again", again), "consensus").status == "not_looked"


def test_agreement_of_numbers_and_of_words(tmp_path: Path) -> None:
    def group(*said: str) -> list[Any]:
        rows = rollouts((1,), lambda rng, step, right: ("x", 1.0, {}))[: len(said)]
        for row, text in zip(rows, said, strict=True):
            row["response"] = text
        return list(evidence_of(make(tmp_path / str(abs(hash(said))), rows)).samples)

    third = pytest.approx(1 / 3)
    numbers = group("It is 4.", "So 4.", "It is 5.", "I cannot say.")
    assert agreement(numbers) == [third, third, 0.0, None]
    texts = group("the red house", "a red house", "nothing", "the red house")
    assert agreement(texts) == [pytest.approx(0.5), third, 0.0, pytest.approx(0.5)]
