"""Stages with a second model: a teacher, a base model; what is refused, and what its memory is."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import tiny_world as tw
from gnomon.errors import ConfigError
from gnomon.plan.memory import memory
from gnomon.recipe.schema import Recipe
from gnomon.report.facts import read_facts
from gnomon.runs.folder import RunFolder
from gnomon.stages.check import check_recipe
from gnomon.stages.run import run_recipe
from gnomon.stages.stage import open_stage

PROMPTS = {"path": "tunnel:prompts", "options": {"n": 8, "seed": 2}}
HELD_OUT = {"path": "tunnel:prompts", "options": {"n": 4, "seed": 3}}


def distill(**more: Any) -> dict[str, Any]:
    stage = {"name": "student", "algorithm": "distill", "data": PROMPTS, "from": "model"}
    stage |= {"rollout": {"max_new_tokens": 6, "samples": 2}, "eval_data": HELD_OUT}
    stage |= {"train": {"steps": 2, "batch_size": 4, "lr": 1e-3}, "observe": ["gold"]}
    return stage | {"settings": {"teacher": "sft"}} | more


def served(**rollout: float) -> dict[str, Any]:
    settings = {"teacher": "big", "url": "http://127.0.0.1:9/v1"}
    return {"settings": settings, "rollout": {"max_new_tokens": 6, "samples": 2, **rollout}}


def recipe(folder: Path, output: Path, *stages: dict[str, Any]) -> Recipe:
    return tw.make_recipe(folder, output, [tw.sft_stage(), *stages])


def problem(made: Recipe, base: Path) -> str:
    with pytest.raises(ConfigError) as found:
        check_recipe(made, RunFolder(made), base)
    return str(found.value)


@pytest.mark.parametrize("lora", [False, True])
def test_a_recipe_with_a_teacher_runs(lora: bool, tiny_folder: Path, tmp_path: Path) -> None:
    stage = distill(lora={"rank": 2} if lora else None)
    made = recipe(tiny_folder, tmp_path, stage)
    path = run_recipe(made, base=tmp_path, announce=lambda line: None)
    info = RunFolder(made).stage("student").info()
    assert info.status == "done"
    assert info.summary["teacher_kl"] == info.summary["teacher_kl"]  # a number
    assert "gold" in info.summary
    assert "gold" in info.held_out
    assert "reward" not in info.summary
    assert (path / "report.html").is_file()
    assert {view.name for view in read_facts(path).stages} == {"sft", "student"}
    student = open_stage(made, made.stages[1], RunFolder(made), tmp_path)
    alone = open_stage(made, made.stages[0], RunFolder(made), tmp_path)
    theirs, ours = memory(student.job()).always, memory(alone.job()).always
    assert theirs["other models"] == 4 * student.job().model.parameters
    assert "other models" not in ours


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"settings": {"teacher": "sfd"}}, "did you mean 'sft'"),
        ({"settings": {"teacher": "student"}}, "this stage or a later one"),
        ({"from": "sft"}, "is what the stage starts from"),
        ({"reward": "gold", "observe": []}, "learns from no reward"),
        ({"settings": {}}, "teacher"),
        ({"settings": {"teacher": "sft", "teachr": 1}}, "teacher"),
        (served(temperature=0.7), "rollout.temperature is 0.7, and the teacher behind http"),
        (served(final_temperature=0.5), "rollout.final_temperature is 0.5"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    more: dict[str, Any], said: str, tiny_folder: Path, tmp_path: Path
) -> None:
    assert said in problem(recipe(tiny_folder, tmp_path, distill(**more)), tmp_path)


def in_other_tokens(folder: Path) -> Path:
    """A model whose tokenizer numbers its tokens otherwise."""
    tw.save_tiny(folder)
    ids = {token: (i + 5) % 300 for token, i in tw.tokenizer().get_vocab().items()}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    template = tw.tokenizer().chat_template
    PreTrainedTokenizerFast(tokenizer_object=words, chat_template=template).save_pretrained(folder)
    return folder


def test_a_teacher_with_another_tokenizer_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    other = in_other_tokens(tmp_path / "other")
    made = recipe(tiny_folder, tmp_path, distill(settings={"teacher": str(other)}))
    assert "has another tokenizer than the policy" in problem(made, tmp_path)


def test_policies_with_different_tokenizers_are_not_compared(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """They would be given tokens of the recipe's model, which mean something else to them."""
    other = in_other_tokens(tmp_path / "other")
    first = {**tw.sft_stage(), "from": str(other)}
    compare = {"prompts": HELD_OUT, "rewards": ["gold"], "rollout": {"max_new_tokens": 6}}
    made = tw.make_recipe(tiny_folder, tmp_path, [first], compare=compare)
    said = problem(made, tmp_path)
    assert "stage 'sft' comes from" in said
    assert "another tokenizer than the recipe's model" in said


