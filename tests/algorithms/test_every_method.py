"""What holds for every method of the registry: it logs what it declares, and it can be resumed."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tiny_world as tw
from fake_cuda import DEVICE, FakeCuda, fake_cuda
from gnomon.algorithms.base import LossOutput, Workbench
from gnomon.algorithms.metric import MetricSums
from gnomon.algorithms.registry import METHODS
from gnomon.algorithms.rollouts import ROLLOUT_METRICS
from gnomon.data.batch import Batch, pack
from gnomon.judges.protocol import Sample, SampleJudge, Score
from gnomon.models.logprobs import OutputHead
from gnomon.models.roles import Role
from gnomon.records import TokenGroup
from gnomon.rollout.protocol import SamplingParams
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.training.learner import Experience, Learner
from gnomon.training.loop import LOOP_METRICS, Loop, LoopOptions
from gnomon.training.monitors import MONITORS
from gnomon.training.progress import Progress
from gnomon.training.sampled import Played, Sampling
from gnomon.training.strategy import OneDevice
from gnomon.training.update import Updater

ENDS = (tw.EOS, *range(8, 60))
"""Tokens that end a response, so that some finish and some are cut off."""
REMEMBERS: list[tuple[str, dict[str, Any]]] = [
    ("dpo", {"reference": "synced", "sync_every": 1}),
    ("kto", {"reference": "synced", "sync_every": 1}),
    ("online_dpo", {"replay": 0.5, "refresh_reference": 2}),
    ("online_dpo", {"replay": 0.5, "refresh_reference": 1}),
    ("ppo", {"target_kl": 0.001, "kl_horizon": 100}),
    ("grpo", {"sync_reference_every": 1, "log_kl": True}),
    ("grpo", {"sync_reference_every": 1, "sync_reference_alpha": 0.3}),
    ("reinforce", {}),
]
"""Methods that remember more than weights, and the settings with which it matters."""


class Right(SampleJudge):
    """1 where most tokens are even, else 0."""

    name = "right"

    def __call__(self, samples: Sequence[Sample]) -> list[Score]:
        even = [sum(i % 2 == 0 for i in s.response_ids) for s in samples]
        return [
            Score(float(2 * n > len(s.response_ids))) for n, s in zip(even, samples, strict=True)
        ]


def labelled(seed: int = 0) -> list[TokenGroup]:
    """Answers to six prompts, every second one bad."""
    groups = tw.demonstrations(seed)
    return [
        replace(g, responses=(replace(g.responses[0], scalar={"label": float(i % 2)}),))
        for i, g in enumerate(groups)
    ]


REQUIRED: dict[str, dict[str, Any]] = {"distill": {"teacher": "another"}}
"""Settings without defaults."""


def roles(name: str, given: Mapping[str, Any]) -> dict[str, Role]:
    made: dict[str, Role] = {}
    for i, need in enumerate(tw.method(name).needs(tw.settings(name, **given))):
        head = tw.head(i, need.outputs, bias=need.critic) if need.outputs else None
        trunk = tw.trunk(0 if need.model is None else 3)
        made[need.name] = Role(need.name, trunk, head=head, trainable=need.trainable)
    return made


def fresh(name: str, text: bool = False, **given: Any) -> Learner:
    """A method on tiny models, with data or prompts of its own."""
    given = {**REQUIRED.get(name, {}), **given}
    cls = tw.method(name)
    bench = Workbench(
        roles(name, given), seed=5, iterations=3, batch_size=4, tokens_per_microbatch=60
    )
    documents = tw.documents() if text else ()
    if cls.data != "prompts":
        make = {"demonstrations": tw.demonstrations, "rankings": tw.rankings, "unpaired": labelled}
        settings = tw.settings(name, **given)
        groups, _ = cls.prepare(make[cls.data](), settings)
        held_out, _ = cls.prepare(make[cls.data](7), settings, training=False)
        return tw.on_groups(name, bench, groups, given, held_out=held_out, text=documents)
    policy = bench.roles["policy"]
    played = Played(
        TorchEngine(policy.trunk.model, tw.tokenizer(), eos_token_ids=ENDS),
        Right() if cls.rewarded else None,
        sampling=Sampling(SamplingParams(max_new_tokens=6), samples=4),
    )
    return tw.on_prompts(
        name,
        bench,
        played,
        given,
        prompts=tw.prompts(6),
        held_out=tw.prompts(2, seed=33),
        text=documents,
    )


def loop(learner: Learner, folder: Path, iterations: int = 3) -> Loop:
    options = LoopOptions(
        iterations, 2e-2, schedule="constant", warmup=0, checkpoint_every=1, eval_every=1, seed=3
    )
    return Loop(learner, options, folder, Progress("test", 3, False))


# -- what is logged -------------------------------------------------------------------------------


def logged(name: str, folder: Path, **given: Any) -> set[str]:
    """The columns of three iterations; evaluations' are all called eval/..."""
    run = loop(fresh(name, **given), folder)
    run.run()
    columns = {k for row in run.kept.metrics.rows for k, v in row.items() if v is not None}
    return {k for k in columns if not k.startswith("eval/")} - {"final"}


