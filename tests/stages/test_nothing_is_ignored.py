"""What a recipe says is done, or refused: settings that would do nothing, models that a gate held
back, gates on what nothing measures, stages whose names have dots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tiny_world as tw
from gnomon.errors import ConfigError
from gnomon.recipe.load import apply_override, parse_recipe
from gnomon.runs import manifest
from gnomon.runs.folder import RunFolder
from gnomon.stages.check import check_recipe
from gnomon.stages.run import run_recipe


def collect_stage(**more: Any) -> dict[str, Any]:
    data = {"path": "tunnel:prompts", "options": {"n": 4}}
    return {"name": "own", "algorithm": "collect", "data": data, "reward": "gold", **more}


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"train": {"steps": 2}}, "train"),
        ({"probes": 5}, "probes"),
        ({"rollout": {"samples": 2, "final_temperature": 0.2}}, "rollout.final_temperature"),
    ],
)
def test_what_a_collect_stage_would_ignore_is_refused(
    more: dict[str, Any], named: str, tiny_folder: Path, tmp_path: Path
) -> None:
    made = tw.make_recipe(tiny_folder, tmp_path, [collect_stage(**more)])
    with pytest.raises(ConfigError, match=f"{named}: a collect stage trains nothing"):
        check_recipe(made, RunFolder(made), tmp_path)


def test_a_comparison_has_no_final_temperature(tiny_folder: Path, tmp_path: Path) -> None:
    prompts = {"path": "tunnel:prompts", "options": {"n": 4}}
    compare = {"prompts": prompts, "rewards": ["gold"], "rollout": {"final_temperature": 0.1}}
    made = tw.make_recipe(tiny_folder, tmp_path, [tw.sft_stage(1)], compare=compare)
    with pytest.raises(ConfigError, match=r"rollout\.final_temperature"):
        check_recipe(made, RunFolder(made), tmp_path)


@pytest.mark.parametrize("metric", ["eval/loss", "eval/nll"])
def test_a_gate_on_held_out_rows_needs_some(metric: str, tiny_folder: Path, tmp_path: Path) -> None:
    bare = tw.sft_stage(1) | {"gates": [f"{metric} <= 9"]}
    bare.pop("holdout", None)
    made = tw.make_recipe(tiny_folder, tmp_path, [bare])
    with pytest.raises(ConfigError, match="it holds no rows out: give it holdout"):
        check_recipe(made, RunFolder(made), tmp_path)
    made = tw.make_recipe(tiny_folder, tmp_path, [bare | {"holdout": 0.2}])
    check_recipe(made, RunFolder(made), tmp_path)


def test_nothing_is_made_of_a_policy_that_its_gate_held_back(
    tiny_folder: Path, tmp_path: Path
) -> None:
    first, second = (tw.sft_stage(1) | {"name": name} for name in "ab")
    second |= {"gates": ["loss <= 1e-6 (value)"], "on_fail": "previous"}
    mean = {"name": "mean", "algorithm": "average", "settings": {"models": ["a", "b"]}}
    made = tw.make_recipe(tiny_folder, tmp_path, [first, second, mean])
    with pytest.raises(ConfigError, match="'mean' names 'b' as a model, and its gate held it back"):
        run_recipe(made, base=tmp_path, announce=lambda line: None)
    assert not list(tmp_path.glob("run/stages/*-mean/model/*.safetensors"))
    fine = made.model_dump(mode="json", by_alias=True, exclude_unset=True)
    apply_override(fine, "b.gates=[loss <= 1e6 (value)]")
    run_recipe(parse_recipe(fine), base=tmp_path, resume=True, announce=lambda line: None)
    assert list(tmp_path.glob("run/stages/*-mean/model/*.safetensors"))


def test_a_stage_whose_name_has_dots_is_overridden_by_it() -> None:
    raw: dict[str, Any] = {"stages": [{"name": "dpo-0.1"}, {"name": "dpo-0"}, {"name": "sft"}]}
    apply_override(raw, "dpo-0.1.train.steps=2")
    apply_override(raw, "dpo-0.train.steps=3")
    apply_override(raw, "sft.train.lr=0.1")
    assert [s["train"] for s in raw["stages"]] == [{"steps": 2}, {"steps": 3}, {"lr": 0.1}]
    with pytest.raises(ConfigError, match=r"name the setting of the stage, as in dpo-0\.1\.train"):
        apply_override(raw, "dpo-0.1=2")


def test_what_was_called_as_a_module_is_resumed_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/env/lib/gnomon/__main__.py", "run", "a.yaml"])
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert manifest.resume_command() == "python -m gnomon run a.yaml --resume"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    wanted = "torchrun --nproc-per-node 4 -m gnomon run a.yaml --resume"
    assert manifest.resume_command() == wanted
