"""What the items of gpu_runs.py share: runs in a folder of their own, and what they left."""

from __future__ import annotations

import contextlib
import io
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from gnomon.recipe.load import parse_recipe
from gnomon.stages import run
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


def rate(made: Run) -> str:
    seconds = made.column("seconds")
    rest = seconds[1:] or seconds
    return f"first step {seconds[0]:.2f} s, then {1e3 * sum(rest) / len(rest):.0f} ms"


class Stops(Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, event: Any) -> None:
        if event.iteration == self.at:
            event.stop("to be resumed")


def differs(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
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


@contextlib.contextmanager
def spawned(said: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
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


def tail(bench: Bench, said: Path) -> str:
    text = said.read_text()
    print(text, file=bench.log)
    return text[-400:]
