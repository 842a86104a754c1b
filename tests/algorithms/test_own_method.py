"""A method of the user's own, in a file beside the recipe: trained, saved, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import tiny_world as tw
from gnomon.errors import ConfigError, GnomonError
from gnomon.runs.folder import RunFolder
from gnomon.stages.names import check_names
from gnomon.stages.plan import make_plan
from gnomon.stages.run import run_recipe

OFFLINE = '''
"""Supervised fine-tuning that dwells on what the model gets wrong."""

from pydantic import Field

from gnomon.algorithms.base import Algorithm, Credit, LossOutput, Settings, token_weight
from gnomon.algorithms.metric import mean


class FocalSettings(Settings):
    """Settings of the focal loss."""

    gamma: float = Field(2.0, ge=0, description="how much less a token counts that is known")


class Focal(Algorithm):
    """Cross-entropy on the tokens that are not known yet."""

    Settings = FocalSettings
    data = "demonstrations"
    base_lr = 1e-5
    metrics = ("nll", "focus")

    def loss(self, batch, step):
        logprobs = self.roles["policy"].logprobs(batch).logprobs
        weight = token_weight(batch)
        focus = (1 - logprobs.detach().exp()) ** self.settings.gamma
        loss = -(focus * logprobs * weight).sum() / step.totals.tokens
        return LossOutput(loss, {"nll": mean(-logprobs, weight), "focus": mean(focus, weight)})


class Nothing:
    """No method."""


class Vague(Algorithm):
    """It does not say what its data is."""


class Misspelt(Focal):
    data = "demonstration"


class Strange(Focal):
    class Settings:
        """Not gnomon's."""


class Lossless(Algorithm):
    data = "demonstrations"


class Sampler(Focal):
    """It samples, and learns from what was sampled as if it had been given."""

    data = "prompts"


class Rewarding(Focal):
    produces = "reward_model"


class Producing(Focal):
    produces = "rewards"


class Bare(Focal):
    def loss(self, batch, step):
        return super().loss(batch, step).loss


class Plain(Focal):
    def loss(self, batch, step):
        return LossOutput(super().loss(batch, step).loss, {"nll": 1.0})


class Listing(Focal):
    def credit(self, groups, step):
        return groups


class Picky(Focal):
    @classmethod
    def prepare(cls, groups, settings, training=True):
        return [], []


class Few(Focal):
    """It leaves some of its rows out at the beginning, and calls a metric as the loop does."""

    def begin(self, groups, training):
        return groups[:3]

    def credit(self, groups, step):
        return Credit(groups, {"step": 70.0, "iteration": 70.0})
'''
SAMPLING = '''
"""REINFORCE with the best response to a prompt as everyone's baseline."""

import torch

from gnomon.algorithms.base import Algorithm, Credit, LossOutput, responses_of, with_tokens
from gnomon.algorithms.metric import mean
from gnomon.algorithms.on_policy_settings import OnPolicySettings
from gnomon.algorithms.rollouts import token_groups
from gnomon.losses.reduce import masked_sum


class Regret(Algorithm):
    """Each response against the best one to the same prompt."""

    Settings = OnPolicySettings
    data = "prompts"
    metrics = ("regret", "policy_loss", "rounds")
    dropout = False

    def __init__(self, settings, bench):
        super().__init__(settings, bench)
        self.rounds = 0

    @classmethod
    def least_samples(cls, settings):
        return 2

    def credit(self, groups, step):
        judged = token_groups(groups, step)
        rows = []
        for group in judged:
            rewards = torch.tensor([r.scalar["reward"] for r in group.responses])
            behind = rewards - rewards.max()
            rows += [torch.full((len(r.ids),), float(b)) for r, b in zip(group.responses, behind)]
        column = torch.cat(rows)
        metrics = {"regret": -float(column.mean()), "rounds": float(self.rounds)}
        return Credit(with_tokens(judged, {"behind": column}), metrics, carried=len(judged))

    def loss(self, batch, step):
        logprobs = self.roles["policy"].logprobs(batch, temperature=step.temperature).logprobs
        per_token = -batch.token["behind"] * logprobs
        total = masked_sum(per_token, batch.response_mask) / step.totals.tokens
        return LossOutput(total, {"policy_loss": mean(per_token, batch.response_mask)})

    def end_iteration(self, step, metrics, carried):
        self.rounds += bool(carried)

    def state_dict(self):
        return {"rounds": self.rounds}

    def load_state_dict(self, state):
        self.rounds = state["rounds"]


class Bare(Regret):
    """It samples, but its settings do not say in how many steps."""

    from gnomon.algorithms.base import Settings
