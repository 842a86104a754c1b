"""A plan's files under their own names: columns, labels, and the recipe that says so too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plan_world as pw
import pytest
from typer.testing import CliRunner

from gnomon.cli.main import app
from gnomon.data.readers import read_groups
from gnomon.errors import ConfigError, DataError
from gnomon.plan.facts import read_facts
from gnomon.plan.reading import Reading
from gnomon.recipe.load import load_recipe
from gnomon.stages.sources import read_options

MEANT = {"0": "a", "1": "b"}


def numbered(n: int) -> list[dict[str, Any]]:
    """Pairs judged by a number, whose questions have a name of their own."""
    return [
        {
            "wanted": pw.question(i),
            "response_a": f"It is {i + 1}.",
            "response_b": f"It is {i + 2}.",
            "preference": i % 2,
        }
        for i in range(n)
    ]


def test_the_recipe_reads_the_data_as_the_plan_did(tmp_path: Path, tiny_folder: Path) -> None:
    data = pw.write(tmp_path / "numbered.jsonl", numbered(300))
    kept = pw.write(tmp_path / "kept.jsonl", pw.pairs(30))  # of the usual names
    out = tmp_path / "made.yaml"
    words = ["plan", str(data), "--model", str(tiny_folder), "--out", str(out)]
    words += ["--columns", "prompt=wanted", "--labels", "0=a,1=b", "--held-out", str(kept)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "300 pairs" in result.output
    (source,) = load_recipe(out).stages[0].data
    assert source.columns == {"prompt": "wanted"}
    assert source.labels == MEANT
    (other,) = load_recipe(out).stages[0].eval_data
    assert not other.columns
    assert not other.labels
    groups = read_groups(data, **read_options(source)).groups
    assert [group.prompt.messages[0].content for group in groups[:2]] == [
        pw.question(0),
        pw.question(1),
    ]


def test_a_name_counts_for_the_files_that_have_it(tmp_path: Path) -> None:
    data = pw.write(tmp_path / "numbered.jsonl", numbered(8))
    shown = pw.write(tmp_path / "shown.jsonl", pw.demonstrations(8))
    reading = Reading({"prompt": "wanted"}, MEANT)
    facts, files = read_facts([data, shown], held_out=None, reading=reading)
    assert (facts.pairs, files[1].facts.demonstrations) == (8, 8)
    assert [dict(file.reading) for file in files] == [
        {"columns": {"prompt": "wanted"}, "labels": MEANT},
        {},
    ]


def test_leaked_prompts_are_found_under_both_names(tmp_path: Path) -> None:
    data = pw.write(tmp_path / "numbered.jsonl", numbered(8))
    kept = pw.write(tmp_path / "kept.jsonl", pw.prompts(4))
    reading = Reading({"prompt": "wanted"}, MEANT)
    facts, _ = read_facts([data], held_out=kept, reading=reading)
    assert facts.leaked == 4


def test_what_is_wrong_names_an_option_that_there_is(tmp_path: Path, tiny_folder: Path) -> None:
    data = pw.write(tmp_path / "numbered.jsonl", numbered(8))
    with pytest.raises(DataError, match="--labels 0=a"):
        read_facts([data], reading=Reading({"prompt": "wanted"}))
    with pytest.raises(ConfigError, match=r"--columns prompt=want: no file .* 'wanted'"):
        read_facts([data], reading=Reading({"prompt": "want"}, MEANT))
    words = ["plan", str(data), "--model", str(tiny_folder), "--labels", "0=first"]
    assert CliRunner().invoke(app, words).exit_code != 0
