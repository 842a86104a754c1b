"""Two processes joined by gloo that run many cases, and the same cases in one process."""

from __future__ import annotations

import multiprocessing
import os
import queue
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageWriter as HuggingFaceStorageWriter,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

import tiny_world as tw
from forked import settle
from gnomon.algorithms.base import Workbench
from gnomon.judges.protocol import SampleJudge, Score
from gnomon.models.precision import Precision
from gnomon.models.ranks import Ranks
from gnomon.models.roles import Role
from gnomon.records import TokenGroup
from gnomon.rollout.protocol import Completion as Completion
from gnomon.rollout.protocol import Engine, SamplingParams
from gnomon.rollout.torch_engine import TorchEngine
from gnomon.training.learner import GivenSource, Learner
from gnomon.training.loop import Loop
from gnomon.training.optim import LoopOptions
from gnomon.training.progress import Progress
from gnomon.training.sampled import Played, SampledSource, Sampling
from gnomon.training.shared import SharedEngine, SharedSource
from gnomon.training.strategy import ManyDevices, OneDevice, Strategy
from ports import free_port

ENDS = (tw.EOS, *range(8, 60))
PATIENCE = 1500
"""Seconds that the two may take for all that they are asked."""


class Right(SampleJudge):
    """1 where most tokens are even, else 0."""

    name = "right"

    def __call__(self, samples: Any) -> list[Score]:
        return [
            Score(float(2 * sum(i % 2 == 0 for i in s.response_ids) > len(s.response_ids)))
            for s in samples
        ]


def labelled(seed: int = 0) -> list[TokenGroup]:
    """Answers to six prompts, every second one bad."""
    return [
        replace(g, responses=(replace(g.responses[0], scalar={"label": float(i % 2)}),))
        for i, g in enumerate(tw.demonstrations(seed))
    ]


def roles(
    name: str, given: Mapping[str, Any], lora: bool, recompute: bool, precision: str
) -> dict[str, Role]:
    """A trunk for each role, or one trunk with an adapter for each trained one."""
    made: dict[str, Role] = {}
    how: dict[str, Any] = {"gradient_checkpointing": recompute, "precision": Precision(precision)}
    shared = tw.trunk(**how)
    if precision == "mixed" and lora:
        shared.model.to(torch.bfloat16)
    for i, need in enumerate(tw.method(name).needs(tw.settings(name, **given))):
        head = tw.head(i, need.outputs, bias=need.critic) if need.outputs else None
        if need.model is not None:
            made[need.name] = Role(need.name, tw.trunk(3))
        elif not lora:
            trunk = tw.trunk(0, **how)
            trunk = trunk if need.trainable else trunk.frozen_copy()
            made[need.name] = Role(need.name, trunk, head=head, trainable=need.trainable)
        elif need.trainable:
            shared.add_adapter(need.name, tw.LORA, seed=i)
            role = Role(need.name, shared, adapter=need.name, head=head, trainable=True)
            tw.shake(role, 0.02)
            made[need.name] = role
        else:
            made[need.name] = Role(need.name, shared)
    return made


def make(
    name: str,
    folder: Path,
    strategy: Strategy | None = None,
    *,
    lora: bool = False,
    recompute: bool = False,
    iterations: int = 2,
    judge: SampleJudge | None = None,
    given: Mapping[str, Any] | None = None,
    groups: Any = None,
    tokens: int = 60,
    precision: str = "float32",
    wrap: Callable[[Engine], Engine] | None = None,
    **options: Any,
) -> Loop:
    """A method on tiny models, with data or prompts of its own, in this process's part."""
    given = {**({"teacher": "another"} if name == "distill" else {}), **(given or {})}
    strategy = strategy or OneDevice()
    cls = tw.method(name)
    bench = Workbench(
        roles(name, given, lora, recompute, precision),
        method=name,
        seed=5,
        iterations=iterations,
        batch_size=4,
        tokens_per_microbatch=tokens,
        ranks=strategy.ranks,
    )
    if isinstance(strategy, ManyDevices):
        strategy.prepare(bench.roles)
    if cls.data != "prompts":
        data = {"demonstrations": tw.demonstrations, "rankings": tw.rankings, "unpaired": labelled}
        settings = tw.settings(name, **given)
        rows, _ = cls.prepare(groups or data[cls.data](), settings)
        held_out, _ = cls.prepare(data[cls.data](7), settings, training=False)
        algorithm = cls(settings, bench)
        learner = Learner(algorithm, GivenSource(algorithm, rows, held_out), tw.documents())
    else:
        policy = bench.roles["policy"]
        engine: Engine = TorchEngine(
            policy.trunk.model,
            tw.tokenizer(),
            activate=lambda: policy.trunk.active(policy.adapter),
            eos_token_ids=ENDS,
        )
        engine = engine if wrap is None else wrap(engine)
        if isinstance(strategy, ManyDevices):
            engine = SharedEngine(engine, strategy)
        samples = Sampling(SamplingParams(max_new_tokens=6), samples=4)
        played = Played(engine, judge or (Right() if cls.rewarded else None), sampling=samples)
        bench = replace(bench, samples=4, longest_response=6)
        algorithm = cls(tw.settings(name, **given), bench)
        source: Any = SampledSource(algorithm, tw.prompts(6), played, tw.prompts(2, seed=33))
        if isinstance(strategy, ManyDevices):
            source = SharedSource(source, strategy)
        learner = Learner(algorithm, source, tw.documents())
    # with so large an eps a step is nearly the gradient, whose size Adam would otherwise hide
    settings = {"lr": 1e-2, "eps": 1.0, "checkpoint_every": 1, "eval_every": 1, "seed": 3}
    settings |= {"schedule": "constant", "warmup": 0} | options
    own = folder if strategy.ranks.rank == 0 else Path(tempfile.mkdtemp())
    return Loop(
        learner,
        LoopOptions(iterations, **settings),
        own,
        Progress("test", iterations, False),
        strategy=strategy,
        checkpoints=folder / "checkpoints",
    )


def weights(loop: Loop) -> dict[str, Tensor]:
    """Everything that is trained, whole; every process takes part."""
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in loop.parameters.items()
    }


def gap(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest difference of a weight."""
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).abs().max()) for k in one)


def strategy_of(kind: str, ranks: Ranks) -> ManyDevices:
    mesh = init_device_mesh("cpu", (ranks.world,)) if kind == "fsdp2" else None
    return ManyDevices(Ranks(ranks.rank, ranks.world, ranks.control), mesh)


# -- the two processes ----------------------------------------------------------------------------


Case = Callable[[Ranks, Path], Any]


def _process(rank: int, port: int, case: Case, folder: Path, answers: Any) -> None:
    settle()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=300))
    try:
        found = case(Ranks.join(), folder)
        answers.put((rank, "ok", found))
    except BaseException:
        answers.put((rank, "failed", traceback.format_exc()))
    finally:
        dist.destroy_process_group()


def in_two(case: Case, folder: Path) -> list[Any]:
    """What ``case`` gives in each of two processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gnomon.training.loop", "transformers", "ranks_zoo"])
    answers = context.Queue()
    port = free_port()
    processes = [
        context.Process(target=_process, args=(rank, port, case, folder, answers))
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    try:
        for _ in processes:
            rank, status, value = answers.get(timeout=PATIENCE)
            if status != "ok":
                raise AssertionError(f"process {rank} failed:\n{value}")
            found[rank] = value
    except queue.Empty:
        raise AssertionError(f"nothing after {PATIENCE} s: {found}") from None
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    return [found[rank] for rank in (0, 1)]