@pytest.mark.filterwarnings("ignore:.*the policy learns nothing")
@pytest.mark.parametrize("name", sorted(METHODS))
def test_all_that_a_method_logs_is_declared(name: str, tmp_path: Path) -> None:
    """No reward may be called like a metric, and what is declared says what a metric is called."""
    declared = {*tw.method(name).metrics, *LOOP_METRICS}
    if tw.method(name).data == "prompts":
        declared |= {*ROLLOUT_METRICS, *MONITORS}
    found = logged(name, tmp_path)
    undeclared = {k for k in found - declared if not re.fullmatch(r"pass@\d+", k)}
    assert undeclared == set()
    assert {"loss", "grad_norm", "lr"} <= found


ALL_FIGURES: dict[str, dict[str, Any]] = {
    "sft": {},
    "reward_model": {},
    "dpo": {},
    "kto": {},
    "online_dpo": {"replay": 0.5},
    "raft": {},
    "ppo": {},
    "grpo": {"truncated": "penalise"},
    "distill": {"loss": "sampled"},
}
"""Settings with which a method logs all that it can."""


@pytest.mark.filterwarnings("ignore:.*the policy learns nothing")
@pytest.mark.parametrize("name", ALL_FIGURES)
def test_all_that_a_method_declares_is_logged_with_some_settings(name: str, tmp_path: Path) -> None:
    found = logged(name, tmp_path, **ALL_FIGURES[name])
    assert set(tw.method(name).metrics) - found == set()


def test_mixed_in_text_is_logged_by_the_loops_own_name(tmp_path: Path) -> None:
    assert "text_loss" in logged("sft", tmp_path, text=True, pretraining_coef=0.1)


# -- on a GPU that is not there -------------------------------------------------------------------


class Ungraded(OneDevice):
    """Gives each parameter some gradient, since none can be computed here."""

    def __init__(self, learner: Learner) -> None:
        self.parameters = [p for _, p in learner.named_parameters()]

    def backward(self, loss: torch.Tensor) -> None:
        assert loss.device == DEVICE
        assert loss.requires_grad
        for parameter in self.parameters:
            parameter.grad = torch.empty_like(parameter)


