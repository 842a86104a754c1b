"""The recipes of the field, second half: each runs from end to end in the tunnel for a few steps,
and its real twin reads what the data sets that it names hold."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import GateClosed
from gnomon.recipe.load import load_recipe, parse_recipe
from gnomon.recipe.schema import Recipe
from gnomon.report.bought import bought
from gnomon.runs.read import RunView, read_run
from gnomon.stages.plan import make_plan
from gnomon.stages.run import run_recipe

FIELD = Path(__file__).resolve().parents[2] / "recipes" / "field"
NAMES = ["constitutional", "rlaif-dpo", "kto-thumbs", "distill", "stack-2026"]


# -- in the tunnel --------------------------------------------------------------------------------


def plain(recipe: Recipe) -> dict[str, Any]:
    """What the recipe's author wrote, without the defaults."""
    return recipe.model_dump(mode="json", by_alias=True, exclude_unset=True)


def shrunk(recipe: Recipe, model: str, output: Path) -> Recipe:
    """The same with a few rows, steps and tokens."""
    raw = plain(recipe)
    raw |= {"model": model, "output": str(output)}
    for stage in raw["stages"]:
        for source in [*stage.get("data", []), *stage.get("normalise_on", [])]:
            if "n" in source.get("options", {}):
                source["options"]["n"] = min(12, source["options"]["n"])
        if "train" in stage:
            few = {"steps": 2, "epochs": None, "batch_size": 4, "checkpoint_every": 2}
            stage |= {"train": {**stage["train"], **few}, "probes": 0}
        if "rollout" in stage:
            stage["rollout"]["max_new_tokens"] = 8
        if "holdout" in stage:
            stage["holdout"] = 0.3
        for suite in stage.get("settings", {}).get("suites", []):
            suite["options"] |= {"limit": 5, "max_new_tokens": 8}
    for source in raw["compare"]["prompts"]:
        source["options"]["n"] = 6
    raw["compare"]["rollout"]["max_new_tokens"] = 8
    return parse_recipe(raw)


def run_shrunk(name: str, model: str, output: Path) -> tuple[Recipe, RunView]:
    recipe = shrunk(load_recipe(FIELD / f"{name}-tunnel.yaml"), model, output)
    try:
        folder = run_recipe(recipe, base=FIELD, announce=lambda line: None)
    except GateClosed:  # a few steps buy nothing, and a gate says so
        folder = output / recipe.name
    return recipe, read_run(folder)


def check_finished(recipe: Recipe, run: RunView) -> None:
    """Every stage is done, every gate was decided by a figure, and the report says what each
    policy bought."""
    assert [stage.info.status for stage in run.stages] == ["done"] * len(recipe.stages)
    gated = {stage.name for stage in recipe.stages if stage.gates}
    assert gated | ({""} if recipe.gates else set()) <= set(run.gates.root)
    assert all(result.figure is not None for result in run.gates.all())
    rows = {row.policy: row for row in bought(run)}
    assert all(row.gain("gold") is not None for row in rows.values())
    counted = [stage for row in rows.values() for stage in row.stages]
    assert sorted(counted) == sorted(set(counted))
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "What each stage bought and cost" in page


