"""``against: start``: an eval stage compares a policy with the model that it was trained from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import ConfigError
from gnomon.runs.evals import EvalResult
from gnomon.stages.run import run_recipe
from gnomon.tasks.tunnel import generate_prompts
from tiny_world import make_recipe, sft_stage


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("gnomon.stages.run.write_report", lambda path: path / "report.html")
    rows = [{"prompt": p.messages[0].content, **p.meta} for p in generate_prompts(3, seed=1)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def look(**more: Any) -> dict[str, Any]:
    options = {"data": "q.jsonl", "against": "start", "judge": "gold", "max_new_tokens": 4}
    suite = {"suite": "win_rate", "options": options}
    return {"name": "look", "algorithm": "eval", "settings": {"suites": [suite]}} | more


def test_it_is_what_the_policy_was_trained_from_whatever_gates_kept(
    tiny_folder: Path, folder: Path
) -> None:
    """The second stage is held back, so the third starts from the first."""
    stages = [
        sft_stage(1, name="one"),
        sft_stage(1, name="two", gates=["loss <= -1 (value)"], on_fail="previous"),
        sft_stage(1, name="three"),
        look(),
        look(name="look-two", **{"from": "two"}),
    ]
    recipe = make_recipe(tiny_folder, folder / "runs", stages)
    run = run_recipe(recipe, base=folder, announce=lambda line: None)
    info = {d.name[3:]: json.loads((d / "stage.json").read_text()) for d in run.glob("stages/*")}
    assert info["three"]["start"]["from"].endswith("01-one/model")
    result = EvalResult.read(run / "evals" / "three" / "win_rate" / "q-vs-start.json")
    assert result.against == "start"
    assert result.settings["against_sha256"] == info["three"]["start"]["sha256"]
    # what was held back is measured no more: its place is taken by what it started from
    assert info["look-two"]["start"]["from"].endswith("01-one/model")


def test_a_model_that_nothing_trained_has_no_start(tiny_folder: Path, folder: Path) -> None:
    recipe = make_recipe(tiny_folder, folder / "runs", [look(), sft_stage(1)])
    with pytest.raises(ConfigError, match="which no stage before it trained; name a model"):
        run_recipe(recipe, base=folder, announce=lambda line: None)
