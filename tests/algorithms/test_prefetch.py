"""Sampling ahead of training: which weights write what, resuming, overlap, refusals, failures."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import online_zoo
import pytest
import torch
from grpo_zoo import ENDS, Spread, loop, make, weights
from torch import Tensor

import tiny_world as tw
from gnomon.algorithms.rollouts import Rollout
from gnomon.errors import ConfigError, EngineError, RewardsFailedError
from gnomon.judges.protocol import Sample, Score
from gnomon.records import Comparison, Cost, Judgement
from gnomon.rollout.protocol import Completion, Request, SamplingParams
from gnomon.rollout.replica import ReplicaEngine, TorchReplica
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.training.learner import Learner
from gnomon.training.loop import Loop
from gnomon.training.prefetch import Prefetch, StoppedError
from gnomon.training.rollout_state import STORED, pack_rollouts, unpack_rollouts
from gnomon.training.sampled import SampledSource


def ahead(learner: Learner, staleness: int, *, evaluates: bool = True) -> Any:
    """The same method, sampling from a copy of its weights that far ahead."""
    source = tw.sampled(learner)
    engine = ReplicaEngine(
        TorchReplica(
            learner.roles["policy"],
            lambda model, activate: TorchEngine(
                model, tw.tokenizer(), activate=activate, eos_token_ids=ENDS
            ),
        )
    )
    sampling = replace(source.sampling, max_staleness=staleness)
    played = replace(source.played, engine=engine, sampling=sampling)
    algorithm = type(learner.algorithm)(learner.algorithm.settings, learner.bench)
    held_out = source.held_out if evaluates else ()
    return Learner(algorithm, SampledSource(algorithm, source.prompts, played, held_out))


class Watched(Loop):
    """Keeps the weights that each iteration started from."""

    start: dict[int, dict[str, Tensor]]

    def _iteration(self, iteration: int) -> None:
        if not hasattr(self, "start"):
            self.start = {}
        self.start[iteration] = weights(self.learner)
        super()._iteration(iteration)


def watched(algorithm: Any, folder: Path, every: int = 1000) -> Watched:
    made = loop(algorithm, folder, every=every)
    made.__class__ = Watched
    made.options = replace(made.options, sample_every=1)
    return made  # type: ignore[return-value]


def rows(run: Loop) -> list[dict[str, Any]]:
    timing = ("seconds", "monitor_seconds", "tokens_per_second", "peak_rss_gb", "rollout_wait")
    return [{k: v for k, v in r.items() if k not in timing} for r in run.kept.metrics.rows]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("staleness", [1, 2])
def test_iteration_i_learns_from_what_the_weights_of_i_minus_k_wrote(
    staleness: int, lora: bool, tmp_path: Path
) -> None:
    algorithm = ahead(make(lora=lora, iterations=5), staleness)
    seen: dict[int, Sequence[Rollout]] = {}
    check = algorithm.source._check_errors
    algorithm.source._check_errors = lambda r, i: (seen.setdefault(i, r), check(r, i))
    run = watched(algorithm, tmp_path)
    run.run()
    algorithm.source.close()
    assert sorted(seen) == [0, 1, 2, 3, 4]  # and nothing beyond the last
    oracle = make(lora=lora, iterations=5)
    for i, rollouts in seen.items():
        wrote = run.start[max(0, i - staleness)]
        with torch.no_grad():
            for name, parameter in oracle.named_parameters():
                parameter.copy_(wrote[name])
        wanted = tw.sampled(oracle).rollouts(i)
        for mine, theirs in zip(rollouts, wanted, strict=True):
            assert mine.prompt.prompt.id == theirs.prompt.prompt.id
            assert [c.ids for c in mine.completions] == [c.ids for c in theirs.completions]
            assert mine.scores == theirs.scores
    metrics = [r for r in run.kept.metrics.rows if not r.get("final")]
    assert [r["staleness"] for r in metrics] == [min(i, staleness) for i in range(5)]
    assert all(r["mismatch"] < 1e-5 for r in metrics[:1])
    assert all(r["mismatch"] > 1e-4 for r in metrics[1:])  # the weights did move
    sampled = [r for r in run.kept.samples.rows if r.get("policy_iteration") is not None]
    by = {r["step"]: r["policy_iteration"] for r in sampled}
    assert [by[s] for s in sorted(by)] == [max(0, i - staleness) for i in range(5)]


def test_sampling_overlaps_training_and_timing_changes_nothing(tmp_path: Path) -> None:
    """Rewards of iteration i + 1 wait until iteration i trains; then the other way round."""

    def run(gate: bool, folder: Path) -> dict[str, Tensor]:
        training = [threading.Event() for _ in range(4)]

        class Gated(Spread):
            calls = 0

            def __call__(self, samples: Sequence[Sample]) -> list[Score]:
                if gate and self.calls:  # of iteration `calls`, while the one before trains
                    assert training[self.calls - 1].wait(60), "sampling does not overlap training"
                self.calls += 1
                return super().__call__(samples)

        algorithm = ahead(make(reward=Gated()), 1, evaluates=False)
        loss = algorithm.loss

        def noted(batch: Any, step: Any) -> Any:
            training[step.iteration].set()
            return loss(batch, step)

        algorithm.loss = noted
        loop(algorithm, folder).run()
        algorithm.source.close()
        return weights(algorithm)

    free, gated = run(False, tmp_path / "a"), run(True, tmp_path / "b")
    assert all(torch.equal(free[n], gated[n]) for n in free)


@pytest.mark.parametrize(
    ("staleness", "lora", "name"),
    [(1, False, "grpo"), (2, True, "grpo"), (1, True, "online_dpo")],
)
def test_a_killed_run_goes_on_to_the_same_end(
    staleness: int, lora: bool, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With evaluations in between; the checkpoint holds what was under way."""

    def fresh() -> Any:
        made = (
            online_zoo.make(name, lora=lora, iterations=6)
            if name == "online_dpo"
            else make(name, lora=lora, iterations=6)
        )
        return ahead(made, staleness)

    def go(algorithm: Any, folder: Path) -> Loop:
        made = loop(algorithm, folder, every=3)
        made.options = replace(made.options, eval_every=2)
        return made

    whole = fresh()
    straight = go(whole, tmp_path / "whole")
    straight.run()
    iterate = Loop._iteration

    def killed(self: Loop, iteration: int) -> None:
        if iteration == 5:
            raise KeyboardInterrupt
        iterate(self, iteration)

    monkeypatch.setattr(Loop, "_iteration", killed)
    broken = fresh()
    with pytest.raises(KeyboardInterrupt):
        go(broken, tmp_path / "broken").run()
    monkeypatch.undo()
    resumed = fresh()
    second = go(resumed, tmp_path / "broken")
    second.run(resume=True)
    for algorithm in (whole, broken, resumed):
        algorithm.source.close()
    ends = weights(whole)
    assert all(torch.equal(ends[n], p) for n, p in resumed.named_parameters())
    assert repr(rows(second)) == repr(rows(straight))

    forgetful = fresh()  # this test can fail: what was under way matters
    forgetful.load_state_dict = lambda state: None
    third = go(forgetful, tmp_path / "broken")
    third.checkpoints.keep = 2
    for newer in [i for i in third.checkpoints.iterations() if i > 3]:
        for file in sorted(third.checkpoints.path(newer).iterdir()):
            file.unlink()
        third.checkpoints.path(newer).rmdir()
    third.run(resume=True)
    forgetful.source.close()
    assert any(not torch.equal(ends[n], p) for n, p in forgetful.named_parameters())


