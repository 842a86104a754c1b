"""docs/from-*.md: their side is theirs, ours trains, and the tables are the table's."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs_pages import ROOT, blocks

from gnomon.recipe.foreign import foreign_key
from gnomon.recipe.load import apply_override, parse_recipe
from gnomon.recipe.schema import Recipe
from gnomon.stages.run import run_recipe

DOCS = ROOT / "docs"
PAGES = {
    "from-trl.md": "TRL",
    "from-axolotl.md": "Axolotl",
    "from-llama-factory.md": "LLaMA-Factory",
    "from-openrlhf.md": "OpenRLHF",
}


def mappings(page: str) -> list[dict[str, Any]]:
    read = [yaml.safe_load(b.text) for b in blocks(DOCS / page) if b.language == "yaml"]
    assert all(isinstance(raw, dict) for raw in read)
    return read


def theirs(page: str) -> list[dict[str, Any]]:
    return [raw for raw in mappings(page) if "stages" not in raw]


def ours(page: str, name: str) -> dict[str, Any]:
    return next(raw for raw in mappings(page) if raw.get("name") == name)


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_are_fresh_and_whole(page: str) -> None:
    spec = importlib.util.spec_from_file_location("make_reference", DOCS / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    text = (DOCS / page).read_text(encoding="utf-8")
    assert maker.render(text) == text, "stale: run python docs/make_reference.py"
    assert maker.render(text.replace("`train.lr`", "`train.rate`")) == text
    table = maker.foreign_reference(PAGES[page])
    assert "| `learning_rate` | `train.lr` |" in table
    assert "Without a counterpart:" in table


@pytest.mark.parametrize("page", ["from-axolotl.md", "from-llama-factory.md"])
def test_every_key_of_their_yaml_is_in_the_table(page: str) -> None:
    assert len(theirs(page)) == 2
    for raw in theirs(page):
        for key in raw:
            assert foreign_key(key, PAGES[page]) is not None, key


def test_every_flag_of_openrlhfs_scripts_is_in_the_table() -> None:
    flags = {
        flag.replace("-", "_")
        for block in blocks(DOCS / "from-openrlhf.md")
        for flag in re.findall(r"^ +--([\w-]+)", block.text, re.MULTILINE)
    }
    assert len(flags) > 35
    unknown = {flag for flag in flags if foreign_key(flag, "OpenRLHF") is None}
    assert unknown == set()


def test_trls_scripts_give_arguments_that_trl_takes() -> None:
    import trl

    seen = set()
    for block in blocks(DOCS / "from-trl.md"):
        for node in ast.walk(ast.parse(block.text)) if block.language == "python" else ():
            name = (
                node.func.id
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                else ""
            )
            if isinstance(node, ast.Call) and name in ("DPOConfig", "GRPOConfig"):
                fields = {field.name for field in dataclasses.fields(getattr(trl, name))}
                assert {k.arg for k in node.keywords} <= fields
                assert all(foreign_key(str(k.arg), "TRL") for k in node.keywords)
                seen.add(name)
    assert seen == {"DPOConfig", "GRPOConfig"}


def test_the_numbers_are_the_same_on_both_sides() -> None:
    """As far as a number has a counterpart: rate, epochs, batch, beta, rank, lengths."""
    factory, recipe = (
        theirs("from-llama-factory.md")[0],
        ours("from-llama-factory.md", "dpo-from-llama-factory"),
    )
    parsed = parse_recipe(recipe)
    stage = parsed.stages[0]
    assert stage.lora is not None
    batch = factory["per_device_train_batch_size"] * factory["gradient_accumulation_steps"]
    assert (stage.train.lr, stage.train.epochs, stage.train.batch_size) == (
        factory["learning_rate"], factory["num_train_epochs"], batch)  # fmt: skip
    assert (stage.settings["beta"], stage.lora.rank, stage.lora.alpha) == (
        factory["pref_beta"], factory["lora_rank"], 2 * factory["lora_rank"])  # fmt: skip
    assert (parsed.max_length, stage.train.warmup) == (
        factory["cutoff_len"],
        factory["warmup_ratio"],
    )
    axolotl = theirs("from-axolotl.md")[0]
    sft = parse_recipe(ours("from-axolotl.md", "sft-from-axolotl"))
    assert sft.stages[0].lora is not None
    assert sft.stages[0].train.lr == axolotl["learning_rate"]
    assert sft.stages[0].train.batch_size == (
        axolotl["micro_batch_size"] * axolotl["gradient_accumulation_steps"]
    )
    assert sft.stages[0].lora.rank == axolotl["lora_r"]


PAIRS = '{"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}\n'
COLUMNS = '{"conversation": "Name a colour.", "better": "Blue.", "worse": "Seven."}\n'
CONVERSATIONS = '{"conversation": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}\n'
ALPACA = '{"instruction": "Name a colour.", "input": "", "output": "Blue."}\n'
ANSWER = '{"prompt": "Name a colour.", "answer": "Blue"}\n'
RUNNABLE = [
    ("from-trl.md", "dpo-from-trl", {"pairs.jsonl": PAIRS, "held_out.jsonl": PAIRS}),
    ("from-trl.md", "grpo-from-trl", {"prompts.jsonl": ANSWER}),
    ("from-axolotl.md", "sft-from-axolotl", {"alpaca.jsonl": ALPACA}),
    ("from-axolotl.md", "dpo-from-axolotl", {"pairs.jsonl": COLUMNS}),
    ("from-llama-factory.md", "dpo-from-llama-factory", {"dpo_en_demo.json": PAIRS}),
    ("from-openrlhf.md", "dpo-from-openrlhf", {"pairs.jsonl": CONVERSATIONS}),
]


@pytest.mark.parametrize(
    ("page", "name", "files"), RUNNABLE, ids=lambda v: v if type(v) is str else ""
)
def test_a_page_s_recipe_trains_as_it_stands(
    page: str, name: str, files: dict[str, str], tmp_path: Path, tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With a tiny model, two steps and a few rows; everything else as on the page."""
    monkeypatch.chdir(tmp_path)
    for file, row in files.items():
        rows = [row.replace("colour", f"colour {i}") for i in range(12)]
        text = f"[{','.join(rows)}]" if file.endswith(".json") else "".join(rows)
        (tmp_path / file).write_text(text, encoding="utf-8")
    for block in blocks(DOCS / page):
        if block.text.startswith("# rewards.py"):
            (tmp_path / "rewards.py").write_text(block.text, encoding="utf-8")
    raw = ours(page, name)
    stage = raw["stages"][0]
    changes = [f"model={tiny_model}", "device=cpu", "precision=float32", "max_length=200",
               "sinks=[]", "output=runs", f"{stage['name']}.train.batch_size=2"]  # fmt: skip
    stage["train"] = {k: v for k, v in stage["train"].items() if k != "epochs"} | {"steps": 2}
    if "rollout" in stage:
        stage["rollout"]["max_new_tokens"] = 4
    for change in changes:
        apply_override(raw, change)
    run = run_recipe(parse_recipe(raw), base=tmp_path, announce=lambda _: None)
    assert (run / "report.html").is_file()
    assert list(run.glob("stages/*/model/*.safetensors"))


def test_a_broken_page_would_be_seen() -> None:
    raw = ours("from-trl.md", "dpo-from-trl")
    raw["stages"][0]["settings"]["betta"] = 1
    from gnomon.errors import ConfigError
    from gnomon.stages.names import stage_settings

    with pytest.raises(ConfigError, match="did you mean 'beta'"):
        stage_settings(Recipe.model_validate(raw).stages[0])
