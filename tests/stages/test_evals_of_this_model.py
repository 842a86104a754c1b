"""An eval counts for the weights that it measured, not for whatever has that model's name later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gnomon.audit.readings import suite_changes
from gnomon.errors import GateClosed
from gnomon.evals.compare import compare
from gnomon.evals.evaluate import evaluate, result_file
from gnomon.evals.subject import Stored
from gnomon.evals.table import make_suite
from gnomon.evals.targets import open_target
from gnomon.models.load import fingerprint
from gnomon.runs.evals import EvalResult, read_evals
from gnomon.runs.read import read_run
from gnomon.runs.records import StageInfo
from gnomon.stages.run import run_recipe
from tiny_world import make_recipe, sft_stage

GATE = "questions/sums.accuracy >= 0 (value)"


@pytest.fixture
def world(tiny_folder: Path, tmp_path: Path) -> Path:
    """A recipe whose gate asks for an eval that a user takes of the finished stage."""
    rows = [{"prompt": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(4)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def go(
    tiny_folder: Path, world: Path, *, resume: bool = True, gate: str = GATE
) -> tuple[GateClosed | None, str]:
    recipe = make_recipe(tiny_folder, world, [sft_stage(1)], gates=[gate])
    said: list[str] = []
    try:
        run_recipe(recipe, base=world, resume=resume, announce=said.append)
    except GateClosed as gate:
        return gate, "\n".join(said)
    return None, "\n".join(said)


def measure(world: Path, stage: str | None = None) -> EvalResult:
    options: dict[str, Any] = {
        "data": ["q.jsonl"], "judge": "exact", "max_new_tokens": 2, "name": "questions/sums",
    }  # fmt: skip
    suite = make_suite("questions", options, world)
    return evaluate(suite, open_target(str(world / "run"), stage).subject, world / "run")


def forge(world: Path, **changed: Any) -> None:
    file = result_file(world / "run", "sft", "questions/sums")
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def test_a_stage_notes_its_models_fingerprint_and_evals_of_it_count(
    tiny_folder: Path, world: Path
) -> None:
    shut, _ = go(tiny_folder, world, resume=False)
    assert shut is not None
    (stage,) = (world / "run/stages").iterdir()
    assert StageInfo.read(stage / "stage.json").model_sha256 == fingerprint(stage / "model")
    assert measure(world).model_sha256 == fingerprint(stage / "model")
    assert go(tiny_folder, world)[0] is None
    assert read_run(world / "run").results


def test_an_eval_of_other_weights_opens_no_gate_and_is_named(
    tiny_folder: Path, world: Path
) -> None:
    go(tiny_folder, world, resume=False)
    measure(world), measure(world, "base")
    assert suite_changes(world / "run", "sft", "base")
    forge(world, model_sha256="0" * 64)
    shut, _ = go(tiny_folder, world)
    assert "is of other weights than sft has now" in str(shut)
    assert "gnomon eval measures it again" in str(shut)
    view = read_run(world / "run")
    assert [r.model for r in view.results] == ["base"]
    assert any("eval questions/sums of sft" in problem for problem in view.problems)
    assert not suite_changes(world / "run", "sft", "base")
    (change,) = compare(world / "run", world / "run")
    assert sum("of other weights" in note for note in change.notes) == 1
    forge(world, model_sha256="")  # of a version that did not say: it is believed
    assert go(tiny_folder, world)[0] is None
    assert len(list(read_evals(world / "run"))) == 2


def test_an_eval_that_cannot_be_read_keeps_the_capability_gate_closed(
    tiny_folder: Path, world: Path
) -> None:
    """It may be the one that lost most."""
    go(tiny_folder, world, resume=False)
    measure(world), measure(world, "base")
    gate = "capability_drop <= 1 (value)"
    assert go(tiny_folder, world, gate=gate)[0] is None
    other = result_file(world / "run", "sft", "lm_eval/mmlu")
    other.parent.mkdir(parents=True)
    other.write_text('{"suite": "lm_eval/mm')
    shut, _ = go(tiny_folder, world, gate=gate)
    assert "mmlu.json" in str(shut)
    assert "gnomon eval measures it again" in str(shut)


def test_an_eval_of_another_base_does_not_count(tiny_folder: Path, world: Path) -> None:
    go(tiny_folder, world, resume=False)
    measure(world, "base")
    file = result_file(world / "run", "base", "questions/sums")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_sha256": "1" * 64}))
    assert not read_run(world / "run").results


def test_stored_answers_under_a_models_name_are_of_no_weights(
    tiny_folder: Path, world: Path
) -> None:
    """They may come from a server that serves this very model: nothing says otherwise."""
    go(tiny_folder, world, resume=False)
    rows = [{"prompt": f"What is {i} + {i}?", "response": "2", "model": "sft"} for i in range(4)]
    (world / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"data": ["q.jsonl"], "judge": "exact", "name": "questions/sums"}
    suite = make_suite("questions", options, world)
    result = evaluate(suite, Stored(world / "a.jsonl"), world / "run")
    assert (result.model, result.model_sha256) == ("sft", "")
    assert go(tiny_folder, world)[0] is None


def test_evals_during_training_are_of_weights_on_the_way(tiny_folder: Path, world: Path) -> None:
    go(tiny_folder, world, resume=False)
    measure(world)
    forge(world, model_sha256="0" * 64, step=1, stage="sft")
    assert [r.step for r in read_run(world / "run").results] == [1]


def test_a_stage_that_is_made_anew_starts_without_the_evals_of_the_one_before(
    tiny_folder: Path, world: Path
) -> None:
    go(tiny_folder, world, resume=False)
    measure(world)
    assert go(tiny_folder, world)[0] is None
    shutil.rmtree(world / "run/stages")
    shut, said = go(tiny_folder, world)
    assert shut is not None
    assert "is of an earlier model; kept as .old" in said
    file = result_file(world / "run", "sft", "questions/sums")
    assert file.with_name("sums.json.old").is_file()
    rows = file.with_suffix(".jsonl").read_bytes()
    measure(world)  # the same recipe makes the same weights: its rows are used again
    assert file.with_suffix(".jsonl").read_bytes() == rows
    assert go(tiny_folder, world)[0] is None
