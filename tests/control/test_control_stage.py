"""The control stage: a run of three stages, resumed after it was cut off, and recipes that cannot
be."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest
from point_world import POINT

from gnomon.control.stage import Rounds, share_of
from gnomon.errors import ConfigError, Pending, RunError
from gnomon.recipe.load import parse_recipe
from gnomon.runs.folder import RunFolder
from gnomon.runs.read import read_run
from gnomon.runs.rows import MetricsStore
from gnomon.stages.inputs import stage_inputs
from gnomon.stages.names import check_names
from gnomon.stages.plan import make_plan
from gnomon.stages.run import run_recipe
from gnomon.stages.stage import open_stage, run_stage

SMALL = {
    "environment": POINT,
    "episodes": 9,
    "first_episodes": 3,
    "round_episodes": 2,
    "hidden": 16,
    "batch_size": 32,
    "eval_episodes": 4,
}
ASKED = {"comparisons": 24, "clip_steps": 5, "fit_updates": 10}


def stage(name: str, **settings):
    return {"name": name, "algorithm": "control", "settings": {**SMALL, **settings}}


def recipe(folder: Path, *stages, **more):
    plain = {"name": "point", "model": "none", "output": str(folder), "stages": list(stages)}
    return parse_recipe({**plain, **more}, "test")


def learned(**more):
    return stage("learned", **{**ASKED, **more})


NOISE = stage("noise", reward="random", against="learned")


def outcome(folder: Path):
    """What a run of the stage ``learned`` left, times left out."""
    here = folder / "point/stages/01-learned"
    columns, _ = MetricsStore.read(here / "metrics.parquet", done=True)
    figures = {k: list(v) for k, v in columns.items() if k != "seconds"}
    return figures, (here / "evals.json").read_text(), {
        file.name: file.read_bytes() for file in (here / "model").iterdir()
    }  # fmt: skip


def test_a_run_of_three_rewards_and_its_report(tmp_path, monkeypatch):
    left = tmp_path / "left"
    left.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(left))
    three = recipe(
        tmp_path, stage("truth", reward="truth"), learned(against="truth"),
        stage("noise", reward="random", against="truth"),
    )  # fmt: skip
    folder = run_recipe(three, base=tmp_path, announce=lambda line: None)
    run = read_run(folder)
    assert [s.info.status for s in run.stages] == ["done"] * 3
    seen = run.stages[1].info.summary
    assert seen["comparisons"] == 24
    assert seen["episodes"] == 9
    top = {k.removeprefix("policy."): v for k, v in run.stages[0].evals.figures().items()}
    base = max(top["random_play"].value, top["no_action"].value)
    for one in run.stages[1:]:
        found = one.evals.figures()
        if top["gold"].value > base:
            wanted = (found["policy.gold"].value - base) / (top["gold"].value - base)
            assert found["policy.share"].value == pytest.approx(wanted)
        for name in ("random_play", "no_action"):  # the same episodes for every stage
            assert found[f"policy.{name}"] == top[name]
    page = (folder / "report.html").read_text()
    assert "comparisons" in page
    assert (folder / "stages/02-learned/model/reward.safetensors").is_file()
    assert not (folder / "stages/03-noise/labels.db").exists()
    assert not [file.name for file in left.iterdir()]


@pytest.mark.parametrize("learner", ["sac", "td3"])
def test_a_stage_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path, monkeypatch, learner):
    whole, cut = (recipe(tmp_path / x, learned(learner=learner)) for x in ("whole", "cut"))
    worked(whole)

    class Killed(BaseException):
        pass

    def killed(rounds: Rounds, number: int) -> dict[str, float]:
        found = asked(rounds, number)  # its labels are in the store, and the round is not saved
        if number == 2:
            raise Killed
        return found

    asked = Rounds._compared
    with monkeypatch.context() as patch:
        patch.setattr(Rounds, "_compared", killed)
        with pytest.raises(Killed):
            worked(cut)
    worked(cut, resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def worked(asked, resume: bool = False) -> None:
    """Run the first stage alone, without a report."""
    run = RunFolder(asked)
    run.open(resume)
    run_stage(open_stage(asked, asked.stages[0], run, Path()), resume)


def test_a_run_waits_for_people(tmp_path):
    with pytest.raises(Pending, match="round 0: 6 of 6 pairs"):
        worked(recipe(tmp_path, learned(labeller={"kind": "people"})))
    info = json.loads((tmp_path / "point/stages/01-learned/stage.json").read_text())
    assert info["status"] == "paused"


def test_a_missing_package_is_named_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "gnomon.control.learner", raising=False)
    with pytest.raises(ConfigError, match=r"stable_baselines3.*gnomon-rlhf\[control\]"):
        make_plan(recipe(tmp_path, learned()), tmp_path)


def test_the_word_none_is_no_model_that_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    (tmp_path / "none/config.json").write_text("{}")
    asked = recipe(tmp_path, learned())
    assert stage_inputs(open_stage(asked, asked.stages[0], RunFolder(asked), tmp_path)) == {}


def test_an_episode_that_ends_early_stops_the_run(tmp_path):
    with pytest.raises(RunError, match="ended an episode before its 20 steps"):
        worked(recipe(tmp_path, stage("truth", reward="truth", options={"ends": True})))


@pytest.mark.parametrize(
    ("stages", "more", "said"),
    [
        ([stage("a", environment="Pendulum-v11")], {}, "did you mean 'Pendulum-v1'"),
        ([learned(clip_steps=50)], {}, "clip_steps \\(50\\) is more than an episode"),
        ([learned()], {"model": "tunnel"}, "write model: none"),
        ([{**learned(), "reward": "gold"}], {}, "remove reward"),
        ([{**learned(), "train": {"steps": 3}}], {}, "remove train"),
        ([learned(against="b")], {}, "no control stage before this one; known: none"),
        (
            [learned(), stage("b", reward="random", against="learned")],
            {},
            "not trained on the true reward",
        ),
        ([learned()], {"sinks": ["tensorboard"]}, "tells no sinks"),
        ([learned(store="nowhere/labels.db")], {}, "there is no folder"),
        (
            [learned(environment="Pendulum-v1", options={"g": "ten"})],
            {},
            "'Pendulum-v1' cannot be played \\(TypeError",
        ),
        (
            [learned(environment="Reacher-v5", options={"xml_file": "nope.xml"})],
            {},
            "'Reacher-v5': options: .*nope.xml does not exist",
        ),
        (
            [stage("a", reward="truth", options={"ends": False}), learned(against="a")],
            {},
            "another environment, other options",
        ),
    ],
)
def test_recipes_that_cannot_be(tmp_path, stages, more, said):
    with pytest.raises(ConfigError, match=said):
        make_plan(recipe(tmp_path, *stages, **more), tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"episodes": 3}, "leave nothing of 3 episodes"),
        ({"reward": "truth", "comparisons": 50}, "remove comparisons"),
        ({"members": 1}, "one reward net disagrees with nobody"),
        ({"labeller": {"kind": "people", "error": 0.2}}, "remove error from labeller"),
        ({"labeller": {"kind": "robots"}}, "simulated"),
        ({"noise": 0.2}, "noise is td3's"),
        ({"segment": 25}, "segment"),
        ({"episodes": True}, "not true or false"),
    ],
)
def test_settings_that_cannot_be(tmp_path, settings, said):
    with pytest.raises(ConfigError, match=said):
        check_names(recipe(tmp_path, stage("a", **settings)), tmp_path)


def test_the_share_is_of_what_the_true_reward_gains():
    assert share_of(-200.0, -100.0, -1100.0) == pytest.approx(0.9)
    assert share_of(-200.0, -1100.0, -1100.0) is None
