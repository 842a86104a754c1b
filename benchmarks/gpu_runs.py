"""Whole runs on one GPU: each item is a small recipe of the built-in world, run from end to end.

    python benchmarks/gpu_runs.py                        every item, a line each
    python benchmarks/gpu_runs.py --only bytes sampling  those whose names begin so
    python benchmarks/gpu_runs.py --list                 their names

The model comes with the package, so nothing is downloaded. An item that fails says where, and the
next one runs; what each run announced, warned of and raised is in ``--log``. ``--device cpu
--tiny`` drives the same items at a size for a test; those that only a GPU can answer are skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import io
import itertools
import json
import math
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gnomon.data.batch import TokenGroup, TokenResponse, pack
from gnomon.errors import MemoryExhaustedError
from gnomon.models import load
from gnomon.models.roles import Role, Trunk
from gnomon.models.varlen import PassPlan
from gnomon.recipe.load import parse_recipe
from gnomon.rollout.host_replica import HostReplica
from gnomon.rollout.protocol import Completion, Host, Request, SamplingParams
from gnomon.rollout.replica import ReplicaEngine
from gnomon.rollout.torch_engine import CacheOptions, TorchEngine
from gnomon.rollout.torch_host import TorchHost
from gnomon.stages import processes, run
from gnomon.training.callbacks import Callback

DEMONSTRATIONS = {"path": "tunnel:demonstrations", "options": {"n": 512, "seed": 1}}
RANKINGS = {"path": "tunnel:rankings", "options": {"n": 128, "seed": 2}}
THUMBS = {"path": "tunnel:thumbs", "options": {"n": 128, "seed": 3}}
PROMPTS = {"path": "tunnel:prompts", "options": {"n": 256, "seed": 4}}
SUMS = {"path": "tunnel:prompts", "options": {"n": 256, "seed": 4, "families": ["arithmetic"]}}
EPISODES = {"name": "rooms", "calls": "python", "show_tools": False, "max_turns": 3}
DATA = {
    "sft": DEMONSTRATIONS,
    **dict.fromkeys(("reward_model", "dpo", "simpo", "orpo", "cpo"), RANKINGS),
    "kto": THUMBS,
    **dict.fromkeys(("ppo", "online_dpo", "raft", "distill"), PROMPTS),
}
"""By method; others answer sums, which a program checks."""
FALLS = ("sft", "dpo", "reward_model", "simpo", "orpo", "cpo")
"""Methods whose loss falls within a few steps of small batches."""
SHORT = "{builtin: length, options: {high: 12}}"
"""A judge that needs no model and no labels."""
LONGEST = 120
"""Seconds that an item may take; the slowest compile."""
Rows = list[dict[str, Any]]


class SkippedError(Exception):
    """The item asks for what is not here."""


class TooLongError(Exception):
    """An item does not end."""


class UnexpectedError(Exception):
    """A figure is not what it has to be."""


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UnexpectedError(otherwise)


@dataclass
class Run:
    """What a run left."""

    path: Path
    said: list[str]

    @property
    def stage(self) -> Path:
        return sorted((self.path / "stages").iterdir())[-1]

    @property
    def model(self) -> Path:
        return self.stage / "model"

    def rows(self) -> Rows:
        """Of the last stage's metrics, those of iterations."""
        rows: Rows = pq.read_table(self.stage / "metrics.parquet").to_pylist()
        return [row for row in rows if row.get("seconds") is not None]

    def column(self, name: str) -> list[float]:
        return [row[name] for row in self.rows() if row.get(name) is not None]

    def checkpoints(self) -> dict[str, dict[str, Tensor]]:
        """The weights of each checkpoint, and those of the model that was left."""
        found = {
            f.parent.name: load_file(f)
            for f in sorted(self.stage.glob("checkpoints/*/parameters.safetensors"))
        }
        left = sorted(self.model.rglob("*.safetensors"))
        return found | {
            "the model": {f"{f.name}:{k}": v for f in left for k, v in load_file(f).items()}
        }


