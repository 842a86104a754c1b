"""The examples run, with fewer steps, and do what they say; the loop of grpo.py is the recipe's."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import gnomon
from gnomon.errors import ConfigError, RunStopped
from gnomon.recipe.load import parse_recipe
from gnomon.records import Message, Prompt
from gnomon.stages.run import run_recipe

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ("sft.train.steps=2", "sft.train.batch_size=4", "sft.data.options.n=16")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def metrics(run: Path, stage: str) -> list[dict[str, Any]]:
    return pq.read_table(run / "stages" / stage / "metrics.parquet").to_pylist()


@pytest.fixture(scope="module")
def imitator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has some answers right and some wrong, as grpo.py makes it."""
    grpo = example("grpo")
    model = gnomon.load("tunnel", max_length=128)
    grpo.imitate(model, grpo.Settings(imitate=12))
    return model.save(tmp_path_factory.mktemp("imitator"))


def test_grpo_does_what_the_recipe_does(tmp_path: Path, imitator: Path) -> None:
    """The same prompts, answers, rewards, losses and weights: rewards show the weights, since
    answers are sampled from them. Of two iterations: weights that differ by rounding may draw
    another token in a later one."""
    options = [f"--model={imitator}", "--imitate=0", "--steps=2", "--prompts=6", "--held-out=4"]
    rows = example("grpo").main(options)[1:-1]
    stage = {
        "name": "grpo",
        "algorithm": "grpo",
        "data": {
            "path": "tunnel:prompts",
            "options": {"n": 4000, "seed": 4, "families": ["arithmetic"]},
        },
        "reward": "correct",
        "rollout": {"samples": 8, "max_new_tokens": 32},
        "train": {"steps": 2, "batch_size": 6, "lr": 4e-4, "schedule": "constant", "warmup": 0},
        "settings": {"beta": 0.0, "minibatches": 2, "clip_high": 0.28},
    }
    raw = {"name": "same", "model": str(imitator), "max_length": 128, "stages": [stage]}
    run = run_recipe(parse_recipe({**raw, "output": str(tmp_path)}), base=tmp_path)
    theirs = [row for row in metrics(run, "01-grpo") if row["loss"] is not None]
    assert len(rows) == len(theirs) == 2
    assert any(row["reward"] > 0 for row in rows)
    assert any(abs(row["loss"]) > 1e-4 for row in rows)  # something is learned, so it can differ
    for mine, row in zip(rows, theirs, strict=True):
        assert mine["reward"] == pytest.approx(row["reward"])
        assert mine["no_signal"] == pytest.approx(row["zero_spread"])
        assert mine["loss"] == pytest.approx(row["loss"], rel=1e-3, abs=1e-6)


@pytest.mark.walk
def test_grpo_with_a_kl_penalty_runs(imitator: Path) -> None:
    options = [f"--model={imitator}", "--imitate=0", "--steps=1", "--prompts=4", "--held-out=2"]
    assert len(example("grpo").main([*options, "--beta=0.04"])) == 3


@pytest.mark.walk
def test_an_own_method_trains_by_its_file_alone(tmp_path: Path) -> None:
    small = ("rwr.train.steps=2", "rwr.train.batch_size=4", "rwr.rollout.max_new_tokens=8")
    few = ("rwr.data.options.n=200", f"output={tmp_path}")
    rows = metrics(example("own_method").main([*SMALL, *small, *few]), "02-rwr")
    assert [row["iteration"] for row in rows if row["loss"] is not None] == [1, 2]
    assert all(row["best_weight"] >= 1 / 8 for row in rows if row["loss"] is not None)


def test_the_own_methods_weights_by_hand() -> None:
    """exp(1 / 0.5) = 7.389: weights 2 x 7.389 / 8.389 and 2 / 8.389."""
    weights = example("own_method").weights
    assert weights(torch.tensor([1.0, 0.0]), 0.5).tolist() == pytest.approx(
        [1.7616, 0.2384], abs=1e-4
    )
    assert torch.allclose(weights(torch.tensor([3.0, 3.0]), 0.5), torch.ones(2))


@pytest.mark.walk
def test_own_rewards_are_tried_and_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    groups = example("own_reward").main(samples=2)
    assert "brief  right unlike" in capsys.readouterr().out
    assert all(reward is not None for group in groups for reward in group.rewards)


@pytest.mark.walk
def test_an_own_callback_keeps_a_diary_and_ends_the_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("grpo.train.steps=3", "grpo.train.batch_size=2", "grpo.rollout.max_new_tokens=4")
    shown = ("callbacks.options.enough=-2", f"output={tmp_path}")
    run = example("own_callback").main([*small, *shown])
    assert len(metrics(run, "01-grpo")) == 1  # every reward is enough, so it ended after one
    diary = (run / "stages" / "01-grpo" / "diary.txt").read_text().splitlines()
    assert diary[0] == "grpo: 3 iterations of grpo"
    assert diary[-1] == "done after 1 iterations"
    assert diary[1].startswith("1\t")
    assert diary[-1] in capsys.readouterr().out


