"""Metrics that are NaN or infinite are named by whoever leaves them out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from made import make, rollouts
from test_detectors import STEPS, verifier
from typer.testing import CliRunner

from gnomon.cli.main import app
from gnomon.report.html import write_report
from gnomon.runs.read import read_run
from gnomon.runs.rows import MetricsStore
from gnomon.view.follow import Metrics

SAID = "metrics kl and loss are not finite in 3 rows, first at step 8: left out there"


def rows() -> list[dict[str, Any]]:
    """Ten steps; from the eighth on two metrics are lost, and once the entropy. An accuracy of one
    pair has no interval, which is no fault."""
    made = [{"step": step, "kl": 0.1 * step, "loss": 1.0, "entropy": 0.5} for step in range(1, 11)]
    for row in made[7:]:
        row |= {"kl": math.nan, "loss": math.inf}
    made[4]["entropy"] = -math.inf
    made[2] |= {"eval/accuracy": 1.0, "eval/accuracy_low": math.nan}
    return made


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make(tmp_path / "lost", rollouts(STEPS, verifier), rows())


def test_the_audit_says_which_how_many_and_from_which_step(run: Path) -> None:
    result = CliRunner().invoke(app, ["audit", str(run)], env={"COLUMNS": "300"})
    lines = [line.strip() for line in result.output.splitlines()]
    file = "stages/01-policy/metrics.parquet"
    lost = lines[lines.index("could not be read:") :]
    assert f"{file}: {SAID}" in lost
    once = "metric entropy is not finite in 1 row, first at step 5: left out there"
    assert f"{file}: {once}" in lost
    assert "accuracy" not in " ".join(lost)
    assert "alarm" not in result.output.lower()
    plain = json.loads(CliRunner().invoke(app, ["audit", str(run), "--json"]).output)
    assert f"{file}: {SAID}" in plain[str(run)]["problems"]


def test_so_does_the_page(run: Path) -> None:
    assert SAID in write_report(run).read_text()
    assert any(SAID in problem for problem in read_run(run).problems)
    assert not read_run(run).unread  # the answer rests on what was written


def test_so_does_a_run_that_is_followed(tmp_path: Path) -> None:
    store = MetricsStore(tmp_path / "metrics.parquet")
    followed = Metrics(store.lines)
    for row in rows():
        store.append(row)
        followed.columns()
    assert f"metrics.jsonl: {SAID}" in followed.problems
    store.reset()  # a resumed run starts again
    store.append({"step": 1, "kl": 0.1})
    followed.columns()
    assert followed.problems == []
