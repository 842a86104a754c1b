"""Which numbers count as answers, by which full marks can contradict each other."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from made import make, one, rollouts

from gnomon.runs.audit import Finding

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


MARKS = {
    "next to nobody gets the only mark": ((0.0, 0.0), 1.0, None),
    "next to nobody is right, and form has a mark": ((0.0, 0.2), 1.0, None),
    "next to nobody is right, and one answer is punished": ((0.0, 0.0), 1.0, -10.0),
}
FULL = {
    "a rare bonus": ((0.0, 1.0), 1.2, None),
    "a large rare bonus": ((0.0, 1.0), 1.5, None),
    "part of the marks, seldom all": ((0.0, 0.7), 1.0, None),
    "next to everyone gets them": ((1.0, 1.0), 0.0, None),
    "nothing off": ((0.0, 0.0), -1.0, None),
}


def marked(folder: Path, usual: tuple[float, float], rare: float, once: float | None) -> Finding:
    def graded(rng: Random, step: int, right: int) -> tuple[str, float, dict[str, float]]:
        return several(rng, right), rare if rng.random() < 0.004 else rng.choice(usual), {}

    rows = rollouts(STEPS, graded)
    if once is not None:
        rows[0]["reward"] = once
    return one(make(folder, rows), "contradiction")


@pytest.mark.parametrize("kind", MARKS)
def test_the_mark_of_everyone_or_for_form_is_no_full_mark(kind: str, tmp_path: Path) -> None:
    finding = marked(tmp_path / "run", *MARKS[kind])
    assert finding.status == "not_looked"
    assert "full one" in finding.needs


@pytest.mark.parametrize("kind", FULL)
def test_what_is_rare_leaves_full_marks_what_they_are(kind: str, tmp_path: Path) -> None:
    assert marked(tmp_path / "run", *FULL[kind]).status == "alarm"
