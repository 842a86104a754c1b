"""The comparison: several samples a prompt, pass@k of 0/1 rewards, and what reads it."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import pytest
from rich.console import Console

import tiny_world as tw
from gnomon.recipe.load import parse_recipe
from gnomon.report.html import write_report
from gnomon.report.table import comparison_table
from gnomon.runs.comparison import Comparison
from gnomon.stages.compare_tables import pass_tables
from gnomon.stages.run import run_recipe
from gnomon.stats.intervals import Interval
from gnomon.stats.prompts import gain_between_runs, over_prompts

# one in four answers is right, by the text alone; graded says the same in more than two values
REWARDS = """
import zlib

def right(samples):
    return [float(zlib.crc32(s.text.encode()) % 4 == 0) for s in samples]

def graded(samples):
    return [x / 2 + 0.25 for x in right(samples)]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    tw.save_tiny(folder / "model")
    (folder / "mine.py").write_text(REWARDS)
    recipe = {
        "name": "pass",
        "model": str(folder / "model"),
        "output": str(folder / "runs"),
        "max_length": 96,
        "stages": [
            {
                "name": "sft",
                "algorithm": "sft",
                "data": {"path": "tunnel:demonstrations", "options": {"n": 16}},
                "train": {"steps": 1, "batch_size": 4, "lr": 1e-2},
            }
        ],
        "compare": {
            "prompts": {"path": "tunnel:prompts", "options": {"n": 6}},
            "rewards": [{"function": "mine.py:right"}, {"function": "mine.py:graded"}],
            "rollout": {"samples": 4, "max_new_tokens": 4},
            "reference": "base",
        },
    }
    return run_recipe(parse_recipe(recipe), base=folder)


def test_pass_at_k_is_tabulated_for_rewards_of_0_and_1_only(run: Path) -> None:
    said = json.loads((run / "comparison.json").read_text())
    titles = [t["title"] for t in said["tables"]]
    assert titles == ["right: pass@k", "right: gain in pass@k over base, paired by prompt"]
    curves, gains = said["tables"]
    assert curves["columns"] == ["pass@1", "pass@2", "pass@4"]
    assert [r["model"] for r in curves["rows"]] == ["base", "sft"]
    assert [r["model"] for r in gains["rows"]] == ["sft"]
    for row, main in zip(curves["rows"], said["rows"], strict=True):
        values = [v["value"] for v in row["values"]]
        assert values == sorted(values)
        assert values[0] == pytest.approx(main["values"][0]["value"])
        assert {v["n"] for v in row["values"]} == {6}  # intervals are over prompts, not samples
        assert {v["n"] for v in main["values"]} == {6}
    before, after = (row["values"] for row in curves["rows"])
    for k, gain in enumerate(gains["rows"][0]["values"]):
        assert gain["value"] == pytest.approx(after[k]["value"] - before[k]["value"])


def test_gains_are_differences_from_the_reference(run: Path) -> None:
    said = json.loads((run / "comparison.json").read_text())
    assert said["reference"] == "base"
    base, sft = said["rows"]
    assert [(g["value"], g["low"], g["high"]) for g in base["gains"]] == [(0, 0, 0)] * 2
    for column, gain in enumerate(sft["gains"]):  # only the rewards have one
        difference = sft["values"][column]["value"] - base["values"][column]["value"]
        assert gain["value"] == pytest.approx(difference)
        assert gain["low"] <= gain["value"] <= gain["high"]
    assert len(sft["gains"]) == 2


def test_what_gains_are_made_from_is_kept_for_other_runs(run: Path) -> None:
    said = json.loads((run / "comparison.json").read_text())
    assert len(set(said["prompts"])) == 6
    base, sft = ([dict(zip(said["prompts"], s, strict=True)) for s in r["scores"]]
                 for r in said["rows"])  # fmt: skip
    for own, theirs, gain in zip(sft, base, said["rows"][1]["gains"], strict=True):
        assert all(len(samples) == 4 for samples in own.values())
        found = gain_between_runs(own, theirs).to_dict()
        assert found == pytest.approx(gain)


def test_columns_that_never_moved_claim_no_certainty(run: Path) -> None:
    said = json.loads((run / "comparison.json").read_text())
    for row in said["rows"]:
        right, graded, _, _, finished = row["values"]
        for share in (right, finished):
            assert 0 <= share["low"] < share["high"] <= 1
        assert graded["low"] < graded["high"]
        assert row["values"][4]["n"] == 6


def test_the_manifest_and_the_page_hold_the_optimizers_numbers(run: Path) -> None:
    numbers = json.loads((run / "manifest.json").read_text())["optimizer"]["sft"]
    assert numbers == {
        "name": "AdamW",
        "lr": 1e-2,
        "schedule": "cosine",
        "min_lr_ratio": 0.0,
        "warmup": 0.05,
        "betas": [0.9, 0.95],
        "eps": 1e-8,
        "weight_decay": 0.0,
        "head_weight_decay": 0.0,
        "max_grad_norm": 1.0,
    }
    page = write_report(run).read_text()
    assert "optimizer.sft.betas" in page
    assert "0.9, 0.95" in page


def test_the_terminal_and_the_page_show_it(run: Path) -> None:
    said = Comparison.read(run / "comparison.json")
    out = io.StringIO()
    for table in said.tables:
        Console(file=out, width=140).print(comparison_table(table))
    assert "right: pass@k" in out.getvalue()
    value = said.tables[0].rows[1].values[2].value
    shown = "0" if value == 0 else f"{value:.3f}" if value < 1 else "1"
    assert shown in out.getvalue()
    page = write_report(run).read_text()
    assert "<h3>right: gain in pass@k over base, paired by prompt</h3>" in page
    assert ">pass@4<" in page


def test_tables_against_enumeration_with_a_failed_answer() -> None:
    values = {"a": [[[1.0, 0.0, None], [0.0, 0.0, 1.0]]], "b": [[[0.0] * 3, [1.0] * 3]]}
    curves, gains = pass_tables(["r"], values, "a", 3)
    ks = [1, 2, 3]

    def share(row: list[float | None], k: int) -> float | None:
        sets = list(itertools.combinations([x for x in row if x is not None], k))
        return sum(any(s) for s in sets) / len(sets) if sets else None

    for row, policy in zip(curves.rows, "ab", strict=True):
        for k, value in zip(ks, row.values, strict=True):
            known = [s for r in values[policy][0] if (s := share(r, k)) is not None]
            assert value.value == pytest.approx(sum(known) / len(known))
    # pass@3 is paired on the second prompt alone: the first has two judged answers under "a"
    assert gains.rows[0].values[2] == Interval(0.0, -1.0, 1.0, 1.0)


def test_one_sample_has_no_tables_and_means_are_over_prompts() -> None:
    assert pass_tables(["r"], {"a": [[[1.0], [0.0]]]}, "a", 1) == []
    assert pass_tables(["r"], {"a": [[[0.5, 1.0]]]}, "a", 2) == []
    interval = over_prompts([[1.0, 1.0, 1.0], [0.0, None, None], [None, None, None]])
    assert (interval.value, interval.n) == (0.5, 2)
