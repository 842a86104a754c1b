"""A run goes on with the files that it began with only: data, weights, tokenizer, template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import ConfigError, RunError
from gnomon.recipe.load import parse_recipe
from gnomon.runs.folder import RunFolder
from gnomon.runs.read import read_run
from gnomon.stages.inputs import Inputs, check_inputs, stage_inputs
from gnomon.stages.run import run_recipe
from gnomon.stages.stage import open_stage
from gnomon.training.loop import Loop
from tiny_world import save_tiny, tokenizer

ROWS = [{"prompt": f"What is {i}?", "completion": f"{i}.", "answer": str(i)} for i in range(8)]


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def recipe(home: Path) -> Any:
    train = {"steps": 2, "batch_size": 2, "lr": 1e-3, "checkpoint_every": 1}
    stages = [
        {"name": name, "algorithm": "sft", "data": f"{name}.jsonl", "train": train}
        for name in ("first", "second")
    ]
    places = {"model": "model", "output": "runs", "template": "mine.jinja"}
    places = {key: str(home / name) for key, name in places.items()}
    return parse_recipe({"name": "r", "max_length": 120, "stages": stages, **places})


def go(home: Path, resume: bool = True) -> Path:
    return run_recipe(recipe(home), base=home, resume=resume, announce=lambda line: None)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run broken off in the last iteration of its second stage."""
    home = tmp_path_factory.mktemp("inputs")
    save_tiny(home / "model")
    for name in ("first", "second"):
        write(home / f"{name}.jsonl", ROWS)
    (home / "mine.jinja").write_text(str(tokenizer().chat_template))
    real = Loop._iteration

    def iteration(self: Loop, i: int) -> None:
        if i == 1 and self.folder.name == "02-second":
            raise RunError("broken off")
        real(self, i)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_iteration", iteration)
        with pytest.raises(RunError, match="broken off"):
            go(home, resume=False)
    return home


@pytest.fixture
def home(broken: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same place each time, all as it was when the run broke off."""
    kept = broken.with_name("kept")
    if not kept.exists():
        shutil.copytree(broken, kept)
    monkeypatch.chdir(broken)
    yield broken
    shutil.rmtree(broken)
    shutil.copytree(kept, broken)


def edit(name: str) -> Callable[[Path], None]:
    return lambda home: (home / name).write_bytes((home / name).read_bytes() + b"\n")


def reworded(home: Path) -> None:
    """Only a column that a verifier would read."""
    write(home / "second.jsonl", [{**row, "answer": "another"} for row in ROWS])


def weight(home: Path) -> None:
    file = home / "model/model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-2] ^= 1
    file.write_bytes(raw)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (edit("second.jsonl"), "second.jsonl"),
        (reworded, "second.jsonl"),
        (edit("first.jsonl"), "first.jsonl"),  # its stage is done
        (edit("mine.jinja"), "mine.jinja"),
        (edit("model/tokenizer.json"), "tokenizer.json"),
        (weight, "model.safetensors"),
        (edit("model/config.json"), "config.json"),
        (lambda home: (home / "model/added_tokens.json").write_text("{}"), "added_tokens.json"),
    ],
)
def test_a_file_that_changed_is_named_and_put_back_the_run_goes_on(
    home: Path, change: Callable[[Path], None], named: str
) -> None:
    before = (home / "runs/r/stages/02-second/stage.json").read_bytes()
    change(home)
    with pytest.raises(ConfigError, match=f"{named}.* changed since stage .*(?s:.)*Put it back"):
        go(home)
    assert (home / "runs/r/stages/02-second/stage.json").read_bytes() == before


def test_unchanged_it_goes_on_and_the_manifest_has_the_hashes(home: Path) -> None:
    run = read_run(go(home))
    assert [stage.info.status for stage in run.stages] == ["done", "done"]
    noted = json.loads((run.path / "manifest.json").read_text())["inputs"]["first"]
    assert set(noted) == {str(home / "model"), "first.jsonl", str(home / "mine.jinja")}
    assert {"model.safetensors", "tokenizer.json"} <= set(noted[str(home / "model")])


def test_a_pattern_names_the_file_of_it_that_changed_or_is_new(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    (tmp_path / "data").mkdir()
    for shard in ("a", "b"):
        write(tmp_path / "data" / f"{shard}.jsonl", ROWS[:2])
    train = {"steps": 1, "batch_size": 2}
    stage = {"name": "s", "algorithm": "sft", "data": "data/*.jsonl", "train": train}
    asked = {"name": "r", "model": "model", "output": str(tmp_path / "runs"), "stages": [stage]}
    made = parse_recipe({**asked, "model": str(tmp_path / "model")})

    def seen() -> Inputs:
        return stage_inputs(open_stage(made, made.stages[0], RunFolder(made), tmp_path))

    before, folder = seen(), RunFolder(made).stage("s")
    check_inputs(folder, "s", before, seen(), done=False)
    write(tmp_path / "data" / "b.jsonl", ROWS[:3])
    with pytest.raises(ConfigError, match=r"data/b\.jsonl changed since stage 's'"):
        check_inputs(folder, "s", before, seen(), done=False)
    write(tmp_path / "data" / "b.jsonl", ROWS[:2])
    write(tmp_path / "data" / "c.jsonl", ROWS[:2])
    with pytest.raises(ConfigError, match=r"c\.jsonl changed"):
        check_inputs(folder, "s", before, seen(), done=True)
    (tmp_path / "data" / "c.jsonl").unlink()
    shutil.move(tmp_path / "data" / "a.jsonl", tmp_path / "a")
    check_inputs(folder, "s", before, seen(), done=True)  # it has served
    with pytest.raises(ConfigError, match=r"a\.jsonl changed"):
        check_inputs(folder, "s", before, seen(), done=False)


def test_a_stage_made_again_goes_on_with_the_new_file(home: Path) -> None:
    edit("second.jsonl")(home)
    shutil.rmtree(home / "runs/r/stages/02-second")  # as the message says
    assert read_run(go(home)).stages[1].info.status == "done"
