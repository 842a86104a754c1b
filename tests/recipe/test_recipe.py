"""Recipes: what is refused, what is suggested, how overrides are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import ConfigError
from gnomon.recipe.load import load_recipe, parse_recipe, read_yaml
from gnomon.recipe.presets import load_preset, preset_names
from gnomon.runs.records import dump_recipe
from gnomon.stages.names import stage_settings

TEXT = """
name: mine
model: tunnel
stages:
  - name: sft
    algorithm: sft
    data: demos.jsonl
    train: {epochs: 2, lr: 1e-4}
  - name: rm
    algorithm: reward_model
    data: {path: pairs.jsonl, labels: {0: a, 1: b}}
  - name: ppo
    algorithm: ppo
    data: [prompts.jsonl]
    reward: [{model: rm, weight: 0.5}, gold]
    settings: {beta: 0.1}
compare: {prompts: held.jsonl, rewards: gold}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)
    return path


def test_short_forms_mean_the_long_ones(file: Path) -> None:
    recipe = load_recipe(file)
    sft, rm, ppo = recipe.stages
    assert sft.data[0].path == "demos.jsonl"
    assert sft.train.lr == 1e-4
    assert rm.data[0].labels == {"0": "a", "1": "b"}
    assert [(r.model, r.builtin, r.weight) for r in ppo.reward] == [
        ("rm", None, 0.5),
        (None, "gold", 1.0),
    ]
    assert recipe.stage_folder("rm") == "02-rm"


def test_what_is_dumped_reads_back_as_the_same(file: Path) -> None:
    recipe = load_recipe(file, ["ppo.from=sft"])
    assert parse_recipe(read_yaml(dump_recipe(recipe))) == recipe


UNKNOWN = {
    "sed": (["sed=1"], "'sed'; did you mean 'seed'"),
    "stage key": (["sft.algorith=sft"], "'sft.algorith'; did you mean 'algorithm'"),
    "train key": (["sft.train.stepss=3"], "'sft.train.stepss'; did you mean 'steps'"),
    "rollout key": (["ppo.rollout.temprature=3"], "did you mean 'temperature'"),
    "lora key": (["ppo.lora.rnak=3"], "did you mean 'rank'"),
    "reward key": (["ppo.reward.0.wieght=3"], "did you mean 'weight'"),
    "data key": (["rm.data.pth=3"], "did you mean 'path'"),
    "compare key": (["compare.promts=x"], "did you mean 'prompts'"),
    "a choice": (["precision=bf16"], "(got 'bf16'); did you mean 'bfloat16'?"),
    "nothing near": (["zzzz=1"], "known keys: name, model"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_keys_and_choices_are_refused_with_the_nearest_one(file: Path, case: str) -> None:
    overrides, message = UNKNOWN[case]
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, overrides)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "key", "near"),
    [("sft", "pretraining_coeff", "pretraining_coef"), ("rm", "member", "members"),
     ("ppo", "no_eos_penality", "no_eos_penalty")],
)  # fmt: skip
def test_unknown_settings_of_an_algorithm_too(file: Path, stage: str, key: str, near: str) -> None:
    recipe = load_recipe(file, [f"{stage}.settings.{key}=1"])
    with pytest.raises(ConfigError, match=f"stage '{stage}'.*{key}.*did you mean '{near}'"):
        stage_settings(next(s for s in recipe.stages if s.name == stage))


def test_the_optimizers_numbers_are_keys(file: Path) -> None:
    keys = ["betas=[0.9, 0.999]", "eps=1e-6", "min_lr_ratio=0.1", "max_grad_norm=null"]
    recipe = load_recipe(file, [f"sft.train.{key}" for key in keys])
    train = next(s for s in recipe.stages if s.name == "sft").train
    found = (train.betas, train.eps, train.min_lr_ratio, train.max_grad_norm)
    assert found == ((0.9, 0.999), 1e-6, 0.1, None)
    with pytest.raises(ConfigError, match="min_lr_ratio has no effect with schedule constant"):
        load_recipe(file, ["sft.train.min_lr_ratio=0.1", "sft.train.schedule=constant"])