@pytest.mark.walk
@pytest.mark.parametrize("name", ["rlaif-dpo", "kto-thumbs", "distill"])
def test_it_runs_from_end_to_end(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    check_finished(*run_shrunk(name, str(tiny_folder), tmp_path))


@pytest.mark.walk
def test_the_stack_runs_and_goes_on_from_what_its_gates_kept(
    tiny_folder: Path, tmp_path: Path
) -> None:
    recipe, run = run_shrunk("stack-2026", str(tiny_folder), tmp_path)
    check_finished(recipe, run)
    rows = bought(run)
    assert [row.policy for row in rows] == ["sft", "dpo", "grpo", "polish"]
    kept = "base"
    for row in rows:
        assert row.before == kept
        opened = all(gate.passed for gate in row.gates)
        assert row.gates
        assert (row.state == "held back") == (not opened)
        kept = row.policy if opened else kept
        assert any(gain.measure == "win rate by carla" for gain in row.gains)
    assert rows[1].stages == ("feedback", "dpo", "look-dpo")
    assert rows[3].stages == ("feedback-2", "rm", "polish", "look-polish")


@pytest.mark.walk
def test_constitutional_runs_from_end_to_end(tmp_path: Path) -> None:
    """With the built-in world's own model: the tiny one writes nothing that can be criticised."""
    recipe = load_recipe(FIELD / "constitutional-tunnel.yaml")
    small = shrunk(recipe, "tunnel", tmp_path)
    raw = plain(small)
    raw["stages"][0]["train"] |= {"steps": 12, "batch_size": 16}
    for source in raw["stages"][0]["data"]:
        source["options"]["n"] = 100
    for stage in raw["stages"]:
        if "rollout" in stage:
            stage["rollout"]["max_new_tokens"] = 32
    with suppress(GateClosed):
        run_recipe(parse_recipe(raw), base=FIELD, announce=lambda line: None)
    run = read_run(tmp_path / recipe.name)
    assert [stage.info.status for stage in run.stages] == ["done"] * len(recipe.stages)
    (gate,) = run.gates.root[""]
    assert gate.condition == "gain/right >= 0"
    assert gate.figure is not None
    assert next(row for row in bought(run) if row.policy == "dpo").gain("right") is not None


# -- the real recipes, as far as they go without a network ----------------------------------------

ASKED = {"role": "user", "content": "question {i}"}
SAID, WORSE = ({"role": "assistant", "content": f"{word} {{i}}"} for word in ("good", "bad"))
ROWS: dict[str, dict[str, Any]] = {
    "allenai/tulu-3-sft-mixture": {"id": "{i}", "messages": [ASKED, SAID], "source": "x"},
    "HuggingFaceH4/ultrachat_200k": {"prompt": "question {i}", "messages": [ASKED, SAID]},
    "HuggingFaceH4/ultrafeedback_binarized": {
        "prompt": "question {i}", "chosen": [ASKED, SAID], "rejected": [ASKED, WORSE],
        "messages": [ASKED, SAID], "score_chosen": 8.0, "score_rejected": 3.0,
    },
    "zwhe99/DeepMath-103K": {
        "question": "what is {i}?", "final_answer": "{i}", "difficulty": 5.0, "topic": "algebra",
        "r1_solution_1": "so it is {i}",
    },
    "trl-lib/kto-mix-14k": {"prompt": [ASKED], "completion": [SAID], "label": True},
    "trl-lib/tldr": {"prompt": "question {i}", "completion": " good {i}"},
    "HuggingFaceH4/cai-conversation-harmless": {
        "index": 1, "prompt": "question {i}", "init_prompt": "question {i}",
        "init_response": "bad {i}", "critic_prompt": "c", "critic_response": "c",
        "revision_prompt": "r", "revision_response": "good {i}",
        "messages": [ASKED, SAID], "chosen": [ASKED, SAID], "rejected": [ASKED, WORSE],
    },
    "open-thoughts/OpenThoughts3-1.2M": {
        "difficulty": 7, "source": "x", "domain": "math",
        "conversations": [{"from": "human", "value": "question {i}"},
                          {"from": "gpt", "value": "good {i}"}],
    },
}  # fmt: skip
"""A row of each data set that a recipe names, in the columns that its page on the hub shows."""
OWN = {
    "held-out.jsonl": {"prompt": "question {i}"},
    "gsm8k-test.jsonl": {"question": "what is {i}?", "answer": "#### {i}"},
    "harmful.jsonl": {"goal": "question {i}"},
    "harmless.jsonl": {"prompt": "question {i}"},
}
"""What each recipe says that its user brings."""


def write_rows(file: Path, row: dict[str, Any]) -> None:
    lines = [json.dumps(row).replace("{i}", str(i)) for i in range(40)]
    if file.name == "trl-lib_kto-mix-14k.jsonl":
        lines[::2] = [line.replace("true", "false") for line in lines[::2]]
    file.write_text("\n".join(lines), encoding="utf-8")


def local(recipe: Recipe, model: str, folder: Path) -> Recipe:
    """The recipe with files and a tiny model in place of what has to be fetched."""
    raw = plain(recipe)
    raw |= {
        "model": model,
        "output": str(folder / "runs"),
        "template": None,
        "precision": "float32",
    }
    raw |= {"max_length": 256, "max_prompt_length": 128}
    for name, row in OWN.items():
        write_rows(folder / name, row)
    compared = raw["compare"]
    for part in [*raw["stages"], {"data": compared["prompts"], "rollout": compared["rollout"]}]:
        for source in [s for k in ("data", "eval_data", "normalise_on") for s in part.get(k, [])]:
            if not source["path"].startswith("stage:"):
                assert source["path"] in ROWS, f"no row of {source['path']}"
                file = folder / f"{source['path'].replace('/', '_')}.jsonl"
                write_rows(file, ROWS[source["path"]])
                source |= {"path": file.name, "split": None}
        for suite in part.get("settings", {}).get("suites", []):
            suite["options"]["max_new_tokens"] = 64
        if "rollout" in part:
            part["rollout"]["max_new_tokens"] = 64
    return parse_recipe(raw)


@pytest.mark.parametrize("name", NAMES)
def test_the_real_twin_passes_its_dry_run_on_rows_as_the_hub_has_them(
    name: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """All of it but the models and data themselves, which only a network gives."""
    recipe = load_recipe(FIELD / f"{name}.yaml")
    assert "/" in recipe.model  # a hub id
    plans = make_plan(local(recipe, str(tiny_folder), tmp_path), tmp_path)
    assert [plan.stage.name for plan in plans] == [stage.name for stage in recipe.stages]
    assert not [skipped for plan in plans for skipped in plan.left_out]


@pytest.mark.parametrize("name", ["rlaif-dpo", "kto-thumbs", "stack-2026"])
def test_the_tunnel_has_the_stages_of_the_real_recipe(name: str) -> None:
    real, tunnel = (load_recipe(FIELD / f"{name}{end}.yaml") for end in ("", "-tunnel"))
    for stage, twin in zip(real.stages, tunnel.stages, strict=True):
        assert (stage.name, stage.algorithm, stage.from_) == (
            twin.name, twin.algorithm, twin.from_,
        )  # fmt: skip
        assert bool(stage.gates) == bool(twin.gates)
    assert real.on_fail == tunnel.on_fail == "previous"


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_has_a_page_and_gates(name: str) -> None:
    root = FIELD.parents[1]
    page = (root / "docs" / "field" / f"{name}.md").read_text(encoding="utf-8")
    assert f"recipes/field/{name}.yaml" in page
    assert f"recipes/field/{name}-tunnel.yaml" in page
    assert f"(field/{name}.md)" in (root / "docs" / "README.md").read_text(encoding="utf-8")
    for end in ("", "-tunnel"):
        recipe = load_recipe(FIELD / f"{name}{end}.yaml")
        assert recipe.gates or any(stage.gates for stage in recipe.stages)


def test_the_polish_by_dpo_that_the_stack_shows_is_a_recipe(
    tiny_folder: Path, tmp_path: Path
) -> None:
    file = FIELD / "stack-2026.yaml"
    changes = [
        *("polish.algorithm=dpo", "polish.reward=[]", "polish.observe=[]"),
        *("polish.data=[stage:feedback-2]", "polish.rollout={}", "polish.train.steps=null"),
        *("polish.train.epochs=1", "polish.settings={beta: 0.1}"),
    ]
    text = file.read_text(encoding="utf-8")
    assert all(change in text for change in changes)
    recipe = load_recipe(file, changes)
    assert recipe.stages[-2].algorithm == "dpo"
    make_plan(local(recipe, str(tiny_folder), tmp_path), tmp_path)
