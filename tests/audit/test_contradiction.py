"""Which numbers count as answers, by which full marks can contradict each other."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from made import make, one, rollouts

STEPS = (1, 10, 20, 30, 40, 50)

LONG = "and so it went on for some time, as people there still like to tell on long evenings"
PROSE = {
    "years": lambda rng: f"It began in {rng.randrange(1500, 2000)}, {LONG}.",
    "a list": lambda rng: "\n".join(f"{i}. Stir well" for i in range(1, rng.randrange(4, 9))),
}


@pytest.mark.parametrize("kind", PROSE)
def test_numbers_in_prose_are_no_answers(kind: str, tmp_path: Path) -> None:
    """Full marks for something else, and other numbers in every text."""

    def written(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        answers = rng.random() < 0.1  # some answers in prose do end in a number
        text = f"It is {rng.randrange(9)}." if answers else PROSE[kind](rng)
        return text, float(rng.random() < 0.6), {}

    finding = one(make(tmp_path / "run", rollouts(STEPS, written)), "contradiction")
    assert finding.status == "not_looked"
    assert "end in a number" in finding.needs
    assert one(tmp_path / "run", "same_answer").status == "not_looked"


def test_a_mark_that_holds_nothing_is_no_answer(tmp_path: Path) -> None:
    def empty(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        return f"\\boxed{{}} It may be {rng.randrange(9)}.", float(rng.random() < 0.6), {}

    finding = one(make(tmp_path / "run", rollouts(STEPS, empty)), "contradiction")
    assert finding.status == "not_looked"


@pytest.mark.parametrize("form", ["It is {}. Thank you for asking, and have a nice day!",
                                  "\\boxed{{{}}} is the answer, " + LONG])  # fmt: skip
def test_an_answer_is_read_before_thanks_and_by_its_mark(form: str, tmp_path: Path) -> None:
    def told(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        return form.format(right + rng.randrange(3)), float(rng.random() < 0.6), {}

    assert one(make(tmp_path / "run", rollouts(STEPS, told)), "contradiction").status == "alarm"


def several(rng: Random, right: int) -> str:
    return f"It is {right + rng.randrange(3)}."


RARE = {
    "next to nobody gets the only mark": (0.0, 0.0, 1.0),
    "next to nobody is right, and form has a mark": (0.0, 0.2, 1.0),
}


@pytest.mark.parametrize("kind", RARE)
def test_the_mark_of_everyone_or_for_form_is_no_full_mark(kind: str, tmp_path: Path) -> None:
    low, form, top = RARE[kind]

    def strict(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        reward = top if rng.random() < 0.004 else rng.choice((low, form))
        return several(rng, right), reward, {}

    finding = one(make(tmp_path / "run", rollouts(STEPS, strict)), "contradiction")
    assert finding.status == "not_looked"
    assert "full one" in finding.needs


def test_a_rare_bonus_leaves_full_marks_what_they_are(tmp_path: Path) -> None:
    def praised(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        return several(rng, right), 1.2 if rng.random() < 0.004 else rng.choice((0.0, 1.0)), {}

    assert one(make(tmp_path / "run", rollouts(STEPS, praised)), "contradiction").status == "alarm"
