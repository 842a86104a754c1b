"""The model card at the end of a run: where it lies, that a run does not fail with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from gnomon.errors import ConfigError, GateClosed
from gnomon.recipe.load import parse_recipe
from gnomon.runs.folder import RunFolder
from gnomon.stages import run as pipeline
from tiny_world import make_recipe, sft_stage

CARD = {"licence": "mit", "data": {"tunnel:demonstrations": {"licence": "apache-2.0"}}}


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "write_report", lambda folder: (folder / "report.html").touch())


def stages() -> list[dict[str, Any]]:
    grpo = {
        "name": "grpo",
        "algorithm": "grpo",
        "data": {"path": "tunnel:prompts", "options": {"n": 8}},
        "reward": {"builtin": "gold"},
        "rollout": {"samples": 3, "max_new_tokens": 4},
        "settings": {"beta": 0.1},
        "train": {"steps": 2, "batch_size": 2, "lr": 1e-3},
    }
    return [sft_stage(steps=2), grpo]


@pytest.fixture
def run(tmp_path: Path, tiny_folder: Path) -> tuple[Path, Callable[..., list[str]]]:
    """A run that has ended, and how to call it again."""
    recipe = make_recipe(tiny_folder, tmp_path, stages(), card=CARD)

    def call(resume: bool) -> list[str]:
        said: list[str] = []
        pipeline.run_recipe(recipe, base=tmp_path, resume=resume, announce=said.append)
        return said

    call(resume=False)
    return RunFolder(recipe).path, call


def test_a_run_leaves_a_card_and_every_model_a_readme(
    run: tuple[Path, Callable[..., list[str]]],
) -> None:
    folder, call = run
    for file in (
        folder / "model_card.md",
        folder / "stages" / "01-sft" / "model" / "README.md",
        folder / "stages" / "02-grpo" / "model" / "README.md",
    ):
        assert ModelCard.load(file).data.get("license") == "mit"
    text = (folder / "model_card.md").read_text()
    assert "| sft | tunnel:demonstrations | 24 | apache-2.0 |" in text
    assert "| grpo | tunnel:prompts | 8 | *not stated* |" in text
    AutoModelForCausalLM.from_pretrained(folder / "stages" / "02-grpo" / "model")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert call(resume=True) == ["sft: done already", "grpo: done already"]
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_card_that_was_removed_is_written_again_and_an_edited_readme_is_no_damage(
    run: tuple[Path, Callable[..., list[str]]],
) -> None:
    folder, call = run
    (folder / "model_card.md").unlink()
    readme = folder / "stages" / "01-sft" / "model" / "README.md"
    readme.write_text("edited")
    assert call(resume=True) == ["sft: done already", "grpo: done already"]
    assert (folder / "model_card.md").is_file()


def test_what_was_computed_follows_from_the_recipe(
    run: tuple[Path, Callable[..., list[str]]],
) -> None:
    folder, _ = run
    compute = json.loads((folder / "stages" / "02-grpo" / "stage.json").read_text())["compute"]
    samples, iterations, prompts = 3, 2, 2
    most = iterations * prompts * samples * 4
    assert set(compute["forward"]) == {"policy", "reference", "sampler"}
    assert compute["forward"]["sampler"] > 0
    assert most < compute["forward"]["sampler"] < 2 * most + 200  # the prompts once each, too
    trained = compute["backward"]["policy"]  # groups of equal rewards are not trained on
    assert 0 < trained <= compute["forward"]["sampler"]
    assert trained <= compute["forward"]["reference"] <= compute["forward"]["sampler"]
    assert compute["parameters"]["policy"] == compute["trained"]["policy"]


PAIRS = [
    {"prompt": f"Name number {n}.", "chosen": f"It is {n}.", "rejected": "No idea."}
    for n in range(6)
]


@pytest.fixture
def of_pairs(tmp_path: Path, tiny_folder: Path) -> Callable[..., Path]:
    """Preference learning with settings of one's own, run to its end."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))

    def ran(more: dict[str, Any]) -> Path:
        stage = {"name": "dpo", "algorithm": "dpo", "data": "pairs.jsonl"}
        stage |= {"train": {"steps": 2, "batch_size": 2}, **more}
        recipe = make_recipe(tiny_folder, tmp_path, [stage])
        with suppress(GateClosed):
            pipeline.run_recipe(recipe, base=tmp_path)
        return RunFolder(recipe).path

    return ran


@pytest.mark.parametrize("more", [{}, {"lora": {"rank": 2}}, {"settings": {"reference": "live"}}])
def test_the_passes_of_a_reference_are_in_the_compute_wherever_it_is_kept(
    of_pairs: Callable[..., Path], more: dict[str, Any]
) -> None:
    folder = of_pairs(more)
    compute = json.loads((folder / "stages" / "01-dpo" / "stage.json").read_text())["compute"]
    assert compute["forward"]["reference"] > 0
    assert compute["parameters"]["reference"] == compute["parameters"]["policy"]
    card = (folder / "model_card.md").read_text()
    assert "wholly, counted" not in card
    assert "does not pass it, even with everything counted" in card


def test_a_file_of_data_is_told_by_the_hash_that_the_file_has(
    of_pairs: Callable[..., Path], tmp_path: Path
) -> None:
    card = (of_pairs({}) / "model_card.md").read_text()
    own = hashlib.sha256((tmp_path / "pairs.jsonl").read_bytes()).hexdigest()
    assert f"| dpo | pairs.jsonl | 6 | *not stated* | `{own}` |" in card


@pytest.mark.parametrize(("on_fail", "ends"), [("previous", True), ("stop", False)])
def test_a_run_whose_last_model_a_gate_held_back_has_ended_all_the_same(
    of_pairs: Callable[..., Path], on_fail: str, ends: bool
) -> None:
    folder = of_pairs({"gates": ["loss <= -1"], "on_fail": on_fail})
    assert ("finished" in json.loads((folder / "manifest.json").read_text())) is ends
    assert ("| finished | *no record* |" not in (folder / "model_card.md").read_text()) is ends


def test_a_run_does_not_fail_because_its_card_does(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: Path) -> list[Path]:
        raise OSError("no room")

    monkeypatch.setattr(pipeline, "write_cards", broken)
    said: list[str] = []
    recipe = make_recipe(tiny_folder, tmp_path, sft_stage(steps=1))
    folder = pipeline.run_recipe(recipe, base=tmp_path, announce=said.append)
    assert "warning: the model card could not be written: OSError: no room" in said[-1]
    assert json.loads((folder / "stages" / "01-sft" / "stage.json").read_text())["status"] == "done"


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"licens": "mit"}, "licence"),
        ({"base_training_flop": -1}, "base_training_flop"),
        ({"data": {"tunnel:demonstration": {}}}, "did you mean 'tunnel:demonstrations'"),
        ({"data": {"tunnel:demonstrations": {"kind": "found"}}}, "crawled"),
    ],
)
def test_statements_are_checked_before_anything_runs(
    tmp_path: Path, tiny_folder: Path, card: dict[str, Any], words: str
) -> None:
    raw = {"name": "r", "model": str(tiny_folder), "output": str(tmp_path), "card": card}
    with pytest.raises(ConfigError, match=words):
        parse_recipe(raw | {"stages": [sft_stage()]})
