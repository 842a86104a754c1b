"""The loop: what is stopped, recorded and resumed, with methods that misbehave on cue."""

from __future__ import annotations

import errno
import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

import tiny_world as tw
from gnomon.algorithms.base import Evaluation, LossOutput, Step, Workbench
from gnomon.algorithms.metric import MetricSums
from gnomon.algorithms.offline_settings import SFTSettings
from gnomon.algorithms.sft import SFT
from gnomon.data.batch import Batch
from gnomon.errors import RewardsFailedError, RunError, RunStopped
from gnomon.losses.reduce import Totals
from gnomon.models.roles import Role
from gnomon.models.save import save_policy
from gnomon.records import TokenGroup
from gnomon.training.learner import Experience, GivenSource, Learner, Minibatch
from gnomon.training.loop import Loop
from gnomon.training.optim import LoopOptions
from gnomon.training.progress import Progress
from gnomon.training.strategy import OneDevice


class Staged(Learner):
    """SFT that breaks, evaluates and keeps state as a test wants it."""

    nan_at: int | None = None
    infinite_gradient_at: int | None = None
    fail_rewards_at: int | None = None
    fail_evaluation = False
    eval_calls: list[int]
    count = 0
    gathered = 0
    modes: list[bool]

    def experience(self, iteration: int) -> Experience:
        self.gathered += 1
        self.modes = [role.training for role in self.roles.values()]
        if iteration == self.fail_rewards_at:
            raise RewardsFailedError("all failed", [{"response": "bad", "error": "why"}])
        given = super().experience(iteration)
        seen = {"seen": float(iteration)}
        return Experience(given.step, given.minibatches, seen, [{"response": "x"}])

    def loss(self, batch: Batch, step: Step) -> LossOutput:
        assert all(role.training for role in self.roles.values())
        out = super().loss(batch, step)
        if step.iteration == self.nan_at:
            return LossOutput(out.loss * math.nan, out.metrics)
        if step.iteration == self.infinite_gradient_at:  # a finite loss with an infinite gradient
            weight = next(p for _, p in self.named_parameters())
            return LossOutput(out.loss + (weight - weight.detach()).abs().sqrt().sum() * 0, {})
        return out

    def evaluate(self) -> Evaluation:
        assert not any(role.training for role in self.roles.values())
        self.eval_calls.append(self.gathered)
        if self.fail_evaluation:
            raise RewardsFailedError("all failed", [{"response": "held out", "error": "why"}])
        return Evaluation({"eval/x": 1.0}, {"x": 1.0}, [{"response": "held out"}])

    def end_iteration(self, experience: Experience, metrics: Any) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]


def make(folder: Path, *, iterations: int = 4, **options: Any) -> Loop:
    policy = Role("policy", tw.trunk(), trainable=True)
    bench = Workbench(
        {"policy": policy}, batch_size=2, iterations=iterations, tokens_per_microbatch=20
    )
    algorithm = SFT(SFTSettings(), bench)
    learner = Staged(algorithm, GivenSource(algorithm, tw.demonstrations()))
    learner.eval_calls = []
    settings = {"lr": 1e-2, "checkpoint_every": 1, "sample_every": 1, "seed": 3} | options
    return Loop(
        learner,
        LoopOptions(iterations=iterations, **settings),
        folder,
        Progress("test", iterations, enabled=False, console=Console(quiet=True)),
    )


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in loop.parameters.items()}


def same(one: Loop, other: Loop) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(weights(one).values(), weights(other).values(), strict=True)
    )


