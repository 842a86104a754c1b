"""Columns and metrics of other trainers whose names mean something else here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gnomon.audit.detectors import audit_run
from gnomon.errors import DataError, RunError
from gnomon.runs import imported
from gnomon.runs.imported import import_run
from gnomon.runs.read import read_run

STEPS, ANSWERS = 6, 8


def _verl(folder: Path, extra: Mapping[str, Any]) -> Path:
    folder.mkdir()
    for step in range(1, STEPS + 1):
        lines = [
            {"input": f"Double {i}.", "output": f"It is {2 * i}.", "score": float(i % 2),
             "step": step, "gts": str(2 * i)} | dict(extra)
            for i in range(ANSWERS)
        ]  # fmt: skip
        (folder / f"{step}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def _trl(folder: Path, functions: Mapping[str, float], logged: Mapping[str, Any]) -> Path:
    (folder / "completions").mkdir(parents=True)
    history: list[dict[str, Any]] = []
    for step in range(1, STEPS + 1):
        rows = [
            {"step": step, "prompt": f"Halve {2 * i}.", "completion": f"{i}", "advantage": 0.0}
            | dict(functions)
            for i in range(ANSWERS)
        ]
        file = folder / "completions" / f"completions_{step:05d}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        history.append({"step": step, "reward": sum(functions.values()), **logged})
        history[-1] |= {f"rewards/{name}/mean": value for name, value in functions.items()}
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return folder


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("category", 7, {"category": "7"}),
        ("category", ["a"], {"category": None, "theirs/category": '["a"]'}),
        ("reason", 2.5, {"reason": "2.5"}),
        ("finished", 0, {"finished": False}),
        ("finished", 1.0, {"finished": True}),
        ("finished", "stop", {"finished": None, "theirs/finished": "stop"}),
        ("length", 31.0, {"length": 31}),
        ("length", 31.5, {"length": None, "theirs/length": 31.5}),
        ("length", "long", {"length": None, "theirs/length": "long"}),
        ("evaluation", False, {"evaluation": None, "theirs/evaluation": False}),
        ("evaluation", 3, {"evaluation": None, "theirs/evaluation": 3}),
        ("prompt_id", 12, {"theirs/prompt_id": 12}),
        ("error", 1, {"error": None, "theirs/error": 1}),
        ("reward", 0.25, {"theirs/reward": 0.25}),
        ("prompt", "another", {"theirs/prompt": "another"}),
        ("response", "another", {"theirs/response": "another"}),
    ],
)
def test_a_column_is_what_it_is_here_or_kept_apart(tmp_path, name, value, kept):
    made = import_run(_verl(tmp_path / "theirs", {name: value}), tmp_path / "run")
    assert made.samples == STEPS * ANSWERS
    run = read_run(tmp_path / "run")
    assert not run.problems
    for row in run.stages[0].samples:
        assert {key: row.get(key) for key in kept} == kept
        assert row["prompt"].startswith("Double")
        assert row["response"].startswith("It is")
        assert row["reward"] in (0.0, 1.0)
    told = [note for note in made.notes if f"kept as 'theirs/{name}'" in note]
    assert len(told) == any(key.startswith("theirs/") for key in kept)
    assert not audit_run(tmp_path / "run").problems


def test_an_import_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    source = _verl(tmp_path / "theirs", {})

    def full(*_):
        raise RunError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(imported, "write_text", full)  # of the recipe, the last file
        with pytest.raises(RunError):
            import_run(source, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"theirs"}
    assert import_run(source, tmp_path / "run").samples == STEPS * ANSWERS


@pytest.mark.parametrize("of", ["", "eval_"])
def test_trls_kl_is_per_response_in_training_and_evaluation(tmp_path, of):
    both = {"kl": 0.03, "completions/mean_length": 50.0}
    both |= {"eval_kl": 0.05, "eval_completions/mean_length": 80.0}
    lacks = {key: v for key, v in both.items() if key != f"{of}completions/mean_length"}
    prefix = of.replace("_", "/")
    import_run(_trl(tmp_path / "a", {"f": 1.0}, both), tmp_path / "whole")
    import_run(_trl(tmp_path / "b", {"f": 1.0}, lacks), tmp_path / "lacking")
    whole, lacking = (read_run(tmp_path / name).stages[0].metrics for name in ("whole", "lacking"))
    assert whole["kl"].tolist() == pytest.approx([1.5] * STEPS)
    assert whole["eval/kl"].tolist() == pytest.approx([4.0] * STEPS)
    assert whole["kl/token"].tolist() == pytest.approx([0.03] * STEPS)
    assert whole["eval/kl/token"].tolist() == pytest.approx([0.05] * STEPS)
    assert f"{prefix}kl" not in lacking
    assert f"{prefix}kl/token" in lacking


def test_weights_are_of_the_functions_that_the_metrics_name(tmp_path):
    source = _trl(tmp_path / "theirs", {"reward": 0.5, "style": 0.2}, {})
    made = import_run(source, tmp_path / "run", weights={"style": 2.0})
    assert made.rewards == {"reward": 1.0, "style": 2.0}
    assert read_run(tmp_path / "run").stages[0].samples[0]["reward"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"gts": 3.0}, "gts is not summed"),
        ({"score": 2.0, "bonus": 1.0}, "bonus is not summed"),
        ({"gts": 0.0}, "gts holds no numbers"),
        ({"absent": 1.0}, "no column 'absent'"),
    ],
)
def test_weights_that_would_be_ignored_are_refused(tmp_path, weights, says):
    source = _verl(tmp_path / "theirs", {"bonus": 0.5})
    with pytest.raises(DataError, match=says):
        import_run(source, tmp_path / "run", weights=weights)
    assert not (tmp_path / "run").exists()
    made = import_run(source, tmp_path / "run", weights={"bonus": 0.0, "score": 2.0})
    assert (made.judges, made.rewards) == (["bonus"], {"score": 2.0})