def test_settings_of_an_algorithm_are_finite_too(file: Path) -> None:
    recipe = load_recipe(file, ["ppo.settings.beta=.inf"])
    with pytest.raises(ConfigError, match=r"beta.*finite number"):
        stage_settings(next(s for s in recipe.stages if s.name == "ppo"))


WRONG = {
    "train.steps=0": "greater than or equal to 1",
    "train.steps=many": "valid integer",
    "train.lr=fast": "valid number",
    "train.lr=-1": "a number from 0 to 10",
    "train.lr=nan": "a number from 0 to 10",
    "train.lr=.nan": "a number from 0 to 10",
    "train.lr=.inf": "a number from 0 to 10",
    "train.lr=1e39": "a number from 0 to 10",
    "train.lr=true": "a number from 0 to 10",
    "train.betas=[0.9, 1.0]": "two numbers from 0 to below 1",
    "train.betas=[0.9]": "two numbers from 0 to below 1",
    "train.betas=0.9": "two numbers from 0 to below 1",
    "train.betas=[.nan, 0.9]": "two numbers from 0 to below 1",
    "train.betas=[-0.1, 0.9]": "two numbers from 0 to below 1",
    "train.eps=0": "greater than 0",
    "train.eps=.inf": "finite number",
    "train.weight_decay=.inf": "finite number",
    "train.weight_decay=1e39": "less than or equal to 10",
    "train.head_weight_decay=-1": "greater than or equal to 0",
    "train.min_lr_ratio=1.5": "less than or equal to 1",
    "train.warmup=.inf": "finite number",
    "train.max_grad_norm=.nan": "finite number",
    "train.max_grad_norm=0": "greater than 0",
    "rollout.temperature=.inf": "finite number",
    "train.schedule=cubic": "'cosine', 'linear' or 'constant'",
    "train.warmup=-1": "greater than or equal to 0",
    "holdout=1.5": "less than 1",
    "max_reward_errors=2": "less than or equal to 1",
    "rollout.top_p=0": "greater than 0",
    "lora.dropout=1": "less than 1",
    "name=a/b": "letters, digits",
    "data.kind=pears": "'demonstrations'",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_values_name_the_key_and_what_was_given(file: Path, override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, ["sft.data={path: x.jsonl}", f"sft.{override}"])
    message = str(caught.value)
    assert WRONG[override] in message
    assert override.split("=")[0].split(".")[-1] in message
    given = override.split("=")[1].replace("1e39", "1e+39").replace("true", "True")
    assert given.lstrip(".") in message.replace("[nan", "[.nan")
    assert message.count("\n") == 0  # one problem, one line


def test_steps_and_epochs_together_are_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"sft\.train: give either steps or epochs, not both"):
        load_recipe(file, ["sft.train.steps=3"])


def test_two_stages_of_one_name_are_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="two stages are called 'sft'"):
        load_recipe(file, ["rm.name=sft"])


@pytest.mark.parametrize(
    "reward", ["{}", "{model: rm, builtin: gold}", "{function: a.py:f, model: rm}"]
)
def test_a_reward_is_exactly_one_thing(file: Path, reward: str) -> None:
    with pytest.raises(ConfigError, match="exactly one of model, function, builtin"):
        load_recipe(file, [f"ppo.reward=[{reward}]"])


def test_all_problems_are_told_at_once(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, ["sed=1", "sft.train.batch_size=0", "ppo.holdout=-1"])
    assert len(str(caught.value).splitlines()) == 3


# -- overrides ------------------------------------------------------------------------------------


