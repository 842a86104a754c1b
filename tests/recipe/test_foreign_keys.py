"""What other trainers call our keys: whole against TRL's own classes, and right against ours."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from gnomon.algorithms.registry import METHODS
from gnomon.errors import ConfigError
from gnomon.recipe.foreign import FRAMEWORKS, foreign_key, foreign_keys
from gnomon.recipe.load import load_recipe, validate_as
from gnomon.recipe.schema import Recipe, StageSpec
from gnomon.recipe.training import LoraSpec, TrainSpec

STAGE = {"name": "s", "algorithm": "sft", "data": "tunnel:demonstrations"}


def names(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_every_key_that_is_named_exists_here() -> None:
    settings = set().union(*(names(method.settings) for method in METHODS.values()))
    rollout = names(StageSpec.model_fields["rollout"].annotation)  # type: ignore[arg-type]
    ours = {f"train.{name}" for name in names(TrainSpec)} | {f"rollout.{n}" for n in rollout}
    ours |= {f"lora.{name}" for name in names(LoraSpec)} | {f"settings.{n}" for n in settings}
    for key in foreign_keys():
        if key.ours and "." in key.ours:
            assert key.ours in ours, key
        elif key.ours:
            assert key.ours in names(StageSpec if key.of_stage else Recipe), key


def test_every_key_says_why_or_where() -> None:
    seen = set()
    for key in foreign_keys():
        assert key.frameworks
        assert key.ours or len(key.remark) > 8, key
        for framework in key.frameworks:
            assert framework in FRAMEWORKS.values()
            assert (key.name, framework) not in seen, f"{key.name} of {framework} is there twice"
            seen.add((key.name, framework))


@pytest.mark.parametrize("name", ["SFTConfig", "DPOConfig", "GRPOConfig", "RewardConfig",
                                  "KTOConfig", "RLOOConfig"])  # fmt: skip
def test_all_of_trls_config_classes_are_covered(name: str) -> None:
    import trl

    fields = {field.name for field in dataclasses.fields(getattr(trl, name))}
    assert len(fields) > 100, "TRL's class has no fields: nothing is checked"
    assert fields - {key.name for key in foreign_keys() if "TRL" in key.frameworks} == set()


def test_trls_keys_are_trls() -> None:
    """No key is made up: each is of a config class, of the model's, or of the trainers' calls."""
    import trl

    classes = ["SFTConfig", "DPOConfig", "GRPOConfig", "RewardConfig", "KTOConfig", "RLOOConfig"]
    fields = {f.name for c in classes for f in dataclasses.fields(getattr(trl, c))}
    fields |= {f.name for f in dataclasses.fields(trl.ModelConfig)}
    fields |= {f.name for f in dataclasses.fields(trl.ScriptArguments)}
    fields |= {"reward_funcs"}  # of GRPOTrainer itself
    fields |= {"max_prompt_length", "rpo_alpha", "cpo_alpha", "simpo_gamma"}  # of others, or before
    fields |= {"vllm_max_model_len", "warmup_ratio"}  # before 1.0
    assert {k.name for k in foreign_keys() if "TRL" in k.frameworks} - fields == set()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"learning_rate": 1e-5}, "is train.lr here, in a stage"),
        ({"per_device_train_batch_size": 8}, "per device x devices x accumulation"),
        ({"micro_batch_size": 2}, "(of Axolotl) is train.batch_size here"),
        ({"sequence_len": 512}, "is max_length here, at the top of a recipe"),
        ({"cutoff_len": 512}, "(of LLaMA-Factory) is max_length here"),
        ({"lora_r": 8}, "is lora.rank here"),
        ({"pref_beta": 0.1}, "is settings.beta here"),
        ({"rollout_batch_size": 64}, "(of OpenRLHF) is train.batch_size here, in a stage: prompts"),
        ({"normalize_reward": True}, "is normalise_on here, in a stage"),
        ({"zero_stage": 3}, "(of OpenRLHF) has no counterpart: one process trains"),
        ({"packing": True}, "has no counterpart: batches are always packed"),
    ],
)
def test_their_key_in_a_recipe_is_answered_with_ours(written: dict[str, object], said: str) -> None:
    raw = {"name": "x", "model": "tunnel", "stages": [{**STAGE, **written}]}
    with pytest.raises(ConfigError) as caught:
        validate_as(Recipe, raw, "recipe")
    assert "unknown key 's." in str(caught.value)
    assert said in str(caught.value)


def test_their_key_as_an_override_and_in_settings(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump({"name": "x", "model": "tunnel", "stages": [STAGE]}))
    with pytest.raises(ConfigError, match=r"num_train_epochs .* is train\.epochs here"):
        load_recipe(file, ["num_train_epochs=3"])
    grpo = METHODS["grpo"].settings
    with pytest.raises(ConfigError, match=r"epsilon .* is settings\.clip_low here"):
        validate_as(grpo, {"epsilon": 0.2}, "settings")


def test_who_wrote_our_key_where_it_does_not_go_is_not_sent_in_circles() -> None:
    with pytest.raises(ConfigError) as caught:
        validate_as(METHODS["sft"].settings, {"beta": 0.1}, "settings")
    assert "settings.beta here" not in str(caught.value)
    assert "pretraining_coef" in str(caught.value)


def test_below_compare_nobody_is_sent_to_a_stage() -> None:
    raw = {"name": "x", "model": "tunnel", "stages": [STAGE]}
    raw["compare"] = {"num_generations": 2}
    with pytest.raises(ConfigError, match=r"unknown key 'compare\.num_generations'") as caught:
        validate_as(Recipe, raw, "recipe")
    assert "TRL" not in str(caught.value)


def test_one_name_may_mean_different_things() -> None:
    trl, factory = foreign_key("packing", "TRL"), foreign_key("packing", "LLaMA-Factory")
    assert trl is not None
    assert factory is not None
    assert foreign_key("lambda_calculus") is None
