"""Files of a run that were damaged, removed or replaced: made again, or named with the cure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import DAMAGES, raw_recipe, results
from rich.console import Console

from gnomon.cli import main as cli
from gnomon.errors import ConfigError, GnomonError, RunError
from gnomon.recipe.load import parse_recipe
from gnomon.report.html import write_report
from gnomon.runs.read import read_run
from gnomon.stages import run as pipeline
from gnomon.training import progress
from gnomon.training.loop import Loop

GRPO = "stages/04-grpo"
FINISHED = {  # each file by what a damaged one leads to: made again, refused, or of no matter
    "manifest.json": "again",
    "recipe.yaml": "again",
    "comparison.json": "again",
    "stages/01-sft/stage.json": "again",
    "stages/01-sft/evals.json": "again",
    "stages/01-sft/metrics.parquet": "again",
    "stages/01-sft/model/model.safetensors": "again",
    "stages/01-sft/model/config.json": "again",
    "stages/01-sft/model/tokenizer.json": "again",
    "stages/02-feedback/groups.jsonl": "again",
    f"{GRPO}/samples.parquet": "again",
    f"{GRPO}/model/adapter/adapter_config.json": "again",
}
UNFINISHED = {
    "manifest.json": "again",
    "recipe.yaml": "again",
    "stages/02-feedback/parts/00000000.jsonl": "no matter",
    f"{GRPO}/stage.json": "again",
    f"{GRPO}/data.json": "refused",
    f"{GRPO}/metrics.jsonl": "refused",
    f"{GRPO}/samples.jsonl": "refused",
    f"{GRPO}/metrics.parquet": "no matter",
    f"{GRPO}/checkpoints/step-000001/manifest.json": "again",
    f"{GRPO}/checkpoints/step-000001/parameters.safetensors": "again",
    f"{GRPO}/checkpoints/step-000001/state.json": "again",
    f"{GRPO}/checkpoints/step-000001/state.safetensors": "again",
    "stages/01-sft/model/model.safetensors": "again",
    "stages/03-dpo/model/model.safetensors": "again",
}


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Any:
    """No plots, one thread, nothing on the screen."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "write_report", lambda folder: None)
        patch.setattr(progress, "make_console", lambda stderr: Console(quiet=True))
        yield
    torch.set_num_threads(threads)


def run(model: Path, output: Path, resume: bool = True, **changes: Any) -> list[str]:
    """Run or resume; what was said."""
    said: list[str] = []
    recipe = parse_recipe(raw_recipe(model, output) | changes)
    pipeline.run_recipe(recipe, base=Path.cwd(), resume=resume, announce=said.append)
    return said


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished")
    run(tiny_folder, output, resume=False)
    return output


@pytest.fixture(scope="module")
def unfinished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Broken off in GRPO's second iteration."""
    output = tmp_path_factory.mktemp("unfinished")
    real = Loop._iteration

    def iteration(self: Loop, i: int) -> None:
        if i == 1 and self.folder.name == "04-grpo":
            raise RunError("broken off")
        real(self, i)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_iteration", iteration)
        with pytest.raises(RunError, match="broken off"):
            run(tiny_folder, output, resume=False)
    return output


FILES = [("finished", f, e) for f, e in FINISHED.items()]
FILES += [("unfinished", f, e) for f, e in UNFINISHED.items()]
CURES = ("Put ", "Move it away", "remove ", "Resume with the same recipe")
KINDS = ["removed", "cut", "flipped", "list", "folder"]
CASES = [  # two kinds of damage to each file, every kind to every sort of file
    (*file, KINDS[(i + more) % len(KINDS)]) for i, file in enumerate(FILES) for more in (0, 2)
]


@pytest.mark.filterwarnings("ignore:.*cannot be used")
@pytest.mark.parametrize(("state", "file", "expected", "damage"), CASES)
def test_a_damaged_file(
    request: pytest.FixtureRequest,
    tiny_folder: Path,
    finished: Path,
    tmp_path: Path,
    state: str,
    file: str,
    expected: str,
    damage: str,
) -> None:
    shutil.copytree(request.getfixturevalue(state), tmp_path / "copy")
    damaged = tmp_path / "copy" / "run" / file
    if damage == "flipped" and damaged.suffix in (".yaml", ".json"):
        damage = "emptied"  # a flipped letter of a note is no damage that can be told
    DAMAGES[damage](damaged)
    problem = _problem(tiny_folder, tmp_path / "copy")
    if problem is None:
        # without the list of its data's hashes a stage goes on, as it always could
        assert expected != "refused" or (damage, damaged.name) == ("removed", "data.json")
        assert results(tmp_path / "copy" / "run") == results(finished / "run")
    else:
        # half a recipe may be a whole one that asks for less
        assert expected == "refused" or damage == "folder" or file == "recipe.yaml"
        assert damaged.name in problem
        assert any(word in problem for word in CURES), problem
    read_run(tmp_path / "copy" / "run")


def _problem(model: Path, output: Path) -> str | None:
    """What stops a resumed run, as it is said to the user."""
    try:
        run(model, output)
    except GnomonError as error:
        return str(error)
    return None


