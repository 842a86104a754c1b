"""Agents from a recipe: running, resuming, what is refused, and the page that explains them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from agents_zoo import Chatter, algorithm

import tiny_world as tw
from gnomon.data.encode import Encoder
from gnomon.errors import ConfigError
from gnomon.recipe.load import apply_override, load_recipe, parse_recipe
from gnomon.recipe.schema import Recipe
from gnomon.runs.folder import RunFolder
from gnomon.stages.check import check_stage
from gnomon.stages.stage import Stage, open_stage, run_stage
from gnomon.tasks.demonstrations import rooms_demonstrations
from gnomon.training.loop import Loop
from gnomon.training.optim import LoopOptions
from gnomon.training.progress import Progress

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tw.save_tiny(tmp_path_factory.mktemp("tiny"))


def stage(**more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": "rl",
        "algorithm": "grpo",
        "data": {"path": "agents:rooms", "options": {"n": 6, "seed": 1, "rooms": 3}},
        "environment": {
            "name": "rooms",
            "calls": "python",
            "show_tools": False,
            "max_turns": 3,
            "max_episode_tokens": 60,
        },
        "rollout": {"samples": 2, "max_new_tokens": 8},
        "train": {"steps": 1, "batch_size": 2, "lr": 1e-3, "sample_every": 1},
        "settings": {"beta": 0.0},
    }
    return made | more


def recipe(model: Path, output: Path, **more: Any) -> Recipe:
    longest = more.pop("max_length", 160)
    return tw.make_recipe(model, output, stage(**more), max_length=longest)


def unopened(made: Recipe, base: Path) -> Stage:
    """The stage, before there is a folder."""
    return open_stage(made, made.stages[0], RunFolder(made), base)


def opened(made: Recipe, base: Path) -> Stage:
    folder = RunFolder(made)
    folder.open(False)
    return open_stage(made, made.stages[0], folder, base)


def run(made: Recipe, base: Path) -> Path:
    ran = opened(made, base)
    run_stage(ran, resume=False)
    return ran.folder.path


def columns(folder: Path) -> dict[str, Any]:
    rows = pq.read_table(folder / "metrics.parquet").to_pylist()
    return {k: v for row in rows for k, v in row.items() if v is not None}


@pytest.mark.parametrize("name", ["grpo", "raft", "ppo", "online_dpo"])
def test_methods_run_in_an_environment(name: str, tiny_folder: Path, tmp_path: Path) -> None:
    held_out = {
        "path": "agents:rooms",
        "options": {"n": 2, "seed": 2, "rooms": 3, "split": "heldout"},
    }
    settings = {"value_init": "policy"} if name == "ppo" else {}
    made = recipe(tiny_folder, tmp_path, algorithm=name, settings=settings, eval_data=held_out)
    check_stage(unopened(made, tmp_path))
    folder = run(made, tmp_path)
    seen = columns(folder)
    for metric in ("turns", "tool_calls", "tool_errors", "episode_tokens", "return", "reward"):
        assert metric in seen
        assert f"eval/{metric}" in seen
    assert seen["episode_tokens"] <= 60
    rows = pq.read_table(folder / "samples.parquet").to_pylist()
    assert all(r["response"].startswith("[assistant]") for r in rows)


def test_the_tools_are_in_the_prompt_where_they_are_shown(
    tiny_folder: Path, tmp_path: Path
) -> None:
    shown = stage()["environment"] | {"show_tools": True}
    made = recipe(tiny_folder, tmp_path, environment=shown, max_length=250)
    folder = run(made, tmp_path)
    rows = pq.read_table(folder / "samples.parquet").to_pylist()
    assert "[system] You may call these tools" in rows[0]["prompt"]


def test_prompts_that_leave_no_room_for_an_episode_are_listed(
    tiny_folder: Path, tmp_path: Path
) -> None:
    wide = stage()["environment"] | {"max_episode_tokens": 128}
    data = {"path": "agents:rooms", "options": {"n": 30, "seed": 1, "rooms": 3}}
    made = recipe(tiny_folder, tmp_path, environment=wide, data=data)
    ran = opened(made, tmp_path)
    run_stage(ran, resume=False)
    assert 0 < len(ran.data.report.skipped) < 30
    assert "longer than 32 tokens" in str(ran.data.report.skipped[0])


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_a_resumed_run_ends_as_if_it_had_not_stopped(name: str, tmp_path: Path) -> None:
    def loop(folder: str, iterations: int) -> tuple[Any, Loop]:
        made = algorithm(name, make=Chatter, prompts=2, samples=2, iterations=3)
        options = LoopOptions(3, 1e-2, schedule="constant", warmup=0, checkpoint_every=1, seed=3)
        going = Loop(made, options, tmp_path / folder, Progress("test", 3, False))
        going.options = replace(going.options, iterations=iterations)
        return made, going

    straight, going = loop("straight", 3)
    going.run(False)
    loop("halves", 2)[1].run(False)
    second, again = loop("halves", 3)
    again.run(True)
    weights = dict(second.named_parameters())
    for key, value in straight.named_parameters():
        assert torch.equal(value, weights[key]), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"environment": "room"}, "did you mean 'rooms'"),
        ({"environment": {"name": "rooms", "options": {"cost": 1}}}, "cost"),
        ({"environment": "none.py:It"}, "environment 'none.py:It'"),
        ({"algorithm": "sft", "settings": {}, "rollout": {}}, "sft plays no episodes"),
        ({"algorithm": "collect", "settings": {}}, "collect plays no episodes"),
        ({"reward": "human_queue"}, "judges answers, not episodes"),
        ({"rollout": {"samples": 2, "max_staleness": 1}}, "not sampled ahead"),
        ({"reward": {"builtin": "gold", "name": "rooms"}}, "environment's name"),
        ({"environment": None}, "or an environment"),
        ({"data": "agents:room"}, "did you mean 'agents:rooms'"),
        (
            {"data": {"path": "agents:rooms", "options": {"n": 2, "x": 1}}},
            "its options are n, seed",
        ),
        ({"data": {"path": "p.jsonl", "as_text": True}}, "remove as_text"),
    ],
)
def test_what_cannot_run_is_refused_beforehand(
    change: dict[str, Any], message: str, tiny_folder: Path, tmp_path: Path
) -> None:
    made = recipe(tiny_folder, tmp_path, **change)
    with pytest.raises(ConfigError, match=message):
        check_stage(unopened(made, tmp_path))


def test_an_unknown_key_of_the_environment_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_turns'"):
        recipe(tmp_path, tmp_path, environment={"name": "rooms", "max_turn": 3})


def test_an_episode_without_room_for_a_prompt_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    wide = stage()["environment"] | {"max_episode_tokens": 160}
    with pytest.raises(ConfigError, match="max_episode_tokens"):
        run(recipe(tiny_folder, tmp_path, environment=wide), tmp_path)


def test_nearly_all_demonstrations_of_the_recipe_fit() -> None:
    made = load_recipe(ROOT / "recipes" / "tunnel-agent.yaml")
    options = made.stages[0].data[0].options | {"n": 100}
    groups = rooms_demonstrations(**options)
    _, skipped = Encoder(tw.tokenizer(), max_length=made.max_length).encode_all(
        groups, "demonstrations"
    )
    assert len(skipped) <= 8


def test_the_environment_on_the_page_runs(tiny_folder: Path, tmp_path: Path) -> None:
    source = re.search(r"```python\n# (guess\.py)\n(.*?)```", PAGE, re.DOTALL)
    written = re.search(r"```yaml\n(name: guess\n.*?)```", PAGE, re.DOTALL)
    rows = re.search(r"```jsonl\n(.*?)```", PAGE, re.DOTALL)
    assert source is not None
    assert written is not None
    assert rows is not None
    (tmp_path / "guess.py").write_text(source[2])
    (tmp_path / "games.jsonl").write_text(rows[1])
    raw = yaml.safe_load(written[1])
    for override in (f"model={tiny_folder}", f"output={tmp_path}", "grpo.train.steps=1"):
        apply_override(raw, override)
    made = parse_recipe(raw)
    check_stage(unopened(made, tmp_path))
    assert "tool_errors" in columns(run(made, tmp_path))
    lines = [x for x in source[2].splitlines() if x.strip()]
    assert len(lines) <= 28
