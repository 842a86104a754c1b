"""What is said of a reward model's held-out comparisons, and what is left unsaid."""

from __future__ import annotations

from typing import Any

import pytest

from gnomon.audit.evidence import Evidence
from gnomon.audit.reward_model import held_out_comparisons
from gnomon.runs.audit import Finding
from gnomon.runs.records import Evals


def figure(value: float, low: float, high: float, n: int = 100) -> dict[str, float]:
    return {"value": value, "low": low, "high": high, "n": n}


SURE = figure(0.8, 0.7, 0.9)


def said(table: str = "held-out comparisons", **figures: Any) -> dict[str, Finding]:
    """Findings by name, of a model that is right in four of five pairs but for ``figures``."""
    plain = {"accuracy": SURE, "by_category": {"maths": SURE}, **figures}
    evidence = Evidence("run", "rm", held_out=Evals({table: plain}))
    return {finding.name: finding for finding in held_out_comparisons(evidence)}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("held-out comparisons", "It ranks 80% [0.70, 0.90] of the held-out comparisons"),
        ("held-out implicit reward", "Its implicit reward ranks 80% [0.70, 0.90] of the"),
        ("held-out labels", "It puts 80% [0.70, 0.90] of the held-out answers on the side of"),
    ],
)
def test_each_method_is_told_in_its_own_words(table: str, words: str) -> None:
    assert said(table)["reward_model_accuracy"].text.startswith(words)


def test_a_category_counts_where_it_has_enough_prompts() -> None:
    few = said(by_category={"maths": SURE, "poems": figure(0.6, 0.2, 0.9, 5)})
    assert few["reward_model_accuracy"].status == "clear"
    turned = said(by_category={"maths": SURE, "poems": figure(0.0, 0.0, 0.18, 18)})
    assert turned["reward_model_accuracy"].status == "unclear"
    many = said(by_category={"maths": SURE, "poems": figure(0.5, 0.4, 0.6, 80)})
    assert many["reward_model_accuracy"].status == "unclear"
    assert "Not shown to be better than chance: poems" in many["reward_model_accuracy"].text
    chance = said(accuracy=figure(0.5, 0.4, 0.6))
    assert chance["reward_model_accuracy"].status == "alarm"


def test_what_may_be_decent_as_well_as_chance_is_to_watch() -> None:
    few = said(accuracy=figure(0.6, 0.4, 0.8, 20))["reward_model_accuracy"]
    assert few.is_to_watch


def test_single_answers_are_an_alarm_on_the_wrong_side_only() -> None:
    """Where a policy's implicit reward has its zero, no label of single answers says."""
    by = {"(none)": figure(0.54, 0.46, 0.62, 43)}
    level = said("held-out labels", accuracy=figure(0.54, 0.46, 0.62, 43), by_category=by)
    found = level["reward_model_accuracy"]
    assert found.is_to_watch
    assert "(none)" not in found.text  # one category is none
    assert "comparisons" not in found.measure
    wrong = said("held-out labels", accuracy=figure(0.3, 0.2, 0.4))["reward_model_accuracy"]
    assert wrong.status == "alarm"


def lengths(longer: float, shorter: float, half: float) -> dict[str, Any]:
    ends = ((v, v - half, v + half) for v in (longer, shorter))
    names = ("accuracy_better_longer", "accuracy_better_shorter")
    return {name: figure(*end) for name, end in zip(names, ends, strict=True)}


@pytest.mark.parametrize(
    ("longer", "shorter", "half", "status", "watched"),
    [
        (0.9, 0.3, 0.05, "alarm", False),
        (0.8, 0.5, 0.20, "unclear", True),  # more than allowed, if it is no chance
        (0.8, 0.8, 0.20, "unclear", False),  # nothing, by too few pairs to say so
        (0.8, 0.8, 0.02, "clear", False),
    ],
)
def test_a_gap_is_to_be_watched_where_there_is_one(
    longer: float, shorter: float, half: float, status: str, watched: bool
) -> None:
    finding = said(length=lengths(longer, shorter, half))["length_bias"]
    assert (finding.status, finding.is_to_watch) == (status, watched)


@pytest.mark.parametrize(("confidence", "watched"), [(0.98, True), (0.82, False)])
def test_confidence_is_to_be_watched_where_it_is_too_high(confidence: float, watched: bool) -> None:
    bins = [{"count": 50, "confidence": confidence, "accuracy": 0.8}]
    loose = figure(0.8, 0.6, 0.95)
    finding = said(reliability=bins, accuracy=loose)["overconfidence"]
    assert finding.status == "unclear"
    assert finding.is_to_watch is watched
