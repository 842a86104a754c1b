"""Rewards that tell the policy nothing, and those that only seem to."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from made import Row, make, one, rollouts

from gnomon.audit.detectors import audit_run

STEPS = (1, 10, 20, 30, 40, 50)


def graded(right: float, mark: float = 0.0) -> list[Row]:
    """Answers that get 1 with this chance, else ``mark``."""

    def write(rng: Random, step: int, answer: int) -> tuple[str, float, dict[str, float]]:
        return f"It is {answer}.", 1.0 if rng.random() < right else mark, {}

    return rollouts(STEPS, write)


@pytest.mark.parametrize("mark", [0.0, 0.2])
def test_prompts_that_are_too_hard_for_all_answers(tmp_path: Path, mark: float) -> None:
    finding = one(make(tmp_path / "run", graded(0.003, mark)), "no_signal")
    assert finding.status == "alarm"
    assert "next to nothing to learn from" in finding.text
    assert finding.cures == ["policy.rollout.samples=8"]
    assert finding.figure is not None
    assert finding.figure.value == pytest.approx(1 - 0.003 * 4, abs=0.02)


def test_a_reward_that_never_differs(tmp_path: Path) -> None:
    assert one(make(tmp_path / "run", graded(0.0)), "no_signal").status == "alarm"
    minus = graded(0.0, mark=-1.0)
    assert one(make(tmp_path / "minus", minus), "no_signal").status == "alarm"


def test_what_is_learned_is_no_fault(tmp_path: Path) -> None:
    def solved(rng: Random, step: int, answer: int) -> tuple[str, float, dict[str, float]]:
        return f"It is {answer}.", float(step > 1 or rng.random() < 0.5), {}

    assert one(make(tmp_path / "run", rollouts(STEPS, solved)), "no_signal").status == "clear"


@pytest.mark.parametrize("rare", [1.0, 1.2])
def test_full_marks_from_the_start_are_no_fault(tmp_path: Path, rare: float) -> None:
    """Nor is a bonus that an answer gets now and then."""
    rows = graded(1.0)
    rows[5]["reward"] = rare
    assert one(make(tmp_path / "run", rows), "no_signal").status == "clear"


def test_answers_to_one_prompt_do_not_count_as_many(tmp_path: Path) -> None:
    rows = graded(0.0)
    for row in rows:
        row["prompt_id"] = f"p{int(row['prompt_id'].split('-')[1]) % 2}"
    assert one(make(tmp_path / "run", rows), "no_signal").status == "not_looked"


def test_a_method_that_compares_prompts_learns_from_them(tmp_path: Path) -> None:
    run = make(tmp_path / "run", graded(0.0), algorithm="ppo")
    assert "no_signal" not in {f.detector for f in audit_run(run).findings}


def test_answers_that_differ_are_a_signal(tmp_path: Path) -> None:
    finding = one(make(tmp_path / "run", graded(0.2)), "no_signal")
    assert finding.status == "clear"
    assert finding.detectable is not None


def test_a_silent_reward_that_rose_all_the_same_is_left_open(tmp_path: Path) -> None:
    def late(rng: Random, step: int, answer: int) -> tuple[str, float, dict[str, float]]:
        return f"It is {answer}.", float(step == 50 and rng.random() < 0.9), {}

    finding = one(make(tmp_path / "run", rollouts(range(1, 51), late)), "no_signal")
    assert finding.status == "unclear"
    assert finding.figure is not None
    assert finding.figure.low > 0.9


def test_one_answer_to_a_prompt_says_nothing(tmp_path: Path) -> None:
    rows = [row for place, row in enumerate(graded(0.0)) if place % 4 == 0]
    finding = one(make(tmp_path / "run", rows), "no_signal")
    assert finding.status == "not_looked"
    assert "several rewarded answers" in finding.needs
