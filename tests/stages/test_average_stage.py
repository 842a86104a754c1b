"""The average stage and train.average_checkpoints: saved weights are those worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import tiny_world as tw
from gnomon.errors import ConfigError, RunStopped
from gnomon.models.average import merge_step
from gnomon.recipe.schema import Recipe
from gnomon.report.facts import read_facts
from gnomon.runs.folder import RunFolder
from gnomon.stages.check import check_recipe
from gnomon.stages.run import run_recipe
from gnomon.training.callbacks import Callback, StepDone

WEIGHTS = "model.safetensors"


def stages(*settings: dict[str, Any], lora: bool = False) -> list[dict[str, Any]]:
    more = {"from": "model", "lora": {"rank": 2} if lora else None}
    two = [tw.sft_stage(steps=2, **more) | {"name": "a"}, tw.sft_stage(steps=4, **more)]
    averages = [
        {"name": f"mean{i}", "algorithm": "average", "settings": given}
        for i, given in enumerate(settings)
    ]
    return [two[0], two[1] | {"name": "b"}, *averages]


def run(made: Recipe, base: Path, resume: bool = False) -> dict[str, dict[str, Tensor]]:
    run_recipe(made, base=base, resume=resume, announce=lambda line: None)
    folders = {s.name: RunFolder(made).stage(s.name).model for s in made.stages}
    return {name: load_file(folder / WEIGHTS) for name, folder in folders.items()}


def refused(made: Recipe, base: Path) -> str:
    with pytest.raises(ConfigError) as found:
        check_recipe(made, RunFolder(made), base)
    return str(found.value)


@pytest.mark.parametrize("lora", [False, True])
def test_stages_are_averaged_and_later_ones_start_there(
    lora: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    linear = {"models": ["a", "b"], "weights": [3, 1], "init": "model", "init_share": 0.2}
    warp = {"models": ["a", "b"], "how": "slerp", "init": "model"}
    made = tw.make_recipe(
        tiny_folder,
        tmp_path,
        [*stages(linear, warp, lora=lora), tw.sft_stage(steps=1, train={"lr": 0.0})],
    )
    found = run(made, tmp_path)
    start = load_file(tiny_folder / WEIGHTS)
    for key, value in found["mean0"].items():
        a, b = found["a"][key].double(), found["b"][key].double()
        expected = 0.8 * (0.75 * a + 0.25 * b) + 0.2 * start[key].double()
        torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-5)
        expected = merge_step(found["a"][key], found["b"][key], 0.5, "slerp", start[key])
        torch.testing.assert_close(found["mean1"][key], expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found["sft"][key], found["mean1"][key])  # learned nothing
    assert any((found["a"][k] - found["b"][k]).abs().max() > 1e-3 for k in start)
    assert run(made, tmp_path, resume=True).keys() == found.keys()
    facts = read_facts(RunFolder(made).path, "mean0")  # what its card is about
    assert sorted(facts.chain) == ["a", "b", "mean0"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"models": ["a", "bb"]}, "did you mean 'b'"),
        ({"models": ["a", "mean0"]}, "this stage or a later one"),
        ({"models": ["a"]}, "one model is its own average"),
        ({"models": ["a", "a"]}, "named twice"),
        ({"models": ["a", "b"], "weights": [1]}, "1 weights for 2 models"),
        ({"models": ["a", "b"], "how": "slerp"}, "need init"),
        ({"models": ["a", "b"], "init": "model"}, "init has no effect"),
    ],
)
def test_what_cannot_be_averaged_is_refused(
    settings: dict[str, Any], said: str, tiny_folder: Path, tmp_path: Path
) -> None:
    assert said in refused(tw.make_recipe(tiny_folder, tmp_path, stages(settings)), tmp_path)


def test_an_average_stage_takes_nothing_that_trains(tiny_folder: Path, tmp_path: Path) -> None:
    mean = stages({"models": ["a", "b"]})
    mean[-1] |= {"data": {"path": "tunnel:prompts"}, "train": {"steps": 3}, "lora": {}}
    said = refused(tw.make_recipe(tiny_folder, tmp_path, mean), tmp_path)
    assert "remove data, lora, train" in said


def test_models_of_other_shapes_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    wide = tw.tiny_model().config
    wide.intermediate_size = 64
    AutoModelForCausalLM.from_config(wide).save_pretrained(tmp_path / "wide")
    tw.tokenizer().save_pretrained(tmp_path / "wide")
    mean = {"name": "m", "algorithm": "average", "settings": {"models": ["model", "wide"]}}
    made = tw.make_recipe(tiny_folder, tmp_path / "runs", mean)
    with pytest.raises(ConfigError, match="of different architectures"):
        run(made, tmp_path)


def sft(folder: Path, output: Path, last: int, lora: bool, **train: Any) -> Recipe:
    train |= {"average_checkpoints": last, "keep_checkpoints": 3}
    stage = tw.sft_stage(steps=4, lora={"rank": 2} if lora else None, train=train)
    return tw.make_recipe(folder, output, stage, name=f"last-{last}")


@pytest.mark.parametrize("lora", [False, True])
def test_the_mean_of_the_last_checkpoints_is_saved(
    lora: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    """Against runs of the same schedule that end earlier would be another schedule: the checkpoints
    themselves are read, and merged by PEFT's rule W + alpha / r B A."""
    made = sft(tiny_folder, tmp_path, 3, lora)
    found = run(made, tmp_path)["sft"]
    folder = RunFolder(made).stage("sft")
    start = load_file(tiny_folder / WEIGHTS)
    total = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in start.items()}
    for iteration in (2, 3, 4):
        state = load_file(
            folder.path / "checkpoints" / f"step-{iteration:06d}" / "parameters.safetensors"
        )
        for key, value in start.items():
            if not lora:
                total[key] += state[f"policy.trunk.{key}"].double()
                continue
            total[key] += value.double()
            place = f"adapter.policy.{key.removesuffix('.weight')}"
            if f"{place}.lora_A.weight" in state:
                a, b = (state[f"{place}.lora_{side}.weight"].double() for side in "AB")
                total[key] += 16 * b @ a  # alpha 32 over rank 2
    for key, value in found.items():
        torch.testing.assert_close(value.double(), total[key] / 3, atol=1e-5, rtol=1e-4)
    if lora:
        plain = AutoModelForCausalLM.from_pretrained(tiny_folder)
        adapted = PeftModel.from_pretrained(plain, folder.model / "adapter").merge_and_unload()
        for key, value in found.items():
            torch.testing.assert_close(adapted.state_dict()[key], value, atol=1e-5, rtol=1e-4)
    last = run(sft(tiny_folder, tmp_path, 1, lora), tmp_path)["sft"]
    assert any((last[k] - found[k]).abs().max() > 1e-3 for k in found)


