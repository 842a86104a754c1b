"""Probes at the end of a stage: written, the same twice, and never at the stage's cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gnomon.errors import ConfigError, DataError
from gnomon.recipe.load import parse_recipe
from gnomon.recipe.schema import Recipe, RewardSpec
from gnomon.runs.folder import RunFolder
from gnomon.runs.probes import PROBES, Probes
from gnomon.runs.read import read_run
from gnomon.stages.plan import plan_parts
from gnomon.stages.policy_probes import Asked, probe_run
from gnomon.stages.probes import foreign_prompts
from gnomon.stages.run import run_recipe
from tiny_world import save_tiny

OWN = """
from gnomon.judges.protocol import SampleJudge
from gnomon.records import Score

def words(samples):
    return [float(len(s.text)) for s in samples]

CALLS = []

def fails_later(samples):
    CALLS.append(len(samples))
    if len(CALLS) > 2:
        raise KeyError("gone")
    return [float(len(s.text)) for s in samples]

def breaks_edits(samples):
    if any("## Answer" in s.text for s in samples):
        raise ValueError("no headings here")
    return [float(len(s.text)) for s in samples]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def recipe(folder: Path, model: Path, reward: Any, **more: Any) -> Recipe:
    (folder / "own.py").write_text(OWN)
    stage = {
        "name": "grpo",
        "algorithm": "grpo",
        "data": {"path": "tunnel:prompts", "options": {"n": 24, "families": ["arithmetic"]}},
        "reward": reward,
        "rollout": {"samples": 2, "max_new_tokens": 6},
        "train": {"steps": 2, "batch_size": 6, "lr": 1e-3},
        **more,
    }
    plain = {"name": "run", "model": str(model), "output": str(folder / "runs"), "stages": [stage]}
    return parse_recipe(plain | {"max_length": 96})


def run(folder: Path, model: Path, reward: Any, **more: Any) -> Probes:
    path = run_recipe(recipe(folder, model, reward, **more), base=folder, announce=lambda _: None)
    (stage,) = read_run(path).stages
    assert stage.info.status == "done"
    assert stage.info.files
    return stage.probes


def test_a_stage_asks_its_reward_again(tmp_path: Path, model: Path) -> None:
    found = run(tmp_path, model, {"function": "own.py:words"}, probes=8).reward
    assert found is not None
    assert (found.judge, found.early_step, found.late_step) == ("words", 1, 2)
    for side in ("early", "late"):
        upper, repeat = found.effect("upper", side), found.effect("repeat", side)
        assert upper is None or (upper.change is not None and upper.change.value == 0)
        assert repeat is not None
        assert repeat.change is not None
        assert repeat.change.low > 0  # it pays for characters
        assert repeat.n == 4
    assert read_run(tmp_path / "runs" / "run").stages[0].probes.reward == found