@pytest.mark.walk
def test_an_own_environment_plays_and_is_trained_on(tmp_path: Path) -> None:
    small = ("grpo.train.steps=2", "grpo.train.batch_size=2", "grpo.rollout.samples=2")
    few = ("grpo.data.options.n=16", f"output={tmp_path}")
    rows = metrics(example("own_environment").main([*small, *few]), "01-grpo")
    trained = [row for row in rows if row["loss"] is not None]
    assert len(trained) == 2
    assert all(1 <= row["turns"] <= 4 for row in trained)


def test_the_own_environments_rules_by_hand() -> None:
    module = example("own_environment")
    game = module.HigherLower(turns=3)
    game.reset(Prompt("p"), seed=0)
    game.secret = 5
    first = game.step(module.Action("I say 3."))
    assert (first.messages, first.done) == ((Message("user", "higher."),), False)
    assert game.step(module.Action("no idea")).reward == -0.2
    won = game.step(module.Action("5"))
    assert (won.done, won.reward) == (True, pytest.approx(1 / 3))
    game.reset(Prompt("p"), seed=0)
    game.secret = 5
    assert [game.step(module.Action("7")).done for _ in range(3)] == [False, False, True]


@pytest.mark.walk
def test_the_code_of_the_parts_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (EXAMPLES.parent / "docs" / "parts.md").read_text(encoding="utf-8")
    first, dpo = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(first, names)
    assert len(names["groups"]) == 4
    assert any(p.grad is not None and p.grad.any() for p in names["model"].parameters())
    capsys.readouterr()
    exec(dpo, {})
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)  # log 2: it begins at the reference
    assert losses[-1] < 0.6


@pytest.mark.walk
def test_the_code_of_the_callbacks_page_runs(tmp_path: Path, tiny_folder: Path) -> None:
    page = (EXAMPLES.parent / "docs" / "callbacks.md").read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0]
    (tmp_path / "longest.py").write_text(code)
    stage = {
        "name": "raft",
        "algorithm": "raft",
        "data": {"path": "tunnel:prompts", "options": {"n": 8, "seed": 4}},
        "reward": {"builtin": "length", "options": {"high": 3}},
        "rollout": {"samples": 2, "max_new_tokens": 4},
        "train": {"steps": 3, "batch_size": 2, "lr": 1e-4},
    }
    raw = {"name": "long", "model": str(tiny_folder), "output": str(tmp_path), "stages": [stage]}
    too_short = {"callback": "longest.py:Longest", "options": {"tokens": 0}}
    with pytest.raises(RunStopped) as caught:
        run_recipe(parse_recipe({**raw, "callbacks": too_short}), base=tmp_path)
    assert re.search(
        r"stopped in stage raft: responses have \d tokens \(the checkpoint of iteration 1 of 3",
        str(caught.value),
    )
    told: list[Any] = []

    class Own(gnomon.Callback):
        def on_start(self, stage: Any) -> None:
            told.append((stage.stage, stage.iteration, stage.resumed))

    high = {"callback": "longest.py:Longest", "options": {"tokens": 99}}  # a resume may change it
    recipe = parse_recipe({**raw, "callbacks": high})
    run = run_recipe(recipe, base=tmp_path, resume=True, callbacks=[Own()])
    assert told == [("raft", 1, True)]
    assert {row["iteration"] for row in metrics(run, "01-raft")} == {1, 2, 3}


def test_a_callback_that_cannot_be_used_is_refused_before_anything_runs(
    tmp_path: Path, tiny_folder: Path
) -> None:
    (tmp_path / "own.py").write_text("import gnomon\nclass Mine(gnomon.Callback): pass\n")
    stage = {"name": "sft", "algorithm": "sft", "data": {"path": "tunnel:demonstrations"}}
    raw = {"name": "x", "model": str(tiny_folder), "output": str(tmp_path), "stages": [stage]}
    raw["stages"][0] |= {"train": {"steps": 1}}  # type: ignore[operator, index]
    raw["stages"][0]["data"] |= {"options": {"n": 4, "seed": 1}}  # type: ignore[index]
    for callbacks, given, message in (
        ("own.py:Mime", (), "did you mean 'Mine'"),
        ("nowhere.py:Mine", (), "no file"),
        ({"callback": "own.py:Mine", "options": {"x": 1}}, (), "its options"),
        ([], [gnomon.Callback], r"Callback is a class; give Callback\(\)"),
        ([], [print], "is no callback"),
    ):
        recipe = parse_recipe({**raw, "callbacks": callbacks})
        with pytest.raises(ConfigError, match=message):
            run_recipe(recipe, base=tmp_path, callbacks=given)  # type: ignore[arg-type]
        assert not (tmp_path / "x").exists()
