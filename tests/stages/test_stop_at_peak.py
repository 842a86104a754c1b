"""A stage that stops at a held-out judge's peak: what it keeps and says, also after kill -9."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from killing import run_and_die

from gnomon.errors import ConfigError
from gnomon.recipe.load import parse_recipe
from gnomon.report.card import run_card
from gnomon.runs.folder import RunFolder
from gnomon.runs.peak import kept_run
from gnomon.runs.read import read_run
from gnomon.stages.check import check_recipe
from gnomon.stages.run import run_recipe

PEAK = {"judge": "held_out", "patience": 2}


def prompts(n: int, seed: int) -> dict[str, Any]:
    return {"path": "tunnel:prompts", "options": {"n": n, "seed": seed}}


def raw_recipe(model: Path, output: Path, **stage: Any) -> dict[str, Any]:
    """A policy that is paid for length, with the tunnel's preference as the judge that it is kept
    from; one update is so large that what comes later is no better."""
    train = {
        "steps": 6,
        "batch_size": 4,
        "lr": 0.2,
        "schedule": "constant",
        "warmup": 0,
        "checkpoint_every": 1,
        "sample_every": 1,
        "eval_every": 1,
        "stop_at_peak": PEAK,
    }
    rl = {
        "name": "rl",
        "algorithm": "dapo",
        "data": prompts(12, 4),
        "eval_data": prompts(6, 5),
        "reward": {"builtin": "length", "options": {"high": 1, "ramp": 4}},
        "observe": {"builtin": "gold", "name": "held_out", "every": 2},
        "lora": {"rank": 2, "alpha": 4},
        "rollout": {"samples": 3, "max_new_tokens": 5},
        "train": train | stage.pop("train", {}),
        "settings": {"zero_spread": "keep"},
    }
    whole = {"name": "run", "model": str(model), "output": str(output), "stages": [rl | stage]}
    return whole | {"max_length": 120}


@pytest.fixture(scope="module")
def straight(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage's folder of a run that nothing interrupted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe = parse_recipe(raw_recipe(tiny_folder, tmp_path_factory.mktemp("straight")))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gnomon.stages.run.write_report", lambda folder: None)
            run = run_recipe(recipe, base=Path.cwd(), announce=lambda text: None)
    finally:
        torch.set_num_threads(threads)
    return run / "stages" / "01-rl"


def table(stage: Path, name: str) -> list[dict[str, Any]]:
    timing = ("seconds", "monitor_seconds", "tokens_per_second", "peak_rss_gb")
    rows = pq.read_table(stage / f"{name}.parquet").to_pylist()
    return [{k: v for k, v in row.items() if k not in timing} for row in rows]


def test_stage_json_says_what_was_kept_and_why(straight: Path) -> None:
    info = json.loads((straight / "stage.json").read_text())
    rows = table(straight, "metrics")
    judged = [(r["eval/held_out"], r["iteration"]) for r in rows if not r["final"]]
    # an evaluation stands in the row of the iteration that it comes before, the last one alone
    means = [value for value, _ in judged if value is not None]
    best = means.index(max(means))
    assert info["peak"]["iteration"] == best
    assert info["peak"]["value"] == means[best] == info["held_out"]["held_out"]
    assert info["peak"]["trained_until"] == info["iterations"] == min(best + 2, 6)
    assert info["peak"]["judge"] == "held_out"
    assert rows[-1]["eval/held_out"] == means[best]


@pytest.mark.parametrize("place", [("rl", "step", 2), ("rl", "checkpoint", 1), ("rl", "model", 0)])
def test_a_killed_stage_keeps_the_same(
    straight: Path, tiny_folder: Path, tmp_path: Path, place: tuple[str, str, int]
) -> None:
    raw = raw_recipe(tiny_folder, tmp_path)
    assert run_and_die(raw, place, resume=False) == -9
    assert run_and_die(raw, None, resume=True) == 0
    killed = tmp_path / "run" / "stages" / "01-rl"
    for file in sorted((straight / "model").rglob("*.safetensors")):
        mine = killed / file.relative_to(straight)
        assert hashlib.sha256(mine.read_bytes()).digest() == (
            hashlib.sha256(file.read_bytes()).digest()
        )
    for name in ("metrics", "samples"):
        assert table(killed, name) == table(straight, name), name
    ours, theirs = (json.loads((f / "stage.json").read_text()) for f in (killed, straight))
    assert ours["peak"] == theirs["peak"]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"train": {"stop_at_peak": {"judge": "held"}}}, "did you mean 'held_out'"),
        ({"train": {"stop_at_peak": {"judge": "reward"}}}, "not an observed reward"),
        ({"train": {"eval_every": 0}}, "set train.eval_every"),
        ({"eval_data": []}, "needs held-out prompts"),
        ({"observe": []}, "give it in observe"),
    ],
)
def test_a_peak_that_cannot_be_seen_is_refused(
    stage: dict[str, Any], message: str, tiny_folder: Path, tmp_path: Path
) -> None:
    recipe = parse_recipe(raw_recipe(tiny_folder, tmp_path, **stage))
    with pytest.raises(ConfigError, match=message):
        check_recipe(recipe, RunFolder(recipe), Path.cwd())


def test_evals_on_the_way_count_for_the_weights_that_they_measured(
    tiny_folder: Path, tmp_path: Path
) -> None:
    asked = [{"prompt": f"Say {word}.", "answer": word} for word in ("one", "two", "three")]
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in asked))
    options = {"data": str(questions), "judge": "exact", "max_new_tokens": 2}
    evals = [{"suite": "questions", "every": 1, "options": options}]
    raw = raw_recipe(tiny_folder, tmp_path, train={"evals": evals, "checkpoint_every": 50})
    folder = run_recipe(parse_recipe(raw), base=tmp_path, announce=lambda text: None)
    run = read_run(folder)
    peak, end = (run.stages[0].info.peak[key] for key in ("iteration", "trained_until"))
    steps = [row["step"] for row in table(folder / "stages" / "01-rl", "metrics")]
    assert peak < end
    measured = {result.step: result.model_copy(update={"step": None}) for result in run.results}
    assert set(measured) == {0, *steps}  # at the end once more, of the weights that are kept
    kept = {r.step: r.model_copy(update={"step": None}) for r in kept_run(run).results}
    now = steps[peak - 1] if peak else 0
    assert max(kept) == now
    assert kept[now] == measured[steps[-1]]  # what was measured at the end, of those weights
    card = run_card(folder)
    assert f" at step {now} |" in card
    assert f" at step {steps[-1]} |" not in card