def test_it_is_asked_after_the_first_iteration_already(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said then is what is said at the end of the first answers, and training goes the
    same way."""
    written: list[Probes] = []
    keep = Probes.write
    monkeypatch.setattr(
        Probes, "write", lambda self, path: (written.append(self), keep(self, path))
    )
    reward = {"function": "own.py:words"}
    run(tmp_path, model, reward, probes=8)
    first, last = (found.reward for found in written)
    assert first is not None
    assert last is not None
    assert (first.early_step, first.late_step) == (1, None)
    assert {(e.edit, e.of) for e in first.effects} == {("swap", "early"), ("hedge", "early")}
    early, again = first.effect("hedge"), last.effect("hedge")
    assert early is not None
    assert again is not None
    assert early == again.model_copy(update={"moved": None})
    (tmp_path / "none").mkdir()
    run(tmp_path / "none", model, reward, probes=0)
    sides = [read_run(p / "runs" / "run").stages[0].metrics for p in (tmp_path, tmp_path / "none")]
    assert sides[0]["reward"].tolist() == sides[1]["reward"].tolist()
    assert sides[0]["grad_norm"].tolist() == sides[1]["grad_norm"].tolist()


def test_the_same_run_has_the_same_probes(tmp_path: Path, model: Path) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        reward = run(tmp_path / name, model, {"function": "own.py:words"}, probes=8).reward
        assert reward is not None
        reward.seconds = 0.0
        found.append(reward)
    assert found[0] == found[1]


def test_edits_that_break_the_reward_are_counted(tmp_path: Path, model: Path) -> None:
    found = run(tmp_path, model, {"function": "own.py:breaks_edits"}, probes=8).reward
    assert found is not None
    broken, fine = found.effect("with_markup"), found.effect("repeat")
    assert broken is not None
    assert fine is not None
    assert (broken.n, broken.failed) == (0, 4)
    assert (fine.n, fine.failed) == (4, 0)


def test_a_probe_that_fails_costs_no_stage(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the probe is broken")

    monkeypatch.setattr("gnomon.stages.probes.probe_reward", broken)
    with pytest.warns(UserWarning, match="the probe is broken"):
        found = run(tmp_path, model, {"function": "own.py:words"})
    assert found.reward is None
    assert found.problems == ["the reward was not probed: the probe is broken"]


def test_none_are_made_where_none_are_wanted(tmp_path: Path, model: Path) -> None:
    assert not run(tmp_path, model, {"function": "own.py:words"}, probes=0)
    assert not list(tmp_path.rglob(PROBES))


@pytest.mark.parametrize(("families", "foreign"), [(["facts"], False), (["lists"], True)])
def test_prompts_that_a_reward_model_does_not_know(
    tmp_path: Path, model: Path, families: list[str], foreign: bool
) -> None:
    prompts = {"path": "tunnel:prompts", "options": {"n": 60, "seed": 9, "families": families}}
    stages = [
        {"name": "asked", "algorithm": "collect", "data": {**prompts, "options": {
            "n": 60, "seed": 8, "families": ["facts"]}}, "reward": "gold",
         "rollout": {"samples": 2, "max_new_tokens": 6}},
        {"name": "rm", "algorithm": "reward_model", "data": "stage:asked", "train": {"steps": 1}},
        {"name": "ppo", "algorithm": "ppo", "data": prompts, "reward": {"model": "rm"},
         "rollout": {"max_new_tokens": 6}, "train": {"steps": 1, "batch_size": 4}},
    ]  # fmt: skip
    plain = {"name": "r", "model": str(model), "output": str(tmp_path), "max_length": 96}
    parsed = parse_recipe(plain | {"stages": stages})
    (found,), problems = foreign_prompts(parsed, parsed.stages[2], RunFolder(parsed), tmp_path)
    assert problems == []
    assert (found.reward_model, found.stage) == ("rm", "ppo")
    assert found.p is not None
    assert (found.p <= 0.01) == foreign
    share = found.coverage["category"][families[0]]
    assert share == ([0.0, 1.0] if foreign else [1.0, 1.0])
    shown = " ".join(str(part) for part in plan_parts(parsed, tmp_path))
    assert ("ppo: its prompts are not such as rm is trained on" in shown) == foreign


def test_policies_are_asked_from_a_file(tmp_path: Path, model: Path) -> None:
    path = run_recipe(
        recipe(tmp_path, model, {"function": "own.py:words"}, probes=0),
        base=tmp_path,
        announce=lambda _: None,
    )
    rows = [{"prompt": f"What is {i} plus 1?", "answer": str(i + 1)} for i in range(12)]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    told: list[str] = []
    asked = Asked(questions=str(file), safe=str(file), max_new_tokens=8, size=12)
    assert probe_run(path, asked, announce=told.append) == ["grpo"]
    assert told == ["grpo: asked before and after training"]
    (stage,) = read_run(path).stages
    names = [probe.probe for probe in stage.probes.policy]
    assert names[:4] == ["stated_opinion", "authority", "are_you_sure", "same_questions"]
    assert names[-2:] == ["half_questions", "safe_prompts"]
    assert all(probe.n == 12 for probe in stage.probes.policy)
    assert probe_run(path, asked) == ["grpo"]
    assert read_run(path).stages[0].probes.policy == stage.probes.policy
    (tmp_path / "no.py").write_text("def no(samples):\n    return [1.0 for s in samples]\n")
    judge = RewardSpec(function=f"{tmp_path}/no.py:no")
    probe_run(path, Asked(safe=str(file), judge=judge, max_new_tokens=8, size=12))
    *others, probe = read_run(path).stages[0].probes.policy
    assert (probe.judge, probe.after.value if probe.after else None) == ("no", 1.0)
    # without a file: the built-in world's questions, which a folder's model is known to understand
    assert "stated_opinion" in [other.probe for other in others]
    ai = RewardSpec(builtin="ai", options={"model": "m", "url": "http://localhost:1"})
    with pytest.raises(ConfigError, match="compares answers"):
        probe_run(path, Asked(safe=str(file), judge=ai))


def test_nothing_to_ask_is_said(tmp_path: Path, model: Path) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(model, foreign)
    file = foreign / "tokenizer.json"
    words = json.loads(file.read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(words))
    path = run_recipe(
        recipe(tmp_path, foreign, {"function": "own.py:words"}, probes=0),
        base=tmp_path,
        announce=lambda _: None,
    )
    with pytest.raises(ConfigError, match=r"nothing to ask.*--questions FILE"):
        probe_run(path)
    file = tmp_path / "bare.jsonl"
    file.write_text('{"prompt": "What?"}\n' * 9)
    with pytest.raises(DataError, match="no prompt has an answer"):
        probe_run(path, Asked(questions=str(file)))


def test_a_reward_model_is_asked_about_its_data(tmp_path: Path, model: Path) -> None:
    prompts = {"path": "tunnel:prompts", "options": {"n": 16, "families": ["facts"]}}
    stages = [
        {"name": "asked", "algorithm": "collect", "data": prompts, "reward": "gold",
         "rollout": {"samples": 2, "max_new_tokens": 6}},
        {"name": "rm", "algorithm": "reward_model", "data": "stage:asked", "train": {"steps": 1},
         "probes": 8},
    ]  # fmt: skip
    plain = {"name": "r", "model": str(model), "output": str(tmp_path), "max_length": 96}
    parsed = parse_recipe(plain | {"stages": stages})
    path = run_recipe(parsed, base=tmp_path, announce=lambda _: None)
    found = read_run(path).stages[1].probes.reward
    assert found is not None
    assert found.judge == "rm"
    assert found.spread is not None
    assert {effect.of for effect in found.effects} == {"early"}
    assert found.effect("repeat") is not None
