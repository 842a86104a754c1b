"""Runs side by side: figures by judges that are others in each have no difference."""

import json

import pytest
import yaml

from gnomon.report.runs import compare_runs

AI = {"builtin": "ai", "name": "critic", "options": {"model": "small", "url": "http://x"}}
TARGET = {"builtin": "length", "name": "size", "options": {"target": 30}}
STAGE = {"name": "policy", "algorithm": "rloo", "reward": [TARGET], "observe": [AI]}
FIGURES = ("reward", "size", "size/inner", "critic", "critic_errors", "length", "solved")


def _run(folder, stage, value, model="one"):
    place = folder / "stages/01-policy"
    place.mkdir(parents=True)
    figures = {n: {"value": value, "low": value - 0.1, "high": value + 0.1} for n in FIGURES}
    (place / "evals.json").write_text(json.dumps({"held-out prompts": figures}))
    (place / "stage.json").write_text(json.dumps({"name": "policy", "status": "done"}))
    recipe = {"name": folder.name, "model": model, "stages": [stage]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def _gaps(tmp_path, **changes):
    """What the column of differences says by measure, and its style."""
    one = _run(tmp_path / "one", STAGE, 1.0)
    other = _run(tmp_path / "other", {**STAGE, **changes}, 3.0)
    (table,) = compare_runs([one, other]).tables
    names, gaps = list(table.columns[0].cells), list(table.columns[-1].cells)
    told = {str(n).rpartition(".")[2]: g for n, g in zip(names, gaps, strict=True)}
    assert set(FIGURES) <= set(told)
    return told


def test_figures_by_the_same_judges_are_subtracted(tmp_path):
    told = _gaps(tmp_path)
    assert all(str(told[name]).startswith("2") for name in FIGURES)
    assert told["reward"].style == "bold"


@pytest.mark.parametrize(
    ("changes", "apart"),
    [
        (
            {"observe": [{**AI, "options": {**AI["options"], "model": "large"}}]},
            {"critic", "critic_errors"},
        ),
        (
            {"reward": [{**TARGET, "options": {"target": 90}}]},
            {"reward", "solved", "size", "size/inner"},
        ),
        ({"reward": [{**TARGET, "weight": 2.0}]}, {"reward", "solved"}),
        ({"reward": [TARGET, {"builtin": "json"}]}, {"reward", "solved"}),
    ],
)
def test_figures_by_judges_of_other_settings_are_not(tmp_path, changes, apart):
    told = _gaps(tmp_path, **changes)
    assert {name for name in FIGURES if str(told[name]) == "another judge"} == apart
    assert all(told[name].style == "dim" for name in apart)


def test_a_column_whose_judge_has_two_words_is_told_apart_too(tmp_path):
    folders = []
    for name, pattern in (("one", "yes"), ("other", "no")):
        folder = _run(tmp_path / name, STAGE, 1.0)
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        judge = {"builtin": "regex", "name": "says_so", "options": {"pattern": pattern}}
        recipe["compare"] = {"rewards": [judge]}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        rows = [{"model": "policy", "values": [{"value": 0.5, "low": 0.4, "high": 0.6}]}]
        compared = {"columns": ["says_so"], "reference": "base", "rows": rows}
        (folder / "comparison.json").write_text(json.dumps(compared))
        folders.append(folder)
    (table,) = compare_runs(folders).tables
    told = dict(zip(map(str, table.columns[0].cells), table.columns[-1].cells, strict=True))
    assert str(told["says so"]) == "another judge"