class Moved:
    """A method whose models lie on the fake GPU. What is below their heads is an embedding there,
    since the trunk's own tests look at the trunk."""

    def __init__(self, learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.learner, self.bench = learner, learner.bench
        self.batches = 0
        self.cuda: FakeCuda | None = None
        monkeypatch.setattr("gnomon.algorithms.base.pack", self._pack)

    def _pack(self, groups: Sequence[TokenGroup]) -> Batch:
        if self.cuda is None:
            return pack(groups)
        self.batches += 1
        with self.cuda.aside():
            batch = pack(groups)
        return self.cuda.of(batch, torch.device("cpu"))

    @contextmanager
    def on_gpu(self) -> Iterator[FakeCuda]:
        for role in self.learner.roles.values():  # a head's own form is checked when first used
            OutputHead.of(role.trunk.model)
        with fake_cuda() as self.cuda:
            self.bench.device = DEVICE
            for role in self.learner.roles.values():
                embed = self.cuda.of(role.trunk.model).get_input_embeddings()
                hidden = SimpleNamespace(hidden=lambda batch, embed=embed: embed(batch.input_ids))
                role.trunk.__dict__["packed"] = hidden
                if role.head is not None:
                    self.cuda.of(role.head)
            yield self.cuda

    def step(self, experience: Experience) -> MetricSums:
        """One optimizer step, as the loop takes it."""
        updater = Updater(self.learner, LoopOptions(3, 1e-3), Ungraded(self.learner), str)
        sums = MetricSums()
        updater.step(experience, experience.minibatches[0], sums, [])
        return sums


@pytest.mark.filterwarnings("ignore:.*the policy learns nothing")
@pytest.mark.parametrize(("name", "text"), [*((n, False) for n in sorted(METHODS)), ("sft", True)])
def test_a_step_on_a_gpu_waits_for_it_once(
    name: str, text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many micro-batches and metrics; all that meets in it is on one device."""
    learner = fresh(name, text=text, **({"pretraining_coef": 0.1} if text else {}))
    data = tw.method(name).data
    moved, experience = Moved(learner, monkeypatch), learner.experience(0)
    learner.bench.tokens_per_microbatch = 24
    with moved.on_gpu() as cuda:
        sums = moved.step(experience)
        assert moved.batches > (data == "rankings")  # several, where groups are plenty
        assert len(cuda.syncs) == 1, cuda.syncs
        assert "update.py" in cuda.syncs[0]
        assert sums.values()
        assert len(cuda.syncs) == 2, cuda.syncs


class ReachedError(Exception):
    """What a method computes before its steps is about to be computed."""


@pytest.mark.filterwarnings("ignore:.*the policy learns nothing")
@pytest.mark.parametrize("name", ["ppo", "rloo", "distill", "online_dpo"])
def test_what_is_computed_before_the_steps_comes_back_in_one_transfer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = fresh(name, **{"distill": {"loss": "sampled"}}.get(name, {}))
    moved, asked = Moved(learner, monkeypatch), []

    def columns(*given: Any) -> None:
        asked.append(given)
        raise ReachedError

    monkeypatch.setattr(learner.bench, "columns", columns)
    with pytest.raises(ReachedError):
        learner.experience(0)
    with moved.on_gpu() as cuda:
        found = Workbench.columns(learner.bench, *asked[0])
        assert moved.batches > 1
        assert len(cuda.syncs) == 1, cuda.syncs
        assert {v.device.type for v in found.values()} == {"cpu"}


def test_a_tensor_left_on_the_cpu_and_a_number_read_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tests above can fail."""
    learner = fresh("dpo")
    moved, experience = Moved(learner, monkeypatch), learner.experience(0)
    loss = learner.algorithm.loss

    def reads(batch: Batch, step: Any) -> LossOutput:
        output = loss(batch, step)
        return replace(output, loss=output.loss * float(output.loss.detach()))

    def mixes(batch: Batch, step: Any) -> LossOutput:
        output = loss(batch, step)
        return replace(output, loss=(output.loss * torch.ones(batch.num_groups)).sum())

    with moved.on_gpu() as cuda:
        learner.algorithm.loss = reads  # type: ignore[method-assign]
        moved.step(experience)
        assert len(cuda.syncs) > 1
        learner.algorithm.loss = mixes  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
            moved.step(experience)


# -- resuming -------------------------------------------------------------------------------------


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    """Of all roles, the reference's too."""
    found: dict[str, torch.Tensor] = {}
    for name, role in learner.roles.items():
        found |= {
            f"{name}.{n}": p.detach().clone() for n, p in role.trunk.model.state_dict().items()
        }
        if role.head is not None:
            found |= {f"{name}.head.{n}": p.clone() for n, p in role.head.state_dict().items()}
    return found


def flat(state: Any, at: str = "") -> dict[str, Any]:
    """A state's leaves by path, but for what the clock says."""
    if isinstance(state, Mapping):
        items: Any = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        return {at: state}
    timed = ((key, one) for key, one in items if key != "seconds")
    return {k: v for key, one in timed for k, v in flat(one, f"{at}/{key}").items()}


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(v, other[k]) if isinstance(v, torch.Tensor) else v == other[k]
        for k, v in one.items()
    )


Ended = tuple[dict[str, torch.Tensor], dict[str, Any]]
"""The weights of a run that has ended, and what else its learner remembers."""


def ended(learner: Learner) -> Ended:
    return weights(learner), flat(copy.deepcopy(learner.state_dict()))


@pytest.fixture(scope="module")
def began(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Ended, Path]]:
    """How a method's run ends that nothing stopped, and the folder of one that was stopped after
    two iterations; both made once."""
    made: dict[str, tuple[Ended, Path]] = {}

    def begin(name: str, given: Mapping[str, Any]) -> tuple[Ended, Path]:
        key = f"{name} {dict(given)}"
        if key not in made:
            folder = tmp_path_factory.mktemp("began")
            whole = fresh(name, **given)
            loop(whole, folder / "whole").run()
            half = loop(fresh(name, **given), folder / "halves")
            half.options = replace(half.options, iterations=2)
            half.run()
            made[key] = ended(whole), folder / "halves"
        return made[key]

    return begin


EVERY = [*((name, {}) for name in sorted(METHODS) if name != "reinforce"), *REMEMBERS]


@pytest.mark.filterwarnings("ignore:.*the policy learns nothing")
@pytest.mark.parametrize(("name", "given"), EVERY)
def test_the_third_iteration_after_a_resume_is_the_same_to_the_last_bit(
    name: str, given: dict[str, Any], began: Callable[..., tuple[Ended, Path]], tmp_path: Path
) -> None:
    (whole, remembered), halves = began(name, given)
    shutil.copytree(halves, tmp_path / "halves")
    resumed = fresh(name, **given)
    loop(resumed, tmp_path / "halves").run(resume=True)
    assert same(whole, weights(resumed))
    assert same(remembered, flat(resumed.state_dict()))


@pytest.mark.filterwarnings("ignore:.*the policy learns nothing")
@pytest.mark.parametrize(("name", "given"), REMEMBERS)
def test_a_method_that_forgot_would_end_elsewhere(
    name: str, given: dict[str, Any], began: Callable[..., tuple[Ended, Path]], tmp_path: Path
) -> None:
    """The test above can fail: what a method remembers matters in the third iteration."""
    (whole, _), halves = began(name, given)
    shutil.copytree(halves, tmp_path / "halves")
    forgetful = fresh(name, **given)
    forgetful.algorithm.load_state_dict = lambda state: None  # type: ignore[method-assign]
    loop(forgetful, tmp_path / "halves").run(resume=True)
    assert not same(whole, weights(forgetful))
