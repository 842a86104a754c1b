"""The field's ranges: each row warns just outside it, and is silent inside or where it is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gnomon.algorithms.registry import METHODS
from gnomon.errors import ConfigError, ModelError
from gnomon.models.load import fetch, read_config
from gnomon.models.memory import parameter_count
from gnomon.plan.ranges import KEYS, LARGE, RANGES, Range, check_ranges
from gnomon.plan.shapes import shape_of
from gnomon.recipe.load import load_recipe, parse_recipe
from gnomon.recipe.presets import load_preset
from gnomon.recipe.schema import Recipe
from gnomon.runs.folder import RunFolder, recipe_hash
from gnomon.stages.check import check_stage
from gnomon.stages.plan import make_plan, out_of_range, plan_parts
from gnomon.stages.stage import open_stage

ROOT = Path(__file__).parents[2]
ROWS = [(one, method) for one in RANGES for method in one.methods]


def lines(one: Range, method: str, value: float, **more: Any) -> list[str]:
    return check_ranges(method, {one.key: value}, **{"parameters": LARGE, **more}).lines


@pytest.mark.parametrize(("one", "method"), ROWS, ids=lambda x: getattr(x, "key", x))
def test_each_range_warns_just_outside_it(one: Range, method: str) -> None:
    for inside in (one.low, one.high):
        assert lines(one, method, inside) == []
    for outside in (one.low * 0.99, one.high * 1.01):
        (line,) = lines(one, method, outside)
        assert f"{one.key} is {outside:g}" in line
        assert f"{one.low:g} to {one.high:g}" in line
        assert one.because in line
        assert one.reference in line
        assert lines(one, method, outside, on_purpose=[one.key]) == []
    (line,) = lines(one, method, one.low, on_purpose=[one.key])
    assert "take it out" in line


def test_the_issues_numbers() -> None:
    found = {(r.key, m): (r.low, r.high, r.least) for r in RANGES for m in r.methods}
    assert len(found) == len(ROWS), "a method has two ranges of one key"
    assert found["settings.beta", "dpo"] == (0.001, 0.3, 0)
    assert found["rollout.samples", "grpo"] == (8, 64, 0)
    assert found["rollout.samples", "ppo"] == (4, 8, 0)
    assert found["train.batch_size", "grpo"] == (256, 1024, 7e9)
    assert found["train.lr", "ppo"] == (1e-7, 1e-6, 7e9)
    assert {m for _, m in found} <= METHODS.keys()


def test_rates_and_batches_are_of_large_models_and_lora_has_its_own() -> None:
    rate = {"train.lr": 5e-6, "train.batch_size": 32}
    assert check_ranges("grpo", rate, parameters=LARGE - 1).lines == []
    assert len(check_ranges("grpo", rate, parameters=LARGE).lines) == 2
    assert len(check_ranges("grpo", rate, parameters=LARGE, lora=True).lines) == 1
    assert len(check_ranges("grpo", {"train.lr": 5e-7}, parameters=LARGE, lora=True).lines) == 1


def test_no_penalty_is_for_rewards_that_nobody_learned() -> None:
    off = {"settings.beta": 0.0}
    assert check_ranges("grpo", off, parameters=1).lines == []
    assert len(check_ranges("grpo", off, parameters=1, learned=True).lines) == 1


# -- in the dry run -------------------------------------------------------------------------------


def recipe(folder: Path, model: Path, **stage: Any) -> Recipe:
    one = {
        "name": "one",
        "algorithm": "grpo",
        "data": {"path": "tunnel:prompts", "options": {"n": 4}},
        "reward": "correct",
        "rollout": {"samples": 4, "max_new_tokens": 8},
        "train": {"steps": 1, "batch_size": 2},
    }
    raw = {"name": "run", "model": str(model), "max_length": 100, "output": str(folder)}
    return parse_recipe({**raw, "stages": [{**one, **stage}]})


def test_the_dry_run_says_it_until_it_is_meant(tmp_path: Path, tiny_folder: Path) -> None:
    shown = "\n".join(map(str, plan_parts(recipe(tmp_path, tiny_folder), tmp_path)))
    assert "one: rollout.samples is 4, and the field's range is 8 to 64" in shown
    meant = recipe(tmp_path, tiny_folder, on_purpose="rollout.samples")
    assert make_plan(meant, tmp_path)[0].warnings == []
    also = recipe(tmp_path, tiny_folder, on_purpose=["rollout.samples", "settings.beta"])
    (line,) = make_plan(also, tmp_path)[0].warnings
    assert "settings.beta, which is 0.04 and not outside" in line
    sft = {"algorithm": "sft", "data": {"path": "tunnel:demonstrations", "options": {"n": 4}}}
    other = recipe(tmp_path, tiny_folder, **sft, reward=[], rollout={}, on_purpose="train.lr")
    (line,) = make_plan(other, tmp_path)[0].warnings
    assert "no range is known for sft" in line


def test_a_penalty_that_is_switched_off_is_no_small_one(tmp_path: Path, tiny_folder: Path) -> None:
    off = recipe(tmp_path, tiny_folder, settings={"kl_in": "none"}, on_purpose="rollout.samples")
    assert make_plan(off, tmp_path)[0].warnings == []


def test_a_misspelt_key_is_an_error(tmp_path: Path, tiny_folder: Path) -> None:
    bad = recipe(tmp_path, tiny_folder, on_purpose="rollout.sample")
    with pytest.raises(ConfigError, match=r"'rollout.sample'.*did you mean 'rollout.samples'"):
        make_plan(bad, tmp_path)
    stage = open_stage(bad, bad.stages[0], RunFolder(bad), tmp_path)
    with pytest.raises(ConfigError, match="on_purpose"):
        check_stage(stage)


def test_declaring_changes_no_run(tmp_path: Path, tiny_folder: Path) -> None:
    plain, meant = (
        recipe(tmp_path, tiny_folder, on_purpose=keys) for keys in ([], ["rollout.samples"])
    )
    assert recipe_hash(plain) == recipe_hash(meant)


SHIPPED = sorted(
    path for path in (ROOT / "recipes").rglob("*.yaml") if load_recipe(path).model != "none"
)
SMALL = {"EleutherAI/pythia-1.4b-deduped": 1.4e9}
"""Parameters of public models that are not in the planner's table."""
PRESETS = sorted((ROOT / "src/gnomon/recipe/presets").glob("*.yaml"))


@pytest.mark.parametrize("path", [*SHIPPED, *PRESETS], ids=lambda path: path.stem)
def test_a_shipped_recipe_has_or_declares_the_fields_settings(path: Path) -> None:
    one = load_preset(path.stem) if path in PRESETS else load_recipe(path)
    try:
        parameters = parameter_count(read_config(fetch(one.model)))
    except ModelError:  # a public model that is not here
        parameters = int(SMALL.get(one.model, 0)) or shape_of(one.model).parameters
    for spec in one.stages:
        stage = open_stage(one, spec, RunFolder(one), path.parent)
        assert out_of_range(stage, stage.learning_rate(parameters), parameters) == []


def test_every_key_is_one_that_the_dry_run_looks_up() -> None:
    assert {key.partition(".")[0] for key in KEYS} <= {"settings", "train", "rollout"}
