"""What sampling ahead saves: max_staleness 0 against 1, with one worker beside the trainer.

    OMP_NUM_THREADS=1 python benchmarks/overlap.py [--rounds 3] [--steps 12]

GRPO on the tunnel, one thread in each of the two processes, the two ways in turn, each in a
fresh process. The time is from the first rollout's start to the last step's end, so neither way
pays for the start of its worker. ``both`` is the share of it in which the worker sampled while the
trainer computed a step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common import _tiny_model, machine, show
from gnomon.recipe.load import parse_recipe
from gnomon.rollout.pool import PoolHost
from gnomon.stages.run import run_recipe
from gnomon.training.update import Updater

Span = tuple[float, float]


def recipe(args: argparse.Namespace, model: Path, output: Path, staleness: int) -> dict[str, Any]:
    rollout = {"samples": args.samples, "max_new_tokens": args.new_tokens}
    rollout["share"] = args.samples * args.batch  # one worker: all at once
    train = {"steps": args.steps, "batch_size": args.batch, "lr": 1e-3, "checkpoint_every": 1000}
    stage = {
        "name": "grpo",
        "algorithm": "grpo",
        "data": {"path": "tunnel:prompts", "options": {"n": 64, "seed": 1}},
        "reward": "gold",
        "rollout": {**rollout, "workers": 1, "max_staleness": staleness},
        "settings": {"epochs": args.epochs},
        "train": train,
        "probes": 0,
    }
    return {"name": "overlap", "model": str(model), "output": str(output), "stages": [stage]}


def noted(owner: type, name: str, spans: list[Span]) -> None:
    """Note when each call of a method began and ended."""
    real: Callable[..., Any] = getattr(owner, name)

    def wrapped(*given: Any, **more: Any) -> Any:
        began = time.perf_counter()
        try:
            return real(*given, **more)
        finally:
            spans.append((began, time.perf_counter()))

    setattr(owner, name, wrapped)


def shared(first: list[Span], second: list[Span]) -> float:
    """Seconds that lie in a span of both; the spans of each do not overlap among themselves."""
    pairs = ((min(b, d) - max(a, c)) for a, b in first for c, d in second)
    return sum(seconds for seconds in pairs if seconds > 0)


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One run, in this process."""
    torch.set_num_threads(1)
    sampled: list[Span] = []
    trained: list[Span] = []
    noted(PoolHost, "sample", sampled)
    noted(Updater, "step", trained)
    with tempfile.TemporaryDirectory() as folder:
        given = recipe(args, _tiny_model(Path(folder, "model")), Path(folder), args.staleness)
        run_recipe(parse_recipe(given), base=Path.cwd(), announce=lambda text: None)
    end = max(b for _, b in trained)
    seconds = end - min(a for a, _ in sampled)
    return {
        "seconds": seconds,
        "sampling": sum(b - a for a, b in sampled if b <= end),
        "training": sum(b - a for a, b in trained),
        "both": shared(sampled, trained) / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for key, value in (("rounds", 3), ("steps", 12), ("batch", 8), ("samples", 8), ("epochs", 2)):
        parser.add_argument(f"--{key}", type=int, default=value)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--staleness", type=int, help=argparse.SUPPRESS)  # of one run, for itself
    args = parser.parse_args()
    if args.staleness is not None:
        print(json.dumps(measure(args)))
        return
    found: dict[int, list[dict[str, float]]] = {0: [], 1: []}
    for i in range(args.rounds):
        for staleness in (0, 1) if i % 2 == 0 else (1, 0):
            command = [sys.executable, *sys.argv, "--staleness", str(staleness)]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            said = subprocess.check_output(command, env=env, text=True)
            found[staleness].append(json.loads(said.splitlines()[-1]))
            print(f"round {i + 1}, max_staleness {staleness}: {said.splitlines()[-1]}", flush=True)
    columns = ["max_staleness", *found[0][0]]
    middle = {k: {c: statistics.median(r[c] for r in v) for c in v[0]} for k, v in found.items()}
    lines = [[str(k), *(middle[k][column] for column in columns[1:])] for k in middle]
    show(f"medians of {args.rounds} rounds; {json.dumps(machine())}", columns, lines)
    print(f"ahead takes {middle[1]['seconds'] / middle[0]['seconds']:.2f} of the time in turns")


if __name__ == "__main__":
    main()