@pytest.mark.parametrize("damage", sorted(set(DAMAGES) - {"flipped"}))
def test_a_report_of_damaged_files(
    finished: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    folder = tmp_path / "copy" / "run"
    files = [folder / name for name in ("manifest.json", "recipe.yaml", "comparison.json")]
    for stage in sorted((folder / "stages").iterdir()):
        files += [p for p in stage.iterdir() if p.is_file()]
    for file in files:
        DAMAGES[damage](file)
    monkeypatch.setattr("gnomon.report.html._stage_plots", lambda run, stage, folder: [])
    monkeypatch.setattr("gnomon.report.html._key_plots", lambda run, folder: [])
    monkeypatch.setattr("gnomon.report.html._comparison_plot", lambda run, folder: None)
    cli.report([folder])
    if damage != "removed":  # an object may be what it should be, as far as a report can tell
        assert len(read_run(folder).problems) >= (1 if damage == "object" else 3)
    assert "<html" in (folder / "report.html").read_text()


def test_a_report_that_cannot_be_written_says_so(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    folder = tmp_path / "copy" / "run"
    (folder / "plots").write_text("a file where the plots' folder belongs")
    with pytest.raises(RunError, match=r"plots cannot be written: .*Move it away"):
        write_report(folder)


def test_a_bit_that_flipped_in_a_model_is_not_trained_on(
    unfinished: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(unfinished, tmp_path / "copy")
    model = tmp_path / "copy" / "run" / "stages" / "01-sft" / "model" / "model.safetensors"
    DAMAGES["flipped"](model)
    shutil.rmtree(model.parents[1] / "checkpoints")
    with pytest.raises(RunError, match=r"model\.safetensors is not what was written.*Put it back"):
        run(tiny_folder, tmp_path / "copy")


def test_a_checkpoint_of_another_method(
    unfinished: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(unfinished, tmp_path / "copy")
    stages = tmp_path / "copy" / "run" / "stages"
    shutil.rmtree(stages / "04-grpo" / "checkpoints")
    shutil.copytree(stages / "03-dpo" / "checkpoints", stages / "04-grpo" / "checkpoints")
    with pytest.raises(RunError, match=r"its algorithm is dpo, not grpo.*Put this stage's own"):
        run(tiny_folder, tmp_path / "copy")


def test_a_changed_recipe_names_the_stage_and_both_values(
    finished: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    stages = raw_recipe(tiny_folder, tmp_path)["stages"]
    stages[2]["train"] = {**stages[2]["train"], "lr": 0.5}
    del stages[3]["lora"]
    with pytest.raises(ConfigError) as caught:
        run(tiny_folder, tmp_path / "copy", stages=stages, seed=3)
    said = str(caught.value)
    assert "seed was 0 and is now 3" in said
    assert "dpo.train.lr was 0.01 and is now 0.5" in said
    assert "grpo.lora was" in said


def test_a_damaged_recipe_with_another_one_to_resume_is_refused(
    finished: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    (tmp_path / "copy" / "run" / "recipe.yaml").write_text("")
    with pytest.raises(RunError, match=r"recipe\.yaml.*Put .*recipe\.yaml back"):
        run(tiny_folder, tmp_path / "copy", seed=4)


def test_a_run_that_was_moved_goes_on(unfinished: Path, finished: Path, tiny_folder: Path,
                                      tmp_path: Path) -> None:  # fmt: skip
    shutil.copytree(unfinished, tmp_path / "another disk")
    run(tiny_folder, tmp_path / "another disk")
    folder = tmp_path / "another disk" / "run"
    assert results(folder) == results(finished / "run")
    assert f"output: {tmp_path / 'another disk'}" in (folder / "recipe.yaml").read_text()


def test_what_killed_writes_left_is_cleaned_up(
    finished: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    folder = tmp_path / "copy" / "run"
    for place in (folder, folder / GRPO, folder / GRPO / "model", folder / GRPO / "checkpoints"):
        (place / ".half.tmp-99-0-abcdef").mkdir()
        (place / ".json.tmp-99-1-abcdef").write_text("half")
    run(tiny_folder, tmp_path / "copy")
    assert list(folder.rglob(".*tmp-*")) == []


def test_a_folder_that_is_removed_while_the_run_goes_on(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Loop._iteration

    def iteration(self: Loop, i: int) -> None:
        if i == 1:
            shutil.rmtree(self.folder)
        real(self, i)

    monkeypatch.setattr(Loop, "_iteration", iteration)
    with pytest.raises(RunError, match=r"metrics\.jsonl was removed while the run was writing it"):
        run(tiny_folder, tmp_path, resume=False)
    assert not (tmp_path / "run" / "stages" / "01-sft").exists()


def test_a_manifest_that_was_lost_remembers_data_and_models(
    finished: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    file = tmp_path / "copy" / "run" / "manifest.json"
    before = json.loads(file.read_text())
    file.write_text("{")
    run(tiny_folder, tmp_path / "copy")
    after = json.loads(file.read_text())
    assert {k: after[k] for k in ("data", "models")} == {k: before[k] for k in ("data", "models")}
