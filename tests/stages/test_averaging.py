"""train.average_with_reference: the saved policy is between its start and what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gnomon.errors import ConfigError
from gnomon.recipe.load import parse_recipe
from gnomon.runs.folder import RunFolder
from gnomon.stages.check import check_recipe
from gnomon.stages.run import run_recipe


def raw(model: Path, output: Path, algorithm: str = "sft", share: float = 0.0) -> dict[str, Any]:
    data = {"path": "tunnel:demonstrations", "options": {"n": 16, "seed": 1}}
    train = {"steps": 2, "batch_size": 4, "lr": 0.05, "warmup": 0, "schedule": "constant"}
    train |= {"average_with_reference": share}
    stage = {"name": "stage", "algorithm": algorithm, "data": data, "train": train}
    whole = {"name": f"run-{share}", "model": str(model), "output": str(output)}
    return whole | {"max_length": 160, "stages": [stage]}


def test_the_saved_policy_is_between_its_start_and_its_end(
    tiny_folder: Path, tmp_path: Path
) -> None:
    saved = {}
    for share in (0.0, 0.25):
        recipe = parse_recipe(raw(tiny_folder, tmp_path, share=share))
        run_recipe(recipe, base=tmp_path, announce=lambda line: None)
        folder = RunFolder(recipe).stage("stage").model
        saved[share] = load_file(folder / "model.safetensors")
    start = load_file(tiny_folder / "model.safetensors")
    for key, value in saved[0.25].items():
        expected = 0.75 * saved[0.0][key] + 0.25 * start[key]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(saved[0.0][key], start[key]) for key in start)


def test_a_reward_model_is_not_averaged(tiny_folder: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(raw(tiny_folder, tmp_path, "reward_model", 0.5))
    with pytest.raises(ConfigError, match="average_with_reference is for policies"):
        check_recipe(recipe, RunFolder(recipe), tmp_path)