def test_evaluations_are_of_the_weights_of_now(tmp_path: Path) -> None:
    algorithm = ahead(make(), 1)
    algorithm.experience(0)  # iteration 1 is now under way, from the start weights
    tw.shake(algorithm.roles["policy"], 0.2)
    shared = make()
    tw.shake(shared.roles["policy"], 0.2)
    assert algorithm.evaluate().metrics == shared.evaluate().metrics
    algorithm.source.close()


def test_rollouts_come_back_from_a_checkpoint_as_they_were() -> None:
    prompts = tw.prompts(3)
    completions = [
        Completion((5, 6), torch.tensor([-0.1, -2.5]), "eos", "a"),
        Completion((7,), torch.tensor([-1e-7]), "length", ""),
    ]
    judgement = Judgement(
        "judge",
        (Score(0.1, {"x": 1.5}), Score(None, error="it failed")),
        (Comparison(0, 1, margin=0.5),),
        version="v1",
        cost=Cost(tokens=7),
    )
    observed = {"gold": Judgement("gold", (Score(2.0), Score(3.0)))}
    given = [
        Rollout(prompts[2], completions, judgement, observed),
        Rollout(prompts[0], [], Judgement("judge"), {}),
    ]
    back = unpack_rollouts(pack_rollouts(given, prompts), prompts)
    assert [r.prompt for r in back] == [prompts[2], prompts[0]]
    assert back[0].judgement == judgement
    assert back[0].observed == observed
    for mine, theirs in zip(back[0].completions, completions, strict=True):
        assert (mine.ids, mine.finish_reason, mine.text) == (
            theirs.ids,
            theirs.finish_reason,
            theirs.text,
        )
        assert torch.equal(mine.logprobs, theirs.logprobs)
    assert list(back[1].completions) == []


