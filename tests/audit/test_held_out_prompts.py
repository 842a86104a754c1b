"""What was learned by heart: the trained reward on prompts that are held out."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from made import Row, make, one, rollouts

STEPS = (1, 10, 20, 30, 40, 50)


def learned(rng: Random, step: int, answer: int) -> tuple[str, float, dict[str, float]]:
    return f"It is {answer}.", float(rng.random() < 0.3 + step / 80), {}


def evaluated(start: float, end: float, prompts: int = 80) -> list[Row]:
    """Answers to held-out prompts before the first step, and after the last."""
    rng = Random(4)
    return [
        {
            "step": step,
            "prompt_id": f"held-{i}",
            "prompt": f"Question {i}?",
            "response": f"Answer {i}.",
            "reward": float(rng.random() < share),
            "length": 3,
            "finished": True,
            "evaluation": step,
            "policy_iteration": None,
        }
        for step, share in ((0, start), (25, (start + end) / 2), (50, end))
        for i in range(prompts)
    ]


@pytest.mark.parametrize(
    ("end", "status"), [(0.05, "alarm"), (0.3, "alarm"), (0.55, "unclear"), (0.9, "clear")]
)
def test_training_gains_what_others_do_not(tmp_path: Path, end: float, status: str) -> None:
    rows = [*rollouts(STEPS, learned), *evaluated(0.4, end)]
    finding = one(make(tmp_path / "run", rows), "held_out_prompts")
    assert finding.name == "memorised_reward"
    assert finding.status == status
    if status == "alarm":
        assert "on those that are held out" in finding.text
        assert finding.exhibits
        assert "at the beginning" in finding.exhibits[0].shows


def test_where_training_gained_nothing_others_need_not(tmp_path: Path) -> None:
    def level(rng: Random, step: int, answer: int) -> tuple[str, float, dict[str, float]]:
        return f"It is {answer}.", float(answer % 2), {}

    rows = [*rollouts(STEPS, level), *evaluated(0.9, 0.1)]
    assert not one(make(tmp_path / "run", rows), "held_out_prompts").text


def test_evaluations_that_begin_late_are_no_measure(tmp_path: Path) -> None:
    """Training's gain counts from its first answers; what others gained by then nobody knows."""
    late = [row | {"step": row["step"] or 20} for row in evaluated(0.6, 0.6)]
    finding = one(make(tmp_path / "run", [*rollouts(STEPS, learned), *late]), "held_out_prompts")
    assert finding.status == "not_looked"
    assert "at the beginning" in finding.needs


def test_a_few_prompts_again_and_again_are_to_watch(tmp_path: Path) -> None:
    steps = tuple(range(1, 31))

    def rise(rng: Random, step: int, answer: int) -> tuple[str, float, dict[str, float]]:
        return f"It is {answer}.", float(rng.random() < step / 30), {}

    rows = rollouts(steps, rise)
    few = [{**row, "prompt_id": f"p{i % 8}"} for i, row in enumerate(rows)]
    finding = one(make(tmp_path / "few", few), "held_out_prompts")
    assert finding.is_to_watch
    assert "the same 8 prompts again and again" in finding.text
    assert "holdout" in finding.text
    many = [{**row, "prompt_id": f"p{i % 200}"} for i, row in enumerate(rows)]
    assert one(make(tmp_path / "many", many), "held_out_prompts").status == "not_looked"
