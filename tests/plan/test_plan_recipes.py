"""The recipe of every rule passes the dry run, without a warning; some of them really run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import plan_world as pw
import pytest

from gnomon.errors import ConfigError, GateClosed
from gnomon.plan import methods
from gnomon.plan.answers import Plan, make
from gnomon.plan.hardware import parse_hardware
from gnomon.plan.shown import runs_line
from gnomon.plan.sizing import ROOM
from gnomon.recipe.load import load_recipe, parse_recipe
from gnomon.runs.folder import RunFolder
from gnomon.stages.plan import make_plan
from gnomon.stages.run import run_recipe

SMALL = ("max_length=160", "max_prompt_length=64")


def planned(folder: Path, model: Path | str, rule: str, **more: Any) -> Plan:
    asked = {**pw.DATA[rule][1], **more}
    if "judge" in asked:
        asked["judge"] = str(folder / asked["judge"])
    return make(pw.files(folder, rule), str(model), out=folder / "made.yaml", **asked)


def written(plan: Plan, folder: Path) -> Path:
    path = folder / "made.yaml"
    path.write_text(plan.recipe_text(), encoding="utf-8")
    return path


@pytest.mark.parametrize("rule", pw.DATA)
def test_every_rules_recipe_passes_the_dry_run(
    rule: str, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rule == "full PPO: many rankings":
        monkeypatch.setattr(methods, "MANY", methods.FEW)
    if rule == "pairs of another model":
        monkeypatch.setattr(
            "gnomon.plan.likelihood.off_policy", lambda *args, **how: pw.gap(methods.STRANGE + 1)
        )
    plan = planned(tmp_path, tiny_folder, rule, likelihood=rule == "pairs of another model")
    assert plan.choice.rule.name == rule
    recipe = load_recipe(written(plan, tmp_path), [f"output={tmp_path / 'runs'}"])
    stages = make_plan(recipe, tmp_path)
    assert [stage.stage.spec.algorithm for stage in stages] == list(plan.choice.stages)
    for stage in stages:
        assert list(stage.warnings) == []
        assert stage.rows is None or stage.rows > 0
    assert any(spec.gates for spec in recipe.stages) or recipe.gates


@pytest.mark.parametrize("rule", ["checkable", "pairs", "prompts and a judge"])
def test_runners_up_pass_too(rule: str, tmp_path: Path, tiny_folder: Path) -> None:
    plan = planned(tmp_path, tiny_folder, rule)
    assert plan.runner_up is not None
    recipe = parse_recipe({**plan.runner_up.recipe, "output": str(tmp_path / "runs")})
    stages = make_plan(recipe, tmp_path)
    assert [s.stage.spec.algorithm for s in stages] == list(plan.choice.runner_up)
    assert [line for stage in stages for line in stage.warnings] == []


RUNS = {
    "pairs": ("sft.train.epochs=null", "sft.train.steps=2", "dpo.train.epochs=null"),
    "checkable": ("grpo.rollout.samples=8",),
    "thumbs": ("kto.train.epochs=null",),
    "prompts and a judge": ("dpo.train.epochs=null",),
}


@pytest.mark.parametrize("rule", RUNS)
def test_a_recipe_runs(rule: str, tmp_path: Path, tiny_folder: Path) -> None:
    plan = planned(tmp_path, tiny_folder, rule)
    last = plan.choice.stages[-1]
    short = [f"output={tmp_path / 'runs'}", *RUNS[rule], f"{last}.train.steps=2"]
    short += [f"{last}.train.batch_size=4", f"{last}.train.eval_size=8", *_brief(plan)]
    recipe = load_recipe(written(plan, tmp_path), short)
    # two steps of a random model help nobody, and a gate may say so
    with contextlib.suppress(GateClosed):
        run_recipe(recipe, base=tmp_path, announce=lambda said: None)
    run = RunFolder(recipe)
    assert all(run.stage(stage.name).done() for stage in recipe.stages)
    assert run.gates().root


def _brief(plan: Plan) -> list[str]:
    """Few short answers, for a test."""
    return [
        change
        for stage in plan.recipe["stages"]
        if "rollout" in stage
        for change in (
            f"{stage['name']}.rollout.max_new_tokens=8",
            f"{stage['name']}.data.0.limit=16",
            *([f"{stage['name']}.holdout=0"] if "holdout" in stage else []),
        )
    ]


# -- what it says ---------------------------------------------------------------------------------


def stages(plan: Plan) -> dict[str, Any]:
    return {stage["name"]: stage for stage in plan.recipe["stages"]}


def test_what_the_data_asks_for_becomes_settings(tmp_path: Path, tiny_folder: Path) -> None:
    dpo = stages(planned(tmp_path, tiny_folder, "pairs"))["dpo"]
    assert dpo["settings"] == {"beta": 0.1, "length_regularisation": 0.01}
    kto = stages(planned(tmp_path, tiny_folder, "thumbs"))["kto"]
    assert kto["settings"]["desirable_weight"] == "auto"
    text = planned(tmp_path, tiny_folder, "pairs").recipe_text()
    assert "# length_regularisation: 0.01: the policy would learn length" in text


def rates(tmp_path: Path, model: str, hardware: str) -> dict[str, Any]:
    plan = planned(tmp_path, model, "checkable", hardware=parse_hardware(hardware))
    return stages(plan)["grpo"]


def test_rates_and_batches_are_the_fields_by_size(tmp_path: Path) -> None:
    """At 7e9 parameters 1e-6, ten times with LoRA; larger models slower, smaller ones faster."""
    large = rates(tmp_path, "meta-llama/Llama-3.1-8B-Instruct", "1xH100")
    assert "lora" in large
    assert 5e-6 <= large["train"]["lr"] <= 1e-5
    assert large["train"]["batch_size"] == 128  # as many as 200 prompts allow
    assert large["on_purpose"] == ["train.batch_size"]
    small = rates(tmp_path, "Qwen/Qwen3-0.6B", "1xH100")
    assert "lora" not in small
    assert small["train"]["lr"] == pytest.approx(1e-6 * (7e9 / 0.6e9) ** 0.6, rel=0.05)
    assert small["train"]["batch_size"] == 64
    assert small["rollout"]["samples"] == 8


def test_a_base_model_gets_a_template_and_learns_to_answer_first(tmp_path: Path) -> None:
    data = pw.write(tmp_path / "pairs.jsonl", pw.pairs(300))
    base = make([data], "meta-llama/Llama-3.1-8B", out=tmp_path / "a.yaml")
    tuned = make([data], "meta-llama/Llama-3.1-8B-Instruct", out=tmp_path / "b.yaml")
    assert base.choice.stages == ("sft", "dpo")
    assert base.recipe["template"] == "chatml"
    assert stages(base)["sft"]["data"] == [{"path": "pairs.jsonl", "kind": "demonstrations"}]
    assert tuned.choice.stages == ("dpo",)
    assert "template" not in tuned.recipe


def test_held_out_prompts_are_compared_and_gated(tmp_path: Path, tiny_folder: Path) -> None:
    held = [{"prompt": f"what is {i} + 2 ?", "answer": str(i + 2)} for i in range(1000, 1100)]
    kept = pw.write(tmp_path / "held.jsonl", held)
    plan = planned(tmp_path, tiny_folder, "checkable", held_out=kept)
    assert plan.facts.leaked == 0
    recipe = load_recipe(written(plan, tmp_path), [f"output={tmp_path / 'runs'}"])
    assert recipe.compare is not None
    assert recipe.gates == ["gain/correct >= 0"]
    assert recipe.stages[-1].eval_data[0].path == "held.jsonl"
    make_plan(recipe, tmp_path)


def test_several_ways_to_check_take_the_largest_set(tmp_path: Path, tiny_folder: Path) -> None:
    words = [{"prompt": f"name {i}", "answer": "Paris"} for i in range(50)]
    paths = [
        pw.write(tmp_path / "numbers.jsonl", pw.checkable(250)),
        pw.write(tmp_path / "words.jsonl", words),
    ]
    plan = make(paths, str(tiny_folder), out=tmp_path / "made.yaml")
    grpo = stages(plan)["grpo"]
    assert [one["path"] for one in grpo["data"]] == ["numbers.jsonl"]
    assert any("checked in different ways" in warning for warning in plan.warnings)


# -- what fits, and what a budget buys ------------------------------------------------------------


def test_ways_are_tried_from_the_plainest(tmp_path: Path) -> None:
    plan = planned(tmp_path, "Qwen/Qwen3-8B", "thumbs", hardware=parse_hardware("1xH100"))
    assert plan.fit.way.lora
    assert plan.fit.shards == 1
    room = ROOM * plan.fit.hardware.gpu.memory
    assert plan.fit.peak <= room
    assert all(peak > room for peak in plan.fit.tried.values())
    small = planned(tmp_path, "Qwen/Qwen3-0.6B", "thumbs", hardware=parse_hardware("1xH100"))
    assert not small.fit.way.lora
    assert small.recipe["precision"] == "float32"


def test_too_large_says_what_would_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        planned(tmp_path, "meta-llama/Llama-3.1-70B", "thumbs", hardware=parse_hardware("1xH100"))
    says = str(refused.value)
    assert "does not fit on 1 x H100" in says
    assert "xH100, sharded" in says
    assert "a smaller model" in says
    shared = planned(
        tmp_path, "meta-llama/Llama-3.1-70B", "thumbs", hardware=parse_hardware("8xH100")
    )
    assert shared.fit.shards == 8
    assert any("one process alone trains on one" in warning for warning in shared.warnings)
    assert "strategy=fsdp2" in runs_line(shared.fit)


def test_the_command_for_several_gpus(tmp_path: Path) -> None:
    said = {
        count: runs_line(
            planned(
                tmp_path, "Qwen/Qwen3-0.6B", "thumbs", hardware=parse_hardware(f"{count}xH100")
            ).fit
        )
        for count in (1, 4, 12)
    }
    assert "one process" in said[1]
    assert "torchrun --nproc-per-node 4 -m gnomon run RECIPE strategy=ddp" in said[4]
    assert "torchrun --nnodes 2 --nproc-per-node 6" in said[12]


def test_without_hardware_the_cheapest_gpu(tmp_path: Path) -> None:
    chosen = planned(tmp_path, "Qwen/Qwen3-0.6B", "thumbs")
    assert not chosen.asked_for
    for name in ("H100", "A100", "L4"):
        other = planned(tmp_path, "Qwen/Qwen3-0.6B", "thumbs", hardware=parse_hardware(name))
        assert chosen.fit.euros <= other.fit.euros


def test_a_budget_cuts_then_takes_the_runner_up_then_says_no(tmp_path: Path) -> None:
    one = parse_hardware("1xH100")
    whole = planned(tmp_path, "Qwen/Qwen3-8B", "checkable", hardware=one)
    steps = whole.fit.stages[-1].steps
    same = planned(tmp_path, "Qwen/Qwen3-8B", "checkable", hardware=one, budget=whole.fit.euros + 1)
    assert same.cut == ""
    cut = planned(tmp_path, "Qwen/Qwen3-8B", "checkable", hardware=one, budget=whole.fit.euros / 2)
    assert cut.fit.euros <= whole.fit.euros / 2
    assert 10 <= cut.fit.stages[-1].steps < steps
    assert cut.recipe["stages"][-1]["train"]["steps"] == cut.fit.stages[-1].steps
    assert "are cut" in cut.cut
    assert cut.cut[1:] in cut.recipe_text().replace("\n# ", " ")
    with pytest.raises(ConfigError, match=r"0.001 euros is too small for anything: 10 steps"):
        planned(tmp_path, "Qwen/Qwen3-8B", "checkable", hardware=one, budget=0.001)