def test_policies_with_other_turns_are_compared_in_those_that_the_recipe_names(
    tiny_folder: Path, tmp_path: Path
) -> None:
    other = tw.save_tiny(tmp_path / "other")
    tokenizer = copy.deepcopy(tw.tokenizer())  # that one is shared
    assert isinstance(tokenizer.chat_template, str)
    tokenizer.chat_template = tokenizer.chat_template.replace("user", "user ")
    tokenizer.chat_template += "{# another #}"
    tokenizer.save_pretrained(other)
    first = {**tw.sft_stage(), "from": str(other)}
    compare = {"prompts": HELD_OUT, "rewards": ["gold"], "rollout": {"max_new_tokens": 6}}
    made = tw.make_recipe(tiny_folder, tmp_path, [first], compare=compare)
    assert "another chat template than the recipe's model" in problem(made, tmp_path)
    named = tw.make_recipe(tiny_folder, tmp_path, [first], compare=compare, template="chatml")
    check_recipe(named, RunFolder(named), tmp_path)


def test_a_stage_that_starts_from_another_model_is_planned_as_that(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """So is what comes after it; a reward model that is still to come has its own start's size."""
    wide = tw.tiny_model().config
    wide.intermediate_size *= 3
    LlamaForCausalLM(wide).save_pretrained(tmp_path / "wide")
    tw.tokenizer().save_pretrained(tmp_path / "wide")
    big = str(tmp_path / "wide")
    rows = {"path": "tunnel:preferences", "options": {"n": 8, "seed": 2}}
    rm = {"name": "rm", "algorithm": "reward_model", "data": rows, "from": big}
    rm |= {"train": {"steps": 2, "batch_size": 4}}
    later = {"name": "later", "algorithm": "raft", "data": PROMPTS, "reward": {"model": "rm"}}
    later |= {
        "rollout": {"max_new_tokens": 6, "samples": 2},
        "train": {"steps": 2, "batch_size": 4},
    }
    made = recipe(tiny_folder, tmp_path, rm, later)
    run = RunFolder(made)
    small, reward, policy = (open_stage(made, s, run, tmp_path).job() for s in made.stages)
    assert reward.model.parameters > small.model.parameters == policy.model.parameters
    assert policy.reward.parameters == reward.model.parameters
    moved = recipe(tiny_folder, tmp_path, rm, {**later, "from": big})
    assert open_stage(moved, moved.stages[2], run, tmp_path).job().model.parameters == (
        reward.model.parameters
    )


def test_a_reward_mixed_with_a_base_model_runs(tiny_folder: Path, tmp_path: Path) -> None:
    stage = distill(
        name="grpo",
        algorithm="grpo",
        reward="gold",
        observe=[],
        settings={"beta": 0.1, "base_share": 0.3},
    )
    made = recipe(tiny_folder, tmp_path, {**stage, "from": "sft"})
    run_recipe(made, base=tmp_path, announce=lambda line: None)
    assert RunFolder(made).stage("grpo").info().status == "done"
    same = recipe(tiny_folder, tmp_path / "other", {**stage, "from": "model"})
    assert "it would change nothing" in problem(same, tmp_path)
