"""Whether another trainer's run had come to its end, by what lies beside its logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gnomon.runs.imported import import_run
from gnomon.runs.records import STAGE, StageInfo


def trl(folder: Path, last: int, **state: Any) -> Path:
    (folder / "completions").mkdir(parents=True)
    history: list[dict[str, Any]] = []
    for step in range(5, last + 1, 5):
        rows = [{"step": step, "prompt": f"p{i}", "completion": "a", "f": 1.0} for i in range(3)]
        file = folder / "completions" / f"completions_{step:05d}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        history.append({"step": step, "reward": 1.0, "rewards/f/mean": 1.0})
    history += state.pop("more", [])
    written = {"global_step": last, "logging_steps": 5, **state, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(written))
    return folder


def info(source: Path, run: Path) -> tuple[StageInfo, list[str]]:
    notes = import_run(source, run).notes
    return StageInfo.read(run / "stages" / "01-policy" / STAGE), notes


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ({"max_steps": 40}, "stopped"),
        ({"max_steps": 20}, "done"),
        ({"max_steps": 23}, "done"),  # what is between two logged steps need not be logged
        ({"max_steps": 40, "global_step": 40}, "done"),
        ({"max_steps": 40, "more": [{"step": 20, "train_runtime": 9.0}]}, "done"),  # early stop
        ({"max_steps": -1}, "done"),
        ({}, "done"),
    ],
)
def test_logs_that_end_early_are_of_a_run_that_has_not_finished(
    tmp_path: Path, state: dict[str, Any], status: str
) -> None:
    found, notes = info(trl(tmp_path / "out", 20, **state), tmp_path / "run")
    assert found.status == status
    told = "its logs end at step 20 of 40" if status == "stopped" else ""
    assert found.error == told
    assert any(note.startswith("its logs end") for note in notes) == bool(told)


@pytest.mark.parametrize(("steps", "status"), [(9, "stopped"), (3, "done"), (None, "done")])
def test_verls_configuration_says_how_long_it_was_to_be(
    tmp_path: Path, steps: int | None, status: str
) -> None:
    rollouts = tmp_path / "out" / "rollouts"
    rollouts.mkdir(parents=True)
    for step in (1, 2, 3):
        row = {"step": step, "input": "q", "output": "a", "score": 1.0}
        (rollouts / f"{step}.jsonl").write_text(json.dumps(row))
    (tmp_path / "out" / ".hydra").mkdir()
    text = f"trainer:\n  total_training_steps: {'null' if steps is None else steps}\n"
    (tmp_path / "out" / ".hydra" / "config.yaml").write_text(text)
    found, _ = info(rollouts, tmp_path / "run")
    assert found.status == status
    assert found.planned_iterations == steps