@dataclass
class Bench:
    """Runs recipes in a folder of its own."""

    device: str
    tiny: bool
    folder: Path
    log: io.TextIOBase | Any
    start: str = "tunnel"
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.tiny else full

    def needs_gpu(self) -> None:
        if not self.cuda:
            raise SkippedError("it needs a GPU")

    def recipe(
        self, stages: Sequence[Mapping[str, Any]], name: str = "", **top: Any
    ) -> dict[str, Any]:
        raw = {"name": name or f"run-{next(self.numbers)}", "output": str(self.folder / "runs")}
        raw |= {"model": self.start, "max_length": 160, "device": self.device}
        return raw | top | {"stages": list(stages)}

    def run(
        self, raw: Mapping[str, Any], resume: bool = False, callbacks: Sequence[Callback] = ()
    ) -> Run:
        recipe = parse_recipe(dict(raw))
        said: list[str] = []

        def announce(line: str) -> None:
            said.append(line)
            print(f"  {line}", file=self.log, flush=True)

        path = run.run_recipe(
            recipe, base=self.folder, resume=resume, announce=announce, callbacks=callbacks
        )
        return Run(path, said)

    def stage(
        self, method: str, steps: int, *, lora: bool = False, lr: float | None = None, **more: Any
    ) -> dict[str, Any]:
        """A stage of a few steps of a method."""
        train = {"steps": steps, "batch_size": self.size(16, 4), "checkpoint_every": 50}
        train["lr"] = lr or {"sft": 1e-3, "ppo": 2e-4}.get(method, 3e-4)
        train |= {"schedule": "constant", "warmup": 0} | more.pop("train", {})
        data = DATA.get(method, SUMS)
        data = {**data, "options": {**data["options"], "n": self.size(data["options"]["n"], 12)}}
        stage = {
            "name": method.replace("_", "-"),
            "algorithm": method,
            "data": data,
            "train": train,
        }
        if lora:
            stage["lora"] = {"rank": 4}
        if data["path"] == "tunnel:prompts":
            tokens = 24 if method == "raft" else self.size(24, 6)  # it learns from finished ones
            stage["rollout"] = {"samples": self.size(4, 2), "max_new_tokens": tokens}
            if method == "distill":
                stage["settings"] = {"teacher": self.start}
            else:
                stage["reward"] = "gold" if method in DATA or self.tiny else "correct"
        return stage | more

    def cli(self, *arguments: str, tolerated: Sequence[int] = (0,)) -> str:
        """What a command of gnomon says, run in this process."""
        from typer.testing import CliRunner

        from gnomon.cli.main import app

        done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})
        print(done.output, file=self.log, flush=True)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        check(done.exit_code in tolerated, f"exit code {done.exit_code}: {done.output[-300:]}")
        return done.output

    def write(self, raw: Mapping[str, Any]) -> Path:
        file = self.folder / f"{raw['name']}.yaml"
        file.write_text(yaml.safe_dump(dict(raw)))
        return file


Item = Callable[[Bench], str]
ITEMS: dict[str, Item] = {}


def item(name: str) -> Callable[[Item], Item]:
    def add(work: Item) -> Item:
        ITEMS[name] = work
        return work

    return add


# -- one run of each method -----------------------------------------------------------------------


@item("base")
def base(bench: Bench) -> str:
    """Fine-tuning with ``precision: auto``; later items start from what it leaves."""
    raw = bench.recipe([bench.stage("sft", bench.size(60, 2))], name="base")
    made = bench.run(raw)
    bench.start = str(made.model)
    loss, info = made.column("loss"), json.loads((made.stage / "stage.json").read_text())
    check(bench.tiny or loss[-1] < loss[0] - 1, f"the loss went from {loss[0]} to {loss[-1]}")
    return f"loss {loss[0]:.2f} to {loss[-1]:.2f}, {_rate(made)}, stage.json: {len(info)} keys"