def rows(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def training_steps(folder: Path) -> list[int]:
    return [r["step"] for r in rows(folder) if not r.get("final")]


def test_a_run_leaves_one_row_for_each_iteration_and_one_of_the_end(tmp_path: Path) -> None:
    loop = make(tmp_path, eval_every=2)
    last = loop.run()
    assert training_steps(tmp_path) == [1, 2, 3, 4]
    assert [r["iteration"] for r in rows(tmp_path)] == [1, 2, 3, 4, 4]
    assert rows(tmp_path)[-1]["eval/x"] == 1.0
    assert last["seen"] == 3.0
    assert last["loss"] == rows(tmp_path)[3]["loss"]
    assert last["eval/x"] == 1.0  # of the final evaluation
    assert loop.learner.eval_calls == [0, 2, 4]
    assert (tmp_path / "evals.json").is_file()
    samples = rows(tmp_path, "samples")
    places = [(s["step"], s["evaluation"]) for s in samples]
    assert places == [(0, 0), (1, None), (2, None), (2, 2), (3, None), (4, None), (4, 4)]
    assert not any(role.training for role in loop.learner.roles.values())


def test_every_number_of_the_optimizer_arrives(tmp_path: Path) -> None:
    numbers = {"betas": (0.8, 0.999), "eps": 1e-6, "weight_decay": 0.1, "head_weight_decay": 0.2}
    loop = make(tmp_path, lr=1e-3, schedule="linear", warmup=0, min_lr_ratio=0.5, **numbers)
    decay = next(g for g in loop.updater.optimizer.param_groups if g["name"] == "decay")
    assert {k: decay[k] for k in ("betas", "eps", "weight_decay")} == {
        k: v for k, v in numbers.items() if k != "head_weight_decay"
    }
    loop.run()
    rates = [r["lr"] for r in rows(tmp_path) if not r.get("final")]
    assert rates == pytest.approx([1e-3 * (0.5 + 0.5 * (1 - i / 4)) for i in range(4)])
    assert loop.options.optimizer() == {
        "name": "AdamW",
        "lr": 1e-3,
        "schedule": "linear",
        "min_lr_ratio": 0.5,
        "warmup": 0,
        "max_grad_norm": 1.0,
        **numbers,
    }


def test_gradients_are_cut_at_the_norm_asked_for_or_never(tmp_path: Path) -> None:
    free, cut, far = (
        make(tmp_path / str(limit), iterations=2, max_grad_norm=limit, eps=1.0)
        for limit in (None, 1e-3, 1e9)
    )
    for loop in (free, cut, far):
        loop.run()
    assert same(free, far)
    assert not same(free, cut)


def test_the_loss_that_is_logged_is_the_steps_whatever_the_split(tmp_path: Path) -> None:
    whole = make(tmp_path / "a")
    whole.learner.bench.tokens_per_microbatch = 10_000
    split = make(tmp_path / "b")
    start = weights(whole)
    a, b = whole.run(), split.run()
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
    assert a["nll"] == pytest.approx(b["nll"], rel=1e-4)
    # Adam turns the rounding of a gradient near zero into a step of up to lr, so single weights may
    # differ; the updates as a whole may not.
    updates = [{n: p - start[n] for n, p in weights(loop).items()} for loop in (whole, split)]
    assert tw.distance(*updates) < 1e-3


def test_experience_is_gathered_without_dropout_and_the_loss_with_it(tmp_path: Path) -> None:
    loop = make(tmp_path)
    loop.run()
    assert loop.learner.modes == [False]  # and the loss asserts that it is on


@pytest.mark.parametrize("kind", ["nan_at", "infinite_gradient_at"])
def test_a_loss_that_is_not_finite_stops_with_a_name_and_a_usable_checkpoint(
    tmp_path: Path, kind: str
) -> None:
    loop = make(tmp_path)
    setattr(loop.learner, kind, 2)
    with pytest.raises(RunError) as caught:
        loop.run()
    message = str(caught.value)
    assert "iteration 3:" in message  # counted from 1, as in the metrics
    assert "checkpoint of iteration 2 is intact" in message
    groups = {g.id for g in Learner.experience(loop.learner, 2).minibatches[0].groups}
    assert any(g in message for g in groups)
    assert "--resume" in message
    assert all(torch.isfinite(p).all() for p in loop.parameters.values())  # not stepped
    assert training_steps(tmp_path) == [1, 2]
    again = make(tmp_path)
    again.run(resume=True)  # the cause is gone
    straight = make(tmp_path / "straight")
    straight.run()
    assert same(again, straight)
    assert training_steps(tmp_path) == [1, 2, 3, 4]


def test_only_the_groups_of_the_microbatch_that_broke_are_named(tmp_path: Path) -> None:
    """All micro-batches are done before the step looks at their losses."""
    loop = make(tmp_path)
    loop.learner.bench.tokens_per_microbatch = 1  # a group each
    first, last = Learner.experience(loop.learner, 0).minibatches[0].groups
    loss = loop.learner.loss

    def broken(batch: Batch, step: Step) -> LossOutput:
        out = loss(batch, step)
        return replace(out, loss=out.loss * math.nan) if last.id in batch.group_ids else out

    loop.learner.loss = broken  # type: ignore[method-assign]
    before = weights(loop)
    with pytest.raises(RunError, match=f"the loss is nan on groups {last.id};") as caught:
        loop.run()
    assert first.id not in str(caught.value)
    assert all(torch.equal(before[name], w) for name, w in weights(loop).items())


def test_before_the_first_checkpoint_it_says_that_there_is_none(tmp_path: Path) -> None:
    loop = make(tmp_path)
    loop.learner.nan_at = 0
    with pytest.raises(RunError, match=r"iteration 1: .*no checkpoint yet"):
        loop.run()


def test_failed_rewards_are_kept_for_people_and_dropped_by_the_resumed_run(tmp_path: Path) -> None:
    loop = make(tmp_path)
    loop.learner.fail_rewards_at = 2
    with pytest.raises(RewardsFailedError):
        loop.run()
    kept = rows(tmp_path, "samples")
    assert (kept[-1]["step"], kept[-1]["error"]) == (3, "why")
    make(tmp_path).run(resume=True)
    assert [s["error"] for s in rows(tmp_path, "samples")] == [None] * 5


def test_failed_rewards_cost_no_iteration_that_was_done(tmp_path: Path) -> None:
    straight = make(tmp_path / "straight")
    straight.run()
    loop = make(tmp_path / "failed", checkpoint_every=100)
    loop.learner.fail_rewards_at = 3
    with pytest.raises(RewardsFailedError):
        loop.run()
    again = make(tmp_path / "failed", checkpoint_every=100)
    again.run(resume=True)
    assert again.learner.gathered == 1  # the fourth iteration
    assert same(again, straight)


def test_a_failed_evaluation_costs_no_training(tmp_path: Path) -> None:
    loop = make(tmp_path, checkpoint_every=100)
    loop.learner.fail_evaluation = True
    with pytest.raises(RewardsFailedError):
        loop.run()
    again = make(tmp_path, checkpoint_every=100)
    again.run(resume=True)
    assert again.learner.gathered == 0
    assert [row["final"] for row in rows(tmp_path)] == [None, None, None, None, 1]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_that_is_cut_off_goes_on_bit_for_bit(tmp_path: Path, stop: int) -> None:
    straight = make(tmp_path / "straight", checkpoint_every=2)
    straight.run()
    cut = make(tmp_path / "cut", checkpoint_every=2)

    class Killed(BaseException):
        pass

    original = cut.learner.experience

    def experience(iteration: int) -> Experience:
        if iteration == stop:
            raise Killed
        return original(iteration)

    cut.learner.experience = experience
    with pytest.raises(Killed):
        cut.run()
    again = make(tmp_path / "cut", checkpoint_every=2)
    last = again.run(resume=True)
    assert same(again, straight)
    assert again.learner.count == straight.learner.count == 4
    assert training_steps(tmp_path / "cut") == [1, 2, 3, 4]
    assert len(rows(tmp_path / "cut", "samples")) == len(rows(tmp_path / "straight", "samples"))
    assert last["loss"] == rows(tmp_path / "straight")[3]["loss"]
    a, b = rows(tmp_path / "cut"), rows(tmp_path / "straight")
    assert [r["loss"] for r in a] == [r["loss"] for r in b]


def test_resuming_a_finished_run_trains_nothing_and_gives_its_last_figures(tmp_path: Path) -> None:
    first = make(tmp_path)
    last = first.run()
    again = make(tmp_path)
    again.learner.nan_at = 3  # would raise if an iteration ran
    figures = again.run(resume=True)
    assert same(again, first)
    assert again.learner.eval_calls == []
    assert figures["loss"] == last["loss"]
    assert training_steps(tmp_path) == [1, 2, 3, 4]


def test_a_run_that_is_not_resumed_starts_from_the_beginning(tmp_path: Path) -> None:
    make(tmp_path).run()
    fresh = make(tmp_path)
    fresh.run()
    assert fresh.learner.count == 4


def test_a_full_disk_at_a_checkpoint_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = make(tmp_path / "straight")
    straight.run()
    real, calls = os.fsync, []

    def full(fd: int) -> None:
        target = os.readlink(f"/proc/self/fd/{fd}")
        if "step-000003" in target:
            calls.append(target)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd)

    loop = make(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="disk is full") as caught:
            loop.run()
    assert calls
    assert "--resume" in str(caught.value)
    assert loop.checkpoints.latest() == 2
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))  # the half-written one is gone
    again = make(tmp_path / "run")
    again.run(resume=True)
    assert same(again, straight)
    assert training_steps(tmp_path / "run") == [1, 2, 3, 4]


