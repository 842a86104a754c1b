"""Nothing ships while a record that the answer rests on, or the recipe, is unread."""

import json
from pathlib import Path

import pytest
import yaml

from gnomon.recipe.load import parse_recipe
from gnomon.report.ship import answer
from gnomon.report.table import answer_lines
from gnomon.runs.audit import Audit, Finding
from gnomon.runs.evals import EvalResult
from gnomon.runs.folder import RunFolder
from gnomon.runs.manifest import Manifest
from gnomon.runs.read import read_run
from gnomon.runs.records import StageInfo, dump_recipe, plain_hash, recipe_hash
from gnomon.stats.intervals import Interval

LENGTHS = {"builtin": "length", "options": {"target": 20, "scale": 4}}
RECIPE = {
    "name": "answers",
    "model": "tunnel",
    "stages": [
        {"name": "shown", "algorithm": "sft", "data": {"path": "tunnel:demonstrations"}},
        {
            "name": "taught",
            "algorithm": "rloo",
            "data": {"path": "tunnel:prompts"},
            "reward": LENGTHS,
            "gates": ["sums >= 0.3"],
        },
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run on the disk that ships: an eval rose, and the audit looked."""
    path = tmp_path / "answers"
    recipe = parse_recipe(RECIPE, "recipe")
    start = str(path / "stages/01-shown/model")
    for place, (name, algorithm) in enumerate((("shown", "sft"), ("taught", "rloo")), start=1):
        info = StageInfo(name=name, algorithm=algorithm, status="done", start={"from": start})
        (path / f"stages/0{place}-{name}").mkdir(parents=True)
        info.write(path / f"stages/0{place}-{name}/stage.json")
    (path / "recipe.yaml").write_text(dump_recipe(recipe))
    Manifest(name="answers", recipe_kept=True, recipe_sha256=recipe_hash(recipe)).write(
        path / "manifest.json"
    )
    gate = {"condition": "sums >= 0.3", "stage": "taught", "passed": True, "text": "it is 0.7"}
    (path / "gates.json").write_text(json.dumps({"taught": [gate]}))
    clear = Finding(name="reward_hacking", detector="d", stage="taught", status="clear")
    Audit(findings=[clear]).write(path / "audit.json")
    _measure(path, "sums", 0.4, 0.7)
    return path


def _measure(path: Path, suite: str, *values: float, **settings: object) -> None:
    for model, value in zip(("shown", "taught"), values, strict=True):
        figure = Interval(value, value - 0.05, value + 0.05, 400)
        result = EvalResult(
            suite=suite, model=model, n=400, scores={"right": figure}, main="right",
            settings=dict(settings),
        )  # fmt: skip
        result.write(path / "evals" / model / f"{suite}.json")


def _said(path: Path) -> tuple[str, str]:
    found = answer(read_run(path))
    return found.kind, " ".join(answer_lines(found))


def test_the_run_ships_while_all_of_it_is_read(folder):
    assert _said(folder)[0] == "ship"


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ({"scores": {"right": {"value": "0.9", "low": 0.8, "high": 0.95}}}, "scores"),
        ({"scores": [0.9]}, "scores"),
        ({"scores": None, "score": 0.9}, "scores"),
        ({"model": 3}, "model"),
        ({"suite": None, "model": None}, "suite and no model"),
    ],
)
def test_an_eval_of_wrong_fields_is_not_passed_over_without_a_word(folder, change, lacks):
    file = folder / "evals" / "taught" / "sums.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    kind, lines = _said(folder)
    assert kind == "not shown"
    assert f"evals/taught/sums.json has no {lacks} that can be read" in lines


def test_a_score_that_nothing_was_measured_of_is_no_damage(folder):
    file = folder / "evals" / "taught" / "sums.json"
    record = json.loads(file.read_text())
    nan = {"value": None, "low": None, "high": None, "n": 0}  # an earlier version's
    file.write_text(json.dumps(record | {"scores": record["scores"] | {"odd": nan}}))
    assert _said(folder)[0] == "ship"


@pytest.mark.parametrize(
    "file",
    [
        "evals/taught/sums.json",
        "evals/shown/sums.json",
        "gates.json",
        "comparison.json",
        "calibrations/ai.json",
        "audit.json",
        "manifest.json",
        "stages/01-shown/stage.json",
        "stages/02-taught/evals.json",
        "stages/02-taught/probes.json",
    ],
)
def test_a_record_that_is_half_written_is_named_and_nothing_ships(folder, file):
    extra = EvalResult(suite="more", model="taught", scores={"right": Interval(0.9, 0.8, 1.0, 9)})
    whole = (folder / file).read_text() if (folder / file).exists() else extra.model_dump_json()
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(whole[: len(whole) // 2])
    kind, said = _said(folder)
    assert kind == "not shown"
    assert f"Not read: {file}" in said


def test_an_eval_that_fell_holds_and_once_it_is_cut_nothing_ships(folder):
    _measure(folder, "facts", 0.9, 0.3)
    assert _said(folder)[0] == "hold"
    file = folder / "evals/taught/facts.json"
    file.write_bytes(file.read_bytes()[:120])
    kind, said = _said(folder)
    assert kind == "not shown"
    assert "evals/taught/facts.json" in said


@pytest.mark.parametrize("damage", ["removed", "emptied", "a third", "no reward", "other reward"])
def test_a_recipe_that_is_not_the_runs_ships_nothing(folder, damage):
    _measure(folder, "sums", 0.4, 0.7, judge=LENGTHS)  # graded by what was trained on
    assert _said(folder)[0] == "not shown"
    file = folder / "recipe.yaml"
    text, plain = file.read_text(), yaml.safe_load(file.read_text())
    if damage == "removed":
        file.unlink()
    elif damage == "emptied":
        file.write_text("{}")
    elif damage == "a third":
        file.write_text(text[: len(text) // 3])
        assert isinstance(yaml.safe_load(file.read_text()), dict)
    else:
        plain["stages"][1]["reward"] = [] if damage == "no reward" else [{"builtin": "json"}]
        file.write_text(yaml.safe_dump(plain))
    kind, said = _said(folder)
    assert kind == "not shown"
    assert "Not read: recipe.yaml" in said


def test_a_recipe_whose_manifest_is_gone_may_be_another(folder):
    (folder / "manifest.json").unlink()
    kind, said = _said(folder)
    assert kind == "not shown"
    assert "Not read: manifest.json is missing" in said


def test_what_a_resumed_run_may_change_is_no_other_recipe(folder):
    file = folder / "recipe.yaml"
    plain = yaml.safe_load(file.read_text())
    plain["stages"][1] |= {"gates": ["sums >= 0.3", "sums >= 0.1"], "on_fail": "previous"}
    plain |= {"output": "elsewhere", "card": {"licence": "MIT"}}
    file.write_text(yaml.safe_dump(plain))
    assert not read_run(folder).unread
    plain["dtype"] = plain.pop("precision")  # as an earlier version wrote it
    file.write_text(yaml.safe_dump(plain))
    Manifest(name="answers", recipe_kept=True, recipe_sha256=plain_hash(plain)).write(
        folder / "manifest.json"
    )
    assert not read_run(folder).unread


def test_a_run_that_is_resumed_notes_the_recipe_that_it_goes_on_with(folder):
    changed = {**RECIPE, "output": str(folder.parent), "stages": [
        RECIPE["stages"][0], {**RECIPE["stages"][1], "train": {"tokens_per_microbatch": 512}},
    ]}  # fmt: skip
    recipe = parse_recipe(changed, "recipe")
    run = RunFolder(recipe)
    assert run.path == folder
    run.open(resume=True)
    assert "tokens_per_microbatch: 512" in (folder / "recipe.yaml").read_text()
    assert not read_run(folder).unread


def test_old_metrics_and_a_stage_that_has_not_begun_are_not_unread(folder):
    (folder / "stages/02-taught/metrics.parquet").write_bytes(b"of another time")
    (folder / "spotchecks").mkdir()
    (folder / "spotchecks/people.json").write_text("{")
    found = read_run(folder)
    assert len(found.problems) == 2
    assert _said(folder)[0] == "ship"
    (folder / "stages/02-taught/stage.json").unlink()
    assert not read_run(folder).unread
    assert "has not finished" in _said(folder)[1]


def test_a_run_of_an_earlier_version_that_was_resumed_otherwise_is_read(folder):
    """Its manifest kept the hash of the recipe that it began with, whatever resumes changed."""
    file = folder / "manifest.json"
    known = Manifest.read(file)
    known.model_copy(update={"recipe_sha256": "0" * 64, "recipe_kept": False}).write(file)
    assert not read_run(folder).unread