class At(Callback):
    """Does something when so many iterations are done, once."""

    def __init__(self, iteration: int, do: Callable[[StepDone], None]) -> None:
        self.iteration, self.do = iteration, do

    def on_step(self, event: StepDone) -> None:
        if event.iteration == self.iteration:
            self.iteration = -1
            self.do(event)


@pytest.mark.parametrize("pause", [5, 6, 7])
def test_a_pause_changes_no_average(pause: int, tiny_folder: Path, tmp_path: Path) -> None:
    """Of 7 iterations with a checkpoint every 2, the last three are of 4, 6 and 7."""
    train = {"average_checkpoints": 3, "keep_checkpoints": 3, "checkpoint_every": 2}
    stage = tw.sft_stage(steps=7, train=train)
    whole, paused = (tw.make_recipe(tiny_folder, tmp_path / n, stage) for n in ("whole", "paused"))
    stop = At(pause, lambda event: event.stop("enough"))
    with pytest.raises(RunStopped):
        run_recipe(paused, base=tmp_path, announce=lambda line: None, callbacks=[stop])
    found, expected = run(paused, tmp_path, resume=True)["sft"], run(whole, tmp_path)["sft"]
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    facts = json.loads((RunFolder(paused).stage("sft").model / "gnomon.json").read_text())
    assert facts["averaged_checkpoints"] == [4, 6, 7]


def test_fewer_checkpoints_than_asked_for_are_said(tiny_folder: Path, tmp_path: Path) -> None:
    made = sft(tiny_folder, tmp_path, 3, False)
    finish = At(2, lambda event: event.finish())
    with pytest.warns(UserWarning, match=r"ended at iteration 2 with 2: .* iterations 1, 2"):
        run_recipe(made, base=tmp_path, announce=lambda line: None, callbacks=[finish])


def test_averages_that_cannot_be_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only the last 3 are kept"):
        sft(tiny_folder, tmp_path, 4, False)
    few = sft(tiny_folder, tmp_path, 3, False, checkpoint_every=2)
    with pytest.raises(ConfigError, match="leave 2: set checkpoint_every lower"):
        run(few, tmp_path)