def test_random_numbers_hang_on_the_iteration_alone(tmp_path: Path) -> None:
    """Dropout and the like draw the same numbers whatever was drawn before."""
    drawn: dict[str, list[float]] = {}
    for name, extra in (("a", 0), ("b", 5)):
        loop = make(tmp_path / name)
        real = loop.learner.experience

        def experience(iteration: int, real: Any = real, name: str = name) -> Experience:
            drawn.setdefault(name, []).append(float(torch.rand(())))
            return real(iteration)

        loop.learner.experience = experience
        torch.rand(extra)
        loop.run()
    assert drawn["a"] == drawn["b"]
    assert len(set(drawn["a"])) == 4


def test_an_iteration_without_minibatches_is_recorded(tmp_path: Path) -> None:
    loop = make(tmp_path, iterations=1)
    loop.learner.experience = lambda i: Experience(Step(i), [], {"reward": 0.5})
    before = weights(loop)
    assert loop.run()["reward"] == 0.5
    assert all(torch.equal(p, before[n]) for n, p in loop.parameters.items())


def test_several_minibatches_are_several_steps(tmp_path: Path) -> None:
    loop = make(tmp_path, iterations=2)
    groups = tw.demonstrations()
    loop.learner.experience = lambda i: Experience(
        Step(i), [Minibatch(groups[:2]), Minibatch(groups[2:4]), Minibatch(groups[4:])]
    )
    loop.run()
    assert loop.step == 6
    assert training_steps(tmp_path) == [3, 6]


