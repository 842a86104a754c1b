"""kill -9 at any moment, then --resume: bit for bit what an uninterrupted run gives."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from killing import run_and_die

from gnomon.recipe.load import parse_recipe
from gnomon.stages.run import run_recipe

LORA = {"rank": 2, "alpha": 4}
TRAIN = {"steps": 3, "batch_size": 4, "lr": 1e-2, "checkpoint_every": 1, "sample_every": 1}
ROLLOUT = {"samples": 2, "max_new_tokens": 5}


def tunnel(what: str, n: int, seed: int) -> dict[str, Any]:
    return {"path": f"tunnel:{what}", "options": {"n": n, "seed": seed}}


def raw_recipe(model: Path, output: Path) -> dict[str, Any]:
    """All the stages, with what has state: adapters, heads, adaptive beta, evaluations."""
    return {
        "name": "run",
        "model": str(model),
        "output": str(output),
        "max_length": 120,
        "stages": [
            {
                "name": "sft",
                "algorithm": "sft",
                "data": tunnel("demonstrations", 16, 1),
                "pretraining": tunnel("text", 4, 1),
                "holdout": 0.2,
                "train": TRAIN | {"eval_every": 2},
                "settings": {"pretraining_coef": 0.1, "pretraining_batch": 2},
            },
            {
                "name": "feedback",
                "algorithm": "collect",
                "data": tunnel("prompts", 12, 2),
                "rollout": {"samples": 3, "max_new_tokens": 5},
                "settings": {"labellers": [{"name": "a"}, {"name": "b"}], "chunk": 5},
            },
            {
                "name": "rm",
                "algorithm": "reward_model",
                "data": "stage:feedback",
                "holdout": 0.2,
                "normalise_on": tunnel("demonstrations", 6, 3),
                "lora": LORA,
                "train": TRAIN,
                "settings": {"members": 2},
            },
            {
                "name": "ppo",
                "algorithm": "ppo",
                "data": tunnel("prompts", 12, 4),
                "eval_data": tunnel("prompts", 4, 5),
                "reward": {"model": "rm"},
                "observe": "gold",
                "lora": LORA,
                "rollout": ROLLOUT,
                "train": TRAIN | {"eval_every": 2},
                "settings": {"target_kl": 0.1, "kl_horizon": 40, "beta": 0.1},
            },
            {
                "name": "full",
                "algorithm": "ppo",
                "data": tunnel("prompts", 12, 6),
                "reward": "gold",
                "rollout": ROLLOUT | {"final_temperature": 0.7},
                "train": TRAIN | {"checkpoint_every": 2},
                "settings": {"value_warmup": 1, "kl_in": "loss"},
            },
        ],
        "compare": {
            "prompts": tunnel("prompts", 4, 7),
            "rewards": [{"builtin": "gold"}],
            "rollout": {"max_new_tokens": 5},
        },
    }


PLACES = [
    ("sft", "step", 2),
    ("sft", "checkpoint", 3),
    ("sft", "model", 0),
    ("feedback", "chunk", 5),
    ("rm", "step", 1),
    ("rm", "checkpoint", 2),
    ("rm", "model", 0),
    ("ppo", "checkpoint", 2),
    ("ppo", "step", 3),
    ("full", "checkpoint", 2),
    ("full", "step", 3),
    ("", "compare", 0),
]
MODELS = ["01-sft", "03-rm", "04-ppo", "05-full"]


@pytest.fixture(scope="module")
def straight(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupted, in this process (another hash seed, another state)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe = parse_recipe(raw_recipe(tiny_folder, tmp_path_factory.mktemp("straight")))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gnomon.stages.run.write_report", write_no_report)
            return run_recipe(recipe, base=Path.cwd(), announce=lambda text: None)
    finally:
        torch.set_num_threads(threads)


def write_no_report(folder: Path) -> None:
    """Drawing plots takes longer than all the rest, and is tested elsewhere."""
    (folder / "report.html").write_text("")


@pytest.fixture(scope="module")
def killed(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was killed at every one of PLACES and then went to its end."""
    output = tmp_path_factory.mktemp("killed")
    raw = raw_recipe(tiny_folder, output)
    for number, place in enumerate(PLACES):
        assert run_and_die(raw, place, resume=number > 0) == -9, place
        for model in MODELS:
            folder = output / "run" / "stages" / model / "model"
            assert not folder.exists() or (folder / "gnomon.json").is_file()  # whole or not there
    assert run_and_die(raw, None, resume=True) == 0
    return output / "run"


def sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("stage", MODELS)
def test_the_final_weights_are_the_same_bytes(straight: Path, killed: Path, stage: str) -> None:
    for file in sorted((straight / "stages" / stage / "model").rglob("*.safetensors")):
        assert sha(killed / file.relative_to(straight)) == sha(file), file


def test_so_is_what_was_collected(straight: Path, killed: Path) -> None:
    name = "stages/02-feedback/groups.jsonl"
    assert (killed / name).read_text() == (straight / name).read_text()
    assert (straight / name).read_text().count("\n") > 6


def test_so_is_the_comparison(straight: Path, killed: Path) -> None:
    name = "comparison.json"
    assert json.loads((killed / name).read_text()) == json.loads((straight / name).read_text())


@pytest.mark.parametrize("stage", MODELS)
@pytest.mark.parametrize("table", ["metrics", "samples"])
def test_rows_have_no_gaps_and_no_repeats(
    straight: Path, killed: Path, stage: str, table: str
) -> None:
    def rows(run: Path) -> list[dict[str, Any]]:
        file = run / "stages" / stage / f"{table}.parquet"
        found = pq.read_table(file).to_pylist() if file.is_file() else []
        timing = ("seconds", "monitor_seconds", "tokens_per_second", "peak_rss_gb")
        return [{k: v for k, v in r.items() if k not in timing} for r in found]

    assert repr(rows(killed)) == repr(rows(straight))  # repr, since NaN is not NaN
    if table == "metrics":
        assert [r["iteration"] for r in rows(killed) if not r.get("final")] == [1, 2, 3]


def test_so_is_what_was_computed(straight: Path, killed: Path) -> None:
    def computed(run: Path) -> list[dict[str, Any]]:
        stages = sorted((run / "stages").iterdir())
        return [json.loads((stage / "stage.json").read_text())["compute"] for stage in stages]

    assert computed(killed) == computed(straight)
    assert all(stage["forward"] for stage in computed(straight))


def test_nothing_half_written_is_left(killed: Path) -> None:
    assert [p for p in killed.rglob(".*") if ".tmp-" in p.name] == []


def test_every_stage_is_done_and_the_manifest_whole(killed: Path, straight: Path) -> None:
    stages = sorted((killed / "stages").iterdir())
    assert [json.loads((s / "stage.json").read_text())["status"] for s in stages] == ["done"] * 5
    one, other = (json.loads((r / "manifest.json").read_text()) for r in (killed, straight))
    assert one["data"] == other["data"]
    assert one["models"].keys() == other["models"].keys()
    shas = {k: v["sha256"] for k, v in one["models"].items()}
    assert shas == {k: v["sha256"] for k, v in other["models"].items()}


def test_adapted_beta_went_on_from_where_it_was(straight: Path) -> None:
    table = pq.read_table(straight / "stages" / "04-ppo" / "metrics.parquet").to_pylist()
    betas = [r["beta"] for r in table if r["beta"] is not None]
    assert betas[0] == 0.1
    assert len(set(betas)) == 3


def test_resuming_what_is_done_changes_no_file(straight: Path, tiny_folder: Path) -> None:
    def state() -> dict[str, str]:
        return {str(p): sha(p) for p in straight.rglob("*") if p.is_file()}

    before = state()
    said: list[str] = []
    recipe = parse_recipe(raw_recipe(tiny_folder, straight.parent))
    run_recipe(recipe, base=Path.cwd(), resume=True, announce=said.append)
    assert state() == before
    assert said == [f"{n}: done already" for n in ("sft", "feedback", "rm", "ppo", "full")]
