"""Recipes that an AI judge behind a real endpoint judges: killed, resumed, refused, dead."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from killing import run_and_die

from gnomon.errors import BudgetSpent, ConfigError, RewardsFailedError
from gnomon.judges.build import one_judge
from gnomon.recipe.load import parse_recipe
from gnomon.runs.folder import RunFolder
from gnomon.runs.rows import SampleStore
from gnomon.stages.check import check_recipe
from gnomon.stages.names import check_names
from gnomon.stages.plan import make_plan
from gnomon.stages.run import run_recipe
from judge_server import JudgeServer, Said, answers, letter, prefers, says, words

TOKENS = 101
"""That the server counts for an answer of one token."""


def shorter(text: str) -> float:
    return -float(len(text))


def raw_recipe(model: Path, output: Path, url: str, **stage: Any) -> dict[str, Any]:
    judge = {"builtin": "ai", "options": {"model": "m", "url": url, "retries": 0}}
    own = {
        "name": "dpo",
        "algorithm": "online_dpo",
        "data": {"path": "tunnel:prompts", "options": {"n": 6, "seed": 2}},
        "reward": judge,
        "rollout": {"samples": 3, "max_new_tokens": 6},
        "train": {
            "steps": 3,
            "batch_size": 2,
            "lr": 1e-2,
            "checkpoint_every": 1,
            "sample_every": 1,
        },
    }
    return {
        "name": "run",
        "model": str(model),
        "output": str(output),
        "max_length": 150,
        "stages": [own | stage],
    }


def ranked() -> dict[str, Any]:
    """A judge that ranks."""
    return {"builtin": "ai", "options": {"model": "m", "url": "http://x/v1", "mode": "ranking"}}


def run(raw: dict[str, Any], resume: bool = False) -> Path:
    recipe = parse_recipe(raw)
    run_recipe(recipe, base=Path.cwd(), resume=resume, announce=lambda text: None)
    return Path(recipe.output) / recipe.name


def info(folder: Path, stage: str = "01-dpo") -> dict[str, Any]:
    return dict(json.loads((folder / "stages" / stage / "stage.json").read_text()))


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnomon.stages.run.write_report", lambda folder: None)


def test_a_killed_run_pays_for_no_answer_twice_and_counts_all(
    tmp_path: Path, tiny_folder: Path
) -> None:
    with JudgeServer(prefers(shorter)) as server:
        straight = run(raw_recipe(tiny_folder, tmp_path / "a", server.url))
        once = len(server.asked)
        raw = raw_recipe(tiny_folder, tmp_path / "b", server.url)
        assert run_and_die(raw, ("dpo", "step", 3), resume=False) == -9
        killed = run(raw, resume=True)
        assert len(server.asked) == 2 * once
    whole, resumed = info(straight)["judges"]["ai"], info(killed)["judges"]["ai"]
    assert whole["judged"] == resumed["judged"] == 3 * 2 * 3
    assert whole["errors"] == resumed["errors"] == 0
    assert whole["tokens"] == resumed["tokens"] == TOKENS * once
    assert whole["version"] == resumed["version"]
    assert whole["version"].startswith("m prompt=")
    weights = [f / "stages/01-dpo/model/model.safetensors" for f in (straight, killed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_reasons_are_in_the_samples_and_versions_are_not(tmp_path: Path, tiny_folder: Path) -> None:
    def rule(text: str, body: dict[str, Any]) -> Said:
        return says("It", " is", " short", ".\n", "Verdict", ":", " ", "A")(text, body)

    with JudgeServer(rule) as server:
        raw = raw_recipe(tiny_folder, tmp_path, server.url)
        raw["stages"][0]["reward"]["options"]["reason"] = True
        folder = run(raw)
    rows, problems = SampleStore.read(folder / "stages/01-dpo/samples.parquet", done=True)
    assert problems == []
    assert all("It is short" in str(row["reason"]) for row in rows)
    assert not any("prompt=" in str(value) for row in rows for value in row.values())


def test_collect_hands_its_probabilities_to_the_next_stage(
    tmp_path: Path, tiny_folder: Path
) -> None:
    with JudgeServer(prefers(shorter, sharp=0.3)) as server:
        raw = raw_recipe(
            tiny_folder, tmp_path, server.url, name="ask", algorithm="collect", train={}
        )
        raw["stages"][0]["settings"] = {"keep": "all", "chunk": 2}
        raw["stages"].append(
            {
                "name": "rm",
                "algorithm": "reward_model",
                "data": "stage:ask",
                "train": {"steps": 1, "batch_size": 4, "lr": 1e-3},
            }
        )
        folder = run(raw)
        asked = len(server.asked)
    rows = [json.loads(x) for x in (folder / "stages/01-ask/groups.jsonl").read_text().splitlines()]
    pairs = [pair for row in rows for pair in row["comparisons"] if not pair["tie"]]
    texts = {
        id(p): {r["id"]: r["text"] for r in row["responses"]}
        for row in rows
        for p in row["comparisons"]
    }
    assert pairs
    for pair in pairs:
        own = texts[id(pair)]
        assert len(own[pair["better"]]) < len(own[pair["worse"]])
        assert 0.5 < pair["probability"] < 1
    took = info(folder, "01-ask")["judges"]["ai"]
    assert took["tokens"] == TOKENS * asked
    assert info(folder, "02-rm")["status"] == "done"


def test_it_can_be_observed_and_scores_one_answer(tmp_path: Path, tiny_folder: Path) -> None:
    with JudgeServer(says("7")) as server:
        raw = raw_recipe(tiny_folder, tmp_path, server.url)
        stage = raw["stages"][0]
        stage["observe"] = [stage["reward"] | {"name": "judge"}]
        stage["observe"][0]["options"] = stage["reward"]["options"] | {"mode": "score"}
        stage["reward"] = {"builtin": "length", "options": {"high": 3}}
        folder = run(raw)
    table = pq.read_table(folder / "stages/01-dpo/metrics.parquet").to_pylist()
    assert {row["judge"] for row in table if row.get("judge") is not None} == {7.0}
    assert set(info(folder)["judges"]) == {"judge", "length"}


def test_a_dead_endpoint_stops_the_run_and_is_no_zero(tmp_path: Path, tiny_folder: Path) -> None:
    with JudgeServer(says("A")) as server:
        url = server.url
    with pytest.raises(RewardsFailedError, match="did not answer"):
        run(raw_recipe(tiny_folder, tmp_path, url))
    rows, _ = SampleStore.read(tmp_path / "run/stages/01-dpo/samples.parquet", done=False)
    assert rows
    assert all(row["reward"] is None and "did not answer" in str(row["error"]) for row in rows)


def test_a_dry_run_asks_nothing(tmp_path: Path, tiny_folder: Path) -> None:
    with JudgeServer(prefers(shorter)) as server:
        recipe = parse_recipe(raw_recipe(tiny_folder, tmp_path, server.url))
        make_plan(recipe, base=tmp_path)
        assert server.asked == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"holdout": 0.3}, "held-out prompts are answered once"),
        ({"rollout": {"samples": 1}}, "rollout.samples to at least 2"),
        ({"reward": {"builtin": "ai", "options": {"model": "m"}}}, "OPENAI_API_KEY"),
        ({"reward": {"builtin": "ai", "options": {"modell": "m"}}}, "did you mean 'model'"),
        ({"holdout": 0.3, "reward": ranked()}, "held-out prompts are answered once"),
        ({"rollout": {"samples": 1}, "reward": ranked()}, "rollout.samples to at least 2"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_runs(
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    raw = raw_recipe(tiny_folder, tmp_path, "http://127.0.0.1:1/v1", algorithm="ppo", **change)
    raw["stages"][0].setdefault("rollout", {"samples": 2})
    recipe = parse_recipe(raw)
    with pytest.raises(ConfigError, match=words):
        check_recipe(recipe, RunFolder(recipe), tmp_path)


# -- every way of judging as a reward --------------------------------------------------------------

RUBRIC = [{"text": "is short", "weight": 2, "name": "short"}, {"text": "is rude", "weight": -1}]
WAYS: dict[str, dict[str, Any]] = {
    "rubric": {"model": "m", "mode": "rubric", "rubric": RUBRIC},
    "ranking": {"model": "m", "mode": "ranking", "scores": "bradley_terry"},
    "approval": {"model": "m", "mode": "approval"},
    "panel": {"panel": [{"model": "m"}, {"model": "m", "seed": 1, "name": "n"}]},
}


def any_way(text: str, body: dict[str, Any]) -> Said:
    """Likes short answers, whichever way it is asked."""
    own = answers(text)
    if "letters of all answers" in text:
        order = sorted(range(len(own)), key=lambda i: len(own[i]))
        return words(" > ".join("ABCDEF"[i] for i in order))
    if "answer B" in text:
        return prefers(shorter)(text, body)
    p = 0.1 if "rude" in text else 1 / (1 + len(own[0]))
    return letter({"yes": p, "no": 1 - p} if "criterion" in text else {"good": p, "bad": 1 - p})


@pytest.mark.parametrize("way", list(WAYS))
def test_every_way_of_judging_trains_a_policy(tmp_path: Path, tiny_folder: Path, way: str) -> None:
    with JudgeServer(any_way) as server:
        judge = {"builtin": "ai", "options": WAYS[way] | {"url": server.url, "retries": 0}}
        raw = raw_recipe(tiny_folder, tmp_path, server.url, algorithm="grpo", reward=judge)
        raw["stages"][0]["train"]["steps"] = 1
        check_names(parse_recipe(raw), tmp_path)
        folder = run(raw)
    rows, _ = SampleStore.read(folder / "stages/01-dpo/samples.parquet", done=True)
    rewards = {len(str(row["response"])): row["reward"] for row in rows}
    assert all(row["error"] is None for row in rows)
    assert len(set(rewards.values())) > 1
    parts = json.loads(str(rows[0]["parts"]))
    assert parts.keys() >= {
        "rubric": {"short", "criterion_2"}, "panel": {"m", "n", "disagreement"},
    }.get(way, set())  # fmt: skip
    assert info(folder)["judges"]["ai"]["errors"] == 0


def test_a_spent_budget_stops_the_run_and_a_higher_one_goes_on(
    tmp_path: Path, tiny_folder: Path
) -> None:
    with JudgeServer(prefers(shorter)) as server:
        raw = raw_recipe(tiny_folder, tmp_path, server.url)
        options = raw["stages"][0]["reward"]["options"]
        options["budget_tokens"] = 2000
        with pytest.raises(BudgetSpent, match="2000 tokens"):
            run(raw)
        asked = len(server.asked)
        assert 0 < asked * TOKENS <= 2000
        options["budget_tokens"] = 100_000
        folder = run(raw, resume=True)
        took = info(folder)["judges"]["ai"]
        assert took["tokens"] == TOKENS * len(server.asked)
        assert took["errors"] == 0


def test_a_misspelt_rubric_is_said_before_torch_is_imported(tmp_path: Path) -> None:
    judge = {
        "builtin": "ai",
        "options": {"model": "m", "mode": "rubric", "rubric": [{"texd": "x"}]},
    }
    raw = raw_recipe(tmp_path, tmp_path, "http://x/v1", reward=judge)
    (tmp_path / "recipe.yaml").write_text(json.dumps(raw))
    code = (
        "import sys\nfrom pathlib import Path\nfrom gnomon.recipe.load import load_recipe\n"
        "from gnomon.stages.names import check_names\nfrom gnomon.errors import ConfigError\n"
        "try:\n    check_names(load_recipe(Path('recipe.yaml')), Path())\n"
        "except ConfigError as error:\n    print(error)\nprint('torch' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "did you mean 'text'" in said
    assert said.endswith("False\n")


def test_a_recipes_judge_may_be_corrected_by_its_calibration(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with JudgeServer(prefers(shorter)) as server:
        raw = raw_recipe(tiny_folder, tmp_path, server.url)
        options = raw["stages"][0]["reward"]["options"] | {"corrected": True}
        raw["stages"][0]["reward"]["options"] = options
        recipe = parse_recipe(raw)
        with pytest.raises(ConfigError, match="no calibration of the judge ai"):
            check_recipe(recipe, RunFolder(recipe), tmp_path)
        spec = recipe.stages[0].reward[0]
        plain = spec.model_copy(update={"options": {**options, "corrected": False}})
        version = one_judge(plain, base=tmp_path, load=lambda name: None).version  # type: ignore[arg-type, return-value]
        (tmp_path / "calibrations").mkdir()
        said = {
            "judge": "ai",
            "version": version,
            "labels": 60,
            "map": {"kind": "platt", "slope": 0.5},
        }
        (tmp_path / "calibrations" / "ai.json").write_text(json.dumps(said))
        check_names(recipe, tmp_path)
        run_recipe(recipe, base=tmp_path, announce=lambda text: None)
    took = RunFolder(recipe).stage("dpo").info().judges["ai"]
    assert " corrected=" in took["version"]