# -- several processes ----------------------------------------------------------------------------


class TwoProcesses(OneDevice):
    """What the loop sees where another process works on as many groups as this one."""

    other_problem: str | None = None

    def total(self, counted: Totals) -> Totals:
        return Totals(**{name: 2 * count for name, count in asdict(counted).items()})

    def figures(self, metrics: MetricSums) -> dict[str, float]:
        return {name: 2 * value for name, value in super().figures(metrics).items()}

    def agree(self, problem: str | None) -> str | None:
        return problem or self.other_problem


def test_the_loss_is_divided_by_what_all_processes_counted(tmp_path: Path) -> None:
    alone, one_of_two = (make(tmp_path / name, iterations=1) for name in ("alone", "two"))
    one_of_two.updater.strategy = TwoProcesses()
    a, b = alone.run(), one_of_two.run()
    assert b["loss"] == pytest.approx(a["loss"] / 2, rel=1e-6)
    assert b["grad_norm"] == pytest.approx(a["grad_norm"] / 2, rel=1e-5)
    assert b["nll"] == 2 * a["nll"]  # metrics are read through the strategy too


def test_a_problem_of_another_process_stops_this_one(tmp_path: Path) -> None:
    loop = make(tmp_path)
    loop.updater.strategy = strategy = TwoProcesses()
    strategy.other_problem = "the loss is nan on process 1"
    with pytest.raises(RunError, match="the loss is nan on process 1"):
        loop.run()


# -- weights of 0, weights that blow up, and iterations that train nothing -------------------------