def _rate(made: Run) -> str:
    seconds = made.column("seconds")
    rest = seconds[1:] or seconds
    return f"first step {seconds[0]:.2f} s, then {1e3 * sum(rest) / len(rest):.0f} ms"


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _method(method: str, precision: str, lora: bool) -> Item:
    def work(bench: Bench) -> str:
        stage = bench.stage(method, bench.size(8, 2), lora=lora)
        # a loss falls in eight steps where nothing was learned yet, and a teacher is another model
        more = {"model": "tunnel"} if method in ("sft", "distill") else {}
        made = bench.run(bench.recipe([stage], precision=precision, **more))
        losses = made.column("loss")
        check(bool(losses), "nothing was trained")
        odd = {k for row in made.rows() for k, v in row.items() if not _finite(v)}
        check(not odd, f"not finite: {odd}")
        for tensors in made.checkpoints().values():
            odd = {name for name, t in tensors.items() if not bool(t.isfinite().all())}
            check(not odd, f"not finite: {odd}")
        some = max(1, len(losses) // 4)
        first, last = sum(losses[:some]) / some, sum(losses[-some:]) / some
        falls = method in FALLS and not bench.tiny
        check(not falls or last < first, f"the loss rose from {first:.4f} to {last:.4f}")
        figures = [
            f"{key} {made.column(key)[-1]:.2g}"
            for key in ("reward", "mismatch", "accuracy")
            if made.column(key)
        ]
        return ", ".join([f"loss {first:.3f} to {last:.3f}", *figures, _rate(made)])

    return work


for _precision, _lora in itertools.product(("mixed", "bfloat16", "float32"), (False, True)):
    for _name in ("sft", "dpo", "grpo", "ppo"):
        _way = "lora" if _lora else "full"
        ITEMS[f"method {_name} {_precision} {_way}"] = _method(_name, _precision, _lora)
for _name in (
    "reward_model",
    "kto",
    "rloo",
    "online_dpo",
    "distill",
    "raft",
    "simpo",
    "orpo",
    "dapo",
):
    ITEMS[f"method {_name} mixed full"] = _method(_name, "mixed", False)


@item("learns grpo gold")
def learns(bench: Bench) -> str:
    """The true reward rises under GRPO."""
    stage = bench.stage("grpo", bench.size(20, 2), lr=4e-4, data=PROMPTS, reward="gold")
    stage["rollout"]["samples"] = bench.size(8, 2)
    stage["settings"] = {"beta": 0.0}
    made = bench.run(bench.recipe([stage]))
    reward = made.column("reward")
    some = max(1, len(reward) // 4)
    first, last = sum(reward[:some]) / some, sum(reward[-some:]) / some
    check(bench.tiny or last > first, f"the reward went from {first:.3f} to {last:.3f}")
    return f"reward {first:.3f} to {last:.3f}, {_rate(made)}"


def _same_as_cpu(method: str, lora: bool) -> Item:
    def work(bench: Bench) -> str:
        stage = bench.stage(method, bench.size(6, 2), lora=lora)
        here, there = (
            bench.run(bench.recipe([stage], precision="float32", device=device)).column("loss")
            for device in ("cpu", bench.device)
        )
        gap = max(abs(a - b) for a, b in zip(here, there, strict=True))
        check(gap < 1e-3, f"losses {here} on the CPU and {there}")
        return f"losses at most {gap:.1e} apart over {len(here)} steps"

    return work


for _name, _lora in itertools.product(("sft", "dpo"), (False, True)):
    ITEMS[f"cpu {_name} {'lora' if _lora else 'full'}"] = _same_as_cpu(_name, _lora)


@item("variants")
def variants(bench: Bench) -> str:
    """Settings that cost or save memory: the losses stay."""
    ways: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "plain": ({}, {}),
        "recomputed": ({"gradient_checkpointing": True}, {}),
        "small passes": ({"tokens_per_microbatch": bench.size(512, 80)}, {}),
        "float32 head": ({}, {"float32_head": True}),
    }
    losses, said = [], []
    for name, (train, top) in ways.items():
        stage = bench.stage("dpo", bench.size(5, 2), train=train)
        made = bench.run(bench.recipe([stage], precision="mixed", **top))
        losses.append(made.column("loss"))
        gap = max(abs(a - b) for a, b in zip(losses[0], losses[-1], strict=True))
        check(gap < 2e-2, f"{name}: losses {losses[-1]}, not {losses[0]}")
        said.append(f"{name} {gap:.0e} apart, {_rate(made)}")
    return "; ".join(said)


@item("pipeline")
def pipeline(bench: Bench) -> str:
    """Feedback, a reward model, PPO against it, the comparison: as the quickstart does."""
    few = {"path": "tunnel:prompts", "options": {"n": bench.size(64, 6), "seed": 2}}
    tokens = {"max_new_tokens": bench.size(32, 6)}
    feedback = {
        "name": "feedback", "algorithm": "collect", "data": few,
        "rollout": {"samples": 4, **tokens},
        "settings": {"labellers": [{"name": "anna", "noise": 0.2}]},
    }  # fmt: skip
    model = bench.stage("reward_model", bench.size(8, 2), data="stage:feedback", holdout=0.1)
    learner = bench.stage("ppo", bench.size(3, 2), observe="gold")
    learner["reward"] = {"model": "reward-model"}
    compare = {"prompts": few, "rewards": "gold", "size": bench.size(64, 6), "rollout": tokens}
    made = bench.run(bench.recipe([feedback, model, learner], compare=compare))
    return (
        f"reward {made.column('reward')[-1]:.3f}, gold {made.column('gold')[-1]:.3f}, {_rate(made)}"
    )


# -- the same bytes -------------------------------------------------------------------------------


class _Stops(Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, event: Any) -> None:
        if event.iteration == self.at:
            event.stop("to be resumed")


def _bytes(method: str, lora: bool, long: bool = False) -> Item:
    def work(bench: Bench) -> str:
        steps = bench.size(6, 2)
        train = {"checkpoint_every": 1, "keep_checkpoints": steps}
        more = {"data": _long_rows(bench)} if long else {}
        stage = bench.stage(method, steps, lora=lora, train=train, **more)
        raw = bench.recipe([stage], max_length=256)
        whole = bench.run(raw).checkpoints()
        names = {name: f"{raw['name']}-{name}" for name in ("again", "stopped")}
        again = bench.run({**raw, "name": names["again"]}).checkpoints()
        stopped = {**raw, "name": names["stopped"]}
        with contextlib.suppress(run.RunStopped):
            bench.run(stopped, callbacks=[_Stops(steps // 2)])
        resumed = bench.run(stopped, resume=True).checkpoints()
        found = {"again": _differs(whole, again), "resumed": _differs(whole, resumed)}
        if not any(found.values()):
            return f"{steps} steps again, and resumed from {steps // 2}: the same bytes"
        raise UnexpectedError(f"{found}; {_blamed(bench, raw)}")

    return work


def _long_rows(bench: Bench) -> str:
    """Demonstrations of nearly the model's whole window, over which kernels split the keys."""
    words = ["the tunnel is long and the red door opens", "two plus three is five", "say it again"]
    file = bench.folder / "long.jsonl"
    rows = [
        {"prompt": f"Write about {i}.", "response": " ".join([words[i % 3]] * (10, 12, 24)[i % 3])}
        for i in range(bench.size(64, 12))
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def _differs(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first checkpoint and tensors in which two runs differ; empty where they do not."""
    for name in one:
        if name not in other:
            return f"no {name}"
        odd = [k for k, v in one[name].items() if not torch.equal(v, other[name][k])]
        if odd:
            gap = max(
                float((one[name][k].double() - other[name][k].double()).abs().max()) for k in odd
            )
            return f"{name}: {len(odd)} of {len(one[name])} tensors, first {odd[0]}, by {gap:.1e}"
    return ""


def _blamed(bench: Bench, raw: Mapping[str, Any]) -> str:
    """Whether torch's deterministic algorithms make it the same, and which ones have no such."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            one, other = (
                bench.run({**raw, "name": f"{raw['name']}-exact-{i}"}).checkpoints() for i in "ab"
            )
    finally:
        torch.use_deterministic_algorithms(False)
    odd = {
        str(w.message).split(" does not")[0][:60] for w in said if "determinis" in str(w.message)
    }
    same = _differs(one, other) or "the same bytes"
    return f"under deterministic algorithms: {same}; without such: {sorted(odd) or 'none'}"


for _name, _lora in (("sft", False), ("dpo", True), ("grpo", False), ("ppo", False)):
    ITEMS[f"bytes {_name} {'lora' if _lora else 'full'}"] = _bytes(_name, _lora)
ITEMS["bytes long sft"] = _bytes("sft", False, long=True)


@item("kill")
def kill(bench: Bench) -> str:
    """SIGKILL in the middle of a run; resumed by the command, it ends with the same bytes."""
    steps = bench.size(60, 20)
    stage = bench.stage("sft", steps, train={"checkpoint_every": 1, "keep_checkpoints": 1})
    whole = bench.run(bench.recipe([stage])).checkpoints()["the model"]
    raw = bench.recipe([stage], name="killed")
    file = bench.write(raw)
    at = bench.folder / "runs" / "killed" / "stages" / "01-sft" / "checkpoints"
    said = bench.folder / "killed.txt"
    with _child(said, "-m", "gnomon", "run", str(file)) as child:
        until = time.monotonic() + 120
        while not any(at.glob("step-*[3-9]/state.json")) and child.poll() is None:
            check(time.monotonic() < until, "no checkpoint within two minutes")
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        code = child.wait()
    left = sorted(p.name for p in at.glob("step-*"))
    check(code == -signal.SIGKILL, f"it ended by itself with {code}: {_tail(bench, said)}")
    bench.cli("run", str(file), "--resume")
    resumed = Run(bench.folder / "runs" / "killed", []).checkpoints()["the model"]
    odd = _differs({"the model": whole}, {"the model": resumed})
    check(not odd, f"killed with {left}, then resumed: {odd}")
    return f"killed with {left} of {steps} steps, resumed to the same bytes"


@contextlib.contextmanager
def _child(said: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another Python, which says into a file, until the block ends."""
    with said.open("w") as out:
        child = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=out, stderr=out
        )
        with child:
            try:
                yield child
            finally:
                child.terminate()
                try:
                    child.wait(20)
                except subprocess.TimeoutExpired:
                    child.kill()


def _tail(bench: Bench, said: Path) -> str:
    text = said.read_text()
    print(text, file=bench.log)
    return text[-400:]


# -- attention alone ------------------------------------------------------------------------------


def _attention(lengths: Sequence[int]) -> tuple[PassPlan, list[Tensor]]:
    """Rows of such lengths, and their queries, keys and values: 16 heads over 8, 128 wide."""
    groups = [
        TokenGroup(str(i), [1] * 8, (TokenResponse([1] * (n - 8), [True] * (n - 8)),))
        for i, n in enumerate(lengths)
    ]
    batch = pack(groups).to(torch.device("cuda"))
    draw = torch.Generator("cuda").manual_seed(0)
    given = [
        torch.randn(heads, batch.num_tokens, 128, device="cuda", generator=draw)
        .bfloat16()
        .requires_grad_()
        for heads in (16, 8, 8)
    ]
    return PassPlan.of(batch), given


def _gradients(way: str, plan: PassPlan, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
    out = plan.varlen.attend(*given) if way == "varlen" else plan.masked.attend(*given)
    return torch.autograd.grad((out * torch.linspace(-1, 1, 128, device="cuda")).sum(), given)


def _milliseconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began)


@item("attention new shapes")
def new_shapes(bench: Bench) -> str:
    """Forward and backward over rows of lengths not seen before, and once more."""
    bench.needs_gpu()
    said = []
    for k, (way, kernel) in enumerate(
        (
            ("varlen", None),
            ("blocks", SDPBackend.FLASH_ATTENTION),
            ("blocks", SDPBackend.CUDNN_ATTENTION),
            ("blocks", None),
        )
    ):
        times: list[tuple[float, float]] = []
        for i in range(9):
            plan, given = _attention([300 + 40 * i + k] * 8)
            with contextlib.nullcontext() if kernel is None else sdpa_kernel(kernel):
                work = functools.partial(_gradients, way, plan, given)
                times.append((_milliseconds(work), _milliseconds(work)))
        first, again = (statistics.median(column) for column in zip(*times[1:], strict=True))
        name = way if kernel is None else f"{way} by {kernel.name.split('_')[0].lower()}"
        said.append(f"{name} {first:.1f} ms, again {again:.1f}")
    return "; ".join(said)


@item("attention repeats")
def repeats(bench: Bench) -> str:
    """Gradients of long rows, twice: a kernel that adds in any order gives other bits."""
    bench.needs_gpu()
    said, odd = [], []
    for way, longest in itertools.product(("varlen", "blocks"), (250, 2000, 16000)):
        plan, given = _attention([longest, longest // 2])
        one, *others = (_gradients(way, plan, given) for _ in range(4))
        same = all(torch.equal(a, b) for other in others for a, b in zip(one, other, strict=True))
        said.append(f"{way} {longest}: {'the same' if same else 'OTHER'} bits")
        odd += [] if same else [f"{way} {longest}"]
    check(not odd, "; ".join(said))
    return "; ".join(said)


# -- memory ---------------------------------------------------------------------------------------


@item("memory runs out")
def exhausted(bench: Bench) -> str:
    """A step that does not fit: what is said, and whether the change that it names resumes."""
    bench.needs_gpu()
    train = {"batch_size": 512, "tokens_per_microbatch": 65536, "checkpoint_every": 1}
    raw = bench.recipe([bench.stage("sft", 4, train=train)], name="exhausted", precision="float32")
    peaks = _Peaks(1)
    with contextlib.suppress(run.RunStopped):
        bench.run(raw, callbacks=[peaks])
    torch.cuda.empty_cache()
    changes: list[str] = []
    texts: list[str] = []
    with _ballast(bench, int(0.5 * peaks.highest)):
        for _ in range(6):
            try:
                bench.run(raw, resume=True)
                break
            except MemoryExhaustedError as error:
                texts.append(str(error))
            print(texts[-1], file=bench.log)
            torch.cuda.empty_cache()
            named = re.findall(r"\.train\.(\w+)=(\w+)", texts[-1])
            check(bool(named) and "checkpoint" in texts[-1], f"it says: {texts[-1]}")
            changes += [f"{key}={value}" for key, value in named]
            for key, value in named:
                raw["stages"][0]["train"][key] = yaml.safe_load(value)
        else:
            raise UnexpectedError(f"still after {changes}: {texts[-1]}")
    check(bool(changes), "the step fitted into half of what it took")
    said = f"{peaks.highest / 1e9:.2f} GB into half of it; {changes} ran; {texts[0]}"
    check(len(texts) == 1, f"it took {len(texts)} attempts: {said}")
    return said


_HOLDS = """
import sys, torch
torch.empty(1, device="cuda")
free, _ = torch.cuda.mem_get_info()
held = torch.empty(free - int(sys.argv[1]), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def _ballast(bench: Bench, leaves: int) -> Iterator[None]:
    """Another process holds the GPU's memory but for so many bytes."""
    said = bench.folder / "ballast.txt"
    with _child(said, "-c", _HOLDS, str(leaves)) as child:
        until = time.monotonic() + 60
        while "held" not in said.read_text():
            check(child.poll() is None, f"the other process ended: {_tail(bench, said)}")
            check(time.monotonic() < until, "the other process does not start")
            time.sleep(0.05)
        yield


class _Peaks(_Stops):
    """Notes the most bytes that tensors took in a step, until it stops the run."""

    highest = 0.0

    def on_step(self, event: Any) -> None:
        self.highest = 1e9 * event.metrics["peak_gpu_gb"]
        super().on_step(event)


@item("memory and dry run")
def planned(bench: Bench) -> str:
    """What the plan says of card, precision, memory and time, beside what a run took."""
    train = {"batch_size": bench.size(512, 4), "tokens_per_microbatch": bench.size(65536, 512)}
    stage = bench.stage("sft", bench.size(4, 2), train=train)
    raw = bench.recipe([stage], name="planned")
    said = bench.cli("run", str(bench.write(raw)), "--dry-run")
    how = next(line for line in said.splitlines() if "runs on" in line).strip()
    clock = next((line.strip() for line in said.splitlines() if "time:" in line), "no time")
    if bench.cuda:
        check("mixed precision" in how, how)
        check(torch.cuda.get_device_name() in how, how)
    made = bench.run(raw)
    guess = next((line for line in made.said if "estimated memory" in line), "")
    guess = guess.partition("estimated memory ")[2]
    peak = made.column("peak_gpu_gb")
    real = f"{peak[-1]:.2f} GB" if peak else "not counted on a CPU"
    took = f"{sum(made.column('seconds')):.1f} s"
    return f"{how[:90]}; {clock[:60]} (took {took}); predicted {guess}, real {real}"


# -- sampling -------------------------------------------------------------------------------------


def _engine(bench: Bench, dtype: str, **cache: Any) -> tuple[TorchEngine, Any]:
    found = load.load_causal_lm(bench.start, dtype=dtype, device=bench.device)
    engine = TorchEngine(
        found.model, found.tokenizer, max_rows=bench.size(64, 4), eos_token_ids=(),
        cache=CacheOptions(**cache),
    )  # fmt: skip
    return engine, found.tokenizer


def _requests(bench: Bench, tokenizer: Any) -> list[Request]:
    texts = ["two plus three is", "the tunnel", "a red door opens and"]
    count = bench.size(24, 3)
    return [
        Request(str(i), [3, *tokenizer(texts[i % 3])["input_ids"]], n=bench.size(4, 2), seed=i)
        for i in range(count)
    ]


def _agree(one: Sequence[Any], other: Sequence[Any]) -> str:
    """How many responses are the same, and how far the log-probs of those are apart."""
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    same = [(a, b) for a, b in pairs if a.ids == b.ids]
    gap = max((float((a.logprobs - b.logprobs).abs().max()) for a, b in same), default=0.0)
    return f"{len(same)}/{len(pairs)} same (log-probs {gap:.0e} apart)"


def _all_same(said: str) -> bool:
    found = re.match(r"(\d+)/(\d+)", said)
    return found is not None and found[1] == found[2]


def _sampling(dtype: str) -> Item:
    def work(bench: Bench) -> str:
        new = bench.size(160, 40)
        params = SamplingParams(max_new_tokens=new)
        ways: dict[str, dict[str, Any]] = {
            "pages": {"paged": True, "cuda_graphs": False},
            "graphs": {"paged": True},
            "few pages": {"paged": True, "page": 16},
            "rows": {"paged": False},
        }
        first: list[list[Completion]] | None = None
        said, odd = [], []
        for way, cache in ways.items():
            engine, tokenizer = _engine(bench, dtype, **cache)
            requests = _requests(bench, tokenizer)
            if way == "few pages":
                engine.generate(requests[:1], SamplingParams(max_new_tokens=2))
                length = max(len(r.prompt_ids) for r in requests) + new
                pages = bench.size(16, 2) * math.ceil(length / 16)
                size = (16 * pages * engine._token_bytes + 1) / 2**30
                engine, _ = _engine(bench, dtype, **cache, gib=size)
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                engine.generate(requests, SamplingParams(max_new_tokens=min(new, 20)))
                began = time.perf_counter()
                found = engine.generate(requests, params)
                seconds = time.perf_counter() - began
            for w in warned:
                print(f"  {way}: {w.message}", file=bench.log)
            tokens = sum(len(c.ids) for row in found for c in row)
            attention = "in place" if engine._in_place else "copied"
            attention = "" if way == "rows" else f" {attention}"
            more = f" preempted {engine.preempted}" if way == "few pages" else ""
            more += " NOT CAPTURED" * any("captured" in str(w.message) for w in warned)
            agrees = "" if first is None else f", {_agree(first, found)}"
            if first is not None and not _all_same(agrees.removeprefix(", ")):
                odd.append(way)
            first = first or found
            said.append(f"{way}{attention}{more}: {tokens / seconds:,.0f} tokens/s{agrees}")
        text = "; ".join(said)
        exact = odd if dtype == "float32" else [way for way in odd if way == "graphs"]
        check(not exact, f"{exact} drew other tokens: {text}")
        return text

    return work


for _dtype in ("float32", "bfloat16"):
    ITEMS[f"sampling {_dtype}"] = _sampling(_dtype)


@item("sampling episodes")
def episodes(bench: Bench) -> str:
    """Turns that keep their cache, against turns computed anew; then GRPO over episodes."""
    params = SamplingParams(max_new_tokens=bench.size(24, 5))
    found, prefilled = [], []
    for keeps in (False, True):
        engine, tokenizer = _engine(bench, "float32", paged=True)
        requests = [Request(r.id, r.prompt_ids, seed=r.seed) for r in _requests(bench, tokenizer)]
        with engine.keeping() if keeps else contextlib.nullcontext():
            for turn in range(3):
                rows = engine.generate(requests, params)
                requests = [
                    Request(r.id, [*r.prompt_ids, *row[0].ids, 5, 6, 7], seed=r.seed + turn + 1)
                    for r, row in zip(requests, rows, strict=True)
                ]
        found.append(rows)
        prefilled.append(engine.prefilled)
    agrees = _agree(*found)
    check(_all_same(agrees), f"kept and computed anew: {agrees}")
    check(prefilled[1] < prefilled[0], f"prompt tokens computed: {prefilled}")
    data = {"path": "agents:rooms", "options": {"n": 16, "seed": 2, "rooms": 2}}
    place = {**EPISODES, "max_episode_tokens": 80}
    stage = bench.stage("grpo", 2, data=data, environment=place, settings={"zero_spread": "keep"})
    stage.pop("reward")
    stage["rollout"]["max_new_tokens"] = 10
    made = bench.run(bench.recipe([stage]))
    return f"{agrees}, prompt tokens {prefilled[0]} anew, {prefilled[1]} kept; grpo {_rate(made)}"


@item("sampling ahead")
def ahead(bench: Bench) -> str:
    """``max_staleness: 1``: sampling in a thread while the policy trains, twice the same bytes."""
    stage = bench.stage("grpo", bench.size(5, 2))
    stage["rollout"]["max_staleness"] = 1
    raw = bench.recipe([stage])
    one = bench.run(raw)
    other = bench.run({**raw, "name": f"{raw['name']}-again"})
    odd = _differs(one.checkpoints(), other.checkpoints())
    check(not odd, odd)
    return f"mismatch {max(one.column('mismatch')):.1e}, the same bytes twice, {_rate(one)}"


# -- weights to a server --------------------------------------------------------------------------


def _policy(bench: Bench) -> Role:
    found = load.load_causal_lm(bench.start, device=bench.device)
    return Role("policy", Trunk(found.model, found.tokenizer), trainable=True)


def _sent(bench: Bench, policy: Role, host: Host, kind: str) -> str:
    """Send weights twice, the second time others; the server's answers are the policy's own."""
    trunk = policy.trunk
    ids = [1]
    replica = HostReplica(
        policy, host, trunk.tokenizer, ids, bench.folder / f"sent-{kind}", transfer=kind
    )
    engine = ReplicaEngine(replica)
    seconds = 0.0
    for _ in range(2):
        with torch.no_grad():
            for parameter in trunk.model.parameters():
                parameter.mul_(1.02)
        began = time.perf_counter()
        engine.sync_weights()
        seconds = time.perf_counter() - began
    requests = [Request(str(i), [3, 7 + i, 11], n=2, seed=i) for i in range(4)]
    params = SamplingParams(max_new_tokens=bench.size(24, 5))
    cache = CacheOptions()
    mine = TorchEngine(trunk.model, trunk.tokenizer, eos_token_ids=ids, cache=cache)
    agrees = _agree(mine.generate(requests, params), engine.generate(requests, params))
    check(_all_same(agrees), f"{kind}: {agrees}")
    size = sum(t.numel() * 4 for t in trunk.model.state_dict().values())
    return f"{kind}: {size / 2**20:.1f} MiB in {1e3 * seconds:.0f} ms, {agrees}"


@item("transfer in process")
def in_process(bench: Bench) -> str:
    said = []
    for kind in ("memory", "file"):
        folder = load.fetch(bench.start)
        host = TorchHost(folder, device=bench.device)
        said.append(_sent(bench, _policy(bench), host, kind))
    return "; ".join(said)


@item("transfer to a server")
def to_server(bench: Bench) -> str:
    """Another process on the same GPU: by ipc, by file, and a GRPO run with ``transfer: auto``."""
    from gnomon.rollout.client import RemoteHost

    if importlib.util.find_spec("uvicorn") is None:
        raise SkippedError("uvicorn is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = bench.folder / "server.txt"
    words = [str(load.fetch(bench.start)), "--engine", "torch", "--port", str(port)]
    words += ["--option", f"device={bench.device}"]
    with _child(said, "-m", "gnomon.rollout.serve", *words) as child:
        try:
            url, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
            while "serving" not in said.read_text():
                check(child.poll() is None, f"the server ended: {_tail(bench, said)}")
                check(time.monotonic() < until, "the server does not start")
                time.sleep(0.05)
            kinds = ("ipc", "file") if bench.cuda else ("gloo", "file")
            out = [_sent(bench, _policy(bench), RemoteHost(url), kind) for kind in kinds]
            stage = bench.stage("grpo", 2)
            stage["rollout"]["url"] = url
            made = bench.run(bench.recipe([stage], precision="float32"))
        except Exception:
            _tail(bench, said)
            raise
    mismatch = max(made.column("mismatch"))
    check(mismatch < 1e-3, f"a GRPO run's mismatch is {mismatch}")
    return "; ".join([*out, f"grpo by auto: mismatch {mismatch:.0e}"])


# -- looking --------------------------------------------------------------------------------------


@item("evals and report")
def looks(bench: Bench) -> str:
    """Questions, a win rate, ``gnomon audit`` and ``gnomon report`` of a run that compares."""
    n = bench.size(48, 4)
    compare = {
        "prompts": {**PROMPTS, "options": {"n": n, "seed": 6, "split": "heldout"}},
        "rewards": "gold", "size": n, "rollout": {"max_new_tokens": bench.size(24, 5)},
    }  # fmt: skip
    stage = bench.stage("sft", bench.size(10, 2))
    questions = bench.folder / "questions.jsonl"
    sums = [{"prompt": f"What is {i} plus 3?", "answer": str(i + 3)} for i in range(n)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in sums))
    suite = {"suite": "questions", "options": {"data": str(questions), "judge": "maths"}}
    stage["train"]["evals"] = [{**suite, "every": 5}]
    made = bench.run(bench.recipe([stage], name="looked-at", compare=compare))
    where = str(made.path)
    device = ("--device", bench.device)
    common = ("eval", where, "--data", str(questions), *device)
    bench.cli(*common, "--suite", "questions", "--judge", "maths")
    said = bench.cli(*common, "--suite", "win_rate", "--against", "base", "--judge", SHORT)
    bench.cli("audit", where, tolerated=(0, 1, 4))
    bench.cli("report", where)
    check((made.path / "report.html").is_file(), "no report.html")
    card = (made.path / "model_card.md").read_text()
    name = torch.cuda.get_device_name() if bench.cuda else ""
    check(name in (made.path / "manifest.json").read_text(), f"manifest.json does not name {name}")
    found = re.search(r"length_controlled\s+[\d.]+", said)
    check(found is not None, f"no win rate: {said}")
    return f"{found and found[0]}, audit, report, card of {len(card)} bytes"


# -- compiled, spread -----------------------------------------------------------------------------


def _compiled(lora: bool) -> Item:
    def work(bench: Bench) -> str:
        bench.needs_gpu()
        train = {"batch_size": 32}
        runs = [
            bench.run(
                bench.recipe([bench.stage("sft", 6, lora=lora, train={**train, "compile": how})])
            )
            for how in (False, True)
        ]
        one, other = (made.column("loss") for made in runs)
        gap = max(abs(a - b) for a, b in zip(one, other, strict=True))
        check(gap < 2e-2, f"losses {one} and {other}")
        return f"losses {gap:.1e} apart; eager {_rate(runs[0])}; compiled {_rate(runs[1])}"

    return work


for _lora in (False, True):
    ITEMS[f"compile sft {'lora' if _lora else 'full'}"] = _compiled(_lora)


@item("spread fsdp2")
def spread(bench: Bench) -> str:
    """FSDP2 over NCCL with one process, against the plain run."""
    stage = bench.stage("sft", 3)
    plain = bench.run(bench.recipe([stage], precision="mixed" if bench.cuda else "float32"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    place = processes.Place(0, 1, 0, 1)
    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1"}
    with (
        mock.patch.object(processes.Place, "here", return_value=place),
        mock.patch.dict(os.environ, alone),
    ):
        raw = bench.recipe([stage], precision="mixed" if bench.cuda else "float32")
        made = bench.run({**raw, "strategy": "fsdp2"})
    one, other = plain.column("loss"), made.column("loss")
    gap = max(abs(a - b) for a, b in zip(one, other, strict=True))
    check(gap < (2e-2 if bench.cuda else 1e-4), f"losses {one} and {other}")
    first = next((line for line in made.said if "processes on" in line), "")
    return f"{first}; losses {gap:.1e} apart, {_rate(made)}; plain {_rate(plain)}"


# -- the command ----------------------------------------------------------------------------------


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TooLongError in a block that takes longer."""

    def late(number: int, frame: Any) -> None:
        raise TooLongError(f"not done after {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def attempt(bench: Bench, name: str, warned_of: dict[str, str]) -> bool:
    """Run an item and print its line; False where it failed.

    Args:
        warned_of: what was warned of, and in which item first; added to.
    """
    began = time.perf_counter()
    lines: list[str] = []
    print(f"== {name}", file=bench.log, flush=True)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with within(LONGEST):
                verdict, said = "ok", ITEMS[name](bench)
        except SkippedError as reason:
            verdict, said = "skipped", str(reason)
        except UnexpectedError as reason:
            verdict, said = "FAILED", str(reason)
        except Exception as error:
            verdict, said = "FAILED", f"{type(error).__name__}: {str(error)[:300]}"
            text = traceback.format_exc()
            print(text, file=bench.log)
            lines = [line for line in text.splitlines() if line.strip(" ^~")][-7:-1]
    for text in dict.fromkeys(f"{w.category.__name__}: {str(w.message)[:600]}" for w in warned):
        print(f"  {text}", file=bench.log)
        warned_of.setdefault(text, name)
    print(said, file=bench.log, flush=True)
    print(f"{name}: {verdict}, {said[:420]}, {time.perf_counter() - began:.1f} s", flush=True)
    for line in lines:
        print(f"    {line.strip()[:150]}")
    return verdict != "FAILED"


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="few rows, steps and tokens")
    parser.add_argument("--only", nargs="+", default=[""], help="items whose names begin so")
    parser.add_argument("--skip", nargs="+", default=[], help="leave these out, by their beginning")
    parser.add_argument("--list", action="store_true", help="print the items' names")
    parser.add_argument("--budget", type=float, default=540, help="seconds; none begins after it")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="all that was said")
    args = parser.parse_args(given)
    chosen = [n for n in ITEMS if n.startswith(tuple(args.only)) or n == "base"]
    chosen = [n for n in chosen if not n.startswith(tuple(args.skip))]
    if args.list:
        print("\n".join(chosen))
        return
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            f"there is no CUDA device for torch {torch.__version__} here. --device cpu --tiny "
            "drives the same items at a tiny size"
        )
    if args.device == "cpu" and not args.tiny:
        raise SystemExit("--device cpu goes with --tiny: at full size it would take long")
    card = torch.cuda.get_device_name() if args.device == "cuda" else "a CPU: not a measurement"
    print(f"{len(chosen)} items on {card}, torch {torch.__version__}", flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        args.log.open("a") as log,
        mock.patch.object(run, "write_report"),  # plots take longer than runs
        contextlib.redirect_stderr(log),
    ):
        lost = go(Bench(args.device, args.tiny, Path(folder), log), chosen, args.budget)
    if lost:
        words = [sys.executable, __file__, "--log", str(args.log), "--budget", str(args.budget)]
        raise SystemExit(subprocess.call([*words, "--only", *lost]))


def go(bench: Bench, chosen: Sequence[str], budget: float) -> list[str]:
    """Run the items, and say how many were as expected; gives those that are left where an item
    broke the device for this process.

    Raises:
        SystemExit: some failed, and none is left.
    """
    began = time.perf_counter()
    failed: list[str] = []
    warned_of: dict[str, str] = {}
    for i, name in enumerate(chosen):
        if time.perf_counter() - began > budget:
            print(f"no time left for: {', '.join(chosen[i:])}")
            break
        if attempt(bench, name, warned_of):
            continue
        failed.append(name)
        if bench.cuda and _is_lost() and chosen[i + 1 :]:
            print("the device is lost to this process: another one goes on", flush=True)
            return list(chosen[i + 1 :])
    for text, name in list(warned_of.items())[:15]:
        print(f"warned in {name}: {text[:150]}")
    print(f"{len(failed)} of {len(chosen)} failed, {time.perf_counter() - began:.0f} s")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")
    return []


def _is_lost() -> bool:
    """Whether an error of a kernel has ended this process's use of the device."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


if __name__ == "__main__":
    main()
