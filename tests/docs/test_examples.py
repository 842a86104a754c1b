"""What the docs show works: recipes validate, code runs, sample rows are read, commands parse."""

import contextlib
import io
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from docs_pages import ROOT, Block, blocks, contributed_files, pages
from typer.testing import CliRunner

from gnomon.algorithms.base import Step, Workbench
from gnomon.cli.main import app
from gnomon.data.batch import microbatches, pack
from gnomon.data.encode import Encoder
from gnomon.data.formats import FORMATS
from gnomon.data.readers import read_groups
from gnomon.errors import ConfigError
from gnomon.losses.reduce import Totals
from gnomon.recipe.load import apply_override, load_recipe, parse_recipe
from gnomon.stages.names import stage_settings
from gnomon.stages.run import run_recipe
from gnomon.tasks.tunnel.tokenizer import build_tokenizer

BLOCKS = [block for page in pages() for block in blocks(page)]
CONTRIBUTING = blocks(ROOT / "CONTRIBUTING.md")


def recipe_of(block: Block) -> dict[str, Any] | None:
    """The block as a raw recipe, where it is a full one."""
    raw = yaml.safe_load(block.text) if block.language in ("yaml", "yml") else None
    return raw if isinstance(raw, dict) and {"name", "model", "stages"} <= raw.keys() else None


RECIPES = [
    pytest.param(b.page, r, id=f"{b.page}-{r['name']}") for b in BLOCKS if (r := recipe_of(b))
]
FILES = sorted([*ROOT.glob("recipes/*.yaml"), *ROOT.glob("src/gnomon/recipe/presets/*.yaml")])
COMMANDS = sorted(
    {
        line.split("  #")[0].strip()
        for b in BLOCKS
        if b.language in ("sh", "bash", "console")
        for line in b.text.replace("\\\n", " ").splitlines()
        if line.startswith("gnomon ")
    }
)


@pytest.mark.parametrize(("page", "raw"), RECIPES)
def test_every_recipe_validates(page: str, raw: dict[str, Any], contributed: Path) -> None:
    recipe = parse_recipe(raw, where=page)
    for stage in recipe.stages:
        stage_settings(stage, contributed)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_recipe_file_validates(file: Path) -> None:
    for stage in load_recipe(file).stages:
        stage_settings(stage)


def test_a_broken_recipe_would_be_caught() -> None:
    text = next(b.text for b in BLOCKS if b.page == "recipes.md" and recipe_of(b))
    broken = yaml.safe_load(text.replace("holdout", "holduot"))
    with pytest.raises(ConfigError, match="did you mean 'holdout'"):
        parse_recipe(broken)
    unknown = parse_recipe(yaml.safe_load(text.replace("no_eos_penalty", "no_eos_penality")))
    with pytest.raises(ConfigError, match="did you mean 'no_eos_penalty'"):
        stage_settings(unknown.stages[-1])


def parses(command: str) -> bool:
    """Whether the command line knows the command and its options (nothing is run)."""
    return CliRunner().invoke(app, [*shlex.split(command)[1:], "--help"]).exit_code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str) -> None:
    assert parses(command)
    assert not parses(f"{command} --no-such-option")


def test_every_sample_row_is_read_as_its_format(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    samples = re.findall(r"^### `([\w-]+)`\n(?:(?!^###).)*?```jsonl\n(.*?)```", page, re.M | re.S)
    assert [name for name, _ in samples] == [f.name for f in FORMATS]
    for name, rows in samples:
        for i, row in enumerate(rows.splitlines()):
            file = tmp_path / f"{name}-{i}.jsonl"
            file.write_text(row + "\n", encoding="utf-8")
            read = read_groups(file)
            assert (read.format, len(read.groups), read.skipped) == (name, 1, [])


@pytest.mark.parametrize("name", ["data.md", "tunnel.md"])
def test_python_on_a_page_prints_what_the_page_says(name: str) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", page, re.DOTALL)
    assert found is not None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(found[1], {})
    assert printed.getvalue() == found[2]


def run_example(name: str, folder: Path, model: Path, *overrides: str) -> Path:
    """Run a recipe of CONTRIBUTING.md in ``folder`` on the tiny model."""
    raw = next(r for b in CONTRIBUTING if (r := recipe_of(b)) and r["name"] == name)
    for override in (f"model={model}", "device=cpu", *overrides):
        apply_override(raw, override)
    return run_recipe(parse_recipe(raw), base=folder, announce=lambda _: None)


def test_the_algorithm_example_trains(contributed: Path, tiny_model: Path) -> None:
    rows = next(b.text for b in CONTRIBUTING if b.language == "jsonl")
    (contributed / "labelled.jsonl").write_text(rows, encoding="utf-8")
    run = run_example("unlikelihood", contributed, tiny_model)
    assert (run / "stages" / "01-ul" / "model" / "model.safetensors").is_file()
    assert "token_loss" in _columns(run / "stages" / "01-ul" / "metrics.parquet")


def test_the_algorithm_example_does_not_depend_on_the_split(contributed: Path) -> None:
    """What CONTRIBUTING says of ``totals``: micro-batches add up to the step's loss."""

    from unlikelihood import (  # type: ignore[import-not-found]
        Unlikelihood,
        UnlikelihoodSettings,
    )

    rows = next(b.text for b in CONTRIBUTING if b.language == "jsonl")
    file = contributed / "labelled.jsonl"
    file.write_text(rows, encoding="utf-8")
    read = read_groups(file, kind="unpaired").groups
    groups, _ = Encoder(build_tokenizer(), max_length=64).encode_all(read)
    policy = SimpleNamespace(logprobs=lambda b: SimpleNamespace(logprobs=-0.1 * b.targets.sqrt()))
    method = Unlikelihood(UnlikelihoodSettings(coef=0.5), Workbench({"policy": policy}))
    step = Step(0, totals=Totals.of(groups))
    parts = [pack(part) for part in microbatches(groups, 1)]
    assert len(parts) == 2
    whole = method.loss(pack(groups), step).loss
    torch.testing.assert_close(sum(method.loss(b, step).loss for b in parts), whole)


def test_the_tests_of_the_example_pass(contributed: Path) -> None:
    names: dict[str, Any] = {}
    exec(contributed_files()["test_unlikelihood.py"], names)
    tests = [f for name, f in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_the_reward_and_eval_examples_run(contributed: Path, tiny_model: Path) -> None:
    run = run_example("brief", contributed, tiny_model, "ppo.train.sample_every=1")
    columns = _columns(run / "stages" / "01-ppo" / "metrics.parquet")
    assert {"reward", "reward/words"} <= columns
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(contributed_files()["try_declining.py"], {})
    assert printed.getvalue().startswith("0.000 [0.000, ")


def test_the_comparison_example_runs(contributed: Path, tiny_model: Path) -> None:
    run = run_example("declining", contributed, tiny_model)
    comparison = yaml.safe_load((run / "comparison.json").read_text(encoding="utf-8"))
    assert comparison["columns"][0] == "refused"
    assert [row["model"] for row in comparison["rows"]] == ["base", "sft"]


def _columns(file: Path) -> set[str]:
    return set(pq.read_schema(file).names)
