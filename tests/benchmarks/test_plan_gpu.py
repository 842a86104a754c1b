"""benchmarks/plan_gpu.py runs here at a tiny size; its rows can be predicted for a card."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import plan_gpu  # noqa: E402

SPEEDS = {"matrices": 6e14, "attention": 3e14, "bandwidth": 2e12, "half": 900.0}
CALIBRATION = {
    **SPEEDS,
    "name": "calibration",
    "machine": "a card",
    "device": "cuda",
    "threads": 1,
    "layer": 3e-4,
    "step": 5e-4,
    "memory": 8e10,
}
NAMES = ["sft 0.6b, 16k in four parts", "dpo 0.6b, live", "ppo 135m"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("plan") / "rows.jsonl"
    plan_gpu.main([*NAMES, "--device", "cpu", "--tiny", "--rows", str(found)])
    return found


def test_each_row_holds_what_was_measured_and_the_job(file: Path) -> None:
    rows = plan_gpu.rows_of(file)
    assert list(rows) == sorted(NAMES, key=[case.name for case in plan_gpu.CASES].index)
    for row in rows.values():
        assert "error" not in row
        assert len(row["steps"]) == plan_gpu.STEPS
        assert row["peak"] == max(row["instants"].values())
        marks = {"before", "forward", "backward", "clipping", "optimizer"}
        assert marks <= set(row["moments"]["peak"])
        assert plan_gpu.predicted(row).always == row["always"]
    assert "reference" in rows["ppo 135m"]["seconds"]
    assert rows["ppo 135m"]["job"]["reward"] is not None
    assert rows["dpo 0.6b, live"]["job"]["references"] == 1


def test_the_table_of_a_card(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row | {"card": "NVIDIA H100 80GB HBM3"} for row in plan_gpu.rows_of(file).values()]
    rows += [{"name": "sft 1.7b", "error": "a trace\nOutOfMemoryError: 80 GiB"}, CALIBRATION]
    other = file.with_name("card.jsonl")
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan_gpu.main(["--table", "--rows", str(other)])
    out = capsys.readouterr().out
    assert "NVIDIA H100 80GB HBM3" in out
    assert "failed: OutOfMemoryError: 80 GiB" in out
    assert "memory: 3 configurations" in out
    assert "seconds by sheet, held out: " in out
    assert "seconds by probed, held out: " in out
    plan_gpu.main(["--markdown", "--rows", str(other)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(NAMES)
    assert len({line.count("|") for line in lines}) == 1
    row = rows[0]
    assert set(plan_gpu.seconds_of(row, CALIBRATION)) == {"sheet", "probed", "glance"}
    assert 0 < plan_gpu.mfu(row) < 1


def test_one_that_fails_is_told_and_the_next_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: object, *args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(plan_gpu.MarkedStep, "_source", full)
    rows = tmp_path / "rows.jsonl"
    names = ["sft 135m, 2k", "sft 135m, 8k"]
    plan_gpu.main([*names, "--device", "cpu", "--tiny", "--rows", str(rows)])
    assert capsys.readouterr().out.count("failed: ") == 4  # as it runs, and in the table
    assert all("job" in row for row in plan_gpu.rows_of(rows).values())


def test_without_a_gpu_it_says_so() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="there is no CUDA device"):
            plan_gpu.main([])
    with pytest.raises(SystemExit, match="goes with --tiny"):
        plan_gpu.main(["--device", "cpu"])
