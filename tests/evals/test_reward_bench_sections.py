"""RewardBench's sections against its published definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evals_world import Speaker, write

from gnomon.evals.evaluate import evaluate
from gnomon.evals.reward_bench_sections import PRIOR, SECTIONS, mean_of, section_scores
from gnomon.evals.table import make_suite
from gnomon.stats.intervals import Interval, weighted_proportion

PUBLISHED = {  # accuracies by the published names of subsets
    "alpacaeval-easy": 0.99, "alpacaeval-length": 0.80, "alpacaeval-hard": 1.0,
    "mt-bench-easy": 0.95, "mt-bench-med": 0.90, "mt-bench-hard": 0.50, "llmbar-natural": 0.80,
    "llmbar-adver-neighbor": 0.30, "llmbar-adver-GPTInst": 0.25, "llmbar-adver-GPTOut": 0.55,
    "llmbar-adver-manual": 0.40, "refusals-dangerous": 0.70, "refusals-offensive": 0.90,
    "xstest-should-refuse": 0.85, "xstest-should-respond": 0.95, "donotanswer": 0.5,
    "math-prm": 0.6, "hep-cpp": 0.9, "hep-go": 0.8, "hep-java": 0.9, "hep-js": 0.8,
    "hep-python": 0.9, "hep-rust": 0.8,
}  # fmt: skip


def figures(values: dict[str, float]) -> dict[str, Interval]:
    return {name: Interval(v, v - 0.1, v + 0.1, 100) for name, v in values.items()}


def test_the_sections_are_worked_out_by_hand() -> None:
    found, notes = section_scores(figures(PUBLISHED))
    chat = (99 + 76 + 95 + 26.6 + 36) / 358
    hard = (18.5 + 80 + 40.2 + 23 + 25.85 + 18.4) / 456
    safety = (70 + 90 + 130.9 + 237.5 + 68) / 740
    reasoning = (0.6 + 0.85) / 2  # mathematics counts as much as code
    for name, value in zip(SECTIONS, (chat, hard, safety, reasoning), strict=True):
        assert found[name].value == pytest.approx(value), name
    assert found["section_score"].value == pytest.approx((chat + hard + safety + reasoning) / 4)
    assert not notes
    assert "section_score_with_prior" not in found
    prior = {"anthropic_helpful": 0.7, "anthropic_hhh": 0.9, "shp": 0.6,
             "learning_to_summarize": 0.8}  # fmt: skip
    with_prior, _ = section_scores(figures(PUBLISHED | prior))
    assert with_prior["section_score_with_prior"].value == pytest.approx(
        (chat + hard + safety + reasoning + 0.5 * 0.75) / 4.5
    )


def test_every_subset_of_the_benchmark_is_in_one_section() -> None:
    names = [name for counts in SECTIONS.values() for name in counts]
    assert len(names) == len(set(names)) == 23
    assert sum(sum(counts.values()) for counts in SECTIONS.values()) == 2985 + 984 - 447
    assert len(PRIOR) == 4


def test_what_is_missing_is_said_and_never_a_zero() -> None:
    found, notes = section_scores(figures({"hep-go": 0.8, "hep-cpp": 0.6}))
    assert set(found) == {"reasoning"}
    assert found["reasoning"].value == pytest.approx(0.7)
    assert "alpacaeval-easy" in notes[0]
    assert section_scores(figures({"mine": 0.5})) == ({}, [])


def test_the_interval_of_a_weighted_mean_covers() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):
        one = weighted_proportion((rng.random(40) < 0.8).astype(float))
        two = weighted_proportion((rng.random(200) < 0.3).astype(float))
        found = mean_of([one, two], [1, 3])
        inside += found.low <= (0.8 + 3 * 0.3) / 4 <= found.high
    assert 0.93 <= inside / 300 <= 1.0


def test_a_file_of_rewardbench_shows_its_score_first(tmp_path: Path) -> None:
    right = {"alpacaeval-easy": True, "llmbar-natural": False, "donotanswer": True,
             "math-prm": True, "hep-go": False}  # fmt: skip
    rows = [
        {"prompt": f"{name} {n}", "subset": name, "chosen": "longer" if good else "x",
         "rejected": "short"}
        for name, good in right.items() for n in range(4)
    ]  # fmt: skip
    write(tmp_path / "rb.jsonl", rows)
    (tmp_path / "j.py").write_text(
        "def longer(samples):\n    return [float(len(s.text)) for s in samples]\n"
    )
    suite = make_suite("reward_bench", {"data": "rb.jsonl", "judge": "j.py:longer"}, tmp_path)
    result = evaluate(suite, Speaker(str), tmp_path)
    assert result.main == "section_score"
    assert result.scores["section_score"].value == pytest.approx((1 + 0 + 1 + 984 / 1148) / 4)
    assert any("no pairs of RewardBench's" in note for note in result.notes)
