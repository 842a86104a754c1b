"""A sweep's runs: shared stages are the same bytes, failures are rows, a killed one goes on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from forked import start_command
from gnomon.errors import ConfigError
from gnomon.files import fingerprint
from gnomon.recipe.load import load_recipe
from gnomon.recipe.schema import Recipe
from gnomon.report.sweeps import read_sweep
from gnomon.stages.run import run_recipe
from gnomon.stages.share import shared_stages
from gnomon.stages.sweep import run_sweep
from gnomon.stages.sweep_plan import SweepPlan, maker, plan_sweep, run_name
from tiny_world import save_tiny

DEMOS = {"path": "tunnel:demonstrations", "options": {"n": 12, "seed": 1}}
SFT = {
    "name": "sft",
    "algorithm": "sft",
    "data": DEMOS,
    "holdout": 0.25,
    "train": {"steps": 2, "batch_size": 2, "lr": 1e-3, "checkpoint_every": 1},
}
MORE = {**SFT, "name": "more", "train": {**SFT["train"], "steps": 1}}  # type: ignore[dict-item]
LOSS = """
import os, signal
from pathlib import Path
from gnomon.algorithms.sft import SFT

class Killed(SFT):
    def loss(self, batch, step):
        if not Path("killed").exists() and step.iteration == 1:
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(batch, step)

class Broken(SFT):
    def loss(self, batch, step):
        raise KeyError("there is no such thing")
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_tiny(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    recipe = {"name": "r", "model": "tiny", "max_length": 120, "device": "cpu",
              "stages": [SFT, MORE]}  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "own.py").write_text(LOSS)
    return tmp_path


def plan(world: Path, *overrides: str, **options: Any) -> SweepPlan:
    file = world / "r.yaml"
    return plan_sweep(lambda changes: load_recipe(file, changes), world, overrides, **options)


def quiet(line: str) -> None:
    pass


def weights(run: Path, stage: str) -> dict[str, Any]:
    return fingerprint(next(run.glob(f"stages/*-{stage}")) / "model" / "model.safetensors")


# -- what is tried --------------------------------------------------------------------------------


def test_a_grid_is_every_combination_and_seed_with_names_of_its_own(world: Path) -> None:
    found = plan(world, "more.train.lr=[1e-3,1e-4]", "sft.train.steps=[1,2]", seeds=(0, 1))
    recipes = found.recipes()
    assert len(recipes) == len({r.name for r in recipes}) == 8
    assert recipes[0].name == "lr0.001-steps1-seed0"
    assert recipes[5].stages[1].train.lr == 1e-4
    assert {r.output for r in recipes} == {str(Path("runs") / "r-sweep")}
    assert (found.objective.name, found.objective.sign) == ("eval/loss", -1)


def test_a_list_is_never_guessed(world: Path) -> None:
    assert plan(world, "more.train.betas=[0.9,0.95]", "sft.train.lr=[1,2]").fixed == (
        "more.train.betas=[0.9,0.95]",
    )
    with pytest.raises(ConfigError, match=r"nothing is varied(.|\n)*to try each: .*sweep\(0\.9"):
        plan(world, "more.train.betas=[0.9,0.95]")
    with pytest.raises(ConfigError, match="could be one value or 2 to try"):
        plan(world, "sft.data.options.n=[4,8]")
    assert len(plan(world, "sft.data.options.n=sweep(4,8)").settings) == 2
    assert len(plan(world, "sft.data.options.n=sweep([4,8])").settings) == 1


