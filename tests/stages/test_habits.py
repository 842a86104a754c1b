"""What users do with runs: rewards that say nothing, rows switched off, pipes, odd devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gnomon.errors import ConfigError, DataError
from gnomon.report.alarms import commands
from gnomon.report.ship import answer
from gnomon.report.table import answer_lines
from gnomon.runs.manifest import Manifest, invocation, resume_command
from gnomon.runs.read import RunView, read_run
from gnomon.stages import run as pipeline
from gnomon.stages.plan import make_plan
from tiny_world import make_recipe, sft_stage


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "write_report", lambda folder: None)


def stage_info(output: Path, stage: str) -> dict[str, Any]:
    file = output / "run" / "stages" / stage / "stage.json"
    info: dict[str, Any] = json.loads(file.read_text())
    return info


def test_a_reward_that_is_always_the_same_is_said_to_train_nothing(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "same.py").write_text("def reward(samples):\n    return [1.0] * len(samples)\n")
    stage = {
        "name": "g",
        "algorithm": "grpo",
        "data": {"path": "tunnel:prompts", "options": {"n": 8}},
        "reward": {"function": "same.py:reward"},
        "rollout": {"samples": 2, "max_new_tokens": 4},
        "train": {"steps": 2, "batch_size": 2, "lr": 1e-2},
    }
    said: list[str] = []
    recipe = make_recipe(tiny_folder, tmp_path, stage)
    pipeline.run_recipe(recipe, base=tmp_path, announce=said.append)
    shown = " ".join(capsys.readouterr().err.split())
    assert "iteration 1 trained nothing: all responses to each prompt have the same reward" in shown
    assert "the stage trained nothing in any of its 2 iterations" in shown
    assert stage_info(tmp_path, "01-g")["idle_iterations"] == 2
    first, reason, *_ = answer_lines(answer(read_run(tmp_path / "run")))
    assert first.startswith("NOT SHOWN")
    assert "trained nothing in any of its 2 iterations: all responses to each prompt have" in reason
    assert "raise rollout.samples" in reason
    assert any("2 iterations trained nothing" in line for line in said)


def test_answers_that_are_all_cut_off_and_masked_are_said_to_train_nothing(
    tmp_path: Path, tiny_folder: Path
) -> None:
    text = "def reward(samples):\n    return [float(i) for i in range(len(samples))]\n"
    (tmp_path / "length.py").write_text(text)
    stage = {
        "name": "g",
        "algorithm": "grpo",
        "settings": {"truncated": "mask"},
        "data": {"path": "tunnel:prompts", "options": {"n": 8}},
        "reward": {"function": "length.py:reward"},
        "rollout": {"samples": 4, "max_new_tokens": 1},
        "train": {"steps": 2, "batch_size": 2, "lr": 1e-2},
    }
    pipeline.run_recipe(make_recipe(tiny_folder, tmp_path, stage), base=tmp_path)
    reason = answer_lines(answer(read_run(tmp_path / "run")))[1]
    assert "of the responses ended by themselves" in reason
    assert "raise rollout.max_new_tokens" in reason


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "reward_model", "kto", "orpo", "simpo"])
def test_rows_of_weight_0_are_as_if_they_were_not_there(
    tmp_path: Path, tiny_folder: Path, algorithm: str
) -> None:
    rows = [
        {"prompt": f"Question {i}?", "weight": 1 - i % 2}
        | ({"response": f"Answer {i}."} if algorithm == "sft" else {})
        | ({"response": f"Answer {i}.", "label": i % 4 < 2} if algorithm == "kto" else {})
        | (
            {"chosen": f"Good {i}.", "rejected": f"No {i}!"}
            if algorithm not in ("sft", "kto")
            else {}
        )
        for i in range(16)
    ]
    weights = []
    for name, kept in (("off", rows), ("removed", [r for r in rows if r["weight"]])):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in kept))
        train = {"steps": 4, "batch_size": 2, "lr": 1e-2}
        stage = {"name": "s", "algorithm": algorithm, "data": {"path": str(file)}, "train": train}
        if algorithm == "reward_model":
            stage["settings"] = {"normalise": False}
        recipe = make_recipe(tiny_folder, tmp_path / name, stage)
        pipeline.run_recipe(recipe, base=tmp_path, announce=lambda text: None)
        files = stage_info(tmp_path / name, "01-s")["files"]
        weights.append(files["model/model.safetensors"]["sha256"])
    assert weights[0] == weights[1]


def test_a_file_whose_rows_are_all_switched_off(tmp_path: Path, tiny_folder: Path) -> None:
    file = tmp_path / "off.jsonl"
    file.write_text(json.dumps({"prompt": "a", "response": "b", "weight": 0}) + "\n")
    stage = sft_stage(steps=1) | {"data": {"path": str(file)}}
    with pytest.raises((DataError, ConfigError), match="every row has weight"):
        pipeline.run_recipe(
            make_recipe(tiny_folder, tmp_path, stage), base=tmp_path, announce=lambda text: None
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_said_before_any_work(
    tmp_path: Path, tiny_folder: Path
) -> None:
    recipe = make_recipe(tiny_folder, tmp_path, sft_stage(steps=1), device="cuda")
    with pytest.raises(ConfigError, match="device: cuda, but torch sees no CUDA"):
        make_plan(recipe, tmp_path)
    with pytest.raises(ConfigError, match="device: cpu"):
        pipeline.run_recipe(recipe, base=tmp_path, announce=lambda text: None)
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_written_is_said_before_any_work(
    tmp_path: Path, tiny_folder: Path
) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/gnomon")):
        recipe = make_recipe(tiny_folder, output, sft_stage(steps=1))
        for attempt in (
            lambda recipe=recipe: make_plan(recipe, tmp_path),
            lambda recipe=recipe: pipeline.run_recipe(recipe, base=tmp_path),
        ):
            with pytest.raises(ConfigError, match=r"output: .*output=FOLDER"):
                attempt()


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ValueError("closed file")])
def test_a_listener_that_is_gone_does_not_stop_the_run(
    tmp_path: Path, tiny_folder: Path, error: Exception
) -> None:
    def announce(text: str) -> None:
        raise error

    recipe = make_recipe(tiny_folder, tmp_path, sft_stage(steps=1))
    pipeline.run_recipe(recipe, base=tmp_path, announce=announce)
    assert stage_info(tmp_path, "01-sft")["status"] == "done"


def test_commands_that_are_shown_can_be_pasted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    called = ["/usr/bin/gnomon", "run", "my recipes/a.yaml", "name=my run", "--resume"]
    monkeypatch.setattr("sys.argv", called[:-1])
    plain = "gnomon run 'my recipes/a.yaml' 'name=my run'"
    assert resume_command() == f"{plain} --resume"
    noted = invocation()
    assert noted == {"command": plain, "cwd": str(tmp_path)}
    monkeypatch.setattr("sys.argv", called)
    assert resume_command() == f"{plain} --resume"
    view = RunView(tmp_path / "runs" / "x", "x", manifest=Manifest(**invocation()))
    assert commands(view) == [f"cd {tmp_path}", f"{plain} name=x-again"]
    bare = RunView(tmp_path / "runs" / "a b", "a b", recipe_text="name: a b")
    recipe = tmp_path.resolve() / "runs" / "a b" / "recipe.yaml"
    assert commands(bare) == [f"gnomon run '{recipe}' 'name=a b-again'"]
    monkeypatch.setattr("sys.argv", ["pytest"])
    assert invocation() == {}
    assert resume_command().endswith(".resume()")