@pytest.mark.parametrize("kind", [Rollout, Completion, Judgement, Score])
def test_no_field_of_a_rollout_is_lost_in_a_checkpoint(kind: type) -> None:
    assert tuple(f.name for f in fields(kind)) == STORED[kind.__name__]


# -- refusals and failures ------------------------------------------------------------------------


def test_an_engine_that_shares_the_weights_cannot_run_ahead() -> None:
    given = make()
    source = tw.sampled(given)
    sampling = replace(source.sampling, max_staleness=1)
    with pytest.raises(ConfigError, match="TorchEngine samples from the very weights"):
        SampledSource(
            given.algorithm, source.prompts, replace(source.played, sampling=sampling), ()
        )


def test_methods_that_cannot_correct_for_old_weights_refuse_them() -> None:
    def refuses(name: str) -> str | None:
        return tw.method(name).refuses_older_weights(tw.settings(name))

    assert "ppo does not correct" in str(refuses("ppo"))
    assert "SFT is not made to learn" in str(refuses("sft"))  # whoever does not say that it can
    for name in ("online_dpo", "raft", "grpo"):
        assert refuses(name) is None
    with pytest.raises(ConfigError, match="importance_correction is off"):
        ahead(make(importance_correction="off"), 1)


class Dies:
    """An engine whose process goes away at a certain call."""

    def __init__(self, inner: ReplicaEngine, at: int) -> None:
        self.inner, self.left = inner, at
        self.capture, self.pinned = inner.capture, inner.pinned
        self.sync_weights, self.rest = inner.sync_weights, inner.rest

    def generate(self, requests: Sequence[Request], params: SamplingParams, p: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise EngineError("the rollout server is gone")
        return self.inner.generate(requests, params, p)


def test_an_engine_that_dies_stops_the_run_with_its_checkpoint_intact(tmp_path: Path) -> None:
    whole = ahead(make(iterations=5), 1)
    loop(whole, tmp_path / "whole", every=1).run()
    whole.source.close()
    algorithm = ahead(make(iterations=5), 1)
    source = tw.sampled(algorithm)
    dies = Dies(source.played.engine, 3)
    source.prefetch._engine = dies
    source.played = replace(source.played, engine=dies)
    run = loop(algorithm, tmp_path / "run", every=1)
    with pytest.raises(EngineError, match="is gone"):
        run.run()
    algorithm.source.close()
    assert run.checkpoints.latest() == 3  # no iteration is lost: the order is, with its weights
    again = ahead(make(iterations=5), 1)
    loop(again, tmp_path / "run", every=1).run(resume=True)
    again.source.close()
    ends = weights(whole)
    assert all(torch.equal(ends[n], p) for n, p in again.named_parameters())


class Held(Spread):
    """The ``at``-th rewards (from 0) wait to be let go, and say when they are asked for; notes the
    prompts that it was shown."""

    def __init__(self, at: int = -1) -> None:
        super().__init__()
        self.at, self.calls = at, 0
        self.waits, self.go = threading.Event(), threading.Event()
        self.seen: list[list[str]] = []

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        self.calls += 1
        if self.calls - 1 == self.at:
            self.waits.set()
            assert self.go.wait(60), "a checkpoint waits for what is being sampled"
        self.seen.append([s.prompt.id for s in samples])
        return super().__call__(samples)


@pytest.mark.parametrize(("staleness", "lora"), [(1, False), (2, True)])
def test_a_slow_order_is_drawn_again_from_its_own_weights(
    staleness: int, lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the rollouts of iteration 4 are under way: the checkpoint does not wait for
    them, and the resumed run neither replaces nor loses nor repeats any prompt."""
    reward = Held()
    whole = ahead(make(reward=reward, lora=lora, iterations=6), staleness, evaluates=False)
    straight = loop(whole, tmp_path / "whole", every=1)
    straight.run()
    whole.source.close()
    held = Held(at=4)
    broken = ahead(make(reward=held, lora=lora, iterations=6), staleness, evaluates=False)
    iterate, checkpoint = Loop._iteration, Loop._checkpoint

    def killed(self: Loop, iteration: int) -> None:
        if iteration == 4:
            raise KeyboardInterrupt
        iterate(self, iteration)

    def once_sampled(self: Loop, iteration: int) -> None:
        assert iteration < 4 or held.waits.wait(60), "nothing is sampled ahead"
        checkpoint(self, iteration)

    monkeypatch.setattr(Loop, "_iteration", killed)
    monkeypatch.setattr(Loop, "_checkpoint", once_sampled)
    first = loop(broken, tmp_path / "broken", every=1)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    monkeypatch.undo()
    held.go.set()
    broken.source.close()
    ordered = first.checkpoints.read(4).algorithm_state["algorithm"]["source"]["ahead"]
    missing = [i for i, order in ordered["orders"].items() if order["rollouts"] is None]
    assert missing == [str(i) for i in range(4, min(4 + staleness, 6))]
    assert sorted(ordered["snapshots"]) == [str(int(i) - staleness) for i in missing]
    kept = [len(ordered["orders"][i]["finished"]) for i in missing]
    assert kept == [1] + [0] * (staleness - 1)  # the first one's samples wait for their rewards
    again = Held()
    resumed = ahead(make(reward=again, lora=lora, iterations=6), staleness, evaluates=False)
    replica = tw.sampled(resumed).played.engine.replica  # type: ignore[attr-defined]
    sample, sampled = replica.sample, []
    replica.sample = lambda *given: (sampled.append(given), sample(*given))[1]
    second = loop(resumed, tmp_path / "broken", every=1)
    second.run(resume=True)
    resumed.source.close()
    ends = weights(whole)
    assert all(torch.equal(ends[n], p) for n, p in resumed.named_parameters())
    assert repr(rows(second)) == repr(rows(straight))
    assert held.seen[:4] + again.seen == reward.seen
    assert len(sampled) == 1  # of iteration 5


def test_finished_orders_are_neither_sampled_again_nor_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = Held()
    algorithm = ahead(make(reward=reward, iterations=5), 2, evaluates=False)
    iterate = Loop._iteration

    def killed(self: Loop, iteration: int) -> None:
        if iteration == 3:
            for order in tw.sampled(algorithm).prefetch._orders.values():
                order.future.result()
            self.state.save(3)
            raise KeyboardInterrupt
        iterate(self, iteration)

    monkeypatch.setattr(Loop, "_iteration", killed)
    with pytest.raises(KeyboardInterrupt):
        loop(algorithm, tmp_path, every=1000).run()
    monkeypatch.undo()
    algorithm.source.close()
    again = Held()
    resumed = ahead(make(reward=again, iterations=5), 2, evaluates=False)
    loop(resumed, tmp_path, every=1000).run(resume=True)
    resumed.source.close()
    assert len(reward.seen) == 5  # iterations 3 and 4 came from the buffer
    assert again.seen == []


def test_rewards_that_failed_are_asked_again_by_a_resumed_run(tmp_path: Path) -> None:
    class Fails(Held):
        def __call__(self, samples: Sequence[Sample]) -> list[Score]:
            found = super().__call__(samples)
            return found if self.calls != 3 else [Score(None, error="down") for _ in found]

    whole = ahead(make(reward=Held(), iterations=5), 1, evaluates=False)
    loop(whole, tmp_path / "whole").run()
    algorithm = ahead(make(reward=Fails(), iterations=5), 1, evaluates=False)
    run = loop(algorithm, tmp_path / "run", every=1000)
    with pytest.raises(RewardsFailedError, match="iteration 3"):
        run.run()
    assert run.checkpoints.latest() == 2
    again = ahead(make(reward=Held(), iterations=5), 1, evaluates=False)
    loop(again, tmp_path / "run", every=1000).run(resume=True)
    for learner in (whole, algorithm, again):
        learner.source.close()
    ends = weights(whole)
    assert all(torch.equal(ends[n], p) for n, p in again.named_parameters())


def test_closing_does_not_wait_for_everything_that_was_ordered() -> None:
    entered, asked = threading.Event(), []

    class Engine:
        shares_weights = False

        def capture(self) -> str:
            return "now"

        def pinned(self, snapshot: str, progress: Any) -> Any:
            self.progress = progress
            return threading.Lock()

    engine = Engine()

    def sample(i: int) -> int:
        asked.append(i)
        if i == 0:
            return i
        entered.set()
        while True:  # as an engine does, until its progress is no longer wanted
            engine.progress(0, 1)

    prefetch: Prefetch[int] = Prefetch(engine, sample, 3, 10)
    assert prefetch.take(0).rollouts == 0
    ordered = [order.future for _, order in sorted(prefetch._orders.items())]
    assert len(ordered) == 4
    assert entered.wait(60)
    prefetch.close()
    assert isinstance(ordered[1].exception(), StoppedError)
    for future in ordered[2:]:  # taken up just before the end, or never
        assert future.cancelled() or isinstance(future.exception(), StoppedError)
    assert asked == [0, 1]
