"""Rewards in whole runs: what they raise stops a run with a message, and never with success."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from gnomon.cli.main import main

Run = Callable[[str], tuple[int, str]]


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_folder: Path,
) -> Run:
    """Trains on the reward ``mine.py:score`` of this code: exit code, and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("gnomon.stages.run.write_report", lambda folder: folder / "report.html")
    rows = [{"id": f"p{i}", "prompt": f"question {i}"} for i in range(4)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    stage: dict[str, Any] = {
        "name": "s",
        "algorithm": "grpo",
        "data": "prompts.jsonl",
        "train": {"steps": 2, "batch_size": 2, "lr": 1e-2},
        "rollout": {"samples": 3, "max_new_tokens": 6},
        "reward": {"function": "mine.py:score"},
    }
    recipe = {"name": "run", "model": str(tiny_folder), "max_length": 100, "stages": [stage]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def train(code: str) -> tuple[int, str]:
        (tmp_path / "mine.py").write_text(code)
        monkeypatch.setattr("sys.argv", ["gnomon", "run", "recipe.yaml"])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        seen = capsys.readouterr()
        return status, " ".join((seen.out + seen.err).split())

    return train


STAGE = Path("runs/run/stages/01-s")
LEAVES = "import sys\n{0}def score(samples):\n    sys.exit(0)\n"


@pytest.mark.parametrize("kind", ["", "async "])
def test_a_reward_that_leaves_stops_the_run_and_says_where(kind: str, run: Run) -> None:
    status, said = run(LEAVES.format(kind))
    assert status != 0
    assert "6 of 6 rewards failed" in said
    assert "SystemExit: 0" in said
    assert "mine.py:3, in score" in said
    errors = pq.read_table(STAGE / "samples.parquet").column("error").to_pylist()
    assert all("mine.py:3, in score" in error for error in errors)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys\nsys.exit(0)\n", "SystemExit(0)"),
        ("\n\nraise GeneratorExit\n", "GeneratorExit"),
    ],
)
def test_a_reward_that_leaves_at_import_is_refused(code: str, said: str, run: Run) -> None:
    status, output = run(code)
    assert status != 0
    assert said in output
    assert "mine.py:" in output


def trained(run: Run, code: str) -> bytes:
    """The weights that training on ``code`` ends with."""
    status, output = run(code)
    assert status == 0, output
    (model,) = STAGE.rglob("model.safetensors")
    weights = model.read_bytes()
    shutil.rmtree("runs")
    return weights


def test_a_judge_of_groups_trains_like_a_function_that_gives_the_same(run: Run) -> None:
    plain = "def score(samples):\n    return [sum(s.response_ids) % 7 / 7 for s in samples]\n"
    grouped = (
        "class score:\n"
        "    def judge(self, groups):\n"
        "        return [[sum(r.ids) % 7 / 7 for r in g.responses] for g in groups]\n"
    )
    assert trained(run, grouped) == trained(run, plain)


def test_pairs_are_a_judges_own_comparisons(run: Run) -> None:
    """A judge that only compares, and by every pair, trains on-line DPO as scores do."""
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    recipe["stages"][0] |= {"algorithm": "online_dpo", "settings": {"pairs": "all"}}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    plain = "def score(samples):\n    return [-sum(s.response_ids) for s in samples]\n"
    grouped = (
        "from gnomon.records import Comparison, Judgement\n"
        "class score:\n"
        "    def judge(self, groups):\n"
        "        return [Judgement('me', comparisons=tuple(self.pairs(g))) for g in groups]\n"
        "    def pairs(self, group):\n"
        "        sums = [sum(r.ids) for r in group.responses]\n"
        "        for i, a in enumerate(sums):\n"
        "            for j, b in enumerate(sums[:i]):\n"
        "                yield Comparison(i, j) if a < b else Comparison(j, i, tie=a == b)\n"
    )
    assert trained(run, grouped) == trained(run, plain)
    turned = grouped.replace("a < b", "a > b")
    assert trained(run, turned) != trained(run, plain)


def test_a_coroutine_trains_like_any_function(run: Run) -> None:
    plain = "def score(samples):\n    return [sum(s.response_ids) % 7 / 7 for s in samples]\n"
    later = plain.replace(":\n", ":\n    await asyncio.sleep(0)\n")
    assert trained(run, f"import asyncio\nasync {later}") == trained(run, plain)