def test_overrides_reach_everything(file: Path) -> None:
    recipe = load_recipe(
        file,
        [
            "seed=7",
            "name=2024",
            "sft.train.lr=1e-5",
            "sft.train.epochs=null",
            "sft.train.steps=9",
            "ppo.reward.0.weight=2",
            "stages.1.holdout=0.25",
            "ppo.settings.beta=2e-2",
            "ppo.lora.rank=8",
            "compare.size=5",
            "sft.data=[a.jsonl, b.jsonl]",
        ],
    )
    sft, rm, ppo = recipe.stages
    assert (recipe.seed, recipe.name) == (7, "2024")
    assert (sft.train.lr, sft.train.steps, sft.train.epochs) == (1e-5, 9, None)
    assert [d.path for d in sft.data] == ["a.jsonl", "b.jsonl"]
    assert rm.holdout == 0.25
    assert (ppo.reward[0].weight, ppo.settings["beta"], ppo.lora.rank) == (2, 0.02, 8)
    assert recipe.compare is not None
    assert recipe.compare.size == 5


BAD_OVERRIDES = {
    "seed": "key=value",
    "=3": "key=value",
    "ppp.train.lr=1": "did you mean 'ppo'",
    "nothing.train.lr=1": "the stages are sft, rm, ppo",
    "ppo=3": "name the setting",
    "ppo.reward.9.weight=1": "a number below 2",
    "sft.data.path=x": "holds a value, not settings",
    "sft.train.lr=[": "not valid YAML",
}


@pytest.mark.parametrize("override", BAD_OVERRIDES)
def test_an_override_that_means_nothing_says_so(file: Path, override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, [override])
    assert BAD_OVERRIDES[override] in str(caught.value)
    assert repr(override) in str(caught.value)


def test_an_override_fills_an_empty_section(file: Path) -> None:
    file.write_text(TEXT.replace("train: {epochs: 2, lr: 1e-4}", "train:"))
    assert load_recipe(file, ["sft.train.steps=4"]).stages[0].train.steps == 4


# -- files ----------------------------------------------------------------------------------------


def test_numbers_are_read_as_people_write_them() -> None:
    read = read_yaml("{a: 1e-5, b: -3E+2, c: 1.5e3, d: nan, e: 1e5x, f: 'e-5', g: 1_e5}")
    assert read == {"a": 1e-5, "b": -300.0, "c": 1500.0, "d": "nan", "e": "1e5x", "f": "e-5",
                    "g": "1_e5"}  # fmt: skip


def test_numbers_reach_a_reward_functions_options_as_numbers(file: Path) -> None:
    recipe = load_recipe(file, ["ppo.reward=[{function: 'a.py:f', options: {scale: 1e-3}}]"])
    assert recipe.stages[2].reward[0].options == {"scale": 1e-3}


FILES: dict[str, tuple[Any, str]] = {
    "twice": (TEXT + "name: again\n", "'name' appears twice"),
    "twice within": (TEXT.replace("{epochs: 2,", "{epochs: 2, epochs: 3,"), "'epochs' appears"),
    "list": ("- a\n", "a recipe is a mapping"),
    "empty": ("", "a recipe is a mapping"),
    "broken": ("name: [", "not valid YAML"),
    "tag": ("name: !!python/object/apply:os.system [echo]", "not valid YAML"),
    "no stages": ("name: a\nmodel: b\n", "missing key 'stages'"),
    "empty stages": ("name: a\nmodel: b\nstages: []\n", "stages"),
    "binary": (b"\xff\xfe\x00", "not valid YAML"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_recipe_is_named(file: Path, case: str) -> None:
    content, message = FILES[case]
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load_recipe(file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


def test_a_misspelt_file_gets_its_neighbour(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean .*recipe\.yaml"):
        load_recipe(file.parent / "recpie.yaml")


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_down_to_their_algorithms_settings(name: str) -> None:
    for stage in load_preset(name).stages:
        stage_settings(stage)


def test_an_unknown_preset_gets_its_neighbour() -> None:
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        load_preset("quikstart")
