"""Evals and the report; compiled and spread runs."""

from __future__ import annotations

import json
import os
import re
import socket
from unittest import mock

import torch

from gnomon.stages import processes
from gpu_runs_bench import (
    ITEMS,
    PROMPTS,
    SHORT,
    Bench,
    Item,
    check,
    item,
    rate,
)


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
        return f"losses {gap:.1e} apart; eager {rate(runs[0])}; compiled {rate(runs[1])}"

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
    return f"{first}; losses {gap:.1e} apart, {rate(made)}; plain {rate(plain)}"
