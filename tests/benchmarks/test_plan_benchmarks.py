"""The plan's benchmarks: their committed rows can be read and predicted, bad ones included."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gnomon.errors import ConfigError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import plan_published  # noqa: E402
import plan_serving  # noqa: E402
import plan_time  # noqa: E402


def test_every_published_figure_is_predicted_or_says_why_not() -> None:
    rows = plan_published.rows()
    assert len(rows) >= 30
    for row in rows:
        assert row["source"]
        assert row["published"] > 0
        if "RL Qwen3-30B" in row["name"]:  # offloads states to the hosts
            with pytest.raises(ConfigError, match="at least hold it"):
                plan_published.predict(row)
            continue
        found = plan_published.predict(row)
        if found is None:
            assert "not published" in row["about"]
        else:
            assert 0.1 < found / row["published"] < 10


def test_figures_that_constants_were_chosen_on_are_marked() -> None:
    halves = {row["name"]: row["half"] for row in plan_published.rows()}
    assert set(halves.values()) == {"tune", "held out", "not predicted"}
    assert list(halves.values()).count("held out") > 20


def test_measured_steps_are_predicted_from_their_rows_alone() -> None:
    cases = {case.name: case for case in plan_time.CASES}
    rows = plan_time.read_rows()
    assert len(rows) >= 8
    errors = []
    for row in rows:
        case = cases[row["name"]]
        assert row["half"] == case.half
        found = plan_time.predicted(case, row["probe"])
        assert found["cpu"] == pytest.approx(sum(found[p] for p in plan_time.PHASES))
        errors.append(abs(found["cpu"] / row["measured"]["cpu"] - 1))
    assert max(errors) < 0.3


def test_a_step_is_measured(tmp_path: Path) -> None:
    shape = plan_time.llama(1, 32, 64, 2, 1, 2048)
    tiny = plan_time.case("tiny", "tune", "grpo", shape, (2, 2, 6, 4))
    found = plan_time.measure(tiny.job, steps=2)
    assert found["cpu"] == pytest.approx(sum(found[p] for p in plan_time.PHASES), abs=0.05)
    assert found["sampling"] > 0


def test_serving_rows_hold_both() -> None:
    for line in plan_serving.FILE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert row["measured"].keys() <= row["predicted"].keys()