def weighted(*weights: float) -> list[TokenGroup]:
    groups = tw.demonstrations()[: len(weights)]
    return [replace(g, weight=w) for g, w in zip(groups, weights, strict=True)]


def train_on(folder: Path, *steps: list[TokenGroup]) -> Loop:
    loop = make(folder, iterations=len(steps))
    loop.learner.experience = lambda i: Experience(Step(i), [Minibatch(steps[i])])
    loop.run()
    return loop


def test_a_group_of_weight_0_counts_nothing_and_a_step_of_them_changes_nothing(
    tmp_path: Path,
) -> None:
    some = train_on(tmp_path / "some", weighted(1, 0, 0.5), weighted(0, 0), weighted(0.25, 0))
    first, second, third = weighted(1, 0, 0.5), weighted(0, 0), weighted(0.25, 0)
    none = train_on(tmp_path / "none", [first[0], first[2]], [], [third[0]])
    assert second[0].weight == 0
    assert same(some, none)
    assert all(torch.isfinite(p).all() for p in some.parameters.values())
    assert [r["grad_norm"] == 0 for r in rows(tmp_path / "some")[:3]] == [False, True, False]
    assert some.idle.count == 1


@pytest.mark.parametrize("lr", [math.inf, 1e39])
def test_weights_that_are_not_finite_are_neither_checkpointed_nor_saved(
    tmp_path: Path, lr: float
) -> None:
    loop = make(tmp_path, iterations=1, lr=lr)
    with pytest.raises(RunError, match=r"iteration 1: the weights are not finite .*train\.lr is"):
        loop.run()
    assert loop.checkpoints.iterations() == []
    with pytest.raises(RunError, match=r"model was not written: .* is not finite"):
        save_policy(tmp_path / "model", loop.learner.roles["policy"])
    assert not (tmp_path / "model").exists()


def test_weights_that_blew_up_are_blamed_on_the_steps_and_not_on_the_rows(tmp_path: Path) -> None:
    loop = make(tmp_path, lr=1e39, checkpoint_every=100)
    with pytest.raises(RunError, match=r"iteration 2: the loss is nan, since the weights are not"):
        loop.run()
    assert loop.checkpoints.latest() is None


def test_iterations_that_train_nothing_are_told_of(tmp_path: Path) -> None:
    loop = make(tmp_path, iterations=12)
    told: list[str] = []
    loop.idle.tell = told.append
    loop.learner.experience = lambda i: Experience(Step(i), [])
    loop.run()
    assert [line.split(" trained nothing")[0] for line in told] == [
        "warning: iteration 1",
        "warning: iteration 10 (and 9 before it)",
        "warning: the stage",
    ]
    assert "any of its 12 iterations" in told[-1]
    assert loop.idle.count == 12


def test_an_evals_file_that_was_lost_is_made_again_without_its_rows_twice(tmp_path: Path) -> None:
    make(tmp_path).run()
    before = (tmp_path / "evals.json").read_bytes()
    (tmp_path / "evals.json").unlink()
    make(tmp_path).run(resume=True)
    assert (tmp_path / "evals.json").read_bytes() == before
    assert [r["iteration"] for r in rows(tmp_path)] == [1, 2, 3, 4, 4]


def test_a_stop_is_saved_before_any_part_of_an_iteration_changed_the_weights(
    tmp_path: Path,
) -> None:
    straight = make(tmp_path / "straight", checkpoint_every=100)
    straight.run()
    loop = make(tmp_path / "run", checkpoint_every=100)
    real = loop.learner.experience

    def experience(iteration: int) -> Experience:
        if iteration == 2:
            loop.stop.signal = 2
            loop.stop.watching(lambda done, total: None)(1, 2)  # as a rollout does
        return real(iteration)

    loop.learner.experience = experience
    with pytest.raises(RunStopped, match="the checkpoint of iteration 2 of 4 is saved"):
        loop.run()
    again = make(tmp_path / "run", checkpoint_every=100)
    again.run(resume=True)
    assert same(again, straight)
    assert training_steps(tmp_path / "run") == [1, 2, 3, 4]