@pytest.mark.parametrize(
    ("overrides", "options", "said"),
    [
        ((), {}, "a sweep with no runs"),
        (("more.train.lrr=[1,2]",), {}, "did you mean 'lr'"),
        (("more.train.lr=[1,x]",), {}, r"more\.train\.lr=x"),
        (("more.train.lr=[-1,-2]",), {}, r"(?s)lr=-1.*lr=-2"),
        (("more.train.lr=log(1e-5,1e-3)",), {}, "does not say how many values"),
        (("more.train.lr=[1,2]", "more.train.lr=[3,4]"), {}, "given twice"),
        (("seed=[1,2]",), {}, "--seeds 0,1,2"),
        (("more.train.lr=[1,2]",), {"objective": "eval/los"}, "did you mean 'eval/loss'"),
        (("more.train.lr=[1,2]",), {"direction": "up"}, "it is max, min or auto"),
        (("more.holdout=[0]",), {}, "measures nothing to rank by"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(
    world: Path, overrides: tuple[str, ...], options: dict[str, Any], said: str
) -> None:
    if "holdout" in str(overrides):
        overrides = ("more.holdout=0", "more.train.lr=[1,2]")
    with pytest.raises(ConfigError, match=said):
        plan(world, *overrides, **options)
    assert not (world / "runs").exists()


def test_a_name_is_a_folders_and_differs_where_the_setting_does() -> None:
    one = run_name(["a.b"], (("a.b", "x/y"),))
    other = run_name(["a.b"], (("a.b", "x:y"),))
    assert one != other
    assert "/" not in one
    assert run_name(["a.lr", "a.k"], (("a.lr", 1e-05), ("a.k", "k1"))) == "lr1e-05-k-k1"
    assert len(run_name(["a.b"], (("a.b", "z" * 500),))) <= 80


def test_without_a_name_the_trained_reward_is_never_the_objective(world: Path) -> None:
    prompts = {"path": "tunnel:prompts", "options": {"n": 4, "seed": 2}}
    stage = {"name": "grpo", "algorithm": "grpo", "data": prompts, "eval_data": prompts,
             "reward": "leaky", "rollout": {"samples": 2}}  # fmt: skip

    def objective(**changes: Any) -> str:
        stages = [{**stage, **changes}]
        recipe = Recipe.model_validate({"name": "r", "model": "tiny", "stages": stages})
        swept = plan_sweep(maker(recipe), world, ["grpo.settings.beta=[0,0.1]"])
        return f"{swept.objective.name}: {swept.objective.why}"

    with pytest.raises(ConfigError, match="nothing to rank by but what is trained on"):
        objective()
    with pytest.raises(ConfigError, match="nothing to rank by but what is trained on"):
        objective(observe="leaky")
    assert objective(observe=["gold"]).startswith("eval/gold: the truth of a simulated")
    (world / "judge.py").write_text("def own(samples):\n    return [0.0 for s in samples]\n")
    held_out = [{"builtin": "gold"}, {"function": "judge.py:own"}]
    assert objective(observe=held_out).startswith("eval/own: a verifier")


# -- what is run ----------------------------------------------------------------------------------


def test_shared_stages_are_the_same_bytes_and_so_is_what_follows(world: Path) -> None:
    lines: list[str] = []
    folder = run_sweep(plan(world, "more.train.lr=[1e-3,1e-4]"), announce=lines.append)
    first, second = folder / "lr0.001", folder / "lr0.0001"
    assert any("as made already: sft (of lr0.001)" in line for line in lines)
    assert weights(first, "sft") == weights(second, "sft")
    assert weights(first, "more") != weights(second, "more")
    alone = load_recipe(world / "r.yaml", ["more.train.lr=1e-4", "name=alone"])
    path = run_recipe(alone, base=world, announce=quiet)
    for stage in ("sft", "more"):
        assert weights(path, stage) == weights(second, stage)
    view = read_sweep(folder)
    assert [len(row.values) for row in view.rows] == [1, 1]
    assert view.rows[0].objective is not None
    assert view.rows[1].objective is not None
    assert view.rows[0].objective.value < view.rows[1].objective.value
    assert {p.name for p in folder.iterdir()} >= {"sweep.md", "sweep.jsonl", "sweep.png"}


def test_only_stages_that_nothing_touches_are_shared(world: Path) -> None:
    one = load_recipe(world / "r.yaml")

    def shared(*overrides: str) -> list[str]:
        return shared_stages(one, load_recipe(world / "r.yaml", overrides))

    assert shared() == shared("name=x") == ["sft", "more"]
    assert shared("more.train.lr=1") == ["sft"]
    assert shared("sft.train.lr=1") == shared("seed=1") == shared("max_length=80") == []
    evals = load_recipe(world / "r.yaml", ["sft.train.evals=[perplexity]"])
    assert shared_stages(evals, evals) == []


def test_a_failing_run_and_a_closed_gate_are_rows(world: Path) -> None:
    swept = plan(world, "more.algorithm=[own.py:Broken,sft]", "more.gates=eval/loss <= 0 (value)")
    folder = run_sweep(swept, announce=quiet)
    view = read_sweep(folder)
    problems = {row.settings["more.algorithm"]: row.runs[0].swept.problem for row in view.rows}
    assert "there is no such thing" in problems["own.py:Broken"]
    assert problems["sft"].startswith("gate closed")
    assert [row.tier for row in view.rows] == [2, 4]  # measured but held, not measured
    assert view.best is None
    assert "Traceback" in next(folder.glob("*/error.txt")).read_text()


def test_a_search_gets_no_value_of_a_run_that_was_not_audited(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna = pytest.importorskip("optuna", reason="Optuna is not installed")

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("there is no audit")

    monkeypatch.setattr("gnomon.stages.run.audit_run", broken)
    folder = run_sweep(plan(world, "more.train.lr=log(1e-4,1e-3)", trials=1), announce=quiet)
    view = read_sweep(folder)
    assert view.rows[0].objective is not None
    assert view.best is None
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder / 'optuna.db'}")
    assert [trial.state.name for trial in study.trials] == ["FAIL"]


def test_a_budget_of_runs_is_kept_and_resumed(world: Path) -> None:
    swept = plan(world, "more.train.lr=[1e-3,1e-4]")
    folder = run_sweep(swept, max_runs=1, announce=quiet)
    assert len(read_sweep(folder).rows) == 1
    assert "--max-runs was reached" in (folder / "sweep.md").read_text()
    with pytest.raises(ConfigError, match="already holds a sweep"):
        run_sweep(swept, announce=quiet)
    with pytest.raises(ConfigError, match=r"a sweep of more\.train\.lr, not of sft\.train\.lr"):
        run_sweep(plan(world, "sft.train.lr=[1e-3,1e-4]"), resume=True, announce=quiet)
    before = weights(folder / "lr0.001", "more")
    wider = plan(world, "more.train.lr=[1e-3,1e-4,1e-5]")
    run_sweep(wider, resume=True, max_runs=5, announce=quiet)
    assert len(read_sweep(folder).rows) == 3
    assert weights(folder / "lr0.001", "more") == before
    assert "Not all was tried" not in (folder / "sweep.md").read_text()


@pytest.mark.parametrize("trials", [None, 2])
def test_a_sweep_goes_on_with_its_own_recipe_only(world: Path, trials: int | None) -> None:
    key = "more.train.lr="
    if trials is not None:
        pytest.importorskip("optuna", reason="Optuna is not installed")
    values = "[1e-3,1e-4]" if trials is None else "log(1e-4,1e-3)"
    options: dict[str, Any] = {"trials": trials}
    folder = run_sweep(plan(world, f"{key}{values}", **options), max_runs=1, announce=quiet)
    begun = len(read_sweep(folder).sweep.runs)
    other = plan(world, f"{key}{values}", "sft.train.steps=1", **options)
    with pytest.raises(ConfigError, match="is a sweep of another recipe"):
        run_sweep(other, resume=True, announce=quiet)
    reseeded = plan(world, f"{key}{values}", "seed=1", **options)
    with pytest.raises(ConfigError, match=r"has runs of the seeds 0, .*: --seeds 0,1, or"):
        run_sweep(reseeded, resume=True, announce=quiet)
    assert len(read_sweep(folder).sweep.runs) == begun == 1


def test_a_run_is_found_again_when_more_seeds_are_given(world: Path) -> None:
    folder = run_sweep(plan(world, "more.train.lr=[1e-3]"), announce=quiet)
    before = (folder / "lr0.001" / "manifest.json").read_bytes()
    run_sweep(plan(world, "more.train.lr=[1e-3]", seeds=(0, 1)), resume=True, announce=quiet)
    (row,) = read_sweep(folder).rows
    assert [(run.swept.name, run.swept.seed) for run in row.runs] == [
        ("lr0.001", 0),
        ("lr0.001-seed1", 1),
    ]
    assert row.complete
    assert (folder / "lr0.001" / "manifest.json").read_bytes() == before


def test_a_search_runs_its_old_trials_with_the_seeds_that_are_given_later(world: Path) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed")
    key, told = "more.train.lr=log(1e-4,1e-3)", []
    folder = run_sweep(plan(world, key, trials=1), announce=quiet)
    (first,) = read_sweep(folder).rows
    more = plan(world, key, seeds=(0, 1), trials=2)
    run_sweep(more, resume=True, max_runs=1, announce=told.append)
    assert any("lack a seed" in line for line in told)
    (row,) = read_sweep(folder).rows  # the old trial comes before any new one
    assert row.settings == first.settings
    assert sorted(row.values) == [0, 1]
    run_sweep(more, resume=True, announce=quiet)
    assert [sorted(row.values) for row in read_sweep(folder).rows] == [[0, 1], [0, 1]]


def test_a_spent_budget_of_time_stops_a_run_where_it_can_be_resumed(world: Path) -> None:
    (world / "slow.py").write_text(
        "import os, signal\nfrom gnomon.algorithms.sft import SFT\n\n"
        "class Slow(SFT):\n    def loss(self, batch, step):\n"
        "        if step.iteration == 1:\n            os.kill(os.getpid(), signal.SIGALRM)\n"
        "        return super().loss(batch, step)\n"
    )
    swept = plan(world, "more.algorithm=slow.py:Slow", "more.train.steps=3", "more.train.lr=[1,2]")
    # the timer's own signal comes in the second iteration, as if an hour had passed
    ends = iter([0.0, 0.0, *[7200.0] * 99])
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    monkey = pytest.MonkeyPatch()
    monkey.setattr("gnomon.stages.sweep.time", _Clock(ends))
    try:
        folder = run_sweep(swept, budget=3600, announce=quiet)
    finally:
        monkey.undo()
    view = read_sweep(folder)
    assert "budget of time was spent" in view.sweep.stopped
    assert len(view.sweep.runs) == 1
    info = json.loads((folder / "lr1" / "stages" / "02-more" / "stage.json").read_text())
    assert info["status"] == "stopped"
    after = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert after == before  # pytest-timeout has a timer too
    (world / "slow.py").write_text((world / "slow.py").read_text().replace("== 1", "== 99"))
    run_sweep(swept, resume=True, announce=quiet)
    assert [row.complete for row in read_sweep(folder).rows] == [True, True]


class _Clock:
    """``time`` with a clock of one's own."""

    def __init__(self, ticks: Any) -> None:
        self.ticks, self.last = ticks, 0.0

    def monotonic(self) -> float:
        self.last = next(self.ticks, self.last)
        return self.last


def test_a_killed_sweep_goes_on_with_the_same_result(world: Path) -> None:
    overrides = ["sft.algorithm=own.py:Killed", "sft.train.steps=[2,3]", "more.train.steps=1"]
    killed = start_command(world, "sweep", "r.yaml", *overrides)
    killed.join(300)
    assert killed.exitcode == -signal.SIGKILL
    folder = world / "runs" / "r-sweep"
    assert json.loads((folder / "sweep.json").read_text())["runs"][0]["problem"]
    swept = plan(world, *overrides)
    run_sweep(swept, resume=True, announce=quiet)
    view = read_sweep(folder)
    assert [row.complete for row in view.rows] == [True, True]
    for steps in (2, 3):
        fixed = [overrides[0], f"sft.train.steps={steps}", overrides[2], f"name=a{steps}"]
        run = run_recipe(load_recipe(world / "r.yaml", fixed), base=world, announce=quiet)
        assert weights(run, "more") == weights(folder / f"steps{steps}", "more")