'''


WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe's own folder."""
    (tmp_path / "focal.py").write_text(OFFLINE)
    (tmp_path / "regret.py").write_text(SAMPLING)
    return tmp_path


def offline(algorithm: str = "focal.py:Focal", **more: Any) -> dict[str, Any]:
    data = {"path": "tunnel:demonstrations", "options": {"n": 12, "seed": 1}}
    train = {"steps": 2, "batch_size": 4, "lr": 1e-2, "checkpoint_every": 1}
    return {"name": "own", "algorithm": algorithm, "data": data, "train": train} | more


def sampling(algorithm: str = "regret.py:Regret", **more: Any) -> dict[str, Any]:
    stage = offline(algorithm)
    stage["data"] = {"path": "tunnel:prompts", "options": {"n": 8, "seed": 1}}
    stage |= {"reward": "gold", "rollout": {"samples": 3, "max_new_tokens": 5}}
    return stage | {"settings": {"epochs": 2}} | more


def run(
    folder: Path, model: Path, stage: dict[str, Any], *, resume: bool = False, name: str = "run"
) -> RunFolder:
    recipe = tw.make_recipe(model, folder / "runs", stage, name=name)
    run_recipe(recipe, base=folder, resume=resume, announce=lambda line: None)
    return RunFolder(recipe)


def rows(made: RunFolder) -> list[dict[str, Any]]:
    table = pq.read_table(made.stage("own").path / "metrics.parquet").to_pylist()
    return [row for row in table if not row.get("final")]


def test_a_method_of_ones_own_is_trained_saved_and_reported(
    folder: Path, tiny_folder: Path
) -> None:
    made = run(folder, tiny_folder, offline())
    seen = rows(made)
    assert [row["step"] for row in seen] == [1, 2]
    assert all(0 < row["focus"] < 1 for row in seen)
    assert seen[1]["nll"] < seen[0]["nll"]
    info = json.loads((made.stage("own").path / "stage.json").read_text())
    assert (info["status"], info["algorithm"]) == ("done", "focal.py:Focal")
    start = load_file(tiny_folder / WEIGHTS)
    end = load_file(made.stage("own").model / WEIGHTS)
    assert any(not torch.equal(start[k], end[k]) for k in end if k in start)
    assert "focal.py:Focal" in (made.path / "report.html").read_text()


def test_its_settings_reach_its_loss(
    folder: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With gamma 0 the focal loss is SFT's, bit for bit; with another it is not."""
    monkeypatch.setattr("gnomon.stages.run.write_report", lambda path: path / "report.html")
    ends = {}
    for name, stage in {
        "sft": offline("sft"),
        "zero": offline(settings={"gamma": 0}),
        "two": offline(),
    }.items():
        made = run(folder, tiny_folder, stage, name=name)
        ends[name] = (rows(made)[1]["loss"], load_file(made.stage("own").model / WEIGHTS))
    sft, zero, two = ends.values()
    assert zero[0] == sft[0] != two[0]
    assert all(torch.equal(sft[1][k], zero[1][k]) for k in sft[1])
    assert any(not torch.equal(sft[1][k], two[1][k]) for k in sft[1])


def test_a_method_that_samples_goes_on_where_it_stopped(
    folder: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gnomon.stages.run.write_report", lambda path: path / "report.html")
    whole = run(folder, tiny_folder, sampling())
    seen = rows(whole)
    assert [row["step"] for row in seen] == [2, 4]  # two epochs
    assert [row["rounds"] for row in seen] == [0, 1]
    assert all(row["regret"] >= 0 for row in seen)
    assert {"reward", "length", "finished"} <= seen[0].keys()
    ends = load_file(whole.stage("own").model / WEIGHTS)
    checkpoints = whole.stage("own").path / "checkpoints"
    (newest,) = checkpoints.glob("*2")
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    (whole.stage("own").model / WEIGHTS).unlink()
    resumed = run(folder, tiny_folder, sampling(), resume=True)
    assert [row["rounds"] for row in rows(resumed)] == [0, 1]
    again = load_file(resumed.stage("own").model / WEIGHTS)
    assert all(torch.equal(ends[k], again[k]) for k in ends)


def test_the_plan_knows_it(folder: Path, tiny_folder: Path) -> None:
    train = {"steps": 2, "batch_size": 4}  # lr: auto, by the method's base_lr
    recipe = tw.make_recipe(tiny_folder, folder / "runs", offline(train=train))
    (plan,) = make_plan(recipe, folder)
    assert plan.roles == ("policy",)
    assert plan.rows == 12
    assert plan.lr is not None
    assert plan.lr > 1e-5


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (offline("focl.py:Focal"), r"no file .*focl\.py"),
        (offline("focal.py:Fokal"), r"has no .*'Fokal'; did you mean 'Focal'"),
        (offline("focal.py:Nothing"), r"is not a method; derive a class from"),
        (offline("focal.py:mean"), r"is not a method; derive a class from"),
        (offline("focal.py:Vague"), r"does not say what its data is"),
        (offline("focal.py:Misspelt"), r"data is 'demonstration'; did you mean 'demonstrations'"),
        (offline("focal.py:Strange"), r"Settings that do not derive from"),
        (offline("focal.py:Lossless"), r"has no loss\(batch, step\)"),
        (offline("focal.py:Sampler"), r"has no credit\(groups, step\)"),
        (offline("focal.py:Rewarding"), r"has no result\(\)"),
        (offline("focal.py:Producing"), r"produces 'rewards'"),
        (offline("focal.py:"), r"focal\.py:"),
        (offline("focal"), r"One of your own is named as file\.py:Name"),
        (offline(settings={"gama": 1}), r"gama.*did you mean 'gamma'"),
        (offline(settings={"gamma": -1}), r"gamma.*greater than or equal to 0"),
        (offline(reward="gold"), r"uses no reward"),
        (offline(rollout={"samples": 2}), r"samples no responses"),
        (sampling(reward=[]), r"needs a reward"),
        (sampling(rollout={"samples": 1}), r"rollout\.samples to at least 2"),
        (sampling(settings={"epoch": 2}), r"epoch.*did you mean 'epochs'"),
        (sampling("regret.py:Bare", settings={}), r"must derive from .*OnPolicySettings"),
        (
            sampling(rollout={"samples": 3, "max_staleness": 1}),
            r"Regret is not made to learn from responses of older weights",
        ),
        (
            sampling(observe={"function": "regret.py:Regret", "name": "regret"}),
            r"cannot be called 'regret', which is a metric already",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    stage: dict[str, Any], said: str, folder: Path, tiny_folder: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(folder, tiny_folder, stage)
    recipe = tw.make_recipe(tiny_folder, folder / "runs", stage)
    with pytest.raises(ConfigError, match=said):
        make_plan(recipe, folder)
    assert not list((folder / "runs").glob("**/metrics.parquet"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Bare", "loss gave a Tensor; it has to be a LossOutput"),
        ("Plain", "loss, metric 'nll': gave a float; it has to be a Metric"),
        ("Listing", "credit gave a list; it has to be a Credit"),
        ("Picky", "can use none of its 12 rows"),
    ],
)
def test_what_it_gives_wrongly_is_said(
    name: str, said: str, folder: Path, tiny_folder: Path
) -> None:
    with pytest.raises(GnomonError, match=said):
        run(folder, tiny_folder, offline(f"focal.py:{name}"))


def test_a_method_may_leave_rows_out_and_cannot_move_the_loops_own_figures(
    folder: Path, tiny_folder: Path
) -> None:
    seen = rows(run(folder, tiny_folder, offline("focal.py:Few")))
    assert [(row["step"], row["iteration"]) for row in seen] == [(1, 1), (2, 2)]


def test_its_file_runs_once_and_again_when_it_has_changed(
    folder: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gnomon.stages.run.write_report", lambda path: path / "report.html")
    file = folder / "focal.py"
    ran = folder / "ran"
    file.write_text(f"open({str(ran)!r}, 'a').write('x')\n" + file.read_text())
    recipe = tw.make_recipe(tiny_folder, folder / "runs", offline(), name="twice")
    make_plan(recipe, folder)
    run_recipe(recipe, base=folder, announce=lambda line: None)
    assert ran.read_text() == "x"
    file.write_text(file.read_text().replace("focal loss", "loss"))
    os.utime(file, ns=(1, 1))
    make_plan(recipe, folder)
    assert ran.read_text() == "xx"


def test_no_code_refuses_what_it_would_have_to_import(folder: Path, tiny_folder: Path) -> None:
    (folder / "focal.py").write_text("raise RuntimeError('imported')\n")
    recipe = tw.make_recipe(tiny_folder, folder / "runs", offline())
    with pytest.raises(ConfigError, match=r"--no-code: the methods of 'own' \(focal.py:Focal\)"):
        make_plan(recipe, folder, code=False)
    with pytest.raises(ConfigError, match="imported"):
        make_plan(recipe, folder)


def test_a_misspelt_file_is_answered_with_the_nearest_before_anything_is_imported(
    folder: Path, tiny_folder: Path
) -> None:
    (folder / "focal.py").write_text("raise RuntimeError('imported')\n")
    check_names(tw.make_recipe(tiny_folder, folder / "runs", offline()), folder)
    recipe = tw.make_recipe(tiny_folder, folder / "runs", offline("focl.py:Focal"))
    with pytest.raises(ConfigError, match=r"no file .*focl\.py; did you mean 'focal\.py'"):
        check_names(recipe, folder)


def test_lr_auto_needs_a_rate_to_start_from(folder: Path, tiny_folder: Path) -> None:
    stage = sampling(train={"steps": 1, "batch_size": 2})
    said = r"no rule for 'regret.py:Regret', whose class gives no base_lr; give lr as a number"
    with pytest.raises(ConfigError, match=said):
        make_plan(tw.make_recipe(tiny_folder, folder / "runs", stage), folder)


def test_a_file_that_raises_says_where(folder: Path, tiny_folder: Path) -> None:
    (folder / "broken.py").write_text("x = 1\nraise ValueError('half written')\n")
    with pytest.raises(ConfigError, match=r"half written.*broken\.py:2"):
        run(folder, tiny_folder, offline("broken.py:Focal"))
