"""Rewards that read an answer's form, in runs where nobody reads what it says."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from made import Row, found, make, one, rollouts
from test_detectors import curve

from gnomon.runs.audit import Finding

STEPS = (1, 10, 20, 30, 40, 50)
FORM = {"reward": [{"builtin": "instructions"}]}


def obeying(rng: Random, step: int, answer: int) -> tuple[str, float, dict[str, float]]:
    """Shorter and shorter answers, which obey more and more often."""
    words = ["It", "is", "a", "thing", "of", "many", "kinds", "and", "of", "some", "use"]
    return " ".join(words[: max(2, 9 - step // 8)]), float(rng.random() < step / 60), {}


def kl(end: float) -> list[Row]:
    return curve([end * i / 20 for i in range(20)], "kl", length=5.0)


def judged(folder: Path, stage: dict[str, Any], end: float = 10.0) -> Finding:
    return one(make(folder, rollouts(STEPS, obeying), kl(end), stage=stage), "form_alone")


def test_a_policy_that_follows_form_away_from_its_start_is_an_alarm(tmp_path: Path) -> None:
    finding = judged(tmp_path / "run", FORM)
    assert (finding.name, finding.status) == ("reward_hacking", "alarm")
    assert "(instructions) reads the form of an answer and nothing of what it says" in finding.text
    assert finding.figure is not None
    assert finding.figure.value == pytest.approx(49 / 60, abs=0.2)
    assert finding.exhibits
    assert finding.exhibits[0].reward == 1.0


def test_near_its_start_or_who_knows_where_it_is_to_watch(tmp_path: Path) -> None:
    near = judged(tmp_path / "near", FORM, end=0.5)
    assert near.is_to_watch
    assert "near its start" in near.text
    rows = rollouts(STEPS, obeying)
    unknown = one(make(tmp_path / "unknown", rows, stage=FORM), "form_alone")
    assert unknown.is_to_watch
    assert "is not known" in unknown.text


def test_a_reward_that_did_not_rise_is_none(tmp_path: Path) -> None:
    def still(rng: Random, step: int, answer: int) -> tuple[str, float, dict[str, float]]:
        return "It is.", float(answer % 2), {}

    finding = one(
        make(tmp_path / "run", rollouts(STEPS, still), kl(10.0), stage=FORM), "form_alone"
    )
    assert not finding.text


@pytest.mark.parametrize(
    "stage",
    [
        {"reward": [{"builtin": "instructions"}, {"builtin": "maths"}]},
        {"reward": [{"model": "rm"}]},
        {"reward": [{"function": "mine.py:score"}]},
        {"reward": [{"builtin": "regex"}]},
        {**FORM, "observe": [{"builtin": "ai"}]},
        {**FORM, "observe": [{"model": "rm"}]},
    ],
)
def test_where_anybody_reads_the_content_nothing_is_said(
    tmp_path: Path, stage: dict[str, Any]
) -> None:
    run = make(tmp_path / "run", rollouts(STEPS, obeying), kl(10.0), stage=stage)
    assert found(run, "form_alone") == []


def test_more_of_form_and_the_truth_are_no_readers(tmp_path: Path) -> None:
    """What a simulation knows no real run has; the same verifier, less strict, reads form too."""
    observed = [{"builtin": "instructions", "name": "less_strict"}, {"builtin": "gold"}]
    assert judged(tmp_path / "run", {**FORM, "observe": observed}).status == "alarm"
