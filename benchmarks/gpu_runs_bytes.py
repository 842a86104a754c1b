"""Runs that are repeated, stopped or killed: the same bytes."""

from __future__ import annotations

import contextlib
import json
import signal
import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch

from gnomon.stages import run
from gpu_runs_bench import (
    ITEMS,
    Bench,
    Item,
    Run,
    Stops,
    UnexpectedError,
    check,
    differs,
    item,
    spawned,
    tail,
)


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
            bench.run(stopped, callbacks=[Stops(steps // 2)])
        resumed = bench.run(stopped, resume=True).checkpoints()
        found = {"again": differs(whole, again), "resumed": differs(whole, resumed)}
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


def _blamed(bench: Bench, raw: Mapping[str, Any]) -> str:
    """Whether ``deterministic: true`` and torch's algorithms make it the same, and which have no
    such."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            one, other = (
                bench.run(
                    {**raw, "name": f"{raw['name']}-exact-{i}", "deterministic": True}
                ).checkpoints()
                for i in "ab"
            )
    finally:
        torch.use_deterministic_algorithms(False)
    odd = {
        str(w.message).split(" does not")[0][:60] for w in said if "determinis" in str(w.message)
    }
    same = differs(one, other) or "the same bytes"
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
    with spawned(said, "-m", "gnomon", "run", str(file)) as child:
        until = time.monotonic() + 120
        while not any(at.glob("step-*[3-9]/state.json")) and child.poll() is None:
            check(time.monotonic() < until, "no checkpoint within two minutes")
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        code = child.wait()
    left = sorted(p.name for p in at.glob("step-*"))
    check(code == -signal.SIGKILL, f"it ended by itself with {code}: {tail(bench, said)}")
    bench.cli("run", str(file), "--resume")
    resumed = Run(bench.folder / "runs" / "killed", []).checkpoints()["the model"]
    odd = differs({"the model": whole}, {"the model": resumed})
    check(not odd, f"killed with {left}, then resumed: {odd}")
    return f"killed with {left} of {steps} steps, resumed to the same bytes"
